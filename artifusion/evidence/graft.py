"""A hole filled with donors, piece by piece from the edge inwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from artifusion.evidence.donors import CostWeights, Donor, Hole, donor_pixels
from artifusion.evidence.find import find_donors
from artifusion.evidence.fitting import reach_px
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.likeness import opponent
from artifusion.evidence.pieces import PIECE_UM, pieces
from artifusion.evidence.score import Verdict, verdict_of
from artifusion.evidence.tone import blended, tone_of
from artifusion.slide.placed import unoriented

BAND_UM = 1.5               # wide is the band along the seams that is painted
OVERLAP_UM = 15.0           # by which a piece may reach into those before it, to join where they are alike
SEAM_UM = 1.0               # blur under which that is seen

Imagine = Callable[[Hole], np.ndarray]
"""A piece of a hole with what is known around it -> what it may look like: uint8 (H, W, 3), an expectation."""


@dataclass(frozen=True)
class Graft:
    """What fills a hole.

    Attributes:
        pixels: uint8 (H, W, 3), the hole's with its grafts; what found no donor is as it was.
        pieces: int32 (H, W), the piece that each pixel comes from, from 1; 0 outside the hole.
        donors: of piece n at n - 1; None where nothing fits.
        scores: how well each piece was filled, 0 to 1.
        score, verdict: of all together.
    """

    pixels: np.ndarray
    pieces: np.ndarray
    donors: tuple[Donor | None, ...]
    scores: tuple[float, ...]
    score: float
    verdict: Verdict


def graft(hole: Hole, indices: Sequence[DonorIndex], *, imagine: Imagine | None = None, seed: int = 0,
          weights: CostWeights | None = None, longest_um: float = PIECE_UM) -> Graft:
    """A hole filled with the slide's own tissue; each piece is fitted to what was grafted before it.

    `imagine` shows what may lie in a piece (default: its surroundings, smoothed); other arguments as those of
    `find_donors`. Memory: the hole's pixels, and those of one piece in float32 a few times.
    """
    mpp = indices[0].mpp
    numbers = pieces(hole.hole, mpp, longest_um)
    pixels, known = hole.pixels.copy(), hole.known.copy()
    donors: list[Donor | None] = []
    scores: list[float] = []
    areas: list[int] = []
    for number in range(1, int(numbers.max()) + 1):
        part = Hole(hole.l0_box, pixels, numbers == number, known)
        box = part.filled_box.expanded(reach_px(mpp)).intersection(hole.l0_box)
        part, at = part.cut(box), box.slices(hole.l0_box)
        found = find_donors(part, indices, imagined=None if imagine is None else imagine(part), seed=seed,
                            weights=weights, taken=[donor for donor in donors if donor is not None])
        donors.append(None)
        areas.append(int(part.hole.sum()))
        scores.append(found[0].score if found else 0.0)
        if found:
            real = donor_pixels(found[0], indices)
            allowed = unoriented(indices[found[0].source].allowed(found[0].l0_box), found[0].orientation)
            tone = tone_of(real, part.pixels, part.known & allowed, mpp, indices[0].lightest)
            donors[-1] = replace(found[0], tone=tone)
            real = real if tone is None else tone.applied(real)
            before = hole.hole[at] & part.known & allowed
            new = part.hole | eaten(real, part.pixels, part.hole, before, mpp)
            band = seams(hole.hole[at], new, band_px(mpp))
            pixels[at][new] = blended(real, part.pixels, part.known & ~new, band, band_px(mpp))[new]
            known[at][new], numbers[at][new] = True, number
    score, verdict = verdict_of(scores, areas)
    return Graft(pixels, numbers, tuple(donors), tuple(scores), score, verdict)


def band_px(mpp: float) -> int:
    """How wide the band along the seams is that is painted; half of it along joints of pieces."""
    return max(2, round(BAND_UM / mpp))


def seams(hole: np.ndarray, piece: np.ndarray, band: int) -> np.ndarray:
    """Where a piece of a hole, bool (H, W) each, may differ from its donor: within the bands that will be painted."""
    outline, joint = (cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                      for inside in (hole, piece))
    return piece & ((outline <= band) | (joint <= band // 2))


def eaten(real: np.ndarray, pixels: np.ndarray, hole: np.ndarray, before: np.ndarray, mpp: float) -> np.ndarray:
    """Which pixels of earlier pieces, bool (H, W), a new one takes so that the joint runs where both are alike.

    real, pixels: uint8 (H, W, 3), the new piece's and what lies there; hole: the new piece; before: earlier pieces,
    where the new one has pixels too. The joint is a watershed of how alike they are, within OVERLAP_UM of the piece.
    """
    away = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    band = before & (away <= OVERLAP_UM / mpp)
    if not band.any():
        return band
    from skimage.segmentation import watershed

    differences = np.square(opponent(real) - opponent(pixels)).sum(axis=2)
    differences = np.sqrt(cv2.GaussianBlur(differences, (0, 0), max(0.5, SEAM_UM / mpp)))
    markers = np.where(hole, 1, np.where(before & ~band, 2, 0))
    markers[band & (away > OVERLAP_UM / mpp - 1.5)] = 2                 # also where nothing lies behind the band
    return (watershed(-differences, markers, mask=hole | before) == 1) & band
