from __future__ import annotations

import json
import math

import numpy as np
import pytest
import shapely
import tifffile
from painted_slides import place_segment, restored
from PIL import Image

from artifusion.errors import OutputError, SlideError
from artifusion.files import sha256
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output.codecs.segment_codecs import codec_of
from artifusion.output.region_colours import mean_rgb
from artifusion.output.shown import Shown
from artifusion.output.stored import masked_segments
from artifusion.output.verify import verify_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid


def test_a_restored_slide_passes(copied_slide, tmp_path):
    for number, color in enumerate([(40, 180, 60), (255, 255, 255), (0, 0, 0), None]):
        out, _, (sidecar, declared) = restored(copied_slide, tmp_path / str(number), color=color)
        report = verify_slide(copied_slide, out, sidecar, declared)
        assert report.ok, report.problems
        found = report.compared
        assert found.identical == found.segments - found.touched and report.lines()[-1] == "ok"
        json.dumps(report.to_dict())


def test_real_slides_pass(wsi, tmp_path):
    for name, suffix in (("CMU-1-Small-Region.svs", ".svs"), ("CropBreastSlide.tiff", ".tiff"),
                         ("TCGA-CR-7395-TS1.svs", ".svs"), ("TCGA-CR-7395-TS1.svs", ".tiff"),
                         ("CMU-1-Small-Region.svs", ".tiff")):
        out, _, (sidecar, declared) = restored(wsi / name, tmp_path / f"{name}{suffix}", suffix)
        report = verify_slide(wsi / name, out, sidecar, declared)
        assert report.ok, report.problems


def test_other_containers_pass(packbits_slide, strip_image, png_image, jpeg_image, tmp_path):
    for source, suffix in ((packbits_slide, ".tiff"), (strip_image, ".tiff"), (png_image, ".png"),
                           (jpeg_image, ".jpg")):
        out, _, (sidecar, declared) = restored(source, tmp_path / source.name, suffix)
        report = verify_slide(source, out, sidecar, declared)
        assert report.ok, report.problems


def change_segment(path, mask, inside, where):
    """Write one segment of level 0 again with a gray square at `where`, at the end of the file."""
    page = tiff.read_tiff(path).pages[0]
    grid, codec = Grid.of(page), codec_of(page)
    touched = masked_segments(grid, mask)
    for index in touched if inside else [i for i in range(len(page.offsets)) if i not in touched]:
        y, x = where(mask.read(grid.box(index)))
        if y is not None:
            with path.open("rb") as file:
                old = tiff.read_segment(file, page, index)
            samples = codec.decode(old).copy()
            samples[y : y + 8, x : x + 8] = 90
            place_segment(path, index, codec.encode(samples, old, np.ones(samples.shape[:2], bool)))
            return
    pytest.fail("no segment to tamper with")


def quiet(masked):
    """A place whose surroundings the mask does not touch."""
    for y in range(32, 96, 16):
        for x in range(32, 96, 16):
            if not masked[max(0, y - 32) : y + 40, max(0, x - 32) : x + 40].any():
                return y, x
    return None, None


def test_a_tampered_untouched_segment_is_found(copied_slide, tmp_path):
    out, mask, (sidecar, declared) = restored(copied_slide, tmp_path)
    change_segment(out, mask, False, quiet)
    report = verify_slide(copied_slide, out, sidecar, declared)
    assert not report.ok and "no declared region touches it" in report.problems[0]
    assert report.lines()[-1].startswith("PROBLEM")


def test_a_tampered_place_outside_the_regions_of_a_touched_segment_is_found(copied_slide, tmp_path):
    out, mask, (sidecar, declared) = restored(copied_slide, tmp_path)
    change_segment(out, mask, True, quiet)
    report = verify_slide(copied_slide, out, sidecar, declared)
    assert not report.ok and report.compared.whole == 0
    assert "keep their coefficients" in report.problems[0] or "keeps every pixel" in report.problems[0]


def test_one_changed_byte_is_found_by_the_hash(copied_slide, tmp_path):
    out, _, (sidecar, declared) = restored(copied_slide, tmp_path)
    sidecar["output"] = {"sha256": sha256(out)}
    assert verify_slide(copied_slide, out, sidecar, declared).ok
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 1
    out.write_bytes(data)
    assert any("SHA-256" in problem for problem in verify_slide(copied_slide, out, sidecar, declared).problems)


