"""Inputs of ../shared/faults that the writer once got wrong, one file each: the right value, or one clear line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from click.testing import CliRunner
from conftest import SHARED
from painters import PINK, Flat

from artifusion.cli.app import main
from artifusion.damage.slide import damage_slide
from artifusion.output.reencode import halved
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide import tiff
from artifusion.slide.reader import open_slide

FAULTS = SHARED / "faults"
pytestmark = pytest.mark.skipif(not FAULTS.is_dir(), reason="../shared is absent")


@pytest.fixture
def folder(tmp_path):
    for path in FAULTS.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def repaired(folder, slide, mask):
    content = restore_slide(folder / slide, folder / mask, restorer=Flat())
    return folder / content["output"]["name"], content


def levels_of(path):
    with openslide.OpenSlide(path) as slide:
        return [np.asarray(slide.read_region((0, 0), level, size).convert("RGB")).astype(int)
                for level, size in enumerate(slide.level_dimensions)]


def check_box(path, x, y, width, height):
    for number, pixels in enumerate(levels_of(path)):
        scale = pixels.shape[1] / levels_of(path)[0].shape[1]
        top, bottom, left, right = (round(v * scale) for v in (y + 4, y + height - 4, x + 4, x + width - 4))
        assert np.abs(pixels[top:bottom, left:right] - PINK).mean() < 8, f"level {number}"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_json_description_keeps_its_form_and_values(damaged, folder):
    if damaged:
        damage_slide(folder / "c-shape.tif", folder / "out.tif", kinds=("bubble",), share=0.02)
        out = folder / "out.tif"
    else:
        out, _ = repaired(folder, "c-shape.tif", "mask.png")
    assert tifffile.imread(out).shape == (384, 448, 3)
    with tifffile.TiffFile(out) as file:
        description = json.loads(file.pages[0].description)
    assert description["shape"] == [384, 448, 3] and "artifusion" in description


def test_ome_xml_is_still_read_as_such(folder):
    out, _ = repaired(folder, "c-ome.tif", "mask.png")
    with tifffile.TiffFile(out) as file:
        assert file.is_ome and "Pixels" in json.dumps(tifffile.xml2dict(file.ome_metadata))
        assert "artifusion" in file.pages[0].description


def test_the_note_stands_before_the_nul(folder):
    out, _ = repaired(folder, "d-nul.svs", "mask.png")
    with openslide.OpenSlide(out) as slide:
        shown = slide.properties["tiff.ImageDescription"]
        assert "made-up" in shown and "artifusion" in shown and slide.properties["aperio.artifusion"]
        assert slide.properties["openslide.vendor"] == "aperio" and float(slide.properties["openslide.mpp-x"]) == 0.5


def test_a_zeroed_label_stays_as_it_is(folder):
    out, _ = repaired(folder, "e-label.svs", "mask.png")
    assert out.name == "e-label.restored.svs"
    check_box(out, 200, 150, 60, 50)
    before, after = (tiff.read_tiff(path) for path in (folder / "e-label.svs", out))
    for one, other in zip(before.pages[-2:], after.pages[-2:], strict=True):
        with before.path.open("rb") as old, after.path.open("rb") as new:
            assert tiff.read_segment(old, one, 0) == tiff.read_segment(new, other, 0)


@pytest.mark.parametrize("name", ["f-odd-shift.tif", "f-odd-crash.tif"])
def test_levels_are_means_whatever_the_height_of_tiles(name, folder):
    out, _ = repaired(folder, name, "f-mask.png")
    upper, lower = levels_of(out)[:2]
    assert lower.shape[:2] == (301, 80) and np.abs(halved(upper.astype(np.uint8)).astype(int) - lower).max() <= 1


def test_a_tile_of_another_kind_is_written_anew(folder):
    out, content = repaired(folder, "j-progressive.tif", "j-mask.png")
    check_box(out, 150, 160, 40, 40)
    assert content["written"]["levels"][0]["encoded_whole"] == 1
    for before, after in zip(levels_of(folder / "j-progressive.tif"), levels_of(out), strict=True):
        beside = np.ones(before.shape[:2], bool)
        scale = before.shape[1] / 448
        beside[int(140 * scale) : int(220 * scale), int(130 * scale) : int(210 * scale)] = False
        assert np.abs(before - after)[beside].mean() < 3


def test_missing_tiles_are_not_declared(folder):
    out, content = repaired(folder, "k-missing.tif", "k-mask.png")
    assert [region["l0_box"] for region in content["regions"]] == [[200, 128, 60, 62]]
    check_box(out, 200, 128, 60, 62)
    before, after = levels_of(folder / "k-missing.tif")[1], levels_of(out)[1]
    assert np.abs(before - after)[:56].max() == 0


@pytest.mark.parametrize(("slide", "mask", "words"), [
    ("j-garbage.tif", "j-mask.png", ("j-garbage.tif", "level 1", "(0, 0)")),
    ("k-missing.tif", "k-mask-all.png", ("k-missing.tif", "nothing to restore")),
    ("l-no-counts.tif", "mask.png", ("l-no-counts.tif", "incomplete")),
    ("l-missing-strips.tif", "l-mask.png", ("l-missing-strips.tif", "incomplete")),
    ("n-tiled.tif", "n-tiled-mask.png", ("n-tiled.tif", "WebP")),
])
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_restored_is_refused_in_one_line_with_nothing_written(slide, mask, words, dry, folder):
    before = {path.name for path in folder.iterdir()}
    arguments = ["restore", str(folder / slide), "--mask", str(folder / mask), "--config", str(folder / "fast.toml"),
                 "--device", "cpu", "-q", *(["--dry-run"] if dry else [])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and {path.name for path in folder.iterdir()} == before


def test_a_dry_run_foretells_a_tile_that_is_encoded_whole(folder):
    result = CliRunner().invoke(main, ["restore", str(folder / "j-progressive.tif"), "--mask",
                                       str(folder / "j-mask.png"), "--dry-run"])
    assert result.exit_code == 0 and "1 of the touched tiles encoded whole" in result.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak")
def test_a_tile_that_unpacks_to_hundreds_of_megabytes_takes_no_memory(folder):
    code = ("import re, sys; from artifusion.cli.app import main; main(sys.argv[1:], standalone_mode=False); "
            "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)")
    run = subprocess.run([sys.executable, "-c", code, "info", str(folder / "n-bomb.tif")], capture_output=True,
                         text=True, cwd=Path(__file__).parents[1], check=True)
    assert int(run.stdout.split()[-1]) < 400
    with open_slide(folder / "n-bomb.tif") as slide:
        assert slide.size == (256, 256)
