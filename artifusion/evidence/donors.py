"""Holes, the donors that may fill them, and what their fit is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from artifusion.evidence.index import DonorIndex
from artifusion.geometry import Box, Size
from artifusion.slide.placed import Tone, placed


class DonorFit(NamedTuple):
    """How ill a donor fits; 0 is a perfect fit. Squared grey levels, but for the first two and the last four.

    ring: its surroundings against the hole's, at about 1 um per pixel, over the variance of the hole's: else, where
        tissue has much contrast, nothing but the smoothest would fit.
    edge: the same pixel by pixel, close to the hole.
    inside: what it brings against what was imagined, blurred.
    tone: the mean colour of its surroundings against that of the hole's.
    texture: how much stronger or weaker edges are inside it than around the hole.
    grain: the strength and direction of the fibres around it against those around the hole.
    focus: the difference in sharpness between its middle and what lies around the hole, at full scale, less that by
        which places of a sharp scan differ; squared.
    rarity: by how many nats its colours are rarer on the slide than those around the hole.
    spoiled: by which share more of it shows ink or black rims than what lies around the hole.
    distance: mm from the hole; 1 for another image.
    """

    ring: float
    edge: float
    inside: float
    grain: float
    tone: float
    texture: float
    focus: float
    rarity: float
    spoiled: float
    distance: float


@dataclass(frozen=True)
class CostWeights:
    """What counts how much in a donor's cost: benchmarks/quality/donors.py chose it, restored tiles the edge's, images
    blurred in strips the focus'."""

    ring: float = 200.0
    edge: float = 1000.0
    inside: float = 1.5
    grain: float = 3.0
    tone: float = 3.0
    texture: float = 12.0
    focus: float = 6000.0
    rarity: float = 100.0
    spoiled: float = 1000.0
    distance: float = 10.0

    def cost(self, fit: DonorFit) -> float:
        return float(sum(getattr(self, name) * value for name, value in zip(fit._fields, fit, strict=True)))


@dataclass(frozen=True)
class Donor:
    """Which real pixels fill a hole.

    hole_box: the box that they come to lie on, a hole's with its surroundings.
    l0_box: where they are, on the slide and in the slide's own orientation.
    orientation: how they lie there: `unoriented` by it they lie as the hole does.
    source: which of the indices they come from.
    score: how well they fit, 0 to 1 (`score_of`).
    tone: how their colours are moved, where they are.
    """

    hole_box: Box
    l0_box: Box
    orientation: int
    source: int
    cost: float
    fit: DonorFit
    score: float = 0.0
    tone: Tone | None = None


@dataclass(frozen=True)
class Hole:
    """A hole in a box of the slide, and what is known around it.

    pixels: uint8 (H, W, 3); hole: bool (H, W), to be filled; known: bool (H, W), may be looked at. A pixel may be
    neither: hidden too, but filled by others, or outside the slide.
    """

    l0_box: Box
    pixels: np.ndarray
    hole: np.ndarray
    known: np.ndarray

    def __post_init__(self) -> None:
        shape = (self.l0_box.height, self.l0_box.width)
        if self.pixels.shape != (*shape, 3) or self.hole.shape != shape or self.known.shape != shape:
            raise ValueError(f"a hole in {self.l0_box} needs arrays of {shape}, got {self.pixels.shape}, "
                             f"{self.hole.shape} and {self.known.shape}")
        if not self.hole.any() or (self.hole & self.known).any():
            raise ValueError("a hole needs a pixel, and what is known lies outside it")

    def cut(self, l0_box: Box) -> Hole:
        """The part of it in a box within its own."""
        at = l0_box.slices(self.l0_box)
        return Hole(l0_box, self.pixels[at], self.hole[at], self.known[at])

    @property
    def filled_box(self) -> Box:
        """The level-0 box of the pixels to be filled."""
        rows, columns = (np.flatnonzero(self.hole.any(axis=axis)) for axis in (1, 0))
        return Box.from_edges(self.l0_box.x + int(columns[0]), self.l0_box.y + int(rows[0]),
                              self.l0_box.x + int(columns[-1]) + 1, self.l0_box.y + int(rows[-1]) + 1)


class Place(NamedTuple):
    """A place for a donor as the coarse search saw it; places sort by their difference."""

    difference: float
    source: int
    orientation: int
    l0_x: int
    l0_y: int
    slack: int              # level-0 pixels by which it may be off

    def l0_box(self, size: Size) -> Box:
        """The pixels that come to lie on a box of that size."""
        width, height = size[::-1] if self.orientation % 2 else size
        return Box(self.l0_x, self.l0_y, width, height)


def donor_pixels(donor: Donor, indices: Sequence[DonorIndex]) -> np.ndarray:
    """A donor's pixels as they come to lie on `donor.hole_box`: uint8 (H, W, 3)."""
    return placed(indices[donor.source].slide, donor.l0_box, donor.orientation, donor.tone)
