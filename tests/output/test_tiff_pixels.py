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


def test_a_plain_image_is_read_as_before(tmp_path):
    Image.fromarray(he_like(64, 48)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png") as slide, read_fast(slide) as fast:
        assert fast is slide
