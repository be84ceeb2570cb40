"""The noise schedule: how much of a pixel is tissue and how much is noise at a noise level in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CosineSchedule:
    """Variance-preserving cosine schedule over continuous noise levels (Nichol & Dhariwal 2021, eq. 17, s = 0).

    Level 0 is clean and level 1 is pure noise: alpha = cos(pi t / 2), sigma = sin(pi t / 2), so that
    alpha**2 + sigma**2 = 1. Coefficients are computed in float64 and returned in float32.
    """

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) for noise levels in [0, 1], in the shape of `level`."""
        angle = level.double() * (math.pi / 2)
        return torch.cos(angle).float(), torch.sin(angle).float()

    def add_noise(self, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Noise x0 to `level`: alpha x0 + sigma noise  (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.alpha_sigma(level)                            # (B, 1, H, W) or (B, 1, 1, 1)
        return alpha * x0 + sigma * noise                                 # (B, C, H, W)

    def velocity(self, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """The training target v = alpha noise - sigma x0  (Salimans & Ho 2022, section 4)."""
        alpha, sigma = self.alpha_sigma(level)
        return alpha * noise - sigma * x0

    def x0_from_velocity(self, x: Tensor, level: Tensor, velocity: Tensor) -> Tensor:
        """The clean image that `velocity` implies: alpha x - sigma v; at level 0 this is x itself."""
        alpha, sigma = self.alpha_sigma(level)
        return alpha * x - sigma * velocity

    def snr(self, level: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha**2 / sigma**2, infinite at level 0."""
        alpha, sigma = self.alpha_sigma(level)
        return alpha.square() / sigma.square()
