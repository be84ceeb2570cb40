"""What a donor must fit: a hole's surroundings and what was imagined inside, at every scale that finding looks at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from artifusion.evidence.donors import Donor, Fit, Hole, Place, Weights
from artifusion.evidence.index import BINS, DonorIndex
from artifusion.evidence.likeness import (
    best_shift,
    blurred,
    carried,
    features,
    grain,
    opponent,
    reduced,
)
from artifusion.evidence.score import score_of
from artifusion.geometry import Box, Point, Size
from artifusion.slide.placed import turned, unoriented
from artifusion.slide.tissue import TISSUE_BLOCK_PX, spoiled_blocks

RING_UM = 12.0              # weight of known pixels in the coarse search falls to 1/e over so many um from the hole
FITTED_UM = 6.0             # ... where a donor is judged
EDGE_UM = 2.0               # ... pixel by pixel
REACH = 1.6                 # times RING_UM: what lies further off has no weight
NO_WEIGHT = 0.08            # of the highest: below it a known pixel has none
INSIDE = 0.5                # weight of the inside in the searches, that of all surroundings being 1
JUDGED_UM = 1.0             # um per pixel at which donors are judged
JUDGED_PX = 192             # at most, the longer side of what is judged
LOW_UM = 8.0                # blur under which insides are compared: what was imagined has no detail
GRAIN_UM = 6.0              # blur of the grain
EDGE_PIXELS = 3000          # that the last fit looks at
FORBIDDEN = 1e4             # what masked pixels are taken for: nothing fits them
FAR_MM = 3.0                # no distance counts more


def reach_px(mpp: float) -> int:
    """Pixels around a hole that finding looks at."""
    return max(2, round(REACH * RING_UM / mpp))


@dataclass(frozen=True, eq=False)
class Sought:
    """A hole with its surroundings and an estimate of its inside, and how well donors fit it.

    guess: uint8 (H, W, 3), the hole's pixels with what was imagined, or with its surroundings smoothed into it.
    """

    hole: Hole
    guess: np.ndarray
    mpp: float
    weights: Weights
    _kept: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, hole: Hole, mpp: float, imagined: np.ndarray | None, weights: Weights) -> Sought:
        """What is sought for a hole: the part of it within reach."""
        around = hole.filled_box.expanded(reach_px(mpp)).intersection(hole.l0_box)
        cut = hole.cut(around)
        if imagined is not None:
            inside = imagined[around.slices(hole.l0_box)]
        else:
            inside = carried(cut.pixels, cut.known).clip(0, 255).round().astype(np.uint8)
        return cls(cut, np.where(cut.known[..., None], cut.pixels, inside), mpp, weights)

    @property
    def size(self) -> Size:
        return Size(self.hole.l0_box.width, self.hole.l0_box.height)

    @property
    def centre(self) -> Point:
        box = self.hole.l0_box
        return Point(box.x + box.width // 2, box.y + box.height // 2)

    @property
    def step(self) -> int:
        """Level-0 pixels per pixel where donors are judged."""
        return max(1, round(JUDGED_UM / self.mpp), -(-max(self.size) // JUDGED_PX))

    def coarse(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a search at a step: template float32 (h, w, 4), weight float32 (h, w) and support bool (h, w)."""
        if ("coarse", step) in self._kept:
            return self._kept["coarse", step]
        ring, inside = self._ring(RING_UM), self.hole.hole / self.hole.hole.sum()
        pad = [(0, -length % step) for length in ring.shape]
        pixels = opponent(reduced(np.pad(self.guess, (*pad, (0, 0)), mode="edge"), step))
        known = reduced(np.pad(self.hole.known.astype(np.float32), pad, mode="edge"), step) > 0.999
        template = features(pixels, known, step * self.mpp)
        weight = reduced(np.pad(ring + INSIDE * inside, pad), step)
        return self._kept.setdefault(("coarse", step), (template, weight / weight.sum() * (1 + INSIDE), weight > 0))

    def judged(self, place: Place, index: DonorIndex) -> list[Donor]:
        """The donor at a place, shifted to where it fits best and judged without its edge; none if masked pixels
        are in its way."""
        step, box = self.step, place.l0_box(self.size)
        slack = -(-place.slack // step) * step
        near = box.expanded(slack)
        rgb, allowed = (unoriented(values, place.orientation) for values in index.read(near))
        area = opponent(reduced(rgb, step))
        area[reduced(allowed.astype(np.float32), step) < 0.999] = FORBIDDEN
        row, column, _ = best_shift(area, self._template, self._ring_small + INSIDE * self._inside_small)
        part = Box(column * step, row * step, *self.size).slices()
        if not self._fits(allowed[part]):
            return []
        l0_box = moved(box, row * step - slack, column * step - slack, place.orientation)
        fit = self._fit(rgb[part], l0_box, index)
        return [Donor(self.hole.l0_box, l0_box, place.orientation, place.source, self.weights.cost(fit), fit)]

    def finished(self, donor: Donor, index: DonorIndex) -> Donor | None:
        """A judged donor, shifted pixel by pixel to where the edge fits best, and judged there; None where the slide is
        damaged beside it."""
        slack = self.step
        near = donor.l0_box.expanded(slack)
        rgb, allowed = (unoriented(values, donor.orientation) for values in index.read(near))
        rows, columns, weight = self._edge
        wanted = opponent(self.guess[rows, columns])
        differences = {(down, right): float((np.square(opponent(rgb[rows + down, columns + right]) - wanted).sum(axis=1)
                                             * weight).sum()) for down, right in np.ndindex(*[2 * slack + 1] * 2)}
        for at in sorted(differences, key=lambda at: (differences[at], np.hypot(at[0] - slack, at[1] - slack))):
            part = Box(at[1], at[0], *self.size).slices()
            if self._fits(allowed[part]):
                l0_box = moved(donor.l0_box, at[0] - slack, at[1] - slack, donor.orientation)
                fit = self._fit(rgb[part], l0_box, index)
                fit = fit._replace(edge=differences[at], spoiled=self._spoiled(rgb[part]))
                score = score_of(fit) if self.hole.known.any() else 0.0
                return replace(donor, l0_box=l0_box, fit=fit, cost=self.weights.cost(fit), score=score)
        return None

    def _fit(self, rgb: np.ndarray, l0_box: Box, index: DonorIndex) -> Fit:
        """How ill a donor's pixels, as they come to lie on the hole's box, fit; but for the edge."""
        donor, ring = opponent(reduced(rgb, self.step)), self._ring_small
        tone = ((donor - self._template) * ring[..., None]).sum(axis=(0, 1)) / max(float(ring.sum()), 1e-9)
        strength = self._strength(donor, np.ones(donor.shape[:2], bool), self._inside_small)
        off = np.hypot(l0_box.x + l0_box.width / 2 - self.centre.x, l0_box.y + l0_box.height / 2 - self.centre.y)
        return Fit(ring=self._mean(np.square(donor - self._template), ring), edge=0.0,
                   inside=self._mean(np.square(self._low(donor) - self._low(self._template)), self._inside_small),
                   grain=self._mean(np.square(self._grain(donor) - self._template_grain), ring),
                   tone=float(np.square(tone).sum()), texture=(strength - self._template_strength) ** 2,
                   rarity=self._rarity(rgb, index), spoiled=0.0,
                   distance=min(FAR_MM, float(off) * self.mpp / 1000) if index.own else 1.0)

    def _fits(self, allowed: np.ndarray) -> bool:
        return bool(allowed[self._needed].all())

    def _ring(self, fall_um: float) -> np.ndarray:
        """Weights of the known pixels, float32 (H, W), which fall off with the distance from the hole; their sum is 1
        where any pixel is known."""
        if fall_um in self._kept:
            return self._kept[fall_um]
        weight = np.exp(-np.square(self._away_um / fall_um)) * self.hole.known
        weight[weight < NO_WEIGHT] = 0
        return self._kept.setdefault(fall_um, (weight / max(weight.sum(), 1e-9)).astype(np.float32))

    @cached_property
    def _away_um(self) -> np.ndarray:
        return cv2.distanceTransform((~self.hole.hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * self.mpp

    @cached_property
    def _needed(self) -> np.ndarray:
        return self.hole.hole | (self._ring(FITTED_UM) > 0)

    @cached_property
    def _template(self) -> np.ndarray:
        return opponent(reduced(self.guess, self.step))

    @cached_property
    def _ring_small(self) -> np.ndarray:
        ring = reduced(self._ring(FITTED_UM), self.step) * self.step**2
        return ring * self._seen if (ring * self._seen).any() else ring      # without pixels that hold some of the hole

    @cached_property
    def _inside_small(self) -> np.ndarray:
        return reduced(self.hole.hole / self.hole.hole.sum(), self.step) * self.step**2

    @cached_property
    def _seen(self) -> np.ndarray:
        return reduced(self.hole.known.astype(np.float32), self.step) > 0.999

    @cached_property
    def _template_grain(self) -> np.ndarray:
        return self._grain(self._template)

    @cached_property
    def _edge(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and weights of known pixels at the hole, EDGE_PIXELS at most."""
        ring = self._ring(EDGE_UM)
        rows, columns = np.nonzero(ring)
        every = max(1, -(-len(rows) // EDGE_PIXELS))
        rows, columns = rows[::every], columns[::every]
        return rows, columns, ring[rows, columns] / max(ring[rows, columns].sum(), 1e-9)

    def _low(self, values: np.ndarray) -> np.ndarray:
        return blurred(values, self._inside_small > 0, LOW_UM / (self.step * self.mpp))

    def _grain(self, values: np.ndarray) -> np.ndarray:
        return grain(np.ascontiguousarray(values[..., 0]), self._seen, GRAIN_UM / (self.step * self.mpp))

    def _strength(self, values: np.ndarray, where: np.ndarray, weight: np.ndarray) -> float:
        """How strong edges of brightness are, in grey levels, the weighted mean of what is seen `where`."""
        found = grain(np.ascontiguousarray(values[..., 0]), where, GRAIN_UM / (self.step * self.mpp))[..., 0]
        return float((found * weight).sum() / max(float(weight.sum()), 1e-9))

    @cached_property
    def _template_strength(self) -> float:
        return self._strength(self._template, self._seen, self._ring_small)

    def _mean(self, squares: np.ndarray, weight: np.ndarray) -> float:
        return float((squares.sum(axis=2) * weight).sum() / max(float(weight.sum()), 1e-9))

    def _rarity(self, pixels: np.ndarray, index: DonorIndex) -> float:
        """By how many nats the colours inside are rarer on the donor's slide than those around the hole."""
        step = min(index.step, *self.size)
        cells = np.minimum(reduced(pixels, step), 255).astype(np.uint8) // (256 // BINS)
        here = np.minimum(reduced(self.guess, step), 255).astype(np.uint8) // (256 // BINS)
        rare, usual = (index.rarity[tuple(np.moveaxis(each, 2, 0))] for each in (cells, here))
        inside, ring = reduced(self.hole.hole.astype(np.float32), step), reduced(self._ring(RING_UM), step)
        return max(0.0, float((rare * inside).sum() / inside.sum() - (usual * ring).sum() / max(ring.sum(), 1e-9)))

    def _spoiled(self, rgb: np.ndarray) -> float:
        """By which share more of a donor's inside shows ink or black rims than what is known around the hole."""
        if min(self.size) < TISSUE_BLOCK_PX:
            return 0.0
        inside, around = (reduced(part.astype(np.float32), TISSUE_BLOCK_PX)
                          for part in (self.hole.hole, self.hole.known))
        share = float((spoiled_blocks(rgb) * inside).sum() / max(float(inside.sum()), 1e-9))
        return max(0.0, share - float((spoiled_blocks(self.guess) * around).sum() / max(float(around.sum()), 1e-9)))


def moved(l0_box: Box, down: int, right: int, orientation: int) -> Box:
    """A donor's box, shifted by so many pixels in the hole's frame."""
    shift = turned(down, right, orientation)
    return l0_box._replace(x=l0_box.x + shift.x, y=l0_box.y + shift.y)

