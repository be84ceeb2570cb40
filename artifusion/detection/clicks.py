"""Which pixels of a window belong to the artifact that a person points at: a network that sees pixels and prompts.

It is that of detection/network.py with four inputs more: clicks, not-clicks, boxes, and an earlier answer, which is
how one network serves all prompts in SAM-Med2D (Cheng et al. 2023, arXiv 2308.16184). It learned from artifacts laid on
clean tissue, labelled places of real slides and simulated clicks (weights/prompts/README.md; tools/train_prompts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from artifusion.detection.network import ArtifactNet, for_use, load_embedded, padded
from artifusion.slide.tissue import optical_density

FINER = 2                           # pixels that go in, per pixel of the answer
SPOT_PX = 3.0                       # of what goes in: the deviation of a click
INPUTS = ("red", "green", "blue", "points", "not-points", "boxes", "before")


@dataclass(frozen=True)
class Pointed:
    """Prompts in the answer's pixels: points and not-points (x, y) and boxes (left, top, right, bottom), floats.

    They may lie outside the window.
    """

    points: Sequence[tuple[float, float]] = ()
    not_points: Sequence[tuple[float, float]] = ()
    boxes: Sequence[tuple[float, float, float, float]] = ()


@cache
def network() -> ArtifactNet:
    """The embedded network."""
    return for_use(load_embedded(ArtifactNet(len(INPUTS), 1), "prompts"), torch.float32)


@torch.inference_mode()
def probability(rgb: np.ndarray, pointed: Pointed, before: np.ndarray | None = None) -> np.ndarray:
    """The probability that a pixel belongs to the artifact that is pointed at: float32 (H, W).

    Args:
        rgb: uint8 (2 H, 2 W, 3), twice as fine as the answer.
        before: an earlier answer, float32 (H, W).
    """
    height, width = rgb.shape[:2]
    density = optical_density(padded(rgb)).transpose(2, 0, 1)
    shown = np.concatenate([density, prompt_maps(density.shape[1:], pointed)])
    if before is not None:
        shown[-1, :height, :width] = before.clip(0, 1).repeat(FINER, 0).repeat(FINER, 1)
    logits = network()(torch.from_numpy(shown)[None].contiguous(memory_format=torch.channels_last))
    return torch.sigmoid(logits[0, 0, : height // FINER, : width // FINER]).numpy()


def prompt_maps(shape: tuple[int, int], pointed: Pointed) -> np.ndarray:
    """Points and not-points as spots, boxes as solid ones, and no earlier answer: float32 (4, H, W)."""
    maps = np.zeros((4, *shape), np.float32)
    y, x = (np.arange(length, dtype=np.float32) + 0.5 for length in shape)
    for map_, points in zip(maps, (pointed.points, pointed.not_points), strict=False):
        for at_x, at_y in points:
            across, down = (np.exp(-0.5 * ((line - FINER * at) / SPOT_PX) ** 2) for line, at in ((x, at_x), (y, at_y)))
            np.maximum(map_, down[:, None] * across, out=map_)
    for box in pointed.boxes:
        left, top, right, bottom = (max(0, round(FINER * edge)) for edge in box)
        maps[2, top:bottom, left:right] = 1
    return maps
