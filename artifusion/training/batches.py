"""Clean tiles -> batches of training crops with their targets, cut while the denoiser is at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artifusion.ahead import ahead
from artifusion.config import TrainConfig
from artifusion.training.corpus import Corpus, cut_crop
from artifusion.training.targets import draw_target


@dataclass(frozen=True)
class Batch:
    """Crops with what the denoiser is asked about them."""

    pixels: np.ndarray      # uint8 (B, side, side, 3)
    spacing_um: Tensor      # (B,)
    level: Tensor           # (B, 1, side, side); 0 = known
    noise: Tensor           # (B, 3, side, side)


def draw_batch(corpus: Corpus, config: TrainConfig, side_px: int, numbers: range) -> Batch:
    """The crops of this side with these numbers in the run.

    A crop is a function of the seed, its number and its side, whatever the batch it comes in.
    """
    pixels, spacings, levels, noises = [], [], [], []
    for number in numbers:
        rng = np.random.default_rng([config.seed, number])
        target = draw_target(side_px, config.targets, number, rng)
        crop, spacing_um = cut_crop(corpus, config.data, side_px, rng, target.graft)
        pixels.append(crop)
        spacings.append(spacing_um)
        levels.append(torch.from_numpy(target.level)[None])
        noises.append(torch.from_numpy(rng.standard_normal((3, side_px, side_px), np.float32)))
    return Batch(np.stack(pixels), torch.tensor(spacings), torch.stack(levels), torch.stack(noises))


def batch_plan(config: TrainConfig, first: int) -> Iterator[tuple[int, range]]:
    """(side in px, numbers of the crops) of every batch without end, from crop number `first` on.

    The side is a function of the seed and the batch's first number, so that a resumed run goes on with the same ones.
    """
    others = config.data.other_crops_px
    shares = [1 - sum(others.values()), *others.values()]
    while True:
        draw = np.random.default_rng([config.seed, first, 1]).random()
        place = min(int(np.searchsorted(np.cumsum(shares), draw, side="right")), len(shares) - 1)
        side_px = config.data.sides_px[place]
        numbers = range(first, first + config.crops_of(side_px))
        yield side_px, numbers
        first = numbers.stop


def batches(corpus: Corpus, config: TrainConfig, first: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """Batches without end from crop number `first` on, each drawn in a thread while the one before it is in use.

    Process `rank` of `ranks` gets its slice of every batch.
    """
    def draw(item: tuple[int, range]) -> Batch:
        side_px, numbers = item
        size = len(numbers) // ranks
        return draw_batch(corpus, config, side_px, numbers[rank * size : (rank + 1) * size])

    return ahead(draw, batch_plan(config, first), waiting=1)
