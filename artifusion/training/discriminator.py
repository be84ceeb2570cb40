"""The network that compares painted tissue with the tissue that was in its place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normed(x: Tensor) -> Tensor:
    """Channels over their root mean square at every place. Batch or group norms let the discriminator die."""
    return x * (x.float().square().mean(1, keepdim=True) + 1e-4).rsqrt().to(x.dtype)


def active(x: Tensor) -> Tensor:
    return F.leaky_relu(normed(x), 0.2)


class ResidualConv(nn.Module):
    """A 3x3 convolution with a residual, behind an activation."""

    def __init__(self, dim: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(active(x) if self.norm else F.leaky_relu(x, 0.2))


class Discriminator(nn.Module):
    """How real the hole of a crop looks, on grids of 4 px (each place sees some 30 px) and of 8 px (some 80)."""

    def __init__(self, dims: tuple[int, int, int, int] = (24, 48, 96, 160)) -> None:
        super().__init__()
        full, half, quarter, eighth = dims
        self.stem = nn.Conv2d(5, full, 3, padding=1)
        self.to_half = nn.Sequential(nn.Conv2d(full, half, 4, 2, 1), ResidualConv(half, norm=False))
        self.to_quarter = nn.Sequential(nn.Conv2d(half, quarter, 4, 2, 1), ResidualConv(quarter))
        self.to_eighth = nn.Sequential(nn.Conv2d(quarter, eighth, 4, 2, 1), ResidualConv(eighth), ResidualConv(eighth))
        self.fine, self.coarse = nn.Conv2d(quarter, 1, 1), nn.Conv2d(eighth, 1, 1)

    def forward(self, x: Tensor, hole: Tensor, noise_sd: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, H / 4, W / 4) and (B, 1, H / 8, W / 8) of crops (B, 3, H, W) with noise of `noise_sd` (B,)."""
        x = torch.cat([x, hole, noise_sd.view(-1, 1, 1, 1).expand_as(hole)], 1)
        x = self.to_half(F.leaky_relu(self.stem(x.contiguous(memory_format=torch.channels_last)), 0.2))
        x = self.to_quarter(F.leaky_relu(x, 0.2))
        fine = self.fine(active(x))
        return fine.float(), self.coarse(active(self.to_eighth(active(x)))).float()
