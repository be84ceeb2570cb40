"""The denoiser: a U-shaped Swin Transformer on pixels."""

from __future__ import annotations

import math

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


class PixelBlock(nn.Module):
    """A 3x3 convolution behind a channel norm, with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class SwinStage(nn.Module):
    """Blocks at one level, windows shifted in every second one. Each patch is told its own noise level."""

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

    def forward(self, x: Tensor, time: Tensor, hole: Tensor) -> Tensor:
        """x (B, H, W, C), time (B, H, W, T) embedding of every patch, hole (B, H, W, 1) its noisy share."""
        x = x + self.patch_level(time)
        plain = self._window_time(time, hole, 0)
        shifted = self._window_time(time, hole, self.window_size // 2) if len(self.blocks) > 1 else plain
        for index, block in enumerate(self.blocks):
            x = block(x, shifted if index % 2 and min(x.shape[1:3]) > self.window_size else plain)
        return x

    def _window_time(self, time: Tensor, hole: Tensor, shift: int) -> Tensor:
        """The embedding of each window: the mean over its noisy patches, or over all where none is noisy."""
        if shift:
            time, hole = (torch.roll(t, (-shift, -shift), dims=(1, 2)) for t in (time, hole))
        weight = window(hole + 1e-3, self.window_size)                                # (B, nW, N, 1)
        return (window(time, self.window_size) * weight).sum(2) / weight.sum(2)       # (B, nW, T)


class SwinDenoiser(nn.Module):
    """Velocity (or noise) of a noisy canvas, from its pixels, the noise level of each and the scale.

    A stem and a head of 3x3 convolutions work at half resolution and are joined by a skip, so that detail never
    passes the patches; in between lies a U of Swin stages at 1/4, 1/8, ... of the canvas. Every patch is told its
    own noise level (TD-Paint, Mayet et al. 2024), every window gets one time token (ArtiFusion, Wang et al. 2023).
    With `pixel_dim` 0 there is neither stem nor head: patches of 4 x 4 px in and out, as published.
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
            self.head = nn.Sequential(PixelBlock(pixel), nn.GroupNorm(1, pixel), nn.SiLU(), last, nn.PixelShuffle(2))

    def forward(self, x: Tensor, noise_level: Tensor, hole: Tensor, spacing_um: Tensor) -> Tensor:
        """What `Schedule.target` defines.

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
        times, holes = self._embed_levels(level, hole, spacing_um)
        pixels = torch.cat([x, hole, level], dim=1).contiguous(memory_format=torch.channels_last)
        if self.config.pixel_dim:
            pixels = self.stem(pixels)                                                # (B, pixel_dim, H / 2, W / 2)
        y = self.embed(pixels)                                                        # (B, C, H / 4, W / 4)
        skips = []
        for stage, down, time, share in zip(self.down_stages, self.downs, times, holes, strict=False):
            y = stage(channels_last(y), time, share)
            skips.append(y)
            y = down(channels_first(y))
        y = self.bottom(channels_last(y), times[-1], holes[-1])
        for n in reversed(range(len(self.ups))):
            y = rearrange(self.ups[n](y), "b h w (i j c) -> b (h i) (w j) c", i=2, j=2)
            y = self.joins[n](torch.cat([y, skips[n]], dim=-1))
            y = self.up_stages[n](y, times[n], holes[n])
        side = 2 if self.config.pixel_dim else 4
        y = rearrange(self.unembed(y), "b h w (i j c) -> b c (h i) (w j)", i=side, j=side)
        return self.head(self.head_join(torch.cat([y, pixels], dim=1))).float() if self.config.pixel_dim else y.float()

    def _embed_levels(self, level: Tensor, hole: Tensor, spacing_um: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Per level of the U: every patch's embedding (B, h, w, T) and noisy share (B, h, w, 1)."""
        dim = self.config.time_dim
        scale = fourier(torch.log2(spacing_um / 0.5), dim, 100.0)[:, None, None]      # (B, 1, 1, T)
        times, holes = [], []
        for n in range(len(self.config.dims)):
            patch = F.max_pool2d(level, 4 * 2**n)[:, 0]                               # (B, h, w)
            features = fourier(patch, dim, 1000.0)                                    # (B, h, w, T)
            times.append(self.time(torch.cat([features, scale.expand_as(features)], dim=-1)))
            holes.append(F.avg_pool2d(hole, 4 * 2**n).permute(0, 2, 3, 1))
        return times, holes


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
