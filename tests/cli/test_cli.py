import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from painters import Flat
from PIL import Image

from artifusion.cli.app import main
from artifusion.errors import OutputError
from artifusion.files import whole_file
from artifusion.geometry import Box
from artifusion.output.output import check_outputs
from artifusion.slide.reader import open_slide

COMMANDS = sorted(main.commands)
README = (Path(__file__).parents[2] / "README.md").read_text()


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and len(result.output) > 200
    assert f"artifusion {command}" in README


def test_help_imports_no_torch():
    code = "import sys; sys.argv = ['artifusion', '--help']\ntry:\n import artifusion.cli.app as c; c.main()\n" \
           "except SystemExit: pass\nassert 'torch' not in sys.modules and 'openslide' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = invoke("mask", "convert", "mask.png", "out.png", "--slide", "slide.tif")
    assert result.exit_code == 1 and result.stderr.endswith("is gone; change into another one\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_what_is_printed_is_one_line(png_image):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "artifusion", "info", png_image], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("artifusion: no room left") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["train.py", "restore.py"])
def test_the_scripts_at_the_top_are_the_commands(script):
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, root / script, "--help"], check=True, capture_output=True, text=True)
    assert f"Usage: artifusion {script.removesuffix('.py')}" in result.stdout


def test_damage_restore_verify_info(aperio_slide, tmp_path):
    damaged, restored = tmp_path / "damaged.svs", tmp_path / "restored.svs"
    result = invoke("damage", aperio_slide, damaged, "--share", "0.02", "-q")
    assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {f"damaged.svs{s}" for s in ("", ".json", ".geojson", ".mask.png")}
    assert invoke("verify", aperio_slide, damaged).exit_code == 0
    result = invoke("restore", damaged, "--mask", f"{damaged}.geojson", "-o", restored, "--steps", 2, "--device", "cpu",
                    "--preview", tmp_path / "look.png", "-q")
    assert result.exit_code == 0, result.output
    result = invoke("verify", damaged, restored, "--json")
    assert result.exit_code == 0 and json.loads(result.output)["ok"]
    classes = {region["class"] for region in json.loads(Path(f"{restored}.json").read_text())["regions"]}
    assert classes <= {"fold", "bubble", "pen"} and classes
    assert Image.open(tmp_path / "look.png").width > 300
    assert "um_per_px" in invoke("info", damaged).output
    assert json.loads(invoke("info", "he-small", "--json").output)["weights"] == "he-small"


def test_a_dry_run_paints_nothing(aperio_slide, tmp_path):
    mask = np.zeros((703, 901), np.uint8)
    mask[100:150, 100:150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.svs", "--dry-run")
    assert result.exit_code == 0 and "1 canvases, 4 evaluations each" in result.output
    published = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.svs", "--config",
                       "paper", "--dry-run")
    assert published.exit_code == 0 and "1 canvases, 2,410 evaluations each" in published.output
    size = f"{aperio_slide.stat().st_size / 1e6:.1f} MB, as the source"
    assert f"out.svs: copied (untouched segments are byte-identical): about {size}" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_a_dry_run_says_that_the_weights_will_learn_first(aperio_slide, tmp_path):
    Image.fromarray(np.pad(np.full((60, 60), 255, np.uint8), ((100, 543), (100, 741)))).save(tmp_path / "mask.png")
    told = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", "--adapt", "2.5", "--dry-run")
    assert told.exit_code == 0 and "clean tissue: about 2.5 minutes" in told.output


def test_a_dry_run_refuses_what_the_restoration_will(aperio_slide, tmp_path):
    Image.fromarray(np.pad(np.full((60, 60), 255, np.uint8), ((100, 543), (100, 741)))).save(tmp_path / "mask.png")
    told = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", "--same-size", "--dry-run")
    assert told.exit_code == 1 and "leave --same-size away" in told.output
    (tmp_path / "there.svs.json").write_text("precious")
    for options, remedy in ((("-o", tmp_path / "there.svs"), "exists already"), (("-o", aperio_slide), "the source"),
                            (("-o", tmp_path / "no" / "out.svs"), "does not exist"),
                            (("-o", tmp_path / "out.svs", "--preview", tmp_path / "look.gif"), "a preview is written")):
        told = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", *options, "--dry-run")
        assert told.exit_code == 1 and remedy in told.output and told.output.count("\n") == 1


def test_a_dry_run_without_a_mask_is_wrong_usage_whatever_the_slide():
    assert invoke("restore", "no.svs", "--dry-run").exit_code == 2


