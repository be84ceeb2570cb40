"""What the denoiser is asked during training: a noise level for every pixel of a crop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from artifusion.config import TargetConfig
from artifusion.training.holes import artifact_hole

BLOCK_PX = (8, 16, 32)      # sides of the blocks that get a level of their own
BLOB_GRIDS = (3, 4, 6, 9)   # cells per side of the smooth noise whose level sets are the islands
MIN_LEVEL = 1e-3            # of a pixel that is no known one
GOLDEN = 0.6180339887498949


def noise_levels(side_px: int, config: TargetConfig, number: int, done: float, rng: np.random.Generator) -> Tensor:
    """A noise level in [0, 1] for every pixel of a square crop: (1, side, side); 0 = known.

    `number`: the crop's in the run. Levels of crops that follow each other are spread evenly over the range.
    `done`: finished share of the run, in [0, 1].

    Four patterns. Most pixels are targets in the first three: one level everywhere; a level of its own for every
    block, some of them clean; one level with smooth clean islands as context. The last has one level in a hole that
    is shaped like an artifact, all else known; its share rises from 0 at `artifact_from` of the run to
    `artifact_shaped` at its end, in place of the others.
    """
    level = max(MIN_LEVEL, (number + 1) * GOLDEN % 1)
    if rng.random() < config.artifact_shaped * max(0.0, (done - config.artifact_from) / (1 - config.artifact_from)):
        return level * torch.from_numpy(artifact_hole(side_px, rng)).float()[None]
    pattern = rng.random()
    if pattern < config.uniform:
        return torch.full((1, side_px, side_px), level)
    if pattern < config.uniform + config.blocks:
        return _block_levels(side_px, rng)
    return level * _around_islands(side_px, config.noisy_area, rng)


def _block_levels(side_px: int, rng: np.random.Generator) -> Tensor:
    block_px = BLOCK_PX[rng.integers(len(BLOCK_PX))]
    cells = -(-side_px // block_px)
    levels = rng.uniform(MIN_LEVEL, 1, (cells, cells)) * (rng.random((cells, cells)) < 0.8)
    in_blocks = np.kron(levels, np.ones((block_px, block_px), np.float32))[:side_px, :side_px]
    return torch.from_numpy(in_blocks).float()[None]


def _around_islands(side_px: int, noisy_area: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """1 inside the level set of smooth noise that covers a random share of the crop, 0 outside: (1, side, side)."""
    cells = BLOB_GRIDS[rng.integers(len(BLOB_GRIDS))]
    rough = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), np.float32))
    smooth = F.interpolate(rough, side_px, mode="bicubic")[0]
    return (smooth <= np.quantile(smooth.numpy(), rng.uniform(*noisy_area))).float()
