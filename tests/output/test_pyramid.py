from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from made_slides import APERIO, RGB, YCBCR, write_pyramid_tiff
from painted_slides import GREEN, place_segment, raw, restore, restored
from PIL import Image

from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output.container import container_of, generic_pyramid, without_gaps
from artifusion.output.reencode import halved
from artifusion.output.stored import masked_segments
from artifusion.output.verify import verify_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid
from artifusion.slide.reader import open_slide


def test_levels_are_missing_below_the_smallest_and_in_wide_gaps():
    top = Size(4096, 2048)
    assert list(without_gaps([top])) == [top, (2048, 1024), (1024, 512), (512, 256)]
    assert list(without_gaps([top, Size(1024, 512)])) == [top, (1024, 512), (512, 256)]
    assert list(without_gaps([top, Size(256, 128)])) == [top, (2048, 1024), (1024, 512), (256, 128)]
    assert list(without_gaps([Size(400, 300)])) == [(400, 300)]


@pytest.fixture(scope="session", params=["aperio", "lzw", "bigendian", "ycbcr"])
def incomplete(request, tmp_path_factory):
    """Slides that lack levels: one level only, or a gap between the first and the last."""
    folder = tmp_path_factory.mktemp("incomplete")
    if request.param == "aperio":
        return write_pyramid_tiff(folder / "one.svs", [(1301, 1103)], description=APERIO.format(w=1301, h=1103),
                                  thumbnail=True, **RGB)
    if request.param == "lzw":
        return write_pyramid_tiff(folder / "one.tif", [(1301, 1103)], compression="lzw", predictor=True)
    if request.param == "bigendian":
        return write_pyramid_tiff(folder / "gap.tif", [(1301, 1103), (163, 138)], bigtiff=True, byteorder=">", **RGB)
    return write_pyramid_tiff(folder / "one.tiff", [(1301, 1103), (650, 551)], **YCBCR)


def test_level_0_is_copied_and_missing_levels_are_built(incomplete, tmp_path):
    out = tmp_path / "out.tiff"
    mask = Mask.of([shapely.box(300, 200, 620, 520)], Size(1301, 1103))
    _, report = restore(incomplete, out, tmp_path, mask=mask)
    assert report.container == "pyramid" and not list((tmp_path / "work").iterdir())
    assert [level.how for level in report.levels if level.how != "copied"] and report.levels[0].how == "copied"
    assert all("no such level" in level.reason for level in report.levels if level.how == "built")
    with open_slide(incomplete) as slide:
        plan, mpp, icc = generic_pyramid(slide), slide.mpp, slide.icc
    with openslide.OpenSlide(out) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert list(slide.level_dimensions) == [level.size for level in plan]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-3)
        assert slide.properties["openslide.comment"] == "artifusion: restored 6 regions"
        assert slide.read_region((0, 0), 0, (1, 1)).info.get("icc_profile") == icc
        for level, (width, height) in enumerate(slide.level_dimensions):
            x, y = 460 * width // 1301, 360 * height // 1103
            pixel = slide.read_region((0, 0), level, (width, height)).convert("RGB").getpixel((x, y))
            assert np.abs(np.array(pixel) - GREEN).max() < 12
    before, after = tiff.read_tiff(incomplete), raw(out)
    with incomplete.open("rb") as file:
        for level, (grid, segments) in zip(plan, after, strict=True):
            if level.page is not None:
                page, touched = before.pages[level.page], set(masked_segments(grid, mask))
                old = [tiff.read_segment(file, page, i) for i in range(len(page.offsets))]
                changed = {i for i in range(len(old)) if old[i] != segments[i]}
                assert touched and changed <= touched < set(range(len(old)))


def test_built_levels_halve_the_restored_one(incomplete, tmp_path):
    out = tmp_path / "out.tiff"
    restore(incomplete, out, tmp_path)
    with tifffile.TiffFile(out) as file:
        upper = None
        for page in file.pages:
            pixels = page.asarray()
            if upper is not None and pixels.shape == halved(upper).shape:
                difference = np.abs(pixels.astype(int) - halved(upper))
                assert difference.mean() < 5 and (difference.max() == 0 or page.compression == 7)
            upper = pixels


def test_a_generic_pyramid_is_verified(incomplete, tmp_path):
    out, _, (sidecar, declared) = restored(incomplete, tmp_path, ".tif")
    report = verify_slide(incomplete, out, sidecar, declared)
    assert report.ok, report.problems
    found = report.compared
    assert found.touched and found.identical == found.segments - found.touched
    json.dumps(report.to_dict())
    grid = Grid.of(tiff.read_tiff(out).pages[0])
    segments, touched = raw(out)[0][1], set(masked_segments(grid, restored_mask(declared)))
    index = min(set(range(len(segments))) - touched)
    place_segment(out, index, segments[index + 1])
    assert any("no declared region" in problem for problem in verify_slide(incomplete, out, sidecar, declared).problems)


def restored_mask(declared):
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in declared["features"]]
    return Mask.of([part for shape in shapes for part in getattr(shape, "geoms", [shape])], Size(1301, 1103))


def test_the_same_pyramid_has_the_same_bytes(incomplete, tmp_path):
    files = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        files.append(tmp_path / run / "out.tiff")
        restore(incomplete, files[-1], files[-1].parent)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_jpeg_2000_is_reencoded_in_a_generic_file_and_the_report_says_why(tmp_path, wsi):
    with open_slide(wsi / "TCGA-CR-7395-TS1.svs") as slide:
        container, reason = container_of(slide, tmp_path / "x.tif")
        assert container == "re-encoded" and "Aperio's own files only" in reason
        assert container_of(slide, tmp_path / "x.svs")[0] == "copied"


def test_a_level_that_cannot_be_copied_is_built(tmp_path):
    source = tmp_path / "mixed.tif"
    pixels = np.asarray(Image.effect_noise((901, 703), 40).convert("RGB"))
    with tifffile.TiffWriter(source) as writer:
        for number, codec in enumerate(("lzw", "packbits")):
            writer.write(pixels[:: 1 + number, :: 1 + number], tile=(128, 128), photometric="rgb", metadata=None,
                         subfiletype=number, compression=codec)
    _, report = restore(source, tmp_path / "out.tif", tmp_path)
    assert [level.how for level in report.levels] == ["copied", "built"]
    assert "level 1 of the source: compression 32773" in report.levels[1].reason
    with open_slide(tmp_path / "out.tif") as slide:
        assert slide.level_sizes == ((901, 703), (451, 352)) and slide.mpp is None


def test_missing_tiles_stay_missing_in_a_generic_file(tmp_path):
    source = write_pyramid_tiff(tmp_path / "sparse.tif", [(901, 703)], compression="lzw")
    with tifffile.TiffFile(source) as file:
        count = len(file.pages[0].dataoffsets)
    place_segment(source, 3, b"")
    with source.open("rb+") as file, tifffile.TiffFile(source) as tags:
        tag = tags.pages[0].tags[324]
        file.seek(tag.valueoffset + 3 * 4)
        file.write(bytes(4))
    restore(source, tmp_path / "out.tif", tmp_path, mask=Mask.of([shapely.box(10, 400, 90, 500)], Size(901, 703)))
    page = tiff.read_tiff(tmp_path / "out.tif").pages[0]
    assert len(page.offsets) == count and page.offsets[3] == page.counts[3] == 0
    with open_slide(tmp_path / "out.tif") as slide:
        assert (slide.read(Box(400, 10, 50, 50)) == 255).all()
