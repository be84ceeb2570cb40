"""The end of a restoration: painted pixels become as sharp and noisy as the known ones around them, and meet them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from artifusion.diffusion.frame import total

SIGMAS_PX = (0.6, 1.2, 2.4, 4.8)    # of the blurs between which the fine bands of the spectrum lie
RING_PX = 24                # around what is painted: known pixels that tell how strong each band is
GAINS = (0.4, 2.0)          # by which a band is weakened or strengthened at most
LEAST_RING = 256            # known pixels; fewer tell nothing


def match_fine_bands(pixels: Tensor, painted: Tensor) -> Tensor:
    """Images (B, C, H, W) whose painted pixels, (B, 1, H, W) 1, have the energy of their surroundings in fine bands.

    A short walk leaves too little detail, and noise where the scan is smooth. Each band is scaled by one number per
    image. Known pixels stay.
    """
    ring, enough = ring_around(painted)
    fine, result = pixels, pixels
    for sigma in SIGMAS_PX:
        coarse = blurred(pixels, sigma)
        band = fine - coarse
        usual, found = (mean_over(band.square(), where) for where in (ring, painted))
        gain = (usual / found.clamp(min=1e-12)).sqrt().clamp(*GAINS)
        result = result + torch.where(enough, gain - 1, 0.0) * band * painted
        fine = coarse
    return result


def match_steps(pixels: Tensor, painted: Tensor) -> Tensor:
    """Images (B, C, H, W) that step from known to painted pixels, (B, 1, H, W) 1, as much as elsewhere around.

    A walk does not quite go on from the pixels beside it, which shows as an outline. The pixels there are moved towards
    their known neighbours, by one share per image: that of mean sizes, since squares, in tissue, come from few large
    steps. Known pixels stay.
    """
    ring, enough = ring_around(painted)
    height, width = pixels.shape[2:]
    whole = F.pad(torch.cat([pixels, 1 - painted], 1), (1, 1, 1, 1))
    beside = torch.stack([whole[..., y : y + height, x : x + width] for x, y in ((0, 1), (2, 1), (1, 0), (1, 2))], 2)
    steps, known = beside[:, :-1] - pixels[:, :, None], beside[:, -1:]                # (B, C or 1, 4, H, W)
    outline = known * painted[:, :, None]
    usual, found = (mean_over(steps.abs().flatten(2, 3), where.flatten(2, 3))
                    for where in (known * ring[:, :, None], outline))
    share = torch.where(enough, 1 - usual / found.clamp(min=1e-6), 0.0).clamp(min=0)
    return pixels + share * (steps * outline).sum(2) / outline.sum(2).clamp(min=1)


def ring_around(painted: Tensor) -> tuple[Tensor, Tensor]:
    """The known pixels around painted ones, (B, 1, H, W) 1, and whether they are enough to tell (B, 1, 1, 1)."""
    side = 2 * RING_PX + 1
    across = F.max_pool2d(painted, (1, side), stride=1, padding=(0, RING_PX))
    ring = F.max_pool2d(across, (side, 1), stride=1, padding=(RING_PX, 0)) * (1 - painted)
    return ring, total(ring) >= LEAST_RING


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Mean of values (B, C, H, W) over some of the pixels, (B, 1, H, W) 1: (B, 1, 1, 1)."""
    return total(values.mean(1, keepdim=True) * where) / total(where).clamp(min=1)


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) under a Gaussian; edges are mirrored."""
    radius = int(3 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    weights = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (weights / weights.sum()).view(1, 1, 1, -1).expand(pixels.shape[1], 1, 1, -1)
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel, groups=pixels.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=pixels.shape[1])
