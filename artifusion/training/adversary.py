"""The adversarial finish: what a student of few steps paints is to look like tissue to a network that compares both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from artifusion.config import AdversarialConfig
from artifusion.device import autocast
from artifusion.diffusion.inpainting import Evidence
from artifusion.diffusion.sampling import ancestral_step, log_snr_levels, sample
from artifusion.diffusion.schedule import Schedule
from artifusion.training.discriminator import Discriminator
from artifusion.training.distillation import Predict

FAITHFUL = 0.15             # share of the crops that are noised from the truth, to the last step's level
FAITHFUL_WEIGHT = 0.3       # of their reconstruction; that of the first step of a walk has 1
COLOUR_PX = 32              # side of the squares whose mean colour may not drift from one step to the next
PENALTY_OFFSET = 0.1        # of the moved inputs of the gradient penalty
PENALTY_EVERY = 4           # steps
REPLAYED = 8                # earlier pairs that the discriminator sees again in each of its two updates
REMEMBERED = 96             # pairs that are kept for that
GRID_WEIGHTS = (0.5, 1.0)   # of the logits on the fine and on the coarse grid
MIN_HOLE_PX = 64            # a smaller hole does not count more

Logits = Sequence[Tensor]


@dataclass(frozen=True)
class Pairs:
    """Real crops and composites with the same surroundings: (B, 3, H, W) each; their hole (B, 1, H, W), and the
    standard deviation of the noise that the discriminator sees them with (B,)."""

    real: Tensor
    fake: Tensor
    hole: Tensor
    noise_sd: Tensor

    def joined(self, other: Pairs) -> Pairs:
        return Pairs(*(torch.cat(both) for both in zip(self.parts, other.parts, strict=True)))

    def at(self, index: Tensor | slice) -> Pairs:
        return Pairs(*(part[index] for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.real, self.fake, self.hole, self.noise_sd

    def as_kept(self) -> Pairs:
        """Without gradients and in half precision, so that what a checkpoint holds is exactly what memory holds."""
        return Pairs(*(part.detach().half() for part in self.parts))

    def as_used(self) -> Pairs:
        return Pairs(*(part.float() for part in self.parts))


@dataclass(frozen=True)
class Crops:
    """Crops relative to their known pixels (B, 3, H, W), their holes (B, 1, H, W), the noise that walks in them begin
    from (B, 3, H, W), and um per pixel (B,)."""

    x0: Tensor
    hole: Tensor
    noise: Tensor
    spacing_um: Tensor

    def at(self, index: Tensor) -> Crops:
        return Crops(self.x0[index], self.hole[index], self.noise[index], self.spacing_um[index])


class Adversary:
    """The discriminator of a run, its optimiser, the pairs it remembers, and the losses that it gives the student.

    The walk that is trained is the walk that is sampled: `steps` ancestral steps between levels even in log-SNR. Every
    crop is walked to a random one of them by the student itself, which then predicts the clean crop with a gradient.
    """

    def __init__(self, config: AdversarialConfig, schedule: Schedule, device: torch.device) -> None:
        self.config, self.schedule, self.device = config, schedule, device
        self.levels = log_snr_levels(config.steps, schedule)
        self.discriminator = Discriminator().to(device)
        self.optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=config.discriminator_rate,
                                           betas=(0.5, 0.99), weight_decay=0.0)
        self.remembered: Pairs | None = None

    def losses(self, predict: Predict, crops: Crops, number: int, rate: float) -> dict[str, Tensor]:
        """Two updates of the discriminator, then the student's losses, their weighted sum as "loss".

        Args:
            predict: the student.
            number: of the first crop in the run; all that is random follows from it.
            rate: the discriminator's learning rate over its peak.
        """
        generator = torch.Generator().manual_seed(number)
        x0, hole = crops.x0, crops.hole
        step = (torch.arange(len(x0)) + torch.randint(self.config.steps, (1,), generator=generator)) % self.config.steps
        faithful = torch.rand(len(x0), generator=generator) < FAITHFUL
        step = torch.where(faithful, self.config.steps - 1, step)
        x, before = self._begin(predict, crops, step, faithful, generator)
        level = torch.tensor(self.levels)[step].to(self.device)
        with autocast(self.device):
            predicted = predict(x, hole * level.view(-1, 1, 1, 1), hole, crops.spacing_um)
        painted = self.schedule.x0(x, level.view(-1, 1, 1, 1), predicted.float())
        painted = torch.where(hole > 0, painted, x0)
        step, faithful = step.to(self.device), faithful.to(self.device)
        noise_sd = torch.tensor([1.0, *self.config.noise_sd], device=self.device)[step]
        judged = step > 0                               # the first prediction is a blur that nothing can make sharp
        losses = {"reconstruction": self._reconstruction(painted, x0, hole, step, faithful),
                  "colour": self._colour(painted, before, hole, step)}
        pairs = Pairs(x0, painted, hole, noise_sd).at(judged)
        losses["discriminator"] = self._update(pairs, number // len(x0) % PENALTY_EVERY == 0, rate, generator)
        losses["adversarial"] = self._deceive(pairs, generator)
        losses["loss"] = (losses["adversarial"] + self.config.reconstruction * losses["reconstruction"]
                          + self.config.colour * losses["colour"])
        return losses

    def remembered_parts(self) -> tuple[Tensor, ...]:
        """What a checkpoint holds of the remembered pairs."""
        return self.remembered.parts if self.remembered else ()

    def remember(self, parts: dict[str, Tensor]) -> None:
        """Take up what a checkpoint held, by number."""
        self.remembered = Pairs(*(parts[str(n)] for n in range(len(parts)))) if parts else None

    @torch.no_grad()
    def _begin(
        self, predict: Predict, crops: Crops, step: Tensor, faithful: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The crops as the student comes to them at their step, and what it predicted one step before (else x0)."""
        begun, before = torch.where(crops.hole > 0, crops.noise, crops.x0), crops.x0.clone()
        for number in range(self.config.steps):
            at = ((step == number) & ~faithful).to(self.device)
            if number and at.any():
                begun[at], before[at] = self._walk(predict, crops.at(at), number, generator)
        at = faithful.to(self.device)
        level = crops.hole[at] * self.levels[self.config.steps - 1]
        begun[at] = self.schedule.add_noise(crops.x0[at], level, crops.noise[at])
        return begun, before

    def _walk(
        self, predict: Predict, crops: Crops, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Crops after so many steps of a walk, and the last prediction in it."""
        last, known, hole = crops.x0, crops.x0, crops.hole

        def denoise(x: Tensor, level: Tensor) -> Tensor:
            nonlocal last
            with autocast(self.device):
                predicted = predict(x, level, hole, crops.spacing_um)
            last = torch.where(hole > 0, self.schedule.x0(x, level, predicted.float()), known)
            return last

        def numbered(number: int) -> Tensor:
            return crops.noise if number == 0 else self._noise(crops.noise, generator)

        *_, x = sample(denoise, self.schedule, numbered, self.levels[: steps + 1], ancestral_step,
                       Evidence(known, hole))
        return torch.where(hole > 0, x, known), last

    def _reconstruction(self, painted: Tensor, x0: Tensor, hole: Tensor, step: Tensor, faithful: Tensor) -> Tensor:
        """Squared error where a truth can be asked for: in the first step, and in crops noised from the truth."""
        weight = torch.where(faithful, FAITHFUL_WEIGHT, (step == 0).float())
        error = ((painted - x0) * hole).square().sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3)).clamp(min=MIN_HOLE_PX))
        return (weight * error).mean()

    def _colour(self, painted: Tensor, before: Tensor, hole: Tensor, step: Tensor) -> Tensor:
        """Squared drift of the mean colour of squares from what the step before predicted; most in the last step."""
        weight = (step / (self.config.steps - 1)).square().view(-1, 1, 1, 1)
        share = F.avg_pool2d(hole, COLOUR_PX)
        drift = F.avg_pool2d((painted - before) * hole, COLOUR_PX) / share.clamp(min=0.05)
        return (weight * drift.square() * share).sum() / (3 * share.sum().clamp(min=1e-3))

    def _update(self, pairs: Pairs, penalise: bool, rate: float, generator: torch.Generator) -> Tensor:
        """Two updates of the discriminator; its loss in the first."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.config.discriminator_rate
        newest = pairs.as_kept()
        first, second = newest, newest
        if self.remembered is not None and len(self.remembered.real) >= REPLAYED:
            first, second = newest.joined(self._recalled(generator)), self._recalled(generator)
        value = self._learn(first.as_used(), penalise, generator)
        self._learn(second.as_used(), False, generator)
        joined = self.remembered.joined(newest) if self.remembered is not None else newest
        self.remembered = joined.at(slice(-REMEMBERED, None))
        return value

    def _recalled(self, generator: torch.Generator) -> Pairs:
        assert self.remembered is not None
        chosen = torch.randperm(len(self.remembered.real), generator=generator)[:REPLAYED]
        return self.remembered.at(chosen.to(self.device))

    def _learn(self, pairs: Pairs, penalise: bool, generator: torch.Generator) -> Tensor:
        """One update: a real crop should look more real than its composite (relativistic: Jolicoeur-Martineau 2018)."""
        real, fake = self._seen(pairs.real, pairs, generator), self._seen(pairs.fake, pairs, generator)
        real_logits, fake_logits = self._judge(real, pairs), self._judge(fake, pairs)
        loss = relativistic(real_logits, fake_logits, pairs.hole)
        value = loss.detach()
        if penalise:                # R1 and R2 (Mescheder et al. 2018) by finite differences
            for seen, logits in ((real, real_logits), (fake, fake_logits)):
                moved = self._judge(seen + PENALTY_OFFSET * self._noise(seen, generator), pairs)
                change = [(a - b).square() for a, b in zip(moved, logits, strict=True)]
                loss = loss + self.config.penalty * in_hole(change, pairs.hole)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value

    def _deceive(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """The student's loss: its composite should look more real than the real crop."""
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real = self._judge(self._seen(pairs.real, pairs, generator), pairs)
        fake = self._judge(self._seen(pairs.fake, pairs, generator), pairs)
        self.discriminator.requires_grad_(True)
        return relativistic(fake, real, pairs.hole)

    def _judge(self, seen: Tensor, pairs: Pairs) -> Logits:
        with autocast(self.device):
            logits: Logits = self.discriminator(seen, pairs.hole, pairs.noise_sd)
        return logits

    def _seen(self, x: Tensor, pairs: Pairs, generator: torch.Generator) -> Tensor:
        return x + pairs.noise_sd.view(-1, 1, 1, 1) * self._noise(x, generator)

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(self.device)


def relativistic(better: Logits, worse: Logits, hole: Tensor) -> Tensor:
    """softplus(worse - better), the mean over the hole."""
    return in_hole([F.softplus(w - b) for b, w in zip(better, worse, strict=True)], hole)


def in_hole(maps: Sequence[Tensor], hole: Tensor) -> Tensor:
    """The weighted mean of maps on both grids over a hole; the coarse grid counts what lies within its sight."""
    fine = F.avg_pool2d(hole, 4)
    coarse = F.avg_pool2d(F.avg_pool2d(hole, 8), 3, 1, 1, count_include_pad=False)
    means = [(each * weight).sum() / weight.sum().clamp(min=1e-3)
             for each, weight in zip(maps, (fine, coarse), strict=True)]
    return (GRID_WEIGHTS[0] * means[0] + GRID_WEIGHTS[1] * means[1]) / sum(GRID_WEIGHTS)
