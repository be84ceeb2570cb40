"""A canvas relative to its own known pixels: the slide's stain is the origin, whatever the laboratory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SCALE = 0.2             # of the [-1, 1] range; a canvas whose known pixels are all glass is not blown up
MIN_KNOWN = 16              # known pixels below which the plain range serves


@dataclass(frozen=True)
class Frame:
    """Mean colour (B, 3, 1, 1) and one scale (B, 1, 1, 1) per canvas.

    One scale for all channels: equalising them would blow the weakest colour axis, which is mostly noise, up to
    the size of the others.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of_known(cls, pixels: Tensor, known: Tensor) -> Frame:
        """The frame of canvases (B, 3, H, W) in [-1, 1] whose known pixels (B, 1, H, W) are 1."""
        known = known.to(pixels.dtype)
        count = known.sum((2, 3), keepdim=True)                                       # (B, 1, 1, 1)
        enough = count >= MIN_KNOWN
        count = count.clamp(min=1)
        mean = (pixels * known).sum((2, 3), keepdim=True) / count                     # (B, 3, 1, 1)
        variance = ((pixels - mean).square() * known).sum((1, 2, 3), keepdim=True) / (3 * count)
        return cls(
            torch.where(enough, mean, 0.0),
            torch.where(enough, variance.sqrt().clamp(min=MIN_SCALE), 0.5),
        )

    def enter(self, pixels: Tensor) -> Tensor:
        """[-1, 1] -> the frame."""
        return (pixels - self.mean) / self.scale

    def leave(self, x: Tensor) -> Tensor:
        """The frame -> [-1, 1]."""
        return x * self.scale + self.mean
