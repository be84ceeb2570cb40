"""A canvas relative to its own known tissue: the slide's stain is the origin, whatever the laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_SCALE = 0.2             # of the [-1, 1] range; a canvas whose known pixels are all glass is not blown up
MIN_KNOWN = 16              # known pixels below which the plain range serves
GLASS = 0.75                # [-1, 1]; a pixel whose darkest channel is lighter shows glass
MIN_TISSUE = 0.05           # of the known pixels; with less tissue the glass counts too
ROW = 4096                  # colours of a list that are added up at once
RARE = 0.005                # share of the known pixels that may be darker, or lighter, than all that is painted


@dataclass(frozen=True)
class Frame:
    """Mean colour (B, 3, 1, 1) and one scale (B, 1, 1, 1) per canvas.

    One scale for all channels: equalising them would blow the weakest colour axis, which is mostly noise, up to
    the size of the others. Glass does not count beside tissue: a hole at the edge of a section would be painted pale.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of_known(cls, pixels: Tensor, known: Tensor) -> Frame:
        """The frame of canvases (B, 3, H, W) in [-1, 1] whose known pixels (B, 1, H, W) are 1."""
        known = known.to(pixels.dtype)
        tissue = known * (pixels.amin(1, keepdim=True) < GLASS)                       # (B, 1, H, W)
        share = total(tissue) / total(known).clamp(min=1)
        known = torch.where(share >= MIN_TISSUE, tissue, known)
        count = total(known)                                                          # (B, 1, 1, 1)
        enough = count >= MIN_KNOWN
        count = count.clamp(min=1)
        mean = total(pixels * known) / count                                          # (B, 3, 1, 1)
        variance = total((pixels - mean).square() * known).sum(1, keepdim=True) / (3 * count)
        return cls(
            torch.where(enough, mean, 0.0),
            torch.where(enough, variance.sqrt().clamp(min=MIN_SCALE), 0.5),
        )

    @classmethod
    def of_colours(cls, colours: Sequence[Tensor]) -> Frame:
        """The frame of canvases whose known pixels are given as lists of colours: (3, N) for each canvas."""
        rest = [-known.shape[1] % ROW for known in colours]
        frames = [cls.of_known(F.pad(known, (0, more)).view(1, 3, -1, ROW),
                               F.pad(torch.ones(known.shape[1]), (0, more)).view(1, 1, -1, ROW))
                  for known, more in zip(colours, rest, strict=True)]
        return cls(torch.cat([frame.mean for frame in frames]), torch.cat([frame.scale for frame in frames]))

    def to(self, device: torch.device) -> Frame:
        return Frame(self.mean.to(device), self.scale.to(device))

    def enter(self, pixels: Tensor) -> Tensor:
        """[-1, 1] -> the frame."""
        return (pixels - self.mean) / self.scale

    def leave(self, x: Tensor) -> Tensor:
        """The frame -> [-1, 1]."""
        return x * self.scale + self.mean


def total(pixels: Tensor) -> Tensor:
    """The sum over an image's pixels, (B, C, H, W) -> (B, C, 1, 1): row by row, one thread each. A sum to one number
    would be taken in as many parts as there are threads, and round as they fall."""
    return pixels.contiguous().sum(3, keepdim=True).sum(2, keepdim=True)


def colour_range(colours: Tensor) -> Tensor:
    """Darkest and lightest value of each channel of known pixels (3, N), without the RARE ones: (2, 3, 1, 1).

    Nothing is painted darker or lighter than the tissue around it. Fewer than MIN_KNOWN pixels limit nothing.
    """
    if colours.shape[1] < MIN_KNOWN:
        return torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    ordered, rare = colours.sort(dim=1).values, int(RARE * colours.shape[1])
    return torch.stack([ordered[:, rare], ordered[:, -1 - rare]])[..., None, None]
