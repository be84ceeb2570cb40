"""Canvases larger than the denoiser sees at once: overlapping views, their predictions blended at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from artifusion.diffusion.sampling import Denoise


def in_views(denoise: Denoise, largest_px: int, overlap_px: int, multiple: int) -> Denoise:
    """`denoise` for canvases of any size, evaluated on views of at most largest_px a side.

    Views overlap by overlap_px or more; where they do, their predictions are averaged with weights that fall to the
    views' edges, so that all views work on one picture and none ends at a joint (MultiDiffusion, Bar-Tal et al. 2023,
    eq. 5). A view without a noisy pixel is left out. Memory: one view of each canvas, and two images of the batch.
    """

    def blended(x: Tensor, level: Tensor) -> Tensor:
        rows, columns = (spans(side, largest_px, overlap_px, multiple) for side in x.shape[2:])
        if len(rows) == len(columns) == 1:
            return denoise(x, level)
        total, weight = torch.zeros_like(x), x.new_zeros(1, 1, *x.shape[2:])
        for row in rows:
            for column in columns:
                if level[..., row, column].any():
                    part = (_ramp(row, overlap_px)[:, None] * _ramp(column, overlap_px)).to(x.device)      # (h, w)
                    total[..., row, column] += part * denoise(x[..., row, column], level[..., row, column])
                    weight[..., row, column] += part
        return total / weight.clamp(min=1e-6)

    return blended


def spans(length: int, largest_px: int, overlap_px: int, multiple: int) -> list[slice]:
    """The fewest views along a side, of one length, a multiple of `multiple`, that cover it and overlap.

    Where not even the smallest view stays within largest_px, it is taken.
    """
    largest_px = max(multiple, largest_px - largest_px % multiple)
    if length <= largest_px:
        return [slice(0, length)]
    count = -(-(length - overlap_px) // (largest_px - overlap_px))
    view = -(-(length + (count - 1) * overlap_px) // count)
    view += -view % multiple
    starts = [round(index * (length - view) / (count - 1)) for index in range(count)]
    return [slice(start, start + view) for start in starts]


def _ramp(span: slice, overlap_px: int) -> Tensor:
    """Weights along a view: rising from its edges over the overlap to 1."""
    place = torch.arange(span.stop - span.start)
    return torch.minimum(place + 1, place.flip(0) + 1).clamp(max=overlap_px) / overlap_px
