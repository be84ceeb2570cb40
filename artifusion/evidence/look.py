"""How ill a donor fits at one scale: a hole's surroundings and the guess of its inside, reduced, against a donor's."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from artifusion.evidence.donors import DonorFit, Hole
from artifusion.evidence.index import BINS, DonorIndex
from artifusion.evidence.likeness import blurred, grain, opponent, reduced, strength

LOW_UM = 8.0                # blur under which insides are compared: what was imagined has no detail
GRAIN_UM = 6.0              # blur of the grain
LEAST_VARIANCE = 50.0       # of surroundings, in squared grey levels: what the scanner's noise alone has


@dataclass(frozen=True, eq=False)
class HoleLook:
    """A hole as donors are compared with it, at `step` level-0 pixels per pixel.

    guess: uint8 (H, W, 3), level-0 pixels with the estimate of the inside; rim, wide: weights of the known ones that a
    donor is fitted to, and of all within reach, float32 (H, W), of sum 1; um: per pixel of the look.
    """

    hole: Hole
    guess: np.ndarray
    rim: np.ndarray
    wide: np.ndarray
    step: int
    um: float
    _usual: dict[DonorIndex, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def template(self) -> np.ndarray:
        """Opponent colours (h, w, 3)."""
        return opponent(reduced(self.guess, self.step))

    @cached_property
    def around(self) -> np.ndarray:
        """Weights (h, w) of what is known, without pixels that hold some of the hole."""
        ring = reduced(self.rim, self.step) * self.step**2
        return ring * self._seen if (ring * self._seen).any() else ring

    @cached_property
    def inside(self) -> np.ndarray:
        """Weights (h, w) of the hole, of sum 1."""
        return reduced(self.hole.hole / self.hole.hole.sum(), self.step) * self.step**2

    def fit(self, rgb: np.ndarray, index: DonorIndex) -> DonorFit:
        """How ill a donor's pixels, reduced, uint8 (h, w, 3), fit; its edge, its focus, what spoils it and its distance
        are 0."""
        donor = opponent(rgb)
        tone = self.around.ravel() @ (donor - self.template).reshape(-1, 3) / max(float(self.around.sum()), 1e-9)
        edges = self._strength(donor, np.ones(donor.shape[:2], bool), self.inside)
        return DonorFit(ring=mean(np.square(donor - self.template), self.around) / self._variance, edge=0.0,
                        inside=mean(np.square(self._low(donor) - self._template_low), self.inside),
                        grain=mean(np.square(self._grain(donor) - self._template_grain), self.around),
                        tone=float(np.square(tone).sum()), texture=(edges - self._template_strength) ** 2,
                        focus=0.0, rarity=self._rarity(rgb, index), spoiled=0.0, distance=0.0)

    @cached_property
    def _seen(self) -> np.ndarray:
        return reduced(self.hole.known.astype(np.float32), self.step) > 0.999

    @cached_property
    def _variance(self) -> float:
        return variance(self.template, self.around)

    @cached_property
    def _template_low(self) -> np.ndarray:
        return self._low(self.template)

    @cached_property
    def _template_grain(self) -> np.ndarray:
        return self._grain(self.template)

    @cached_property
    def _template_strength(self) -> float:
        return self._strength(self.template, self._seen, self.around)

    def _low(self, values: np.ndarray) -> np.ndarray:
        return blurred(values, self.inside > 0, LOW_UM / self.um)

    def _grain(self, values: np.ndarray) -> np.ndarray:
        return grain(np.ascontiguousarray(values[..., 0]), self._seen, GRAIN_UM / self.um)

    def _strength(self, values: np.ndarray, where: np.ndarray, weight: np.ndarray) -> float:
        """How strong edges of brightness are, in grey levels, the weighted mean of what is seen `where`."""
        found = strength(np.ascontiguousarray(values[..., 0]), where, GRAIN_UM / self.um)
        return mean(found[..., None], weight)

    def _rarity(self, rgb: np.ndarray, index: DonorIndex) -> float:
        """By how many nats the colours inside are rarer on the donor's slide than those around the hole."""
        step = min(max(1, index.step // self.step), *self.inside.shape)
        if index not in self._usual:
            here = reduced(self.guess, self.step).round().astype(np.uint8)
            wide = reduced(reduced(self.wide, self.step), step)
            self._usual[index] = reduced(self.inside, step), rarity(here, step, wide, index)
        inside, usual = self._usual[index]
        return max(0.0, rarity(rgb, step, inside, index) - usual)


def mean(values: np.ndarray, weight: np.ndarray) -> float:
    """The weighted mean of values (H, W, C), those of a pixel added up."""
    flat = values.reshape(weight.size, values.shape[-1])
    return float((weight.ravel() @ flat).sum() / max(float(weight.sum()), 1e-9))


def variance(values: np.ndarray, weight: np.ndarray) -> float:
    """The weighted variance of values (..., C), those of a pixel added up, LEAST_VARIANCE at least."""
    flat = values.reshape(weight.size, values.shape[-1])
    centre = weight.ravel() @ flat / max(float(weight.sum()), 1e-9)
    return max(LEAST_VARIANCE, mean(np.square(flat - centre), weight))


def rarity(rgb: np.ndarray, step: int, weight: np.ndarray, index: DonorIndex) -> float:
    """The weighted mean of how rare colours, uint8 (H, W, 3), are on a slide, seen in squares of `step` pixels."""
    cells = reduced(rgb, step).astype(np.uint8) // (256 // BINS)
    return mean(index.rarity[tuple(np.moveaxis(cells, 2, 0))][..., None], weight)
