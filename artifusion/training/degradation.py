"""What scanners and files do to tissue: blur, noise and compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

BLURRED, NOISY, COMPRESSED = 0.5, 0.5, 0.75     # share of the crops
MAX_BLUR_PX = 1.2                               # standard deviation
MAX_NOISE = 3.0                                 # standard deviation in grey levels
QUALITIES = (50, 95)
SUBSAMPLINGS = (0, 2)                           # 4:4:4 and 4:2:0, as Pillow numbers them
MCU_PX = 16                                     # a compressed block of 4:2:0


def degrade(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop as a random scanner and a random file would show it: uint8 (H, W, 3) -> the same.

    Optics blur it, the sensor adds noise, JPEG compresses it; each to a random degree, or not at all. The whole crop is
    treated in one way, so that a denoiser learns to continue the scan that it sees.
    """
    pixels = rgb.astype(np.float32)
    if rng.random() < BLURRED:
        blur_px = rng.uniform(0, MAX_BLUR_PX)
        pixels = ndimage.gaussian_filter(pixels, (blur_px, blur_px, 0), mode="nearest")
    if rng.random() < NOISY:
        pixels = pixels + rng.uniform(0, MAX_NOISE) * rng.standard_normal(pixels.shape, np.float32)
    rgb = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return compress(rgb, rng) if rng.random() < COMPRESSED else rgb


def compress(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop out of a JPEG, whose blocks begin at a random offset from the crop's corner."""
    height, width = rgb.shape[:2]
    top, left = (int(offset) for offset in rng.integers(MCU_PX, size=2))
    padded = np.pad(rgb, ((top, MCU_PX), (left, MCU_PX), (0, 0)), mode="symmetric")
    file = io.BytesIO()
    Image.fromarray(padded).save(file, "JPEG", quality=int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)),
                                 subsampling=SUBSAMPLINGS[rng.integers(len(SUBSAMPLINGS))])
    return np.asarray(Image.open(file).convert("RGB"))[top : top + height, left : left + width]
