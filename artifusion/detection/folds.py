"""Find folds with a small network, which tells doubled tissue from dense tissue by its outline and its texture.

It was trained on clean tissue with folds and other artifacts that `artifusion.damage.artifacts` painted
(weights/folds/README.md; tools/train_folds.py).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

from artifusion.detection.network import convolution, load_embedded, network_input
from artifusion.detection.signs import Look
from artifusion.detection.survey import FoldProbability

CHANNELS = (12, 24, 36, 48)             # from the full resolution down
FINEST_UM, COARSEST_UM = 1.7, 16.0      # per pixel; it was trained at 1.8 to 10.7


class FoldNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) of 110,000 parameters.

    Optical density over that of the slide's median tissue (B, 3, H, W), sides multiples of 8 -> logits (B, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(convolution(i, o), convolution(o, o)) for i, o in
                                  zip((3, *CHANNELS), CHANNELS, strict=False))
        self.up = nn.ModuleList(convolution(high + low, high) for high, low in pairwise(CHANNELS))
        self.out = nn.Conv2d(CHANNELS[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if number else x)
            kept.append(x)
        for level, skip in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, skip], 1))
        logits = cast(Tensor, self.out.bias)
        for channel, weight in zip(x.split(1, dim=1), self.out.weight.flatten(), strict=True):
            logits = logits + weight * channel          # in one order: conv2d's depends on the number of threads
        return logits


MULTIPLE = 2 ** (len(CHANNELS) - 1)


@cache
def network() -> FoldNet:
    """The embedded network."""
    return load_embedded(FoldNet(), "folds").float().eval()


def folds(look: Look, mpp: float) -> FoldProbability:
    """A function of pixels uint8 (H, W, 3) at mpp um per pixel: the probability of a fold, float32 (H, W).

    The network runs on the CPU in float32, at half the size where mpp is finer than FINEST_UM, and takes 28 kFLOP per
    pixel. Beyond COARSEST_UM its answers mean nothing.
    """
    factor = 2 if mpp < FINEST_UM else 1

    @torch.inference_mode()
    def probability(rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        pad = [(0, -side % (factor * MULTIPLE)) for side in (height, width)]
        padded = np.pad(rgb, (*pad, (0, 0)), "edge")
        if factor > 1:
            padded = resized(padded, *(side // factor for side in padded.shape[:2]))
        logits = network()(network_input(padded, look))
        logits = F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)
        return expit(logits[0, 0, :height, :width].numpy())

    return probability


def resized(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels uint8 (H, W, 3) at a smaller size, smoothed in the same way here and in training."""
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return x[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
