"""The one denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from artifusion.diffusion.schedule import CosineSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, H, W), level (B, 1, H, W) of every pixel) -> predicted x0 (B, C, H, W)."""

Step = Callable[[Tensor, Tensor, float, float, CosineSchedule], Tensor]
"""(x, predicted x0, level now, level next, schedule) -> x at the next level."""


class Condition(Protocol):
    """How the known pixels enter the denoiser."""

    def enter(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The denoiser's input (B, C, H, W) and the level of every pixel (B, 1, H, W)."""
        ...


def levels(steps: int) -> list[float]:
    """`steps` equal steps from pure noise to clean: 1, ..., 0."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return [1 - i / steps for i in range(steps + 1)]


def ddim_step(x: Tensor, x0: Tensor, level: float, next_level: float, schedule: CosineSchedule) -> Tensor:
    """Deterministic step to the next level along the predicted noise  (Song et al. 2021, eq. 12 with sigma = 0)."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor(level))
    next_alpha, next_sigma = schedule.alpha_sigma(torch.tensor(next_level))
    noise = (x - alpha * x0) / sigma
    return next_alpha * x0 + next_sigma * noise


def sample(
    denoise: Denoise, schedule: CosineSchedule, noise: Tensor, times: Sequence[float], step: Step, condition: Condition
) -> Iterator[Tensor]:
    """Denoise `noise` (B, C, H, W) along `times`, falling levels in [0, 1]; yields x after every step.

    The last x holds the sample where nothing is known; pasting the known pixels back is the caller's.
    One evaluation of `denoise` per pair of times.
    """
    x = noise
    for level, next_level in pairwise(times):
        x = step(x, denoise(*condition.enter(x, level)), level, next_level, schedule)
        yield x
