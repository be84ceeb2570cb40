"""What the denoiser is asked during training: noise levels for every pixel of a crop, and the error's weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from artifusion.config import TargetConfig
from artifusion.diffusion.schedule import Schedule

BLOCK_PX = (8, 16, 32)      # sides of the blocks that get a level of their own
BLOB_GRIDS = (3, 4, 6, 9)   # cells per side of the smooth noise whose level sets are the holes


def noise_levels(batch: int, side_px: int, config: TargetConfig, generator: torch.Generator) -> Tensor:
    """A noise level in [0, 1] for every pixel of square crops: (B, 1, side, side); 0 = known.

    Most pixels are targets. Three patterns: one level everywhere; a level of its own for every block, some of
    them clean; one level with smooth clean islands as context. Levels are stratified over the batch.
    """
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    level = strata[torch.randperm(batch, generator=generator)].clamp(min=1e-3).view(-1, 1, 1, 1)
    pattern = torch.rand(batch, generator=generator)
    levels = []
    for i in range(batch):
        if pattern[i] < config.uniform:
            levels.append(level[i].expand(1, side_px, side_px))
        elif pattern[i] < config.uniform + config.blocks:
            levels.append(_block_levels(side_px, generator))
        else:
            levels.append(level[i] * _holes(side_px, config.noisy_area, generator))
    return torch.stack(levels)


def _block_levels(side_px: int, generator: torch.Generator) -> Tensor:
    block_px = BLOCK_PX[int(torch.randint(len(BLOCK_PX), (1,), generator=generator))]
    cells = -(-side_px // block_px)
    levels = torch.rand(1, cells, cells, generator=generator).clamp(min=1e-3)
    levels = levels * (torch.rand(levels.shape, generator=generator) < 0.8)
    return levels.repeat_interleave(block_px, 1).repeat_interleave(block_px, 2)[:, :side_px, :side_px]


def _holes(side_px: int, noisy_area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """1 inside the level set of smooth noise that covers a random share of the crop, 0 outside: (1, side, side)."""
    cells = BLOB_GRIDS[int(torch.randint(len(BLOB_GRIDS), (1,), generator=generator))]
    smooth = F.interpolate(torch.randn(1, 1, cells, cells, generator=generator), side_px, mode="bicubic")[0]
    low, high = noisy_area
    share = low + (high - low) * float(torch.rand(1, generator=generator))
    return (smooth <= torch.quantile(smooth, share)).float()


def prediction_loss(
    predicted: Tensor, x0: Tensor, level: Tensor, noise: Tensor, schedule: Schedule, max_snr_weight: float
) -> Tensor:
    """Mean squared error of the prediction over the noisy pixels, weighted so that the x0 error counts at most
    max_snr_weight.

    Unweighted, fine noise would take most of the loss and structure and colour would starve (Hang et al. 2023,
    min-SNR weighting: ||v - v'||^2 = (SNR + 1) ||x0 - x0'||^2 for velocity, SNR ||x0 - x0'||^2 for noise).
    """
    hole = (level > 0).to(x0.dtype)                                                   # (B, 1, H, W)
    snr = schedule.snr(level.clamp(min=1e-3))
    counts = snr + 1 if schedule.prediction == "velocity" else snr
    weight = hole * (max_snr_weight / counts).clamp(max=1.0)
    error = (predicted - schedule.target(x0, level, noise)).square()
    return (error * weight).sum() / (3 * hole.sum())
