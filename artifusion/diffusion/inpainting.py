"""Conditions of the denoising loop: what the denoiser sees of the known pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CleanKnown:
    """Known pixels enter clean at level 0, whatever the level of the hole (TD-Paint, Mayet et al. 2024).

    known: (B, C, H, W) pixels; hole: (B, 1, H, W) 1 where they are not known.
    """

    known: Tensor
    hole: Tensor

    def enter(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        return torch.where(self.hole > 0, x, self.known), self.hole * level
