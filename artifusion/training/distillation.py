"""Targets for a student that learns to do in one step what its teacher does in several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from artifusion.config import DistillConfig
from artifusion.diffusion.inpainting import CleanKnown
from artifusion.diffusion.sampling import dpm_step, log_snr_levels, sample
from artifusion.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x (B, 3, H, W), level (B, 1, H, W), hole (B, 1, H, W), um per pixel (B,)) -> prediction (B, 3, H, W)."""


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser that walks `substeps` steps of DPM-Solver++ where its student is to take one of DDIM's
    (progressive distillation, Salimans & Ho 2022, algorithm 2, there with 2). The student's `steps` levels are every
    `substeps`-th of the teacher's, all even in log-SNR."""

    predict: Predict
    schedule: Schedule
    config: DistillConfig

    @property
    def levels(self) -> list[float]:
        return log_snr_levels(self.config.steps * self.config.substeps, self.schedule)

    def student_level(self, level: Tensor) -> Tensor:
        """One of the student's levels in each crop, by the highest, which is even in [0, 1]: (B, 1, H, W), as given."""
        steps = self.config.steps
        step = ((1 - level.amax((1, 2, 3), keepdim=True)) * steps).long().clamp(0, steps - 1)      # (B, 1, 1, 1)
        grid = torch.tensor(self.levels[:: self.config.substeps], device=level.device)
        return (level > 0) * grid[step]                                                            # (B, 1, H, W)

    @torch.no_grad()
    def answer(self, x0: Tensor, level: Tensor, noise: Tensor, spacing_um: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, noise), both (B, 3, H, W), that the student should see in crops noised to a level of `student_level`.

        From these a DDIM step to the student's next level ends where the teacher's walk does; known pixels are as
        they were.
        """
        hole = (level > 0).to(x0.dtype)
        x = self.schedule.add_noise(x0, level, noise)
        target = x0.clone()
        highest = level.amax((1, 2, 3))
        for step in range(self.config.steps):
            times = self.levels[step * self.config.substeps : (step + 1) * self.config.substeps + 1]
            at_step = torch.isclose(highest, torch.tensor(times[0], device=level.device))
            if at_step.any():
                end = self._walk(x[at_step], x0[at_step], hole[at_step], spacing_um[at_step], times)
                target[at_step] = self._x0_between(x[at_step], end, times[0], times[-1])
        target = torch.where(hole > 0, target, x0)
        alpha, sigma = self.schedule.alpha_sigma(level)
        return target, torch.where(hole > 0, (x - alpha * target) / sigma.clamp(min=1e-6), noise)

    def _walk(self, x: Tensor, known: Tensor, hole: Tensor, spacing_um: Tensor, times: list[float]) -> Tensor:
        def denoise(x: Tensor, level: Tensor) -> Tensor:
            return self.schedule.x0(x, level, self.predict(x, level, hole, spacing_um).float())

        *_, end = sample(denoise, self.schedule, lambda number: x, times, dpm_step, CleanKnown(known, hole))
        return end

    def _x0_between(self, x: Tensor, end: Tensor, level: float, next_level: float) -> Tensor:
        """The clean image from which DDIM's step leads from x to `end`  (Salimans & Ho 2022, eq. 9)."""
        alpha, sigma = self.schedule.alpha_sigma(torch.tensor([level, next_level]).double())
        keep = sigma[1] / sigma[0]
        return (end - keep * x) / (alpha[1] - keep * alpha[0])
