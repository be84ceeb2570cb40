"""The one denoising loop, its steps, and the lists of noise levels it follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from artifusion.diffusion.schedule import Schedule

FIRST_HALF_LOG_SNR = -4.6               # log(alpha / sigma) near which the levels of `log_snr_levels` begin
ORDER = 3                               # of the multistep solver

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, H, W), level (B, 1, H, W) of every pixel) -> predicted x0 (B, C, H, W)."""

Noise = Callable[[int], Tensor]
"""Standard normal noise (B, C, H, W) by its number: a function of the number alone."""


@dataclass(frozen=True)
class Move:
    """One step of the loop: x at `level` becomes x at the lower `next_level`.

    `x0` is what the denoiser predicted from x. `before` holds the levels and predictions of at most ORDER - 1 earlier
    steps, the latest first, none from before a jump upwards. `noise` returns noise of this step's own.
    """

    schedule: Schedule
    x: Tensor
    x0: Tensor
    level: float
    next_level: float
    before: tuple[tuple[float, Tensor], ...]
    noise: Callable[[], Tensor]

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """alpha and sigma at `level`, then at `next_level`."""
        alpha, sigma = self.schedule.alpha_sigma(torch.tensor([self.level, self.next_level]).double())
        return float(alpha[0]), float(sigma[0]), float(alpha[1]), float(sigma[1])


Step = Callable[[Move], Tensor]


