"""The network that finds the artifact a person points at: pixels and prompts of a window in, a probability out.

The idea is that of promptable segmentation (SAM; for medicine SAM-Med2D, Cheng et al. 2023): clicks, a box and an
earlier answer are channels beside the picture. It was trained on artifacts painted on clean tissue and simulated clicks
(weights/prompts/README.md; tools/train_prompts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
import torch
from safetensors.torch import load
from scipy import ndimage
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

from artifusion.slide.tissue import GLASS_OD, optical_density

CHANNELS = (12, 24, 36, 48, 64)         # from the full resolution down
INPUTS = 9
MULTIPLE = 2 ** (len(CHANNELS) - 1)
SPOT_PX, NEAR_PX = 1.5, 16.0            # a click shows as a spot in a wide halo
ALIKE_OD = 0.15                         # of two colours: how different they are where likeness falls to 1/e
THINNEST_OD = 0.05                      # of tissue


@dataclass(frozen=True)
class Pointed:
    """Prompts in a window's pixels: points and not-points (x, y) and boxes (left, top, right, bottom), floats.

    They may lie outside the window.
    """

    points: Sequence[tuple[float, float]] = ()
    not_points: Sequence[tuple[float, float]] = ()
    boxes: Sequence[tuple[float, float, float, float]] = ()


class PromptNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) of 170,000 parameters: (B, INPUTS, H, W), sides multiples of MULTIPLE ->
    logits (B, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(_conv(i, o), _conv(o, o)) for i, o in
                                  zip((INPUTS, *CHANNELS), CHANNELS, strict=False))
        self.up = nn.ModuleList(_conv(high + low, high) for high, low in pairwise(CHANNELS))
        self.out = nn.Conv2d(CHANNELS[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if number else x)
            kept.append(x)
        for level, skip in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, skip], 1))
        logits: Tensor = self.out(x)
        return logits


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


@cache
def network() -> PromptNet:
    """The embedded network."""
    net = PromptNet()
    net.load_state_dict(load((files("artifusion") / "weights/prompts/model.safetensors").read_bytes()))
    return net.float().eval()


def network_input(rgb: np.ndarray, pointed: Pointed, before: np.ndarray | None = None) -> np.ndarray:
    """What the network sees of pixels uint8 (H, W, 3): float32 (INPUTS, H, W).

    Density over that of the window's median tissue (3), points, not-points, boxes, the probability so far (`before`,
    float (H, W); zero where there is none), and how alike the colours at the nearest-coloured point and not-point are.
    """
    od = optical_density(rgb)
    od = od - np.clip(np.percentile(od[::4, ::4], 1, axis=(0, 1)), 0, 0.12).astype(np.float32)
    gray = od[::2, ::2].mean(axis=2)
    tissue = gray[gray > GLASS_OD]
    od = od / max(THINNEST_OD, float(np.median(tissue)) if len(tissue) else 1.0)
    smooth = ndimage.uniform_filter(od, (3, 3, 1))
    boxed = np.zeros(rgb.shape[:2], np.float32)
    for left, top, right, bottom in pointed.boxes:
        boxed[_pixels(top, len(boxed)) : _pixels(bottom, len(boxed)),
              _pixels(left, boxed.shape[1]) : _pixels(right, boxed.shape[1])] = 1
    shown = [_shown(clicks, smooth) for clicks in (pointed.points, pointed.not_points)]
    return np.stack([*np.moveaxis(od, 2, 0), shown[0][0], shown[1][0], boxed,
                     np.zeros_like(boxed) if before is None else before.astype(np.float32), shown[0][1], shown[1][1]])


def _pixels(at: float, length: int) -> int:
    return int(min(max(round(at), 0), length))


def _shown(clicks: Sequence[tuple[float, float]], smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where clicks are and how much pixels look like one of them, 0 to 1: float32 (H, W) each."""
    near, alike = (np.zeros(smooth.shape[:2], np.float32) for _ in range(2))
    y, x = (np.arange(length, dtype=np.float32) for length in near.shape)
    for at_x, at_y in clicks:
        squared = np.square(x - at_x + 0.5)[None] + np.square(y - at_y + 0.5)[:, None]
        spot = 0.5 * np.exp(-squared / (2 * SPOT_PX**2)) + 0.5 * np.exp(-np.sqrt(squared) / NEAR_PX)
        np.maximum(near, spot, out=near)
        if 0 <= at_x < len(x) and 0 <= at_y < len(y):
            colour = smooth[int(at_y), int(at_x)]
            np.maximum(alike, np.exp(-np.abs(smooth - colour).mean(axis=2) / ALIKE_OD), out=alike)
    return near, alike


@torch.inference_mode()
def probability(rgb: np.ndarray, pointed: Pointed, before: np.ndarray | None = None) -> np.ndarray:
    """The probability that a pixel belongs to the artifact that is pointed at: uint8 (H, W, 3) -> float32 (H, W).

    The CPU in float32, some 35 kFLOP and 1 kB a pixel.
    """
    height, width = rgb.shape[:2]
    pad = [(0, -side % MULTIPLE) for side in (height, width)]
    if before is not None:
        before = np.pad(before, pad, "edge")
    seen = network_input(np.pad(rgb, (*pad, (0, 0)), "edge"), pointed, before)
    return expit(network()(torch.from_numpy(seen)[None])[0, 0, :height, :width].numpy())
