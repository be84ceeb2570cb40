"""Tonal agreement: a donor in the colours of the place where it comes to lie."""

from __future__ import annotations

import cv2
import numpy as np

from artifusion.evidence.likeness import blurred, carried, reduced

TONE_UM = 12.0              # blur under which colours are compared
STEP_UM = 2.0               # um per pixel at which this is done
MOST, MOST_GLASS = 24.0, 2.0    # grey levels by which a colour is moved at most: that of tissue, and that of glass
MET_UM, MET_PX = 1.0, 2     # so deep the rest of the difference at the outline reaches, and at least
GLASS, TISSUE = 235.0, 200.0    # the darkest channel of a pixel that is glass alone, and of one that is tissue alone
BESIDE = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4       # the mean of the pixels beside one


def toned(donor: np.ndarray, pixels: np.ndarray, hole: np.ndarray, known: np.ndarray, mpp: float) -> np.ndarray:
    """A donor, uint8 (H, W, 3), with the low-frequency difference of the surroundings carried in: uint8 (H, W, 3).

    pixels: uint8 (H, W, 3), what is there where known, bool (H, W). Only the hole, bool (H, W), changes.
    """
    if not known.any():
        return donor
    step = max(1, min(round(STEP_UM / mpp), *(length // 4 or 1 for length in known.shape)))
    pad = [(0, -length % step) for length in known.shape]
    share = reduced(np.pad(known, pad).astype(np.float32), step)
    difference = np.where(known[..., None], pixels.astype(np.float32) - donor, 0)
    difference = reduced(np.pad(difference, (*pad, (0, 0))), step) / np.maximum(share, 1e-3)[..., None]
    sigma_px = max(0.8, TONE_UM / (step * mpp))
    seen = share > 0.5 if (share > 0.5).any() else share > 0
    low = carried(blurred(difference, seen, sigma_px), seen)
    low = cv2.GaussianBlur(low, (0, 0), sigma_px / 2).clip(-MOST, MOST)
    size = (low.shape[1] * step, low.shape[0] * step)
    low = cv2.resize(low, size, interpolation=cv2.INTER_LINEAR)[: known.shape[0], : known.shape[1]]
    tissue = ((GLASS - donor.min(axis=2, keepdims=True)) / (GLASS - TISSUE)).clip(0, 1)         # (H, W, 1)
    most = MOST_GLASS + (MOST - MOST_GLASS) * tissue              # a tint that tissue asks for would show on glass
    return np.where(hole[..., None], (donor + low.clip(-most, most)).clip(0, 255).round().astype(np.uint8), donor)


def met(donor: np.ndarray, pixels: np.ndarray, known: np.ndarray, mpp: float) -> np.ndarray:
    """A donor, uint8 (H, W, 3), that goes over into the known pixels around it without a step: uint8 (H, W, 3).

    What it differs by at the outline of what is known, bool (H, W), diffuses inwards: fine differences fade at once,
    coarse ones within MET_UM.
    """
    left, mask = np.where(known[..., None], pixels.astype(np.float32) - donor, np.float32(0)), known.astype(np.uint8)
    carried = left
    for _ in range(round((2 * max(MET_PX, MET_UM / mpp)) ** 2)):
        carried = cv2.copyTo(left, mask, cv2.filter2D(carried, -1, BESIDE, borderType=cv2.BORDER_REPLICATE))
    return (donor + carried).clip(0, 255).round().astype(np.uint8)
