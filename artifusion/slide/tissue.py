"""Where a slide shows tissue, and whether a piece of it is fit to learn from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

GLASS_OD = 0.06             # mean optical density below which a pixel is bare glass
CLOSE_PX = 3


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """Absorbance per channel, -log10 of the transmitted share of light: uint8 (H, W, 3) -> float32 (H, W, 3)."""
    return -np.log10((rgb.astype(np.float32) + 1.0) / 256.0)


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Which pixels show tissue rather than bare glass: uint8 (H, W, 3) -> bool (H, W).

    Meant for low magnification (a few um/px), where lumen and fat inside tissue close up.
    """
    stained = optical_density(rgb).mean(axis=2) > GLASS_OD
    stained = ndimage.binary_closing(stained, iterations=CLOSE_PX)
    return ndimage.binary_opening(stained, iterations=1)


def sharpness(rgb: np.ndarray) -> float:
    """Mean gradient energy of the optical density over its variance; low where a scan is out of focus or empty."""
    od = optical_density(rgb).mean(axis=2)
    rows, columns = np.diff(od, axis=0), np.diff(od, axis=1)
    return float((np.square(rows).mean() + np.square(columns).mean()) / (2 * od.var() + 1e-4))


def is_clean(rgb: np.ndarray) -> bool:
    """Whether a tile is fit to learn from: mostly tissue, in focus, without ink and without large black things."""
    od = optical_density(rgb)
    mean = od.mean(axis=2)
    stained = mean > GLASS_OD
    if stained.mean() < 0.4 or sharpness(rgb) < 0.004:
        return False
    dark = (mean > 1.2).mean()                                  # folds, ink, dust
    # H&E absorbs green most; ink that absorbs red or blue far more than green is no stain.
    ink = (stained & (np.maximum(od[..., 0], od[..., 2]) > 1.6 * od[..., 1] + 0.2)).mean()
    return bool(dark < 0.05 and ink < 0.01)
