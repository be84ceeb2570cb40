"""Points, sizes and boxes. Points are (x, y) and sizes (width, height); arrays are (row, column).

The frame of a number rides in its name: l0_ is level 0 of the slide, lv_ a reduced level, canvas_ a canvas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

STRIP_PX = 1 << 22                  # of an image, that are worked on at a time, about


class Point(NamedTuple):
    x: int
    y: int


ORIGIN = Point(0, 0)


class Size(NamedTuple):
    width: int
    height: int


def fitted(size: Size, longest: int) -> Size:
    """The size, reduced where its longer side exceeds `longest`, in proportion; no side below 1."""
    ratio = max(1.0, max(size) / longest)
    return Size(max(1, round(size.width / ratio)), max(1, round(size.height / ratio)))


class Box(NamedTuple):
    """Half-open pixel rectangle: x <= column < right, y <= row < bottom."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def from_edges(cls, left: int, top: int, right: int, bottom: int) -> Box:
        return cls(left, top, right - left, bottom - top)

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def expanded(self, px: int) -> Box:
        """This box with px more on every side."""
        return Box(self.x - px, self.y - px, self.width + 2 * px, self.height + 2 * px)

    def intersection(self, other: Box) -> Box:
        """The common part, empty (width or height 0) where there is none."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(left, top, max(0, right - left), max(0, bottom - top))

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box.from_edges(
            min(self.x, other.x),
            min(self.y, other.y),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def overlaps(self, other: Box) -> bool:
        return not self.intersection(other).empty

    def slices(self, origin: Point | Box = ORIGIN) -> tuple[slice, slice]:
        """(rows, columns) of this box in an array whose first pixel lies at `origin`."""
        return (
            slice(self.y - origin.y, self.bottom - origin.y),
            slice(self.x - origin.x, self.right - origin.x),
        )


def strips(shape: tuple[int, ...], around: int = 0) -> Iterator[tuple[slice, slice]]:
    """The rows of an array in strips of about STRIP_PX pixels, and each with up to `around` rows more on both sides."""
    step = max(1, STRIP_PX // max(1, shape[1]))
    for top in range(0, shape[0], step):
        bottom = min(shape[0], top + step)
        yield slice(top, bottom), slice(max(0, top - around), min(shape[0], bottom + around))
