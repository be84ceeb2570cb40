"""Conditions of the denoising loop: how the known pixels enter the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from artifusion.diffusion.schedule import Schedule


@dataclass(frozen=True)
class CleanKnown:
    """Known pixels enter clean at level 0, whatever the level of the hole (TD-Paint, Mayet et al. 2024).

    known: (B, C, H, W) pixels; hole: (B, 1, H, W) 1 where they are not known.
    """

    known: Tensor
    hole: Tensor

    def enter(self, x: Tensor, level: float, noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        return torch.where(self.hole > 0, x, self.known), self.hole * level


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
