"""What the denoiser is asked during training: a noise level for every pixel of a crop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from artifusion.config import HoleKind, TargetConfig
from artifusion.training.holes import artifact_hole, ellipse, large_hole, square, stroke

MIN_LEVEL = 1e-3                # of a pixel that is no known one
GOLDEN = 0.6180339887498949
BAND_PX = (3, 16)               # width of a band between two known sides
STROKE_PX = (2, 12)             # width of a thin stroke
BLOB_PX = (2, 10)               # radius of a small blob
MIN_AREA = 0.06                 # share of the crop that strokes or blobs cover; that band and both its sides do: 0.04
MIN_SIDE_AREA = 0.04
MAX_MAP_LEVEL = 0.6             # of recovered pixels
SMOOTH_STEPS, MAP_STEPS = 96, 24    # of the levels between 0 and 1 in a smooth map, in a stepped one
CELLS = (3, 4, 6, 9)            # per side of the rough noise that smooth fields are made of
NOISY_AREA = (0.6, 1.0)         # share of a crop with clean islands

Rng = np.random.Generator


@dataclass(frozen=True)
class Target:
    """Of a square crop: the level of every pixel, and where it is to show another place.

    level: float32 (side, side) in [0, 1]; 0 = known. graft: int8 (side, side) as `cut_crop` takes it, or None.
    """

    level: np.ndarray
    graft: np.ndarray | None = None


def draw_target(side_px: int, config: TargetConfig, number: int, rng: Rng) -> Target:
    """A random target of one of the configuration's kinds.

    `number`: the crop's in the run. Levels of crops that follow each other are spread evenly over the range.
    """
    level = max(MIN_LEVEL, (number + 1) * GOLDEN % 1)
    shares = np.array(list(config.kinds.values()))
    kind = list(config.kinds)[rng.choice(len(shares), p=shares / shares.sum())]
    target = DRAW[kind](side_px, level, rng)
    return target if rng.random() < config.grafted else Target(target.level)


def band(side_px: int, level: float, rng: Rng) -> Target:
    """A band of one width between two known sides; the inner one is where a graft lies."""
    x, y = square(side_px)
    while True:
        inside = ellipse(x, y, rng, radius=(0.15, 1.2), stretch=1.5) > 0
        distance_px = ndimage.distance_transform_edt(~inside)
        between = (distance_px > 0) & (distance_px <= rng.uniform(*BAND_PX))
        if min(inside.mean(), between.mean(), 1 - (inside | between).mean()) >= MIN_SIDE_AREA:
            return Target(level_in(between, level), inside - between.astype(np.int8))


def thin_strokes(side_px: int, level: float, rng: Rng) -> Target:
    """Lines a few pixels wide: threads, cracks, the edges of folds."""
    width = STROKE_PX[0] / side_px, STROKE_PX[1] / side_px
    hole = np.zeros((side_px, side_px), bool)
    while hole.mean() < MIN_AREA:
        hole |= stroke(*square(side_px), rng, width=width, length=(0.3, 2.0), bend=0.35)
    return Target(level_in(hole, level))


def small_blobs(side_px: int, level: float, rng: Rng) -> Target:
    """Specks of dust and small bubbles."""
    radius = BLOB_PX[0] / side_px, BLOB_PX[1] / side_px
    hole = np.zeros((side_px, side_px), bool)
    while hole.mean() < MIN_AREA:
        hole |= ellipse(*square(side_px), rng, radius=radius, stretch=2.0) > 0
    return Target(level_in(hole, level))


def level_map(side_px: int, level: float, rng: Rng) -> Target:
    """Low levels that differ from place to place, as recovered pixels have them: smooth, or in steps."""
    hole = artifact_hole(side_px, rng) if rng.random() < 0.7 else np.ones((side_px, side_px), bool)
    field = smooth_field(side_px, rng)
    low, high = np.sort(rng.uniform(0, MAX_MAP_LEVEL, 2))
    levels = low + (high - low) * (field - field.min()) / np.ptp(field)
    steps = SMOOTH_STEPS if rng.random() < 0.5 else MAP_STEPS
    levels = (np.ceil(levels * steps) / steps).clip(max=MAX_MAP_LEVEL)
    return Target(np.where(hole, levels, 0).astype(np.float32))


def imagined(side_px: int, level: float, rng: Rng) -> Target:
    """A large hole, mostly at a high level: the tissue in it is to be imagined."""
    return Target(level_in(large_hole(side_px, rng), math.sqrt(level)))


def around_islands(side_px: int, level: float, rng: Rng) -> Target:
    """Most of the crop, around smooth clean islands: much to learn from a crop in a run that begins from nothing."""
    field = smooth_field(side_px, rng)
    return Target(level_in(field <= np.quantile(field, rng.uniform(*NOISY_AREA)), level))


def whole(side_px: int, level: float, rng: Rng) -> Target:
    """The whole crop at one level, nothing known."""
    return Target(np.full((side_px, side_px), level, np.float32))


DRAW: dict[HoleKind, Callable[[int, float, Rng], Target]] = {
    "band": band, "stroke": thin_strokes, "blobs": small_blobs, "map": level_map, "large": imagined,
    "islands": around_islands, "whole": whole,
}


def level_in(hole: np.ndarray, level: float) -> np.ndarray:
    """One level in a hole, 0 around it: float32."""
    return hole.astype(np.float32) * np.float32(level)


def smooth_field(side_px: int, rng: Rng) -> np.ndarray:
    """Smooth noise, float32 (side, side)."""
    cells = CELLS[rng.integers(len(CELLS))]
    rough = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), np.float32))
    return F.interpolate(rough, side_px, mode="bicubic")[0, 0].numpy()
