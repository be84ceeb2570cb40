"""What a donor must fit: a hole's surroundings and what was imagined inside, at every scale that finding looks at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from artifusion.evidence.donors import CostWeights, Donor, Hole, Place
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.likeness import best_shift, carried, features, focus, opponent, reduced
from artifusion.evidence.look import HoleLook, variance
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
FITTED_STEP_UM = 1.0        # um per pixel at which donors are fitted
FITTED_PX = 192             # at most, the longer side of what is fitted
JUDGED_STEP = 2             # times as coarse they are judged before
EDGE_PIXELS = 3000          # that the last fit looks at
CLEAR_PX = 9                # side of the square that is known around a pixel whose focus is measured
MIDDLE_PX = 128             # side of the middle of a donor whose focus is measured
USUAL_FOCUS = 0.15          # by which places of a sharp scan differ; a blur of 0.7 px makes some 0.65
MOST_FOCUS = 0.7            # no more counts
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
    weights: CostWeights
    _kept: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, hole: Hole, mpp: float, imagined: np.ndarray | None, weights: CostWeights) -> Sought:
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
        """Level-0 pixels per pixel where donors are fitted."""
        return max(1, round(FITTED_STEP_UM / self.mpp), -(-max(self.size) // FITTED_PX))

    def look(self, step: int) -> HoleLook:
        """What donors are compared with at a step."""
        if ("look", step) not in self._kept:
            self._kept["look", step] = HoleLook(self.hole, self.guess, self._ring(FITTED_UM), self._ring(RING_UM), step,
                                                step * self.mpp)
        return self._kept["look", step]

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
        """The donor at a place, shifted to where it fits best at JUDGED_STEP times the step of fitting and judged there
        without its edge; none if masked pixels are in its way."""
        step, box = JUDGED_STEP * self.step, place.l0_box(self.size)
        slack = -(-place.slack // step) * step
        window = grown(box.expanded(slack), -self.size.height % step, -self.size.width % step, place.orientation)
        rgb, allowed = (unoriented(values, place.orientation)
                        for values in index.read(window, Size(window.width // step, window.height // step)))
        look = self.look(step)
        height, width = look.around.shape
        places = np.s_[: height + 2 * slack // step, : width + 2 * slack // step]
        row, column = self._shift(look, rgb[places], allowed)
        if not self._fits(allowed[Box(column * step, row * step, *self.size).slices()]):
            return []
        l0_box = moved(box, row * step - slack, column * step - slack, place.orientation)
        fit = look.fit(rgb[row : row + height, column : column + width], index)
        fit = fit._replace(focus=self._focus(l0_box, index), distance=self._distance(l0_box, index))
        return [Donor(self.hole.l0_box, l0_box, place.orientation, place.source, self.weights.cost(fit), fit)]

    def finished(self, donor: Donor, index: DonorIndex) -> Donor | None:
        """A judged donor, shifted to where it fits best, then pixel by pixel to where its edge does, and judged; None
        where the slide is damaged."""
        step, wide = self.step, JUDGED_STEP * self.step
        window = donor.l0_box.expanded(wide + step)
        rgb, allowed = (unoriented(values, donor.orientation) for values in index.read(window))
        look, inner = self.look(step), np.s_[step : rgb.shape[0] - step, step : rgb.shape[1] - step]
        first = [at * step for at in self._shift(look, reduced(rgb[inner], step), allowed[inner])]
        rows, columns, weight = self._edge
        wanted, pixels = self.guess[rows, columns].astype(np.float32), rgb.reshape(-1, 3)

        def difference(at: tuple[int, int]) -> float:
            off = opponent(pixels[(rows + at[0]) * rgb.shape[1] + columns + at[1]] - wanted)
            return float((weight @ np.square(off)).sum()) / self._edge_variance

        def part(at: tuple[int, int]) -> tuple[slice, slice]:
            return Box(at[1], at[0], *self.size).slices()

        nearby = [(first[0] + down, first[1] + right) for down, right in np.ndindex(*[2 * step + 1] * 2)]
        found = sorted((difference(at), float(np.hypot(at[0] - first[0] - step, at[1] - first[1] - step)), at)
                       for at in nearby)
        judged = wide + step, wide + step
        edge, _, at = next((each for each in (*found, (difference(judged), 0.0, judged))
                            if self._fits(allowed[part(each[2])])), (0.0, 0.0, None))
        if at is None:
            return None
        l0_box = moved(donor.l0_box, at[0] - judged[0], at[1] - judged[1], donor.orientation)
        fit = look.fit(reduced(rgb[part(at)], step), index)
        fit = fit._replace(edge=edge, focus=donor.fit.focus, spoiled=self._spoiled(rgb[part(at)]),
                           distance=self._distance(l0_box, index))
        score = score_of(fit) if self.hole.known.any() else 0.0
        return replace(donor, l0_box=l0_box, fit=fit, cost=self.weights.cost(fit), score=score)

    def _shift(self, look: HoleLook, rgb: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
        """Row and column of an area, uint8 (h, w, 3) at the step of a look, where the hole fits best on what is
        allowed, bool (H, W) at level 0."""
        area = opponent(rgb)
        area[reduced(allowed.astype(np.float32), look.step)[: area.shape[0], : area.shape[1]] < 0.999] = FORBIDDEN
        row, column, _ = best_shift(area, look.template, look.around + INSIDE * look.inside)
        return row, column

    def _distance(self, l0_box: Box, index: DonorIndex) -> float:
        """mm from the hole, FAR_MM at most; 1 on another image."""
        off = np.hypot(l0_box.x + l0_box.width / 2 - self.centre.x, l0_box.y + l0_box.height / 2 - self.centre.y)
        return min(FAR_MM, float(off) * self.mpp / 1000) if index.own else 1.0

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
    def _edge(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and weights of known pixels at the hole, EDGE_PIXELS at most."""
        ring = self._ring(EDGE_UM)
        rows, columns = np.nonzero(ring)
        every = max(1, -(-len(rows) // EDGE_PIXELS))
        rows, columns = rows[::every], columns[::every]
        return rows, columns, ring[rows, columns] / max(ring[rows, columns].sum(), 1e-9)

    @cached_property
    def _edge_variance(self) -> float:
        rows, columns, weight = self._edge
        return variance(opponent(self.guess[rows, columns]), weight)

    @cached_property
    def _own_focus(self) -> float | None:
        """The `focus` of what is known around the hole; None where nothing is."""
        weight = self._ring(RING_UM) * cv2.erode(self.hole.known.astype(np.uint8), np.ones((CLEAR_PX,) * 2))
        return focus(self.guess, weight) if weight.any() else None

    def _focus(self, l0_box: Box, index: DonorIndex) -> float:
        """How much a donor's middle differs in `focus` from what is known around the hole, squared."""
        if self._own_focus is None:
            return 0.0
        middle = Box(l0_box.x + l0_box.width // 2, l0_box.y + l0_box.height // 2, 0, 0).expanded(MIDDLE_PX // 2)
        rgb, allowed = index.read(middle.intersection(l0_box))
        if not allowed.any():
            return 0.0
        off = abs(focus(rgb, allowed) - self._own_focus)
        return min(max(0.0, off - USUAL_FOCUS), MOST_FOCUS) ** 2

    def _spoiled(self, rgb: np.ndarray) -> float:
        """By which share more of a donor's inside shows ink or black rims than what is known around the hole."""
        if min(self.size) < TISSUE_BLOCK_PX:
            return 0.0
        if "spoiled" not in self._kept:
            self._kept["spoiled"] = spoiled_share(self.guess, self.hole.known)
        return max(0.0, spoiled_share(rgb, self.hole.hole) - self._kept["spoiled"])


def spoiled_share(rgb: np.ndarray, where: np.ndarray) -> float:
    """Which share of some pixels, bool (H, W), lies in blocks that show ink or black rims."""
    weight = reduced(where.astype(np.float32), TISSUE_BLOCK_PX)
    return float((spoiled_blocks(rgb) * weight).sum() / max(float(weight.sum()), 1e-9))


def grown(l0_box: Box, down: int, right: int, orientation: int) -> Box:
    """A donor's box with so many pixels more below and on the right, in the hole's frame."""
    more = turned(down, right, orientation)
    return Box(l0_box.x + min(0, more.x), l0_box.y + min(0, more.y), l0_box.width + abs(more.x),
               l0_box.height + abs(more.y))


def moved(l0_box: Box, down: int, right: int, orientation: int) -> Box:
    """A donor's box, shifted by so many pixels in the hole's frame."""
    shift = turned(down, right, orientation)
    return l0_box._replace(x=l0_box.x + shift.x, y=l0_box.y + shift.y)

