"""The levels of a slide in its TIFF file: the page of each, and the tiles that level 0 lacks."""

from __future__ import annotations

from collections.abc import Iterable

from artifusion.geometry import Box, Size
from artifusion.slide import tiff
from artifusion.slide.reader import TIFF_VENDORS, Slide


def level_pages(source: tiff.Tiff, slide: Slide) -> list[int] | None:
    """Return the page of each level, level 0 first; None where the tiled pages are not exactly OpenSlide's levels."""
    sizes = {number: Size(page.number(tiff.WIDTH), page.number(tiff.HEIGHT))
             for number, page in enumerate(source.pages) if page.tiled}
    ordered = sorted(sizes, key=lambda number: (-sizes[number].width * sizes[number].height, number))
    return ordered if [sizes[number] for number in ordered] == list(slide.level_sizes) else None


def missing_tiles(slide: Slide, l0_boxes: Iterable[Box]) -> list[Box]:
    """Return the boxes of the tiles of level 0 that some boxes meet and the file does not hold, in the file's order."""
    if slide.kind != "slide" or slide.vendor not in TIFF_VENDORS:
        return []
    source = tiff.read_tiff(slide.path)
    pages = level_pages(source, slide)
    if pages is None or source.pages[pages[0]].counts.all():
        return []
    page, whole = source.pages[pages[0]], Box(0, 0, *slide.size)
    width, height = page.segment_size
    columns, reached = -(-slide.size.width // width), set[int]()
    for box in (box.intersection(whole) for box in l0_boxes):
        if not box.empty:
            reached.update(row * columns + column for row in range(box.y // height, (box.bottom - 1) // height + 1)
                       for column in range(box.x // width, (box.right - 1) // width + 1))
    return [Box(index % columns * width, index // columns * height, width, height)
            for index in sorted(reached) if not page.counts[index]]
