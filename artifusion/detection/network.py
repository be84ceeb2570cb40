"""A small network that names the artifact that a pixel shows, from the pixel's surroundings.

It learned from artifacts laid on clean tissue, from labelled places of real slides and from what it took for artifacts
there before (weights/artifacts/README.md; tools/train_detector.py).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from artifusion.detection.signs import Look, density_above_glass
from artifusion.detection.survey import SIGHTS
from artifusion.device import fast_dtype

Net = TypeVar("Net", bound=nn.Module)
CPU = torch.device("cpu")
KINDS = ("normal", *SIGHTS)
CHANNELS = (16, 32, 48, 96)             # at strides 2, 4, 8, 16
BLOCKS = (0, 1, 1, 2)                   # residual ones
MULTIPLE = 2 ** len(CHANNELS)


class ArtifactNet(nn.Module):
    """A residual encoder whose levels are added to the decoder's (LinkNet, Chaurasia and Culurciello 2017).

    Optical density over that of the slide's median tissue (B, inputs, H, W), sides multiples of MULTIPLE -> logits
    (B, outputs, H / 2, W / 2), of KINDS if not said otherwise.
    """

    def __init__(self, inputs: int = 3, outputs: int = len(KINDS)) -> None:
        super().__init__()
        self.down = nn.ModuleList(convolution(i, o, stride=2) for i, o in pairwise((inputs, *CHANNELS)))
        self.blocks = nn.ModuleList(nn.Sequential(*(Residual(c) for _ in range(count)))
                                    for c, count in zip(CHANNELS, BLOCKS, strict=True))
        self.narrow = nn.ModuleList(convolution(low, high, side=1) for high, low in pairwise(CHANNELS))
        self.up = nn.ModuleList(convolution(c, c) for c in CHANNELS[:-1])
        self.out = nn.Conv2d(CHANNELS[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            kept.append(x)                                      # (B, 16, H / 2, W / 2) ... (B, 96, H / 16, W / 16)
        for narrow, up, skip in zip(reversed(self.narrow), reversed(self.up), reversed(kept[:-1]), strict=True):
            x = up(skip + F.interpolate(narrow(x), scale_factor=2, mode="nearest"))
        return cast(Tensor, self.out(x))


class Residual(nn.Module):
    """Two convolutions, added to what went in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(self.first(x)))


def convolution(inputs: int, outputs: int, stride: int = 1, side: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


def network_input(rgb: np.ndarray, look: Look) -> Tensor:
    """A network's input for pixels uint8 (H, W, 3): float32 (1, 3, H, W)."""
    density = density_above_glass(rgb, look) / np.mean(look.density, dtype=np.float32)
    return torch.from_numpy(density).permute(2, 0, 1)[None]


@cache
def network() -> ArtifactNet:
    """The embedded network."""
    return for_use(load_embedded(ArtifactNet(), "artifacts"))


def load_embedded(net: Net, name: str) -> Net:
    """Load the embedded weights of that name into a network, which is returned."""
    net.load_state_dict(load((files("artifusion") / "weights" / name / "model.safetensors").read_bytes()))
    return net


def for_use(net: Net, dtype: torch.dtype | None = None) -> Net:
    """The network in the form in which it answers: each normalization is part of its convolution.

    dtype: of its weights and pixels; the fastest that the machine has if not given.
    """
    net = net.float().eval()
    for part in list(net.modules()):
        if isinstance(part, nn.Sequential) and len(part) == 3 and isinstance(part[1], nn.BatchNorm2d):
            part[0], part[1] = fuse_conv_bn_eval(cast(nn.Conv2d, part[0]), part[1]), nn.Identity()
    net = net.to(dtype or fast_dtype(CPU))
    for weight in net.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return net


def padded(rgb: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3), their edges repeated until both sides are multiples of MULTIPLE."""
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), "edge")


@torch.inference_mode()
def probabilities(net: ArtifactNet, rgb: np.ndarray, look: Look) -> np.ndarray:
    """The probability of each of KINDS, float32 (7, ceil(H / 2), ceil(W / 2)), for pixels uint8 (H, W, 3)."""
    height, width = rgb.shape[:2]
    x = network_input(padded(rgb), look).to(fast_dtype(CPU)).contiguous(memory_format=torch.channels_last)
    return torch.softmax(net(x)[0].float(), 0)[:, : -(-height // 2), : -(-width // 2)].numpy()
