"""Looks over all that writing a restored slide will read, before work begins: what is damaged is found now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from artifusion.ahead import ahead
from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output.container import (
    THUMBNAIL,
    container_of,
    generic_pyramid,
    restored_pages,
    segment_reason,
)
from artifusion.output.pyramid import missing_below
from artifusion.output.stored import StoredPage, masked_segments, touched_segments
from artifusion.slide import tiff
from artifusion.slide.levels import Grid
from artifusion.slide.reader import Slide
from artifusion.slide.whole import lacking

LOOKED_AHEAD = 8                     # segments or boxes that are read while the ones before them are
BOX_PX = 1024                        # side of the boxes that are read where everything is encoded anew


def look_over(slide: Slide, mask: Mask, out: Path, l0_boxes: Sequence[Box] = ()) -> int:
    """Return how many touched segments cannot be written in their own form and will be encoded whole.

    Every touched segment of every level is decoded, and every other one from which a level is built or that is
    encoded anew. The thumbnail is left out: where it cannot be restored it stays, and the report says so.

    Args:
        l0_boxes: what else will be read of level 0.

    Raises:
        SlideError: one is damaged; with the file and the place.
        OutputError: a suffix that does not fit the source.
    """
    container, _ = container_of(slide, out)
    if container == "image":
        return 0
    if container == "re-encoded":
        _total(lambda box: len(slide.read(box)), _boxes(slide.size))
        return 0
    source, whole = tiff.read_tiff(slide.path), 0
    built_from = _built_from(slide) if container == "pyramid" else set()
    with slide.path.open("rb") as file:
        for number, name in restored_pages(slide, container).items():
            if name != THUMBNAIL:
                stored = StoredPage(file, source.pages[number], name)
                if number in built_from or _lengths_will_count(stored, mask):
                    _decode(stored, range(len(stored.page.offsets)))
                elif stored.grid.size == slide.size:
                    _decode(stored, sorted({index for box in l0_boxes for index in stored.grid.over(box)}))
                whole += _look_at(stored, mask)
    _total(lambda box: len(slide.read(box)), l0_boxes)      # as painting will: OpenSlide refuses what we would decode
    return whole


def why_stale(slide: Slide, page: tiff.Page, mask: Mask) -> str:
    """Return why a slide's thumbnail cannot be restored; empty where it can."""
    size, missing = Grid.of(page).size, lacking(page)
    if missing:
        return missing
    if abs(size.width * slide.size.height / (size.height * slide.size.width) - 1) > 0.02:
        return "shows another area than level 0"
    with slide.path.open("rb") as file:
        try:
            return segment_reason(file, page) or (
                "holds segments of several kinds" if _look_at(StoredPage(file, page, THUMBNAIL), mask) else "")
        except SlideError as error:
            return str(error)


def _built_from(slide: Slide) -> set[int | None]:
    """Return the directories from which levels of a generic pyramid are built: every segment of them is read."""
    plan = generic_pyramid(slide)
    return {level.page for number, level in enumerate(plan) if level.page is not None and missing_below(plan, number)}


def _lengths_will_count(stored: StoredPage, mask: Mask) -> bool:
    """Return whether libtiff takes uncompressed segments as whole whatever lengths are told, but not in the output."""
    if not stored.page.lengths_ignored:
        return False
    first = [index for index in masked_segments(stored.grid, mask) if index < 2]
    lengths = stored.page.counts[:2].copy()
    lengths[first] = 3 * stored.grid.segment.width * stored.grid.segment.height
    return bool(lengths[0] == lengths[1])


def _decode(stored: StoredPage, indices: Iterable[int]) -> None:
    """Raise SlideError where one of these segments is damaged."""
    held = ((index, data) for index in indices if (data := stored.segment(index)))
    _total(lambda segment: len(stored.decode(*segment)), held)


def _look_at(stored: StoredPage, mask: Mask) -> int:
    """Return how many touched segments cannot be written in their own form; raise SlideError where one is damaged."""
    def anew(segment: tuple[int, bytes, bytes]) -> bool:
        index, data, like = segment
        if data:
            stored.decode(index, data)
        return like is not data

    return _total(anew, touched_segments(stored, mask))


def _boxes(size: Size) -> Iterator[Box]:
    for y in range(0, size.height, BOX_PX):
        for x in range(0, size.width, BOX_PX):
            yield Box(x, y, BOX_PX, BOX_PX).intersection(Box(0, 0, *size))


def _total(function: Callable[[Any], int], items: Iterable[Any]) -> int:
    """Return the sum of a function of some items, computed by threads."""
    with closing(ahead(function, items, LOOKED_AHEAD, os.cpu_count() or 1)) as results:
        return sum(results)
