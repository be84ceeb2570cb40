"""Tonal agreement: a donor in the colours of the place where it comes to lie."""

from __future__ import annotations

import cv2
import numpy as np

from artifusion.evidence.likeness import blurred, carried, reduced
from artifusion.slide.placed import UNIT, Tone

TONE_UM = 12.0              # blur under which colours are compared
STEP_UM = 1.0               # um per pixel at which this is done
CELL_UM = 2.0               # side of the cells of the field that comes of it
MOST = 24.0                 # grey levels by which a colour is moved at most
MOST_GLASS = 3.0            # ... glass: what differs more is no glass on one side
FEWEST_PX = 50              # of glass, by which glass is moved
FADE_UM = 6.0               # how far inside the outline the rest of the difference fades ...
FADE_PX = 24                # ... at most
TINT_UM = 1.5               # blur under which the rest is a tint ...
BESIDE_UM = 4.0             # ... of what is known so near to the outline
STRUCTURE = 15.0            # grey levels: what differs by more is a nucleus on one side, and counts less
ROUNDS = 3                  # of weighing that
BESIDE = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4       # the mean of the pixels beside one


def tone_of(donor: np.ndarray, pixels: np.ndarray, known: np.ndarray, mpp: float, lightest: int) -> Tone | None:
    """The tone that carries the low-frequency difference of the surroundings into a donor; None where none are known.

    The rest of the difference at the outline fades inwards. Glass is moved by the mean difference of what is
    glass on both sides: a tint that tissue asks for would show there.

    donor, pixels: uint8 (H, W, 3), the donor and what is there; known: bool (H, W), where both may be looked at.
    lightest: as in `Tone`.
    """
    if not known.any():
        return None
    step = max(1, min(round(STEP_UM / mpp), *(length // 4 or 1 for length in known.shape)))
    pad = [(0, -length % step) for length in known.shape]
    share = reduced(np.pad(known, pad).astype(np.float32), step)
    difference = np.where(known[..., None], pixels.astype(np.float32) - donor, 0)
    glass = known & (pixels.min(axis=2) >= lightest) & (donor.min(axis=2) >= lightest)
    shift = difference[glass].mean(axis=0) if np.count_nonzero(glass) >= FEWEST_PX else np.zeros(3)
    difference = reduced(np.pad(difference, (*pad, (0, 0))), step) / np.maximum(share, 1e-3)[..., None]
    sigma_px = max(0.8, TONE_UM / (step * mpp))
    seen = share > 0.5 if (share > 0.5).any() else share > 0
    low = carried(blurred(difference, seen, sigma_px), seen)
    low = cv2.GaussianBlur(low, (0, 0), sigma_px / 2)
    low += faded(difference - low, seen, step * mpp)
    cell = max(1, round(CELL_UM / (step * mpp)))
    low = reduced(np.pad(low, [*((0, -length % cell) for length in low.shape[:2]), (0, 0)], mode="edge"), cell)
    field, (red, green, blue) = (np.rint(np.clip(each, -most, most) / UNIT).astype(np.int8)
                                 for each, most in ((low, MOST), (shift, MOST_GLASS)))
    return Tone(step * cell, len(field), field.tobytes(), (int(red), int(green), int(blue)), lightest)


def faded(differs: np.ndarray, seen: np.ndarray, mpp: float) -> np.ndarray:
    """The tint of differences, float32 (H, W, 3), at the outline of what is seen, bool (H, W), fading from there: the
    same shape.

    A tint is a mean under a narrow blur, in which differences that are far from it count less and less.
    """
    depth_px = [cv2.distanceTransform(where.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                for where in (seen, ~seen)]
    beside = (seen & (depth_px[0] <= max(1, BESIDE_UM / mpp))).astype(np.float32)
    sigma_px, weight = max(0.5, TINT_UM / mpp), beside
    for _ in range(ROUNDS + 1):
        total, summed = (cv2.GaussianBlur(values, (0, 0), sigma_px, borderType=cv2.BORDER_CONSTANT)
                         for values in (weight, differs * weight[..., None]))
        tint = summed / np.maximum(total, 1e-3)[..., None]
        weight = beside / (1 + np.square((differs - tint) / STRUCTURE).sum(axis=2))
    reach_px = min(FADE_PX, max(1, round(FADE_UM / mpp)))
    return diffused(np.where(seen[..., None], tint, np.float32(0)), seen | (depth_px[1] > reach_px), reach_px)


def blended(donor: np.ndarray, pixels: np.ndarray, known: np.ndarray, band: np.ndarray, band_px: int) -> np.ndarray:
    """A donor, uint8 (H, W, 3), that goes over into the known pixels around it without a step: uint8 (H, W, 3).

    What it differs by at the outline of what is known, bool (H, W), diffuses through a band along it, bool (H, W), of
    so many pixels: fine differences fade at once, coarse ones at its other side. Elsewhere the donor stays as it is.
    """
    differs = np.where(known[..., None], pixels.astype(np.float32) - donor, np.float32(0))
    return (donor + diffused(differs, known | ~band, band_px)).clip(0, 255).round().astype(np.uint8)


def diffused(values: np.ndarray, still: np.ndarray, reach_px: int) -> np.ndarray:
    """Values, float32 (H, W, 3), spread from the pixels that are `still`, bool (H, W), up to so many pixels."""
    found, fixed = values, still.astype(np.uint8)
    for _ in range(2 * reach_px**2):
        found = cv2.copyTo(values, fixed, cv2.filter2D(found, -1, BESIDE, borderType=cv2.BORDER_REPLICATE))
    return found
