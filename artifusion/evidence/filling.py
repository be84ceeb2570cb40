"""A region's hole filled with real tissue: what of it stays a donor's own pixel, and what is left to be painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from artifusion.evidence.donors import Donor, Hole
from artifusion.evidence.fitting import reach_px
from artifusion.evidence.graft import Imagine, band_px, graft
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.score import Verdict
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.regions import Region
from artifusion.slide.reader import Slide

SEAM = 0.5                  # noise level at which a donor's pixels enter along the hole's outline and between pieces
THIN = 2.0                  # bands: a hole that is nowhere deeper is painted whole


@dataclass(frozen=True)
class Piece:
    """A part of a hole that one donor fills."""

    donor: Donor
    score: float
    kept: np.ndarray        # bool (H, W) of the hole's box: pixels that stay the donor's own


@dataclass(frozen=True)
class Filling:
    """What is known of a hole's pixels before it is painted.

    Attributes:
        pixels: uint8 (H, W, 3), grafted where levels are below 1.
        levels: float32 (H, W), the noise level at which each pixel enters: 0 outside the hole and where a donor's pixel
            stays, between along the seams, 1 where nothing is known.
        pieces: what was grafted.
        score, verdict: how well the hole was filled; None and "good" for one that is too thin to be grafted.
    """

    pixels: np.ndarray
    levels: np.ndarray
    pieces: tuple[Piece, ...]
    score: float | None
    verdict: Verdict


def fill(hole: Hole, indices: Sequence[DonorIndex], imagine: Imagine | None = None, seed: int = 0) -> Filling:
    """Fill a hole with donors, in all its parts that are deep enough. A function of the arguments.

    Memory: some 40 bytes for each pixel of the hole's box.
    """
    band = band_px(indices[0].mpp)
    depth = cv2.distanceTransform(hole.hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    deep = deep_parts(hole.hole, depth, THIN * band)
    levels = hole.hole.astype(np.float32)
    if not deep.any():
        return Filling(hole.pixels, levels, (), None, "good")
    if not hole.known.any():
        return Filling(hole.pixels, levels, (), 0.0, "unrestorable")
    found = graft(Hole(hole.l0_box, hole.pixels, deep, hole.known), indices, imagine=imagine, seed=seed)
    seams = (depth <= band) | joints(found.pieces, band)
    pieces = []
    for number, (donor, score) in enumerate(zip(found.donors, found.scores, strict=True), 1):
        if donor is not None:
            piece = found.pieces == number
            levels[piece] = np.where(seams, np.float32(SEAM), np.float32(0))[piece]
            pieces.append(Piece(donor, score, piece & ~seams))
    return Filling(found.pixels, levels, tuple(pieces), found.score, found.verdict)


def region_hole(slide: Slide, mask: Mask, region: Region, mpp: float) -> Hole:
    """A region's hole with as much around it as finding looks at; what else is masked or damaged is not known."""
    box = region.l0_box.expanded(reach_px(mpp)).intersection(Box(0, 0, *slide.size))
    masked = mask.read(box)
    own = np.zeros_like(masked)
    own[region.l0_box.slices(box)] = masked[region.l0_box.slices(box)]
    pixels, seen = slide.seen_as(box)
    return Hole(box, pixels, own, ~masked & seen)


def deep_parts(hole: np.ndarray, depth: np.ndarray, least: float) -> np.ndarray:
    """The connected parts of a hole, bool (H, W), that are deeper than `least` somewhere."""
    count, parts = cv2.connectedComponents(hole.astype(np.uint8), connectivity=8)
    return (ndimage.maximum(depth, parts, np.arange(count)) > least)[parts] & hole


def joints(pieces: np.ndarray, band: int) -> np.ndarray:
    """Where two pieces of a graft meet, half a band to either side: bool (H, W)."""
    meets = np.zeros(pieces.shape, np.uint8)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        apart = (pieces[one] != pieces[other]) & (pieces[one] > 0) & (pieces[other] > 0)
        meets[one] |= apart
        meets[other] |= apart
    side = band | 1
    return cv2.dilate(meets, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0
