"""Made-up tissue, and ink of a known kind over a part of it."""

from __future__ import annotations

import numpy as np

from artifusion.damage.artifacts import PenInk
from artifusion.slide.tissue import optical_density, transmitted_light


def tissue(side: int = 256, seed: int = 0) -> np.ndarray:
    """Pink stroma with violet nuclei: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    nuclei = np.zeros((side, side), np.float32)
    for row, column in rng.integers(0, side, (side**2 // 500, 2)):
        at = np.s_[max(0, row - 9) : row + 10, max(0, column - 9) : column + 10]
        nuclei[at] = np.maximum(nuclei[at], np.clip(8 - np.hypot(y[at] - row, x[at] - column), 0, 1))
    density = 0.12 * np.array([0.4, 1.0, 0.6]) + nuclei[..., None] * np.array([0.35, 0.4, 0.2])
    density = density + 0.012 * rng.standard_normal((side, side, 1)) * np.array([0.6, 1, 0.8])
    return np.clip(np.rint(transmitted_light(density) + rng.normal(0, 1, density.shape)), 0, 255).astype(np.uint8)


def under(ink: PenInk, clean: np.ndarray, mask: np.ndarray, thickness: float | np.ndarray = 0.9) -> np.ndarray:
    """Clean tissue with ink over what is masked."""
    added = ink.added(np.where(mask, np.float32(thickness), 0))
    light = transmitted_light(optical_density(clean) + added)
    return np.where(mask[..., None], np.clip(np.rint(light), 0, 255), clean).astype(np.uint8)


def error(image: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute difference in the mask, grey levels."""
    return float(np.abs(image[mask].astype(int) - clean[mask]).mean())
