"""Where a slide shows tissue, and whether a piece of it is fit to learn from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

GLASS_OD = 0.06             # mean optical density below which a pixel is bare glass
CLOSE_PX = 3
BLOCK_PX = 16               # side of the squares that are judged as a whole
DENSITIES = -np.log10((np.arange(256, dtype=np.float32) + 1.0) / 256.0)
MIN_SHARPNESS = 0.014       # 40x tissue in focus has 0.016 and more, blurred by 4 px about 0.007


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """Absorbance per channel, -log10 of the transmitted share of light: uint8 (H, W, 3) -> float32 (H, W, 3)."""
    return DENSITIES[rgb]


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Which pixels show tissue rather than bare glass: uint8 (H, W, 3) -> bool (H, W).

    Meant for low magnification (a few um/px), where lumen and fat inside tissue close up.
    """
    stained = optical_density(rgb).mean(axis=2) > GLASS_OD
    stained = ndimage.binary_closing(stained, iterations=CLOSE_PX)
    return ndimage.binary_opening(stained, iterations=1)


def glass_blocks(rgb: np.ndarray) -> np.ndarray:
    """Which blocks of BLOCK_PX show bare glass, white or tinted: bool (H // BLOCK_PX, W // BLOCK_PX).

    Glass is light and has no texture; light tissue has some.
    """
    light = _blocks(optical_density(rgb).mean(axis=2))
    return (light.std(axis=2) < 0.008) & (light.mean(axis=2) < 0.15)


def sharpness(rgb: np.ndarray) -> float:
    """Mean gradient energy of the optical density over its variance, both off the glass; low where out of focus."""
    od = optical_density(rgb).mean(axis=2)
    tissue = ~glass_blocks(rgb)
    if not tissue.any():
        return 0.0
    energy = np.square(np.diff(od, axis=0, append=od[-1:])) + np.square(np.diff(od, axis=1, append=od[:, -1:]))
    return float(_blocks(energy)[tissue].mean() / (2 * _blocks(od)[tissue].var() + 1e-4))


def spoiled_blocks(rgb: np.ndarray) -> np.ndarray:
    """Which blocks of BLOCK_PX show ink, or the black rim of a refractile bubble or of dust, as `glass_blocks`."""
    red, green, blue = (optical_density(rgb[..., c]) for c in range(3))
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    # What is black takes all colours alike; the darkest nuclei let blue or red through.
    black = (least > 0.6) & (most - least < 0.3) & (blue > red - 0.15)
    # H&E absorbs green most; what absorbs red or blue far more is no stain but ink.
    ink = (red > 1.25 * green + 0.1) | (blue > 1.6 * green + 0.2)
    return (_blocks(black).sum(axis=2) >= 4) | (_blocks(ink).mean(axis=2) > 0.1)


def _blocks(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H // BLOCK_PX, W // BLOCK_PX, pixels of the block); what is left over at the edges is left out."""
    rows, columns = values.shape[0] // BLOCK_PX, values.shape[1] // BLOCK_PX
    cut = values[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    return cut.swapaxes(1, 2).reshape(rows, columns, BLOCK_PX * BLOCK_PX)


def is_clean(rgb: np.ndarray) -> bool:
    """Whether a tile is fit to learn from: some tissue, in focus, hardly any ink, nothing large and black.

    Small spoiled places do not spoil a whole tile: whoever cuts a crop leaves `spoiled_blocks` out.
    """
    if min(rgb.shape[:2]) < BLOCK_PX or glass_blocks(rgb).mean() > 0.6 or sharpness(rgb) < MIN_SHARPNESS:
        return False
    dark = (optical_density(rgb).mean(axis=2) > 1.2).mean()     # folds, ink, dust
    return bool(dark < 0.05 and spoiled_blocks(rgb).mean() < 0.1)
