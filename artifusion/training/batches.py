"""Clean tiles -> batches of training crops with their targets, cut while the denoiser is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from artifusion.ahead import ahead
from artifusion.config import TrainConfig
from artifusion.training.corpus import Corpus, cut_crop
from artifusion.training.targets import noise_levels


@dataclass(frozen=True)
class Batch:
    """Crops with what the denoiser is asked about them."""

    pixels: np.ndarray      # uint8 (B, side, side, 3)
    spacing_um: Tensor      # (B,)
    level: Tensor           # (B, 1, side, side); 0 = known
    noise: Tensor           # (B, 3, side, side)


def draw_batch(corpus: Corpus, config: TrainConfig, numbers: range, done: float) -> Batch:
    """The crops of these numbers in the run, of which the share `done` is finished.

    A crop is a function of the seed, its number and `done`, whatever the batch it comes in.
    """
    side = config.data.crop_px
    pixels, spacings, levels, noises = [], [], [], []
    for number in numbers:
        rng = np.random.default_rng([config.seed, number])
        crop, spacing_um = cut_crop(corpus, config.data, rng)
        pixels.append(crop)
        spacings.append(spacing_um)
        levels.append(noise_levels(side, config.targets, number, done, rng))
        noises.append(torch.from_numpy(rng.standard_normal((3, side, side), np.float32)))
    return Batch(np.stack(pixels), torch.tensor(spacings), torch.stack(levels), torch.stack(noises))


def batches(
    corpus: Corpus, config: TrainConfig, first: int, done: Callable[[int], float], rank: int = 0, ranks: int = 1
) -> Iterator[Batch]:
    """Batches without end from crop number `first` on, each drawn in a thread while the one before it is in use.

    `done`: crops seen -> finished share of the run. Process `rank` of `ranks` gets its slice of every batch.
    """
    size = config.batch_size // ranks
    numbered = ((start, done(start)) for start in count(first, config.batch_size))

    def draw(item: tuple[int, float]) -> Batch:
        start = item[0] + rank * size
        return draw_batch(corpus, config, range(start, start + size), item[1])

    return ahead(draw, numbered, waiting=1)
