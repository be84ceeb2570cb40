"""The command line around masks: convert, --classes, --mask-format, and what is said about them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from made_masks import rectangle, write_grandqc, write_histoqc
from painters import Flat
from PIL import Image

from artifusion.cli.app import main
from artifusion.mask.classes import CLASSES, COLORS

SIZE = (75, 65)


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def restore(monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    return lambda *args: invoke("restore", *args)


@pytest.fixture
def histoqc(tmp_path, png_image):
    return write_histoqc(tmp_path / "run", png_image.name, SIZE, {"flat": rectangle(SIZE, 10, 10, 14, 15),
                                                                  "pen_markings": rectangle(SIZE, 40, 40, 50, 45)})


def painted(before, after):
    return (np.asarray(Image.open(before)) != np.asarray(Image.open(after))).any(axis=2)


def test_restore_says_what_the_mask_is_and_keeps_its_classes(restore, histoqc, png_image, tmp_path):
    out = tmp_path / "out.png"
    result = restore(png_image, "--mask", histoqc, "-o", out)
    assert result.exit_code == 0, result.output
    line = "HistoQC flat + pen_markings + blurry + dark + coverslip_edge: 1 bubble, 1 pen mark, 1,120 px\n"
    assert line in result.stderr
    content, declared = (json.loads((tmp_path / f"out.png{suffix}").read_text()) for suffix in (".json", ".geojson"))
    assert [region["class"] for region in content["regions"]] == ["bubble", "pen"]
    assert content["mask"]["origin"].startswith("HistoQC") and content["mask"]["name"] == png_image.name
    found = {feature["properties"]["classification"]["name"]: feature["properties"]["classification"]["color"]
             for feature in declared["features"]}
    assert found == {name: list(COLORS[name]) for name in ("bubble", "pen")}
    assert restore(png_image, "--mask", histoqc, "-o", out, "--overwrite", "-q").stderr == ""
    assert invoke("verify", png_image, out).exit_code == 0


def test_classes_restore_only_what_they_name(restore, histoqc, png_image, tmp_path):
    out = tmp_path / "out.png"
    result = restore(png_image, "--mask", histoqc, "-o", out, "--classes", "Pen,dust", "-q")
    assert result.exit_code == 0, result.output
    assert np.array_equal(painted(png_image, out), np.kron(rectangle(SIZE, 40, 40, 50, 45), np.ones((4, 4), bool)))
    assert json.loads((tmp_path / "out.png.json").read_text())["mask"]["classes"] == ["pen", "dust"]
    result = restore(png_image, "--mask", histoqc, "-o", tmp_path / "none.png", "--classes", "fold")
    assert result.exit_code == 1 and "selects nothing" in result.output and "holds bubble, pen" in result.output
    assert result.output.count("\n") == 1 and not (tmp_path / "none.png").exists()
    assert restore(png_image, "--mask", histoqc, "--classes", "hole").exit_code == 2
    assert restore(png_image, "--mask", histoqc, "--classes", ",").exit_code == 2


def test_a_dry_run_says_what_the_mask_is(histoqc, png_image):
    result = invoke("restore", png_image, "--mask", histoqc, "--dry-run", "--classes", "bubble")
    assert "1 bubble, 320 px" in result.stderr and result.stdout.startswith("1 region, 320 px")
    assert invoke("restore", png_image, "--mask", histoqc, "--dry-run", "-q").stderr == ""


def test_the_mask_format_settles_a_file_of_0_and_1(restore, png_image, tmp_path):
    marked = rectangle(SIZE, 10, 10, 20, 20).astype(np.uint8)
    Image.fromarray(marked).save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    result = restore(png_image, "--mask", tmp_path / "a.png", "-o", out)
    assert result.exit_code == 1 and "--mask-format" in result.output and not out.exists()
    assert restore(png_image, "--mask", tmp_path / "a.png", "-o", out, "--mask-format", "binary", "-q").exit_code == 0
    assert painted(png_image, out).sum() == 1600


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.geojson"])
def test_convert_writes_a_mask_that_restore_takes_alike(histoqc, png_image, tmp_path, name, restore):
    result = invoke("mask", "convert", histoqc, tmp_path / name, "--slide", png_image,
                    *(() if name.endswith("json") else ("--downsample", 2)))
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("HistoQC flat") and result.stdout.endswith(
        "2 annotations\n" if name.endswith("json") else "150 x 130 px\n")
    outputs = []
    for number, mask in enumerate((histoqc, tmp_path / name)):
        assert restore(png_image, "--mask", mask, "-o", tmp_path / f"{number}.png", "-q").exit_code == 0
        content = json.loads((tmp_path / f"{number}.png.json").read_text())
        outputs.append((painted(png_image, tmp_path / f"{number}.png").tobytes(), content["regions"]))
    assert outputs[0] == outputs[1]


def test_convert_picks_classes_writes_black_and_white_and_overwrites_nothing_unasked(png_image, tmp_path):
    ids = np.full(SIZE[::-1], 7)
    ids[10:20, 10:20], ids[30:35, 30:35] = 2, 4
    path, out = write_grandqc(tmp_path, png_image.name, ids, 4.0), tmp_path / "m.png"
    command = ("mask", "convert", path, out, "--slide", png_image, "--mpp", 2, "-q")
    result = invoke(*command, "--classes", "pen")
    assert result.exit_code == 0 and result.stderr == ""
    assert np.array_equal(np.asarray(Image.open(out)), CLASSES["pen"] * (ids == 4))
    result = invoke(*command, "--binary")
    assert result.exit_code == 1 and "--overwrite" in result.output
    assert invoke(*command, "--binary", "--overwrite").exit_code == 0
    assert np.array_equal(np.asarray(Image.open(out)), 255 * (ids < 7))


@pytest.mark.parametrize(("out", "options", "code", "message"), [
    ("m.svs", (), 1, "written as .png"), ("nowhere/m.png", (), 1, "folder does not exist"),
    ("m.png", ("--classes", "fold"), 1, "selects nothing"), ("m.png", ("--downsample", 2, "--mpp", 2), 2, "give one"),
    ("m.geojson", ("--binary",), 2, "neither pixels nor a scale"), ("m.png", ("--downsample", 0.5), 2, "range"),
    ("m.png", ("--mask-polarity", "keep"), 1, "marks artifacts"), ("image.png", (), 1, "source itself"),
])
def test_a_conversion_that_cannot_be_is_one_line_and_leaves_nothing(histoqc, png_image, tmp_path, out, options, code,
                                                                    message):
    before = set(tmp_path.rglob("*"))
    target = png_image if out == "image.png" else tmp_path / out
    result = invoke("mask", "convert", histoqc, target, "--slide", png_image, *options)
    assert result.exit_code == code and message in result.output and "Traceback" not in result.output
    assert code == 2 or result.output.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_converting_imports_no_torch(histoqc, png_image, tmp_path):
    args = ["mask", "convert", histoqc, tmp_path / "m.png", "--slide", png_image]
    code = "import sys; from artifusion.cli.app import main; " \
           f"main({[str(arg) for arg in args]}, standalone_mode=False); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