def test_a_changed_tag_is_found(aperio_slide, tmp_path):
    out, _, (sidecar, declared) = restored(aperio_slide, tmp_path)
    with tifffile.TiffFile(out) as file:
        tag = file.pages[0].tags[34675]
    data = bytearray(out.read_bytes())
    data[tag.valueoffset] ^= 1
    out.write_bytes(data)
    assert "directory 0: tag 34675 changed" in verify_slide(aperio_slide, out, sidecar, declared).problems


def test_an_undeclared_region_is_found(copied_slide, tmp_path):
    out, _, (sidecar, declared) = restored(copied_slide, tmp_path)
    declared["features"].pop()
    assert not verify_slide(copied_slide, out, sidecar, declared).ok


def test_another_source_is_found(copied_slide, tmp_path):
    out, _, (sidecar, declared) = restored(copied_slide, tmp_path)
    sidecar["source"]["sha256"] = "0" * 64
    assert "not the file that was restored" in verify_slide(copied_slide, out, sidecar, declared).problems[0]


def test_a_changed_pixel_of_an_exact_image_is_found(png_image, tmp_path):
    out, mask, (sidecar, declared) = restored(png_image, tmp_path)
    pixels = np.asarray(Image.open(out)).copy()
    y, x = np.argwhere(~mask.read(Box(0, 0, 300, 260)))[77]
    pixels[y, x, 0] ^= 1
    Image.fromarray(pixels).save(out)
    report = verify_slide(png_image, out, sidecar, declared)
    assert not report.ok and report.compared.outside.changed_px == 1


def test_a_changed_place_of_a_reencoded_slide_is_found(packbits_slide, tmp_path):
    out, mask, (sidecar, declared) = restored(packbits_slide, tmp_path, ".tiff")
    change_segment(out, mask, False, quiet)
    page = tiff.read_tiff(out).pages[0]
    report = verify_slide(packbits_slide, out, sidecar, declared)
    assert report.compared.outside.largest > 40              # an 8-px square alone is reported; a larger one fails
    with out.open("rb") as file:
        place_segment(out, 0, tiff.read_segment(file, page, 1))
    assert not verify_slide(packbits_slide, out, sidecar, declared).ok


def test_missing_sidecars_say_so(copied_slide, tmp_path):
    out, mask, (sidecar, declared) = restored(copied_slide, tmp_path)
    with pytest.raises(OutputError, match="missing"):
        verify_slide(copied_slide, out)
    sidecar["regions"] = [{"area_px": mask.area_px}]
    sidecar["output"]["sha256"] = sha256(out)
    (tmp_path / f"{out.name}.json").write_text(json.dumps(sidecar))
    (tmp_path / f"{out.name}.geojson").write_text(json.dumps(declared))
    assert verify_slide(copied_slide, out).ok
    for broken in ({}, {**sidecar, "regions": [1]}, {**sidecar, "regions": [{"area_px": math.inf}]},
                   {**sidecar, "output": {}}, {**sidecar, "regions": []}):
        (tmp_path / f"{out.name}.json").write_text(json.dumps(broken))
        with pytest.raises(OutputError, match="not one that artifusion wrote"):
            verify_slide(copied_slide, out)
    with pytest.raises(SlideError):
        verify_slide(copied_slide, tmp_path / "missing.svs", sidecar, declared)


@pytest.mark.parametrize("levels", ["x", [{"how": "copied"}], [{"name": [], "how": "copied"}]])
def test_levels_that_are_none_make_no_sidecar(levels, aperio_slide, tmp_path):
    out, _, (sidecar, declared) = restored(aperio_slide, tmp_path)
    sidecar["written"]["levels"] = levels
    with pytest.raises(OutputError, match="not one that artifusion wrote"):
        verify_slide(aperio_slide, out, sidecar, declared)


def test_a_sidecar_that_tells_of_a_region_beyond_the_slide_takes_no_time():
    mask = Mask.of([shapely.box(10, 10, 60, 50)], Size(100, 80))
    pink = np.full((80, 100, 3), (230, 120, 180), np.uint8)
    beyond = Box(-(10**9), 0, 10**12, 10**12)
    assert mean_rgb(lambda box: pink[box.slices()], mask, beyond) == ([230, 120, 180], 46 * 36)


def test_a_change_below_the_noise_of_the_sources_own_encoding_is_not_called_stale():
    """Slivers at the rim of a region on a reduced level: 18 px, 2.5 grey levels changed, the source 5 off."""
    before = np.full((2, 9, 3), 150, np.uint8)
    source = before + np.uint8(5)

    def place(change):
        return Shown("level 1", lambda: source, lambda: before - np.uint8(change), {}, lambda: source,
                     np.ones((2, 9), bool), 20.0, lambda: before)

    assert place(2).problem() == ""
    assert place(30).problem() == "level 1 shows what the source shows"
