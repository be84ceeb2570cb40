"""Tissue of another place inside a crop, as a graft will lie in a hole, and the join that is to be learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

SMOOTH_PX = 1.0             # of the difference along which the two are joined
SOFT_PX = 0.6               # of the join itself
MAX_SHIFT = 20              # grey levels that a donor's colour is moved by; more would make colours that no tissue has


def graft_tissue(crop: np.ndarray, donors: Sequence[np.ndarray], graft: np.ndarray) -> np.ndarray:
    """The crop with the donor that fits best inside, joined along the line where the two differ least.

    No truth exists for a band between tissue of two places. Fading one into the other would show both at half contrast,
    and one side's tissue up to the band's other edge would end in a step: a denoiser would learn either. Here every
    pixel is real tissue of one side, and the border lies where it shows least, as in image quilting (Efros & Freeman
    2001): the watershed of the difference between the two.

    Args:
        crop, donors: uint8 (S, S, 3).
        graft: int8 (S, S); 1 inside, 0 outside, -1 in the band between.
    """
    own, band = crop.astype(np.float32), graft < 0
    shifted = [donor + (own - donor)[band].mean(0).clip(-MAX_SHIFT, MAX_SHIFT) for donor in donors]
    other = min(shifted, key=lambda donor: float(np.abs(own - donor)[band].sum()))
    difference = ndimage.gaussian_filter(np.abs(own - other).sum(2), SMOOTH_PX)
    inside = watershed(-difference, markers=(graft == 1) + 2 * (graft == 0)) == 1
    share = np.where(band, ndimage.gaussian_filter(inside.astype(np.float32), SOFT_PX), inside)[..., None]
    return np.rint(own + share * (other - own)).clip(0, 255).astype(np.uint8)