class Condition(Protocol):
    """How the known pixels enter the denoiser."""

    def enter(self, x: Tensor, level: float, noise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """x with what is known laid in (B, C, H, W), and the level of every pixel (B, 1, H, W), 0 where it is known."""
        ...


def sample(
    denoise: Denoise, schedule: Schedule, noise: Noise, times: Sequence[float], step: Step, condition: Condition
) -> Iterator[Tensor]:
    """Denoise along `times`, noise levels that begin high and end at 0; yields x after every move.

    Where `times` falls, the denoiser is evaluated once and `step` moves x. Where it rises, noise is added to x: the
    time travel of RePaint (Lugmayr et al. 2022, algorithm 1), after which multistep solvers begin anew.
    Move i takes noise 2 i for its step and noise 2 i + 1 for the known pixels; noise 0 is the start.
    The last x holds the sample where nothing is known; the caller pastes the known pixels back.
    """
    x = noise(0)
    before: tuple[tuple[float, Tensor], ...] = ()
    for number, (level, next_level) in enumerate(pairwise(times), 1):
        step_noise = _numbered(noise, 2 * number)
        if next_level > level:
            x, before = renoise(schedule, x, level, next_level, step_noise()), ()
        else:
            x, levels = condition.enter(x, level, _numbered(noise, 2 * number + 1))
            x0 = denoise(x, levels)
            x = step(Move(schedule, x, x0, level, next_level, before, step_noise))
            before = ((level, x0), *before)[: ORDER - 1]
        yield x


def _numbered(noise: Noise, number: int) -> Callable[[], Tensor]:
    return lambda: noise(number)


def even_levels(steps: int) -> list[float]:
    """`steps` equal steps from noise to clean: 1, ..., 0."""
    return np.linspace(1, 0, steps + 1).tolist()


def log_snr_levels(steps: int, schedule: Schedule, end: float = 3.0) -> list[float]:
    """`steps` steps from noise to clean, the levels in between evenly spaced in log-SNR, which suits multistep solvers
    (Lu et al. 2022, section 4.1): most of them where structure forms, few where only fine noise is left.

    end: log(alpha / sigma) towards which they go; from the one before it the last step leads to clean.
    """
    inner = np.linspace(FIRST_HALF_LOG_SNR, end, steps + 1)[1:-1]
    return [1.0, *schedule.level_of(inner).tolist(), 0.0]


def with_time_travel(levels: Sequence[float], jump_length: int, jump_samples: int) -> list[float]:
    """Falling levels with RePaint's time travel: every `jump_length` steps the levels rise by as many steps and fall
    again, until each part has fallen `jump_samples` times (Lugmayr et al. 2022, section 4.2 and supplement)."""
    if len(levels) < 2 or jump_length < 1 or jump_samples < 1:
        raise ValueError(f"steps, jump_length and jump_samples must be at least 1, got {len(levels) - 1}, "
                         f"{jump_length}, {jump_samples}")
    steps = len(levels) - 1
    jumps = dict.fromkeys(range(1, steps - jump_length + 1, jump_length), jump_samples - 1)
    left, walk = steps, [steps]
    while left > 0:
        left -= 1
        walk.append(left)
        if jumps.get(left, 0) > 0:
            jumps[left] -= 1
            walk += range(left + 1, left + jump_length + 1)
            left += jump_length
    return [levels[steps - steps_left] for steps_left in walk]


def renoise(schedule: Schedule, x: Tensor, level: float, next_level: float, noise: Tensor) -> Tensor:
    """x at `level` with noise added up to the higher `next_level`  (Ho et al. 2020, eq. 2, over several steps)."""
    alpha, _, next_alpha, _ = Move(schedule, x, x, level, next_level, (), lambda: noise).coefficients
    keep = next_alpha / alpha
    return keep * x + (1 - keep**2) ** 0.5 * noise


def ddim_step(move: Move) -> Tensor:
    """Deterministic step along the predicted noise  (Song et al. 2021, eq. 12 with sigma = 0)."""
    alpha, sigma, next_alpha, next_sigma = move.coefficients
    noise = (move.x - alpha * move.x0) / sigma
    return next_alpha * move.x0 + next_sigma * noise


def ancestral_step(move: Move) -> Tensor:
    """A draw from the posterior q(x_next | x, x0) with its own variance  (Ho et al. 2020, eqs. 6 and 7)."""
    alpha, sigma, next_alpha, next_sigma = move.coefficients
    keep = alpha / next_alpha                                             # sqrt(alpha_t) of Ho et al.
    beta = 1 - keep**2
    mean = (next_alpha * beta * move.x0 + keep * next_sigma**2 * move.x) / sigma**2
    if not move.next_level:
        return mean
    return mean + (beta**0.5 * next_sigma / sigma) * move.noise()


def dpm_step(move: Move) -> Tensor:
    """Third-order multistep solver DPM-Solver++(3M)  (Lu et al. 2022; unequal steps as in diffusers).

    The order is lower where fewer than two steps came before, and 1 for the last step, whose log-SNR is infinite.
    """
    alpha, sigma, next_alpha, next_sigma = move.coefficients
    straight = next_sigma / sigma * move.x + (next_alpha - next_sigma * alpha / sigma) * move.x0
    if not move.before or not next_sigma:
        return straight
    current = _half_log_snr(alpha, sigma)
    h = _half_log_snr(next_alpha, next_sigma) - current
    decay = next_sigma * alpha / (next_alpha * sigma)                     # e^-h
    (last, x0_last), *earlier = _by_log_snr(move)
    r0 = (current - last) / h
    slope = (move.x0 - x0_last) / r0                                      # D1 of the paper, per h
    if not earlier:
        return straight + next_alpha * (1 - decay) / 2 * slope
    (first, x0_first), = earlier
    r1 = (last - first) / h
    bend = (slope - (x0_last - x0_first) / r1) / (r0 + r1)                # D2, per h^2
    slope = slope + r0 * bend
    return straight + next_alpha * ((1 - (1 - decay) / h) * slope + (0.5 - (decay - 1 + h) / h**2) * bend)


def _by_log_snr(move: Move) -> list[tuple[float, Tensor]]:
    """The steps before as (log(alpha / sigma), prediction)."""
    levels = torch.tensor([level for level, _ in move.before]).double()
    pairs = zip(*move.schedule.alpha_sigma(levels), strict=True)
    return [(_half_log_snr(float(alpha), float(sigma)), x0)
            for (alpha, sigma), (_, x0) in zip(pairs, move.before, strict=True)]


def _half_log_snr(alpha: float, sigma: float) -> float:
    return math.log(max(alpha, 1e-12)) - math.log(sigma)


STEPS: dict[str, Step] = {"ddim": ddim_step, "ancestral": ancestral_step, "dpm++": dpm_step}
