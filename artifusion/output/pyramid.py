"""Writes a generic tiled pyramid: levels are copied where possible, the others built from the restored level above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from artifusion.geometry import Box, Size
from artifusion.output.codecs.segment_codecs import codec_of
from artifusion.output.container import PlannedLevel
from artifusion.output.reencode import LevelSpool, Metadata, halved, level_spools
from artifusion.output.tiffwriter import TiffWriter, segments_of
from artifusion.slide import tiff
from artifusion.slide.levels import Grid

# The tags that say how segments are stored; a generic file takes no others from the source.
STORAGE = (tiff.WIDTH, tiff.HEIGHT, tiff.BITS, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.SAMPLES, tiff.PLANAR,
           tiff.PREDICTOR, tiff.TILE_WIDTH, tiff.TILE_HEIGHT, tiff.JPEG_TABLES, tiff.SUBSAMPLING,
           tiff.YCBCR_POSITIONING, tiff.REFERENCE_BLACK_WHITE, *tiff.COUNTS.values())


def write_generic(out: Path, source: tiff.Tiff, plan: Sequence[PlannedLevel],
                  replaced: Callable[[int], Iterable[tuple[int, bytes]]], metadata: Metadata, *, lossless: bool,
                  progress: Callable[[int], None] | None = None) -> None:
    """Write a pyramidal BigTIFF of sequential directories, level 0 copied.

    Args:
        plan: the levels; the first is copied.
        replaced: number of a source directory -> (index, bytes) of its segments that get other bytes, rising.
        lossless: built levels get deflate instead of JPEG quality 90.
        progress: called with the number of source bytes copied since the last call.

    Memory: a row of segments of the level that is built from, and two of every level built from it.
    """
    spools = dict[Size, LevelSpool]()
    try:
        with out.open("wb") as target, TiffWriter(target, source.order, True, source, progress) as writer:
            for number, level in enumerate(plan):
                if level.page is None:
                    spool = spools[level.size]
                    writer.add(spool.tags(metadata, source.order), True, spool.segments())
                    continue
                page = source.pages[level.page]
                tags = {code: tag for code, tag in page.tags.items() if code in STORAGE}
                tags |= metadata.tags(level.size, number == 0, source.order)
                written = writer.add(tags, True, segments_of(page, replaced(level.page)))
                missing = missing_below(plan, number)
                if missing:
                    target.flush()
                    spools |= build_levels(out, written, missing, lossless)
    finally:
        for spool in spools.values():
            spool.remove()


def missing_below(plan: Sequence[PlannedLevel], number: int) -> list[Size]:
    """Return the sizes of the levels to build from a copied level: all up to the next copied one."""
    sizes = []
    for level in plan[number + 1 :]:
        if level.page is not None:
            break
        sizes.append(level.size)
    return sizes


def build_levels(out: Path, page: tiff.Page, sizes: Sequence[Size], lossless: bool) -> dict[Size, LevelSpool]:
    """Build the levels below a written one, each half of the one above; their segments wait on disk beside the file."""
    spools = level_spools(sizes, out.parent, lossless)
    for rows in even_pieces(level_rows(out, page)):
        spools[0].add(halved(rows))
    return {spool.size: spool for spool in spools}


def even_pieces(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield rows of pixels in pieces of even height, but for the last: pairs of rows stay together."""
    left = None
    for rows in pieces:
        together = rows if left is None else np.concatenate([left, rows])
        even = len(together) // 2 * 2
        left = together[even:] if even < len(together) else None
        if even:
            yield together[:even]
    if left is not None:
        yield left


def level_rows(path: Path, page: tiff.Page) -> Iterator[np.ndarray]:
    """Yield the pixels of a level, uint8 (h, width, 3), one row of segments at a time; sparse segments are white."""
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
