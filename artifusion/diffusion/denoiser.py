"""The denoiser: a U-shaped Swin Transformer on pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from artifusion.config import DenoiserConfig
from artifusion.diffusion.swin import SwinBlock, window


def fourier(value: Tensor, dim: int, period: float) -> Tensor:
    """Sinusoidal features of a number (Vaswani et al. 2017, section 3.5), scaled so that 1 lies `period` steps
    from 0: (...) -> (..., dim)."""
    rate = torch.exp(torch.arange(dim // 2, device=value.device) * (-math.log(10_000.0) / (dim // 2)))
    angle = value[..., None].float() * period * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class PatchLevels:
    """The noise level of every patch of a map, out of the K levels that occur on its canvas.

    embedding: (B, K, T) of each level. which: (B, H, W, K) 1 for the level of a patch, 0 for the others.
    share: (B, H, W, 1) of a patch's pixels that are noisy.
    """

    embedding: Tensor
    which: Tensor
    share: Tensor

    def of_windows(self, size: int, shift: int) -> Tensor:
        """The embedding of each window: the mean over its noisy patches, or over all where none is noisy (B, nW, T)."""
        weight = self.which * (self.share + 1e-3)                                     # (B, H, W, K)
        if shift:
            weight = torch.roll(weight, (-shift, -shift), dims=(1, 2))
        weight = window(weight, size).sum(2)                                          # (B, nW, K)
        return weight / weight.sum(2, keepdim=True) @ self.embedding


class ChannelNorm(nn.GroupNorm):
    """A group norm over all channels. Where it paints on a CPU, the number of threads does not change its result:
    torch's own kernel adds up as many parts as there are threads."""

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)

    def forward(self, x: Tensor) -> Tensor:                                           # (B, C, H, W)
        if x.requires_grad or x.device.type != "cpu":
            return super().forward(x)
        rows = channels_last(x).flatten(2).float()                                    # (B, H, W * C), one thread each
        count = rows[0].numel()
        mean = rows.sum(2).sum(1, keepdim=True) / count                               # (B, 1)
        square = torch.linalg.vector_norm(rows, dim=2).square().sum(1, keepdim=True) / count
        scale = (square - mean.square() + self.eps).clamp(min=self.eps).rsqrt() * self.weight         # (B, C)
        return torch.addcmul((self.bias - mean * scale)[..., None, None], x, scale[..., None, None]).to(x.dtype)


