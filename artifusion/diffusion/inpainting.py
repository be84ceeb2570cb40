"""Conditions of the denoising loop: how the known pixels enter the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifusion.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Evidence:
    """Every pixel enters at the noise level that its evidence deserves (known ones clean: TD-Paint, Mayet et al. 2024).

    A pixel whose evidence has level l enters as that evidence, at level l, until the walk comes down to l, and is
    walked on from there. Known pixels have level 0 and stay as they are; those of level 1 are walked from noise. A
    level between 0 and 1 is one at which the walk stops (`to_stops`).

    values: (B, C, H, W) the evidence as it is at its level, alpha(l) estimate + sigma(l) noise; level: (B, 1, H, W).
    """

    values: Tensor
    level: Tensor

    def enter(self, x: Tensor, level: float, noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        waits = (self.level <= level) & (self.level < 1)
        return torch.where(waits, self.values, x), self.level.clamp(max=level)


def to_stops(level: Tensor, times: Sequence[float]) -> Tensor:
    """Levels (...) in [0, 1] moved to the nearest one at which a walk along `times` stops; 0 alone becomes 0."""
    stops = torch.tensor(sorted({*times} - {0.0}), dtype=level.dtype, device=level.device)
    middles = (stops[1:] + stops[:-1]) / 2
    return torch.where(level > 0, stops[torch.searchsorted(middles, level)], 0.0)


@dataclass(frozen=True)
class NoisedKnown:
    """Known pixels enter noised to the level of the hole, so that the whole canvas has one level, for a denoiser that
    knows no levels per pixel (RePaint, Lugmayr et al. 2022, eq. 8a). Needs time travel to harmonise."""

    known: Tensor
    hole: Tensor
    schedule: Schedule

    def enter(self, x: Tensor, level: float, noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        everywhere = torch.full_like(self.hole, level)
        known = self.schedule.add_noise(self.known, everywhere, noise())
        return torch.where(self.hole > 0, x, known), everywhere
