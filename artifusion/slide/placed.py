"""A piece of a slide as it comes to lie elsewhere: turned, and moved in tone.

Grafting lays these pixels and `verify` computes them again. Tone is sums and products of single float32 numbers, which
round alike on every machine.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import Box, Point
from artifusion.slide.reader import Slide

UNIT = np.float32(0.2)              # grey levels of one step of a tone
SPAN = 35                           # grey levels below the glass from which on a pixel is tissue alone


@dataclass(frozen=True)
class Tone:
    """By how much the colours of a piece are moved: by a smooth field where it is tissue, by one shift where glass.

    Attributes:
        cell_px: side of the squares of pixels for each of which the field has one shift.
        rows: how many rows of squares cover the piece.
        field: int8 (rows, columns, 3) in UNIT; between the middles of squares it is linear.
        glass: in UNIT, of each channel.
        lightest: darkest channel from which on a pixel is glass alone.
    """

    cell_px: int
    rows: int
    field: bytes
    glass: tuple[int, int, int]
    lightest: int

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 (H, W, 3) moved by the tone: uint8 (H, W, 3)."""
        shift = np.frombuffer(self.field, np.int8).reshape(self.rows, -1, 3).astype(np.float32)
        for axis in (1, 0):
            shift = stretched(shift, axis, pixels.shape[axis], self.cell_px)                     # (H, W, 3)
        darkest = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2]).astype(np.float32)
        tissue = ((self.lightest - darkest) / np.float32(SPAN)).clip(0, 1)[..., None]            # (H, W, 1)
        glass = np.array(self.glass, np.float32)
        shift -= glass
        shift *= tissue
        shift += glass
        shift *= UNIT
        shift += pixels
        return np.rint(shift, out=shift).clip(0, 255, out=shift).astype(np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """The tone for JSON; the field as base64 of its deflated bytes."""
        return {"cell_px": self.cell_px, "rows": self.rows, "field": b64encode(zlib.compress(self.field, 9)).decode(),
                "glass": list(self.glass), "lightest": self.lightest}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Tone:
        """The inverse of `to_dict`. Raises KeyError, TypeError, ValueError or zlib.error for anything else."""
        red, green, blue = held["glass"]
        return cls(held["cell_px"], held["rows"], zlib.decompress(b64decode(held["field"])), (red, green, blue),
                   held["lightest"])


def placed(slide: Slide, l0_box: Box, orientation: int, tone: Tone | None) -> np.ndarray:
    """The pixels of a box of the slide as they lie elsewhere, uint8 (H, W, 3)."""
    pixels = unoriented(slide.read(l0_box), orientation)
    return pixels if tone is None else tone.applied(pixels)


def oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) turned by `orientation` % 4 quarters, and mirrored for 4 to 7."""
    values = np.rot90(values, orientation % 4)
    return np.ascontiguousarray(values[:, ::-1] if orientation >= 4 else values)


def unoriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `oriented`."""
    values = values[:, ::-1] if orientation >= 4 else values
    return np.ascontiguousarray(np.rot90(values, -(orientation % 4)))


def turned(down: int, right: int, orientation: int) -> Point:
    """A shift where a piece lies in an orientation, as one on the slide it comes from."""
    for _ in range(orientation % 4):
        down, right = -right, down
    return Point(-right if orientation >= 4 else right, down)


def origin_of(outline: BaseGeometry, l0_box: Box, donor: Box, orientation: int) -> BaseGeometry:
    """Where on the slide the pixels inside an outline come from: those of `l0_box` are those of the box `donor`."""
    right, down = turned(0, 1, orientation), turned(1, 0, orientation)
    corner = Point(*(min(0, each[0] * l0_box.width) + min(0, each[1] * l0_box.height)
                     for each in zip(right, down, strict=True)))                # of the box, turned about its own
    away = (donor[at] - corner[at] - right[at] * l0_box.x - down[at] * l0_box.y for at in (0, 1))
    return affine_transform(outline, [right.x, down.x, right.y, down.y, *away])


def stretched(values: np.ndarray, axis: int, length: int, cell_px: int) -> np.ndarray:
    """Values of cells along an axis as those of `length` pixels, linear between the middles of cells: float32."""
    at = ((np.arange(length) + 0.5) / cell_px - 0.5).clip(0, values.shape[axis] - 1)
    lower = np.minimum(at.astype(np.int64), max(0, values.shape[axis] - 2))
    share = (at - lower).astype(np.float32).reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    below = values.take(lower, axis)
    above = values.take(np.minimum(lower + 1, values.shape[axis] - 1), axis)
    above -= below
    above *= share
    above += below
    return above
