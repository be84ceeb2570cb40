"""Denoisers that differ from `SwinDenoiser` in one choice that its configuration does not express."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifusion.config import DenoiserConfig
from artifusion.diffusion.denoiser import SwinDenoiser, SwinStage
from artifusion.diffusion.swin import SwinBlock, unwindow


class Nothing(nn.Module):
    """Zeros in place of what a linear layer makes of `out_features` channels."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, embedding: Tensor) -> Tensor:                                   # (B, K, T) -> (B, K, C)
        return embedding.new_zeros(*embedding.shape[:-1], self.out_features)


class LevelHidden(nn.Module):
    """The stem's input without its last channel, the level of every pixel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([pixels[:, :-1], torch.zeros_like(pixels[:, -1:])], dim=1)


class TokenAlone(SwinDenoiser):
    """Each window's time token is all that tells the noise level, as published; the hole is still seen."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        self.stem = nn.Sequential(LevelHidden(), *self.stem)
        for stage in stages(self):
            stage.patch_level = Nothing(stage.patch_level.out_features)


class AdaptiveNorm(nn.LayerNorm):
    """A layer norm whose outcome is scaled and shifted by what `place` holds, (B, H, W, C) each."""

    place: tuple[Tensor, Tensor]

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.place
        return super().forward(x) * (1 + scale) + shift


class AdaptiveBlock(SwinBlock):
    """A Swin block told of the noise not by a token but by its layer norms, which each window's embedding scales and
    shifts (Peebles & Xie 2023, without gates)."""

    def __init__(self, config: DenoiserConfig, level: int, shift: int) -> None:
        dim = config.dims[level]
        super().__init__(dim, config.heads[level], config.window_sizes[level], shift, config.mlp_ratio,
                         config.mlp_conv, time_dim=0)
        self.norm1, self.norm2 = (AdaptiveNorm(dim, elementwise_affine=False) for _ in range(2))
        self.modulation = nn.Linear(config.time_dim, 4 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift = self.shift if min(x.shape[1:3]) > self.window_size else 0
        windows = self.modulation(time)[:, :, None].expand(-1, -1, self.window_size**2, -1)       # (B, nW, N, 4 C)
        places = unwindow(windows, self.window_size, x.shape[1])
        if shift:
            places = torch.roll(places, (shift, shift), dims=(1, 2))
        first, second, third, fourth = places.chunk(4, dim=-1)                                    # (B, H, W, C) each
        self.norm1.place, self.norm2.place = (first, second), (third, fourth)
        return super().forward(x, None)


class AdaptiveNorms(SwinDenoiser):
    """Ours, with adaptive layer norms in place of the time tokens; each patch is still told its own level."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        for stage in stages(self):
            level = config.dims.index(stage.patch_level.out_features)
            stage.blocks = nn.ModuleList(AdaptiveBlock(config, level, block.shift) for block in stage.blocks)


class Convolution(nn.Linear):
    """A 3x3 convolution whose filters are one matrix, so that Muon learns them as it does the Swin's matrices."""

    def __init__(self, dim: int) -> None:
        super().__init__(9 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:                                           # (B, C, H, W)
        filters = self.weight.view(-1, 3, 3, x.shape[1]).permute(0, 3, 1, 2)          # channels last, as x
        return F.conv2d(x, filters, self.bias, padding=1)


class ConvolutionalBlock(nn.Module):
    """The residual block of a diffusion U-Net (Ho et al. 2020, appendix B), told the mean level of the holes."""

    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(8, dim) for _ in range(2))
        self.conv1, self.conv2 = (Convolution(dim) for _ in range(2))
        self.time = nn.Linear(time_dim, dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = x.permute(0, 3, 1, 2)                                                     # (B, C, H, W)
        y = self.conv1(F.silu(self.norm1(y))) + self.time(time.mean(1))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(y))).permute(0, 2, 3, 1)


class ConvolutionalUNet(SwinDenoiser):
    """Ours, with convolutional blocks in place of the Swin blocks: the same U, stem, head and level per patch."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        for stage in stages(self):
            dim = stage.patch_level.out_features
            stage.blocks = nn.ModuleList(ConvolutionalBlock(dim, config.time_dim) for _ in stage.blocks)


class ConvolutionalTop(SwinDenoiser):
    """Ours, with convolutional blocks at 1/4 of the canvas alone; Swin blocks with time tokens from 1/8 on."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        for stage in (self.down_stages[0], self.up_stages[0]):
            stage.blocks = nn.ModuleList(ConvolutionalBlock(config.dims[0], config.time_dim) for _ in stage.blocks)


class ShiftedConvolution(nn.Conv2d):
    """A depthwise convolution half of whose channels look elsewhere, each at its place of a grid over the whole map
    (global receptive convolution, Deng et al. 2023, arXiv 2303.04589); it has no more parameters."""

    GRID = 4                # places along each side

    def forward(self, x: Tensor) -> Tensor:                                           # (B, C, H, W)
        shifted, kept = x.split([x.shape[1] // 2, x.shape[1] - x.shape[1] // 2], dim=1)
        parts = shifted.tensor_split(self.GRID**2, dim=1)
        steps = x.shape[2] // self.GRID, x.shape[3] // self.GRID
        places = [(row * steps[0], column * steps[1]) for row in range(self.GRID) for column in range(self.GRID)]
        rolled = [torch.roll(part, place, dims=(2, 3)) for part, place in zip(parts, places, strict=True)]
        return super().forward(torch.cat([*rolled, kept], dim=1))


class ShiftedGrid(SwinDenoiser):
    """Ours, with shifted convolutions in the MLPs."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        for stage in stages(self):
            for block in stage.blocks:
                hidden = block.mlp.fc1.out_features
                block.mlp.conv = ShiftedConvolution(hidden, hidden, 3, padding=1, groups=hidden)


def stages(denoiser: SwinDenoiser) -> list[SwinStage]:
    return [module for module in denoiser.modules() if isinstance(module, SwinStage)]
