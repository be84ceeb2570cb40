"""Optical density, where a slide shows tissue, and whether a piece of it is fit to learn from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

GLASS_OD = 0.06             # mean optical density up to which a pixel is bare glass
CLOSE_PX = 3                # gaps in tissue that are closed, each way
TISSUE_BLOCK_PX = 16        # side of the blocks that count as glass, spoiled or neither as a whole
MIN_SHARPNESS = 0.014       # 40x tissue in focus has 0.016 and more, blurred by 4 px about 0.007


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """Return -log10 of the transmitted share of light: integers or floats in 0..255, any shape -> the same shape.

    A value v transmits (v + 1) / 256. Integers give float32, floats their own type; floats outside 0..255 are clipped.
    """
    if np.issubdtype(pixels.dtype, np.integer):
        return DENSITIES[pixels]
    return -np.log10((np.clip(pixels, 0, 255) + 1.0) / 256.0)


DENSITIES = optical_density(np.arange(256, dtype=np.float32))


def transmitted_light(density: np.ndarray) -> np.ndarray:
    """Return the values 0..255 of an optical density; the inverse of `optical_density`."""
    return 256.0 * np.power(10.0, -density) - 1.0


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Return which pixels show tissue rather than bare glass: uint8 (H, W, 3) -> bool (H, W).

    Meant for low magnification (a few um per pixel), where lumen and fat inside tissue are closed.
    """
    stained = optical_density(rgb).mean(axis=2) > GLASS_OD
    stained = ndimage.binary_closing(stained, iterations=CLOSE_PX)
    return ndimage.binary_opening(stained, iterations=1)


def glass_blocks(rgb: np.ndarray) -> np.ndarray:
    """Return which blocks show bare glass, white or tinted: uint8 (H, W, 3) -> bool (rows, columns).

    Blocks have TISSUE_BLOCK_PX a side; a remainder at the right and lower edge belongs to none. Glass is light and
    has no texture; light tissue has some.
    """
    light = _blocks(optical_density(rgb).mean(axis=2))
    return (light.std(axis=2) < 0.008) & (light.mean(axis=2) < 0.15)


def sharpness(rgb: np.ndarray) -> float:
    """Return the mean gradient energy of the optical density over its variance, glass left out.

    uint8 (H, W, 3) -> at least 0; 0 where there is only glass, low where tissue is out of focus.
    """
    od = optical_density(rgb).mean(axis=2)
    tissue = ~glass_blocks(rgb)
    if not tissue.any():
        return 0.0
    energy = np.square(np.diff(od, axis=0, append=od[-1:])) + np.square(np.diff(od, axis=1, append=od[:, -1:]))
    return float(_blocks(energy)[tissue].mean() / (2 * _blocks(od)[tissue].var() + 1e-4))


def spoiled_blocks(rgb: np.ndarray) -> np.ndarray:
    """Return which blocks, as in `glass_blocks`, show ink or the black rim of a refractile bubble or of dust."""
    red, green, blue = (optical_density(rgb[..., c]) for c in range(3))
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    # Black absorbs all colours alike; the darkest nuclei let blue or red through.
    black = (lowest > 0.6) & (highest - lowest < 0.3) & (blue > red - 0.15)
    # H&E absorbs green most; only ink absorbs red or blue far more.
    ink = (red > 1.25 * green + 0.1) | (blue > 1.6 * green + 0.2)
    return (_blocks(black).sum(axis=2) >= 4) | (_blocks(ink).mean(axis=2) > 0.1)


def _blocks(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (rows, columns, pixels of the block); the remainder at the right and lower edge is dropped."""
    side = TISSUE_BLOCK_PX
    rows, columns = values.shape[0] // side, values.shape[1] // side
    blocks = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return blocks.swapaxes(1, 2).reshape(rows, columns, side * side)


def is_clean(rgb: np.ndarray) -> bool:
    """Return whether a tile, uint8 (H, W, 3), is fit to learn from: some tissue, in focus, next to no ink or black.

    Small spoiled places do not spoil a whole tile: crops are cut around `spoiled_blocks`.
    """
    if min(rgb.shape[:2]) < TISSUE_BLOCK_PX or glass_blocks(rgb).mean() > 0.6 or sharpness(rgb) < MIN_SHARPNESS:
        return False
    dark = (optical_density(rgb).mean(axis=2) > 1.2).mean()     # folds, ink, dust
    return bool(dark < 0.05 and spoiled_blocks(rgb).mean() < 0.1)
