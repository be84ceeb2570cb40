"""The noise schedule: how much of a pixel is tissue and how much is noise at a noise level in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artifusion.config import Prediction, ScheduleKind

LINEAR_STEPS = 1000
LINEAR_BETAS = (1e-4, 0.02)


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule over continuous noise levels: x = alpha x0 + sigma noise, alpha² + sigma² = 1.

    Level 0 is clean and level 1 the noisiest. "cosine": alpha = cos(pi t / 2), so that level 1 is pure noise
    (Nichol & Dhariwal 2021, eq. 17, s = 0). "linear": level n / 1000 is step n of the 1,000 with betas from 1e-4 to
    0.02 (Ho et al. 2020, section 4), log alpha between two steps interpolated; level 1 keeps 0.6 % of the image.

    `prediction` is what the denoiser predicts from x: the velocity (Salimans & Ho 2022) or the noise (Ho et al. 2020).
    Coefficients are computed in float64 and returned in float32.
    """

    kind: ScheduleKind = "cosine"
    prediction: Prediction = "velocity"

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) for noise levels in [0, 1], in the shape of `level`."""
        if self.kind == "cosine":
            angle = level.double() * (math.pi / 2)
            return torch.cos(angle).float(), torch.sin(angle).float()
        log_alpha = _linear_log_alpha().to(level.device)
        step = level.double() * LINEAR_STEPS
        below = step.floor().clamp(max=LINEAR_STEPS - 1).long()
        log = torch.lerp(log_alpha[below], log_alpha[below + 1], step - below)
        return log.exp().float(), (-torch.expm1(2 * log)).sqrt().float()

    def add_noise(self, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Noise x0 to `level`: alpha x0 + sigma noise  (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.alpha_sigma(level)                            # (B, 1, H, W) or (B, 1, 1, 1)
        return alpha * x0 + sigma * noise                                 # (B, C, H, W)

    def target(self, x0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """What the denoiser should predict: alpha noise - sigma x0 (Salimans & Ho 2022, section 4), or the noise."""
        if self.prediction == "noise":
            return noise
        alpha, sigma = self.alpha_sigma(level)
        return alpha * noise - sigma * x0

    def x0(self, x: Tensor, level: Tensor, predicted: Tensor) -> Tensor:
        """The clean image that a prediction implies; at level 0 this is x itself."""
        alpha, sigma = self.alpha_sigma(level)
        if self.prediction == "noise":
            return (x - sigma * predicted) / alpha.clamp(min=1e-4)
        return alpha * x - sigma * predicted

    def snr(self, level: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha**2 / sigma**2, infinite at level 0."""
        alpha, sigma = self.alpha_sigma(level)
        return alpha.square() / sigma.square()

    def level_of(self, half_log_snr: np.ndarray) -> np.ndarray:
        """The noise levels at which log(alpha / sigma) has these values: (N,) -> (N,), by interpolation."""
        levels = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
        alpha, sigma = self.alpha_sigma(levels)
        return np.interp(-half_log_snr, (sigma.double() / alpha.double()).log().numpy(), levels.numpy())


def _linear_log_alpha() -> Tensor:
    """log alpha of steps 0 to 1000 of the linear schedule, float64 (1001,)."""
    betas = np.linspace(*LINEAR_BETAS, LINEAR_STEPS)
    return torch.from_numpy(np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))]))
