"""A hole filled with donors, piece by piece from the edge inwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from artifusion.evidence.donors import Donor, Hole, Weights, donor_pixels
from artifusion.evidence.find import find_donors
from artifusion.evidence.fitting import reach_px, spread
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.pieces import PIECE_UM, pieces
from artifusion.evidence.score import Verdict, score_of, verdict_of
from artifusion.evidence.tone import toned

Imagine = Callable[[Hole], np.ndarray]
"""A piece of a hole with what is known around it -> what it may look like: uint8 (H, W, 3), an expectation."""


@dataclass(frozen=True)
class Graft:
    """What fills a hole.

    Attributes:
        pixels: uint8 (H, W, 3), the hole's with its grafts; what found no donor is as it was.
        pieces: int32 (H, W), the piece that each pixel belongs to, from 1; 0 outside the hole.
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
          weights: Weights | None = None, longest_um: float = PIECE_UM, tone: bool = True) -> Graft:
    """A hole filled with the slide's own tissue; each piece is fitted to what was grafted before it.

    `imagine` gives what may look like the inside of a piece; other arguments as those of `find_donors`. Memory: the hole's pixels and those of one piece in float32 a few times.
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
        donors.append(found[0] if found else None)
        areas.append(int(part.hole.sum()))
        scores.append(score_of(found[0].fit if found else None, spread(part, mpp)))
        if found:
            real = donor_pixels(found[0], indices)
            real = toned(real, part.pixels, part.hole, part.known, mpp) if tone else real
            pixels[at][part.hole] = real[part.hole]
            known[at][part.hole] = True
    score, verdict = verdict_of(scores, areas)
    return Graft(pixels, numbers, tuple(donors), tuple(scores), score, verdict)
