"""The quality gate on made-up tiles."""

import numpy as np
import pytest
from made_slides import tissue
from scipy.ndimage import gaussian_filter

from artifusion.slide.tissue import TISSUE_BLOCK_PX, glass_blocks, is_clean, spoiled_blocks

SIDE = 256


def grid():
    return np.mgrid[:SIDE, :SIDE]


def glass(colour):
    noise = np.random.default_rng(0).normal(0, 0.6, (SIDE, SIDE, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def bubble(pixels, x, y, radius):
    """A refractile bubble: black rim, bright middle."""
    rows, columns = grid()
    away = np.hypot(rows - y, columns - x)
    pixels = pixels.copy()
    pixels[away < radius] = (22, 22, 24)
    pixels[away < radius / 3] = 250
    return pixels


def pen(pixels, colour):
    rows, columns = grid()
    pixels = pixels.copy()
    pixels[np.abs(rows - columns) < 30] = colour
    return pixels


def test_tissue_is_kept_also_where_a_half_is_glass():
    pixels = tissue(SIDE, SIDE)
    assert is_clean(pixels)
    pixels[: SIDE // 2] = glass((243, 243, 243))[: SIDE // 2]
    assert is_clean(pixels)
    assert glass_blocks(pixels)[: SIDE // 2 // TISSUE_BLOCK_PX].all()
    assert not glass_blocks(pixels)[SIDE // 2 // TISSUE_BLOCK_PX :].any()


@pytest.mark.parametrize("colour", [(243, 243, 243), (235, 205, 225)], ids=["white", "tinted"])
def test_glass_is_left_out(colour):
    assert not is_clean(glass(colour))


def test_blur_is_left_out():
    assert not is_clean(gaussian_filter(tissue(SIDE, SIDE).astype(float), (6, 6, 0)).astype(np.uint8))


@pytest.mark.parametrize("colour", [(40, 160, 70), (30, 60, 160), (25, 25, 25)], ids=["green", "blue", "black"])
def test_ink_is_left_out(colour):
    pixels = pen(tissue(SIDE, SIDE), colour)
    assert not is_clean(pixels)
    assert spoiled_blocks(pixels)[4, 4] and not spoiled_blocks(pixels)[0, 15]


def test_one_bubble_spoils_its_place_and_many_the_tile():
    pixels = bubble(tissue(SIDE, SIDE), 72, 72, 10)
    assert is_clean(pixels)
    assert spoiled_blocks(pixels)[4, 4] and spoiled_blocks(pixels).sum() <= 9
    for x in range(20, SIDE, 40):
        for y in range(20, SIDE, 40):
            pixels = bubble(pixels, x, y, 10)
    assert not is_clean(pixels)


def test_dark_nuclei_are_no_spoiled_places():
    pixels = tissue(SIDE, SIDE)
    rows, columns = grid()
    pixels[np.hypot(rows % 32 - 16, columns % 32 - 16) < 8] = (40, 30, 95)
    assert not spoiled_blocks(pixels).any()
