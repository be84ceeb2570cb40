"""Slides read through tifffile: the pixels that OpenSlide shows, and OpenSlide where a tile is damaged."""

import numpy as np
import pytest
import tifffile
from made_slides import he_like, write_pyramid_tiff
from PIL import Image

from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.output.tiff_pixels import TiledSlide, read_fast
from artifusion.slide.reader import open_slide

SIZES = [(500, 402), (250, 201)]


@pytest.fixture
def path(tmp_path):
    return write_pyramid_tiff(tmp_path / "slide.tif", SIZES, image=he_like(*SIZES[0]), compression="jpeg")


def test_a_slide_is_read_as_openslide_reads_it(path):
    with open_slide(path, 0.5) as slide, read_fast(slide) as fast:
        assert isinstance(fast, TiledSlide) and (fast.size, fast.mpp, fast.vendor) == (slide.size, 0.5, slide.vendor)
        for level, size in enumerate(slide.level_sizes):
            beyond = Box(-20, -10, size.width + 50, size.height + 40)
            assert np.array_equal(fast.read_level(level, beyond), slide.read_level(level, beyond))
        box = Box(33, 21, 300, 240)
        assert np.array_equal(fast.read_as(box, Size(150, 120)), slide.read_as(box, Size(150, 120)))


def test_a_damaged_tile_is_said_to_be_as_openslide_says_it(path):
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    with open_slide(path, 0.5) as slide, read_fast(slide) as fast:
        with pytest.raises(SlideError, match="damaged"):
            fast.read(Box(440, 390, 40, 10))
        assert fast.read(Box(100, 100, 40, 40)).shape == (40, 40, 3)


@pytest.mark.parametrize("how", [
    {"photometric": "rgb", "extrasamples": ["unassalpha"]}, {"photometric": "rgb", "compression": "lzw"},
    {"photometric": "rgb", "compression": "jpeg", "extratags": [(274, 3, 1, 3, True)]},
    {"photometric": "rgb", "planarconfig": "separate"}])
def test_what_tifffile_may_show_otherwise_is_read_by_openslide(tmp_path, how):
    pixels = he_like(500, 402)
    if "extrasamples" in how:
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    if "planarconfig" in how:
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(128, 128), metadata=None, **how)
    with open_slide(tmp_path / "slide.tif", 0.5) as slide, read_fast(slide) as fast:
        assert fast is slide


def test_a_slide_without_all_its_tiles_is_read_by_openslide(path):
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        counts = file.pages[1].tags["TileByteCounts"]
    assert counts.count > 1 and counts.dtype == 4
    path.write_bytes(data[: counts.valueoffset] + bytes(4) + data[counts.valueoffset + 4 :])
    with open_slide(path, 0.5) as slide, read_fast(slide) as fast:
        assert fast is slide


def test_a_plain_image_is_read_as_before(tmp_path):
    Image.fromarray(he_like(64, 48)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png") as slide, read_fast(slide) as fast:
        assert fast is slide