class PixelBlock(nn.Module):
    """A 3x3 convolution behind a channel norm, with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x), inplace=True))


class SwinStage(nn.Module):
    """Blocks at one level of the U, windows shifted in every second one. Each patch gets its noise level added."""

    def __init__(self, config: DenoiserConfig, level: int) -> None:
        super().__init__()
        dim, size = config.dims[level], config.window_sizes[level]
        self.window_size = size
        self.patch_level = nn.Linear(config.time_dim, dim)
        self.blocks = nn.ModuleList(
            SwinBlock(
                dim,
                config.heads[level],
                size,
                shift=size // 2 if index % 2 else 0,
                mlp_ratio=config.mlp_ratio,
                mlp_conv=config.mlp_conv,
                time_dim=config.time_dim,
            )
            for index in range(config.depths[level])
        )

    def forward(self, x: Tensor, levels: PatchLevels) -> Tensor:                      # (B, H, W, C)
        embedded = levels.which.flatten(1, 2) @ self.patch_level(levels.embedding)    # (B, H * W, C)
        x = x + embedded.view(x.shape)
        size, one_window = self.window_size, min(x.shape[1:3]) <= self.window_size
        shifts = [0] if one_window or len(self.blocks) == 1 else [0, size // 2]
        times = [levels.of_windows(size, shift) for shift in shifts]
        for index, block in enumerate(self.blocks):
            x = block(x, times[index % len(times)])
        return x


class SwinDenoiser(nn.Module):
    """Predicts the velocity (or noise) of a noisy canvas from its pixels, their noise levels and the scale.

    A stem and a head of 3x3 convolutions work at half resolution. A skip joins them, so that detail need not pass
    through the patches. Between them is a U of Swin stages at 1/4, 1/8, ... of the canvas. Every patch gets its own
    noise level (TD-Paint, Mayet et al. 2024), every window one time token (ArtiFusion, Wang et al. 2023).
    With `pixel_dim` 0 the network has neither stem nor head: it takes and returns patches of 4 x 4 px, as published.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        pixel, dims, top = config.pixel_dim, config.dims, len(config.dims) - 1
        self.multiple = config.multiple
        self.time = nn.Sequential(nn.Linear(2 * config.time_dim, config.time_dim), nn.SiLU())
        if pixel:
            self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(20, pixel, 3, padding=1), PixelBlock(pixel))
            self.embed = nn.Conv2d(pixel, dims[0], 2, stride=2)
        else:
            self.embed = nn.Conv2d(5, dims[0], 4, stride=4)
        self.down_stages = nn.ModuleList(SwinStage(config, n) for n in range(top))
        self.downs = nn.ModuleList(nn.Conv2d(dims[n], dims[n + 1], 2, stride=2) for n in range(top))
        self.bottom = SwinStage(config, top)
        self.ups = nn.ModuleList(nn.Linear(dims[n + 1], 4 * dims[n]) for n in range(top))
        self.joins = nn.ModuleList(nn.Linear(2 * dims[n], dims[n]) for n in range(top))
        self.up_stages = nn.ModuleList(SwinStage(config, n) for n in range(top))
        last: nn.Conv2d | nn.Linear = nn.Conv2d(pixel, 12, 3, padding=1) if pixel else nn.Linear(dims[0], 48)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.unembed = nn.Sequential(nn.LayerNorm(dims[0]), nn.Linear(dims[0], 4 * pixel) if pixel else last)
        if pixel:
            self.head_join = nn.Conv2d(2 * pixel, pixel, 1)
            self.head = nn.Sequential(PixelBlock(pixel), ChannelNorm(pixel), nn.SiLU(), last, nn.PixelShuffle(2))

    def forward(self, x: Tensor, noise_level: Tensor, hole: Tensor, spacing_um: Tensor) -> Tensor:
        """A prediction of what `Schedule.target` defines.

        Args:
            x: (B, 3, H, W) canvas relative to its known pixels, noisy in the hole; sides multiples of `multiple`.
            noise_level: (B,) one level in [0, 1] for the hole of each canvas, or a map (B, 1, H, W).
            hole: (B, 1, H, W) 1 where a pixel is noisy, 0 where it is known.
            spacing_um: (B,) um per pixel.

        Returns:
            (B, 3, H, W) float32; meaningful where `hole` is 1.
        """
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(f"canvas sides must be multiples of {self.multiple}, got {tuple(x.shape[-2:])}")
        hole = hole.to(x.dtype)
        level = noise_level.view(-1, 1, 1, 1) * hole if noise_level.ndim == 1 else noise_level * hole
        levels = self._patch_levels(level, hole, spacing_um)
        pixels = torch.cat([x, hole, level], dim=1).contiguous(memory_format=torch.channels_last)
        if self.config.pixel_dim:
            pixels = self.stem(pixels)                                                # (B, pixel_dim, H / 2, W / 2)
        y = self.embed(pixels)                                                        # (B, C, H / 4, W / 4)
        y = self._from_level(0, channels_last(y), levels)
        side = 2 if self.config.pixel_dim else 4
        y = rearrange(self.unembed(y), "b h w (i j c) -> b (h i) (w j) c", i=side, j=side)
        if not self.config.pixel_dim:
            return channels_first(y).float()
        y, join = torch.cat([y, channels_last(pixels)], dim=-1), self.head_join
        y = F.linear(y, join.weight.flatten(1), join.bias)      # a 1x1 convolution; conv2d is slow at it on one core
        return self.head(channels_first(y)).float()

    def _from_level(self, n: int, y: Tensor, levels: list[PatchLevels]) -> Tensor:
        """Level n of the U and the levels below it: (B, H, W, C) -> (B, H, W, C)."""
        if n == len(self.downs):
            return self.bottom(y, levels[n])
        skip = self.down_stages[n](y, levels[n])
        y = channels_last(self.downs[n](channels_first(skip)))
        y = self.ups[n](self._from_level(n + 1, y, levels))
        y = rearrange(y, "b h w (i j c) -> b (h i) (w j) c", i=2, j=2)
        y = self.joins[n](torch.cat([y, skip], dim=-1))
        return self.up_stages[n](y, levels[n])

    def _patch_levels(self, level: Tensor, hole: Tensor, spacing_um: Tensor) -> list[PatchLevels]:
        """The patches' levels for each level of the U; a patch has the highest noise level of its pixels."""
        dim, batch = self.config.time_dim, len(level)
        patches = F.max_pool2d(level, 4)                                              # (B, 1, H / 4, W / 4)
        ordered, order = patches.flatten(1).sort(dim=1)
        rank = F.pad((ordered.diff(dim=1) > 0).long().cumsum(1), (1, 0))              # of each patch's level, from 0
        count = int(rank.max()) + 1
        occurring = level.new_zeros(batch, count).scatter_(1, rank, ordered)          # (B, K)
        row = torch.empty_like(ordered).scatter_(1, order, rank.to(ordered.dtype)).view_as(patches)
        scale = fourier(torch.log2(spacing_um / 0.5), dim, 100.0)[:, None].expand(-1, count, -1)
        embedding = self.time(torch.cat([fourier(occurring, dim, 1000.0), scale], dim=-1))      # (B, K, T)
        return [
            PatchLevels(
                embedding,
                F.one_hot(F.max_pool2d(row, 2**n)[:, 0].long(), count).to(embedding.dtype),
                channels_last(F.avg_pool2d(hole, 4 * 2**n)),
            )
            for n in range(len(self.config.dims))
        ]


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