@pytest.mark.parametrize("name", ["out.tiff", "out.png", "out.jpg"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_dry_run_foretells_the_bytes(png_image, tmp_path, monkeypatch, name, lossless):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    mask = np.zeros((260, 300), np.uint8)
    mask[100:104, 100:104] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    command = ["restore", png_image, "--mask", tmp_path / "mask.png", "-o", tmp_path / name, *["--lossless"] * lossless]
    told = re.search(r"about ([\d.]+) MB, [\d.]+ bytes per pixel in 4 sampled", invoke(*command, "--dry-run").output)
    assert invoke(*command).exit_code == 0
    assert float(told[1]) == pytest.approx((tmp_path / name).stat().st_size / 1e6, rel=0.35, abs=0.06)


def test_a_dry_run_and_info_import_no_torch(aperio_slide, tmp_path):
    mask = np.zeros((703, 901), np.uint8)
    mask[100:150, 100:150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for args in (["restore", aperio_slide, "--mask", tmp_path / "mask.png", "--dry-run"], ["info", aperio_slide]):
        code = "import sys; from artifusion.cli.app import main; " \
               f"main({[str(arg) for arg in args]}, standalone_mode=False); assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_info_tells_how_each_level_is_written_and_doubts_a_wrong_scale(aperio_slide, tmp_path):
    facts = json.loads(invoke("info", aperio_slide, "--json").output)
    assert facts["level_0"].endswith("copied: untouched segments are byte-identical") and "level_1" in facts
    Image.new("RGB", (300, 300), "white").save(tmp_path / "web.png", dpi=(72, 72))
    facts = json.loads(invoke("info", tmp_path / "web.png", "--json").output)
    assert "the file tells 352.7 um per pixel, which is implausible" in facts["um_per_px"]
    result = invoke("restore", tmp_path / "web.png", "--mask", "none.png", "--dry-run")
    assert "implausible" in result.output and "taking 0.5 um/px" in result.output


def test_an_existing_output_is_told_before_the_mask_is_read(aperio_slide, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    (tmp_path / "out.svs").write_text("precious")
    result = invoke("restore", aperio_slide, "--mask", tmp_path / "none.png", "-o", tmp_path / "out.svs")
    assert result.exit_code == 1 and "--overwrite" in result.output
    assert (tmp_path / "out.svs").read_text() == "precious"


def test_damage_at_two_strengths_is_seeded_and_strong_hides_more(aperio_slide, tmp_path):
    changes = {}
    for strength in ("mild", "strong"):
        for n in range(2):
            out = tmp_path / f"{strength}{n}.svs"
            options = ("--strength", strength, "--kinds", "bubble", "--seed", 3, "--share", 0.05, "-q")
            assert invoke("damage", aperio_slide, out, *options).exit_code == 0
        assert out.read_bytes() == (tmp_path / f"{strength}0.svs").read_bytes()
        with open_slide(aperio_slide) as before, open_slide(out) as after:
            whole = Box(0, 0, *before.size)
            changes[strength] = np.abs(after.read(whole).astype(int) - before.read(whole)).mean()
            (region, *_) = json.loads(Path(f"{out}.json").read_text())["regions"]
        assert region["class"] == "bubble"
    assert changes["strong"] > 1.2 * changes["mild"] > 0


def test_verify_finds_what_was_not_declared(aperio_slide, tmp_path):
    damaged = tmp_path / "damaged.svs"
    assert invoke("damage", aperio_slide, damaged, "-q").exit_code == 0
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(bytes(data))
    assert invoke("verify", aperio_slide, damaged).exit_code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["restore", "missing.svs", "--mask", "m.png"], "missing.svs: no such file"),
        (["restore", "SLIDE", "--mask", "missing.png"], "missing.png"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--weights", "./none"], "no such weights"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--config", "none"], "no such configuration"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--device", "tpu"], "use auto, cpu or cuda"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--config", "."], "is a folder"),
        (["damage", "SLIDE", "out.png"], "choose one of these"),
        (["damage", "SLIDE", "SLIDE"], "source itself"),
        (["verify", "SLIDE", "missing.svs"], "missing"),
        (["damage", "SLIDE", "nowhere/out.svs"], "nowhere"),
        (["damage", "SLIDE", "."], "is a folder"),
        (["verify", "SLIDE", ""], "missing"),
        (["info", "nothing"], "no such"),
        (["train", "none", "--data", ".", "--run-dir", "run"], "no such configuration"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(aperio_slide, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*(str(aperio_slide) if arg == "SLIDE" else arg for arg in args))
    assert result.exit_code == 1
    assert message in result.output and result.output.count("\n") == 1 and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_exit_code_2():
    assert invoke("restore").exit_code == 2
    assert invoke("damage", "in.svs", "out.svs", "--kinds", "fold,hole").exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--steps", 0).exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--mpp", "nan").exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--grow", "inf").exit_code == 2
    assert invoke("verify", "long" * 2000, "x").exit_code == 2


def test_a_name_that_is_taken_is_short_enough_while_it_is_written(tmp_path):
    longest = tmp_path / ("\u5207" * 80 + "xx")             # 242 bytes in 82 letters
    check_outputs([], [longest], overwrite=False)
    with whole_file(longest) as part:
        part.touch()
    with pytest.raises(OutputError, match="too long"):
        check_outputs([], [longest.with_name(f"{longest.name}x")], overwrite=False)


@pytest.mark.parametrize(("wrong", "why"), [
    (["--mask-polarity", "keep"], "give a --mask"), (["--mask-format", "grandqc"], "give a --mask"),
    (["--mask", "m.png", "--adapt", "1", "--adapt-crops", "8"], "--adapt-crops"),
    (["--mask", "m.png", "--graft", "off", "--doubtful", "keep"], "how well a region is filled"),
])
def test_arguments_that_contradict_each_other_are_a_usage_error_with_the_words_of_the_package(wrong, why):
    done = CliRunner().invoke(main, ["restore", "slide.svs", *wrong])
    assert done.exit_code == 2 and why in done.output and "Traceback" not in done.output
