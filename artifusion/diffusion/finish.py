"""The end of a restoration: painted pixels become as sharp and as noisy as the known ones around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from artifusion.diffusion.frame import total

SIGMAS_PX = (0.6, 1.2)      # of the blurs between which the fine bands of the spectrum lie
RING_PX = 24                # around what is painted: known pixels that tell how strong each band is
GAINS = (0.4, 1.3)          # by which a band is weakened or strengthened at most
LEAST_RING = 256            # known pixels; fewer tell nothing


def match_fine_bands(pixels: Tensor, painted: Tensor) -> Tensor:
    """Images (B, C, H, W) whose painted pixels, (B, 1, H, W) 1, have the energy of their surroundings in fine bands.

    A walk that ends leaves fine noise where the scan is smooth, or is smooth where the scan is noisy. Each band is
    scaled by one number per image. Known pixels stay.
    """
    side = 2 * RING_PX + 1
    across = F.max_pool2d(painted, (1, side), stride=1, padding=(0, RING_PX))
    ring = F.max_pool2d(across, (side, 1), stride=1, padding=(RING_PX, 0)) * (1 - painted)
    enough = total(ring) >= LEAST_RING
    fine, result = pixels, pixels
    for sigma in SIGMAS_PX:
        coarse = blurred(pixels, sigma)
        band = fine - coarse
        gain = (energy(band, ring) / energy(band, painted).clamp(min=1e-12)).sqrt().clamp(*GAINS)
        result = result + torch.where(enough, gain - 1, 0.0) * band * painted
        fine = coarse
    return result


def energy(band: Tensor, where: Tensor) -> Tensor:
    """Mean square of a band over some of its pixels: (B, 1, 1, 1)."""
    return total(band.square().mean(1, keepdim=True) * where) / total(where).clamp(min=1)


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) under a Gaussian; edges are mirrored."""
    radius = int(3 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    weights = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (weights / weights.sum()).view(1, 1, 1, -1).expand(pixels.shape[1], 1, 1, -1)
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel, groups=pixels.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=pixels.shape[1])
