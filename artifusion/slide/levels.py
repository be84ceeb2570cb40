"""The levels of a slide in its TIFF file: the page of each, how it is cut, and the tiles that level 0 lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from artifusion.geometry import Box, Size
from artifusion.slide import tiff
from artifusion.slide.reader import TIFF_VENDORS, Slide

SQUARE_PX = 128             # smaller than the tiles of any scanner


@dataclass(frozen=True)
class Grid:
    """How a page is cut into segments: tiles of one size, or strips, of which the last may be lower."""

    size: Size                        # of the page, in its own pixels
    segment: Size
    tiled: bool

    @classmethod
    def of(cls, page: tiff.Page) -> Grid:
        size = Size(page.number(tiff.WIDTH), page.number(tiff.HEIGHT))
        segment = Size(*(max(1, side) for side in page.segment_size))     # a page that tells none holds none
        return cls(size, segment, page.tiled)

    @property
    def columns(self) -> int:
        return -(-self.size.width // self.segment.width)

    @property
    def rows(self) -> int:
        return -(-self.size.height // self.segment.height)

    def box(self, index: int) -> Box:
        """Return the box of a segment's stored pixels; tiles at the right and lower edge reach beyond the page."""
        row, column = divmod(index, self.columns)
        box = Box(column * self.segment.width, row * self.segment.height, *self.segment)
        return box if self.tiled else box.intersection(Box(0, 0, *self.size))

    def over(self, lv_box: Box) -> Iterator[int]:
        """Yield the indices of the segments that a box overlaps, rising."""
        inside = lv_box.intersection(Box(0, 0, *self.size))
        if not inside.empty:
            for row in range(inside.y // self.segment.height, (inside.bottom - 1) // self.segment.height + 1):
                for column in range(inside.x // self.segment.width, (inside.right - 1) // self.segment.width + 1):
                    yield row * self.columns + column


def level_pages(source: tiff.Tiff, slide: Slide) -> list[int] | None:
    """Return the page of each level, level 0 first; None where the tiled pages are not exactly OpenSlide's levels."""
    sizes = {number: Grid.of(page).size for number, page in enumerate(source.pages) if page.tiled}
    ordered = sorted(sizes, key=lambda number: (-sizes[number].width * sizes[number].height, number))
    return ordered if [sizes[number] for number in ordered] == list(slide.level_sizes) else None


def missing_tiles(slide: Slide, l0_boxes: Iterable[Box], is_meant: Callable[[Box], bool]) -> list[Box]:
    """Return the boxes of the tiles of level 0 that some boxes meet, that are meant, and that the file does not hold.

    In the file's order. Where only OpenSlide knows the tiles, those are squares of SQUARE_PX.
    """
    if slide.kind != "slide":
        return []
    if slide.vendor not in TIFF_VENDORS:
        grid, whole = Grid(slide.size, Size(SQUARE_PX, SQUARE_PX), True), Box(0, 0, *slide.size)
        reached = {index for box in l0_boxes for index in grid.over(box)}
        squares = [grid.box(index).intersection(whole) for index in sorted(reached)]
        return [square for square in squares if is_meant(square) and slide.is_missing(square)]
    source = tiff.read_tiff(slide.path)
    pages = level_pages(source, slide)
    if pages is None or source.pages[pages[0]].counts.all():
        return []
    page = source.pages[pages[0]]
    grid = Grid.of(page)
    reached = {index for box in l0_boxes for index in grid.over(box)}
    absent = [grid.box(index) for index in sorted(reached) if not page.counts[index]]
    return [box for box in absent if is_meant(box)]
