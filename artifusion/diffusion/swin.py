"""Windows, shifted-window attention with one time token per window, and the Swin block.

Feature maps are (B, H, W, C). The block is timm's `SwinTransformerBlock` plus two things: a time token that
joins every window as an extra key and value, and a depthwise convolution inside the MLP. With the token masked
away and the convolution off, equal weights give equal outputs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def window(x: Tensor, size: int) -> Tensor:
    """Cut a feature map into its windows: (B, H, W, C) -> (B, nW, size * size, C)."""
    return rearrange(x, "b (h i) (w j) c -> b (h w) (i j) c", i=size, j=size)


def unwindow(windows: Tensor, size: int, height: int) -> Tensor:
    """The inverse of `window` for a map of the given height: (B, nW, N, C) -> (B, H, W, C)."""
    return rearrange(windows, "b (h w) (i j) c -> b (h i) (w j) c", i=size, j=size, h=height // size)


def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Which token may see which after a cyclic shift: (nW, N, N) bool, True = the two were neighbours before."""
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)

    def band(position: Tensor, length: int) -> Tensor:
        return (position >= length - size).long() + (position >= length - shift).long()

    zone = band(rows, height)[:, None] * 3 + band(columns, width)[None, :]            # (H, W)
    zones = window(zone[None, :, :, None], size)[0, :, :, 0]                           # (nW, N)
    return zones[:, :, None] == zones[:, None, :]


@lru_cache(maxsize=32)
@torch.inference_mode(False)            # a mask made while painting serves training as well
def shift_penalty(height: int, width: int, size: int, shift: int, keys: int, device: torch.device) -> Tensor:
    """`shift_mask` to be added to the logits of N tokens for `keys` >= N keys: (nW, 1, N, keys) of 0 and -inf.

    Keys beyond the window's own are open to all.
    """
    allowed = shift_mask(height, width, size, shift, device)
    penalty = torch.zeros(allowed.shape, device=device).masked_fill(~allowed, float("-inf"))
    return F.pad(penalty, (0, keys - size**2))[:, None]


def relative_position_index(size: int) -> Tensor:
    """Row of the bias table for every pair of tokens of a window (Liu et al. 2021, section 3.2): (N, N)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    points = torch.stack([rows.flatten(), columns.flatten()])                         # (2, N)
    offset = points[:, :, None] - points[:, None, :] + size - 1                       # (2, N, N)
    return offset[0] * (2 * size - 1) + offset[1]


class WindowAttention(nn.Module):
    """Self-attention within windows; each window's time token is one more key and value (ArtiFusion, eq. 4).

    The token has no position bias, is never masked by the shift, and its own output is not computed.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, window_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window_size), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, tokens: Tensor | None, penalty: Tensor | None) -> Tensor:
        """windows (B, nW, N, C), tokens (B, nW, C) or None, penalty (nW, 1, N, keys) or None -> (B, nW, N, C)."""
        batch, _, count, _ = windows.shape
        bias = self.relative_position_bias_table[self.relative_position_index]        # (N, N, h)
        bias = rearrange(bias, "n m h -> 1 h n m")
        if tokens is not None:
            windows = torch.cat([windows, tokens[:, :, None]], dim=2)                 # (B, nW, N + 1, C)
            bias = F.pad(bias, (0, 1))                                                # (1, h, N, N + 1)
        if penalty is not None:
            bias = (penalty.expand(batch, -1, -1, -1, -1) + bias).flatten(0, 1)       # (B * nW, h, N, keys)
        # four dimensions: with five, scaled_dot_product_attention takes its slow way
        q, k, v = rearrange(self.qkv(windows), "b w n (three h d) -> three (b w) h n d", three=3, h=self.heads)
        out = F.scaled_dot_product_attention(q[:, :, :count], k, v, attn_mask=bias.to(q.dtype))
        return self.proj(rearrange(out, "(b w) h n d -> b w n (h d)", b=batch))


class Mlp(nn.Module):
    """fc1, an optional 3x3 depthwise convolution that carries detail across windows, GELU, fc2."""

    def __init__(self, dim: int, hidden: int, conv: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if conv else None
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:                                           # (B, H, W, C)
        x = self.fc1(x)
        if self.conv is not None:
            x = x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a layer norm and a residual (Liu et al. 2021, eq. 3).

    Args:
        dim: channels.
        heads: attention heads; divides dim.
        window_size: side of a window in tokens; the map's sides are multiples of it.
        shift: cyclic shift in tokens, 0 or window_size // 2. A map of a single window is not shifted.
        mlp_ratio: hidden channels of the MLP over dim.
        mlp_conv: put a depthwise convolution into the MLP.
        time_dim: channels of the window embedding that becomes the time token; 0 = no token.
    """

    def __init__(
        self, dim: int, heads: int, window_size: int, shift: int, mlp_ratio: float, mlp_conv: bool, time_dim: int
    ) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), mlp_conv)
        self.time_token = nn.Sequential(nn.Linear(time_dim, dim), nn.LayerNorm(dim)) if time_dim else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """x (B, H, W, C), time (B, nW, time_dim) for the shifted or unshifted windows of this block."""
        _, height, width, _ = x.shape
        size = self.window_size
        shift = self.shift if min(height, width) > size else 0
        tokens = self.time_token(time) if self.time_token is not None and time is not None else None
        keys = size**2 + (tokens is not None)
        penalty = shift_penalty(height, width, size, shift, keys, x.device) if shift else None
        y = self.norm1(x)
        if shift:
            y = torch.roll(y, (-shift, -shift), dims=(1, 2))
        y = unwindow(self.attn(window(y, size), tokens, penalty), size, height)
        if shift:
            y = torch.roll(y, (shift, shift), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))
