"""Where nothing shows through ink: what it leaves is as flat as no tissue is."""

from __future__ import annotations

import cv2
import numpy as np

from artifusion.evidence.ink_fit import Fit
from artifusion.evidence.likeness import blurred, carried, reduced
from artifusion.slide.tissue import optical_density

STEP_UM = 1.0               # per pixel at which texture is looked at
FINE_UM, WIDE_UM = 1.5, 10.0            # sizes between which it lies: above noise, nuclei and fibres
DENSE = 0.2                 # optical density of the ink's clearest channel, below which light comes through
LEAST_TISSUE = 0.06         # optical density; less is glass
FLAT, RARE = 0.5, 0.05      # no tissue shows below half of the texture that 5 % of clean places stay below
EDGE_UM = 25.0              # so near to the edge of a stroke all has texture: places beside a flat one count as flat
FEWEST = 1_000              # places of clean tissue by which that is known


def opaque(image: np.ndarray, mask: np.ndarray, known: np.ndarray, reference: np.ndarray | None, fit: Fit, mpp: float
           ) -> np.ndarray:
    """Which masked pixels, bool (H, W), lie under ink that hides what is below.

    In optical density translucent ink leaves the texture of tissue as it is; an opaque stroke shows its own surface.
    Seen in the channel where the ink is clearest. Glass is flat too: there nothing counts as hidden.

    Arguments as those of `recover`; known: bool (H, W), what is clean.
    """
    step = max(1, round(STEP_UM / mpp))
    um = step * mpp
    masked, free = (reduced(where.astype(np.float32), step) > 0.999 for where in (mask, known))
    inked = fit.thickness > 0
    if not masked.any() or not inked.any():
        return np.zeros_like(mask)
    inks = fit.ink.density(fit.thickness) + fit.tint                                       # (3, count), of the cells
    clearest = int(np.median(inks[:, inked], axis=1).argmin())
    ink = reduced(fit.cells.full_size(inks[clearest], mask.shape), step)
    seen = optical_density(reduced(image, step)[..., clearest])
    tissue = tissue_in(seen, free, um)
    usual = texture(seen, free, um)[tissue]
    if reference is not None:
        other = optical_density(reduced(reference, step)[..., clearest])
        everywhere = np.ones(other.shape, bool)
        usual = np.append(usual, texture(other, everywhere, um)[tissue_in(other, everywhere, um)])
    if len(usual) < FEWEST:
        return np.zeros_like(mask)
    beside_tissue = not free.any() or carried(np.repeat(tissue[..., None], 3, axis=2), free)[..., 0] > 0.5
    flat = texture(seen - ink, masked, um) < FLAT * np.quantile(usual, RARE)
    flat &= masked & beside_tissue & (ink > DENSE)
    side = 2 * round(EDGE_UM / um) + 1
    flat = cv2.dilate(flat.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return mask & (cv2.resize(flat, mask.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def tissue_in(density: np.ndarray, where: np.ndarray, um: float) -> np.ndarray:
    """Which of the pixels `where`, bool (H, W), lie in tissue, not in glass, by a density, float32 (H, W)."""
    return where & (blurred(density, where, WIDE_UM / um) > LEAST_TISSUE)


def texture(density: np.ndarray, where: np.ndarray, um: float) -> np.ndarray:
    """How much a density, float32 (H, W), varies around every pixel between FINE_UM and WIDE_UM, by its pixels
    `where`."""
    fine = blurred(density, where, max(0.5, FINE_UM / um))
    coarse = blurred(fine, where, WIDE_UM / um)
    return np.sqrt(blurred(np.square(fine - coarse), where, WIDE_UM / um))
