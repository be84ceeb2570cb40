"""A generic tiled pyramid around copied levels: what the source lacks is built from the restored level above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from artifusion.geometry import Box, Size
from artifusion.output.codecs.codecs import codec_of
from artifusion.output.container import PlannedLevel
from artifusion.output.reencode import LevelSpool, halved, level_spools, scale_tags
from artifusion.output.segments import Grid
from artifusion.output.tiffwriter import TiffWriter, segments_of
from artifusion.slide import tiff

# What a directory says of how its segments are stored; the rest of the source's tags stays behind.
STORAGE = (tiff.WIDTH, tiff.HEIGHT, tiff.BITS, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.SAMPLES, tiff.PLANAR,
           tiff.PREDICTOR, tiff.TILE_WIDTH, tiff.TILE_HEIGHT, tiff.JPEG_TABLES, tiff.SUBSAMPLING,
           tiff.YCBCR_POSITIONING, tiff.REFERENCE_BLACK_WHITE, *tiff.COUNTS.values())


def write_generic(out: Path, source: tiff.Tiff, plan: Sequence[PlannedLevel],
                  replaced: Callable[[int], Iterable[tuple[int, bytes]]], *, mpp: float | None, icc: bytes | None,
                  description: str, lossless: bool, progress: Callable[[int], None] | None = None) -> None:
    """Write a pyramidal BigTIFF of sequential directories, level 0 copied.

    Args:
        plan: the levels; the first is copied.
        replaced: the segments of a source directory that get other bytes, index by index, rising.
        lossless: built levels get deflate, else JPEG quality 90.
        progress: called with the number of source bytes copied.

    Memory: a row of tiles of the level that is built from, and two of every level built from it.
    """
    l0_size, spools = plan[0].size, dict[Size, LevelSpool]()

    def scale(size: Size) -> float | None:
        return mpp and mpp * l0_size.width / size.width

    try:
        with out.open("wb") as target, TiffWriter(target, source.order, True, source, progress) as writer:
            for number, level in enumerate(plan):
                if level.page is None:
                    spool = spools[level.size]
                    writer.add(spool.tags(scale(level.size), icc, source.order), True, spool.tiles())
                    continue
                page = source.pages[level.page]
                tags = {code: tag for code, tag in page.tags.items() if code in STORAGE}
                tags |= scale_tags(scale(level.size), icc, None if number else description, source.order)
                written = writer.add(tags, True, segments_of(page, replaced(level.page)))
                missing = missing_below(plan, number)
                if missing:
                    target.flush()
                    spools |= build(out, written, missing, lossless)
    finally:
        for spool in spools.values():
            spool.remove()


def missing_below(plan: Sequence[PlannedLevel], number: int) -> list[Size]:
    """The sizes to build from a copied level: all up to the next copied one."""
    sizes = []
    for level in plan[number + 1 :]:
        if level.page is not None:
            break
        sizes.append(level.size)
    return sizes


def build(out: Path, page: tiff.Page, sizes: Sequence[Size], lossless: bool) -> dict[Size, LevelSpool]:
    """The levels below a written one, each half of the one above, waiting on disk beside the file."""
    spools = level_spools(sizes, out.parent, lossless)
    for rows in level_rows(out, page):
        spools[0].add(halved(rows))
    return {spool.size: spool for spool in spools}


def level_rows(path: Path, page: tiff.Page) -> Iterator[np.ndarray]:
    """The pixels of a level, uint8 (h, width, 3), one row of tiles at a time; missing tiles are white."""
    grid, codec = Grid.of(page), codec_of(page)
    with path.open("rb") as file:
        for row in range(grid.rows):
            frame = Box(0, row * grid.segment.height, grid.size.width, grid.segment.height)
            frame = frame.intersection(Box(0, 0, *grid.size))
            rows = np.full((frame.height, frame.width, 3), 255, np.uint8)
            for index in grid.over(frame):
                data = tiff.read_segment(file, page, index)
                if data:
                    inside = grid.box(index).intersection(frame)
                    rows[inside.slices(frame)] = codec.rgb(codec.decode(data))[: inside.height, : inside.width]
            yield rows
