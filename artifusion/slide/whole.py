"""Whether a TIFF file is all there: readers show black, gray or white where it is not, without a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from artifusion.errors import SlideError
from artifusion.geometry import Size
from artifusion.slide import tiff

UNCOMPRESSED, JPEG, YCBCR = 1, 7, 6
LARGEST_TILE_PX = 1 << 26


def check_whole(path: Path) -> None:
    """Raise SlideError where a TIFF file ends before its segments do, or does not tell where a tile lies.

    A copy that was cut short may still open: the first level often lies first in the file.
    """
    end = path.stat().st_size
    for number, page in enumerate(tiff.read_tiff(path).pages):
        counts = page.counts if len(page.counts) == len(page.offsets) else 0
        needed = int((page.offsets + counts).max(initial=0))
        if needed > end:
            raise SlideError(f"{path}: is cut short, {needed:,} bytes are needed and {end:,} there; get a whole copy "
                             "of it")
        if page.tiled and (reason := lacking(page)):
            raise SlideError(f"{path}: is incomplete, directory {number} {reason}; get a whole copy of it")


def check_tiles(path: Path) -> None:
    """Raise SlideError where a tile tells a size that no tile has: OpenSlide would end the process over its memory.

    What is no TIFF file, or one whose directories cannot be read, is left to OpenSlide.
    """
    try:
        pages = tiff.read_tiff(path).pages
    except (SlideError, OSError):
        return
    for page in pages:
        width, height = page.segment_size
        if page.tiled and width * height > LARGEST_TILE_PX:
            raise SlideError(f"{path}: tells tiles of {width} x {height} px, the file is damaged; get a whole copy "
                             "of it")


def lacking(page: tiff.Page) -> str:
    """Return which segments of a page are not told of, as one phrase; empty where all are, be they sparse."""
    size, segment = Size(page.number(tiff.WIDTH), page.number(tiff.HEIGHT)), page.segment_size
    if min(*size, *segment) < 1:
        return f"tells a size of {size.width} x {size.height} px in segments of {segment.width} x {segment.height}"
    needed = -(-size.width // segment.width) * -(-size.height // segment.height)
    needed *= page.number(tiff.SAMPLES, 1) if page.number(tiff.PLANAR, 1) == 2 else 1
    if min(len(page.offsets), len(page.counts)) < needed:
        return f"has {len(page.offsets)} offsets and {len(page.counts)} lengths of {needed} segments"
    return ""


def check_image(path: Path) -> None:
    """Raise SlideError where the first page of a plain TIFF image lacks segments, or one ends before its pixels do.

    Compressions that say so themselves when they are decoded are left to that.
    """
    page = tiff.read_tiff(path).pages[0]
    if page.number(tiff.COMPRESSION, 1) == UNCOMPRESSED and len(page.offsets) == 1 and not len(page.counts):
        return                                               # one strip needs no length: it is what is left
    reason = lacking(page)
    empty = [] if reason else np.flatnonzero((page.offsets == 0) | (page.counts == 0)).tolist()
    if empty:
        reason = f"lacks {len(empty)} of its {len(page.offsets)} segments, number {empty[0]} first"
    with path.open("rb") as file:
        for index in range(0 if reason else len(page.offsets)):
            if ends_early(page, index, tiff.read_segment(file, page, index)):
                reason = f"segment {index} ends in its middle"
                break
    if reason:
        raise SlideError(f"{path}: is incomplete, its image {reason}; get a whole copy of it")


def ends_early(page: tiff.Page, index: int, data: bytes) -> bool:
    """Return whether an uncompressed or JPEG segment ends before its pixels do."""
    compression = page.number(tiff.COMPRESSION, 1)
    if compression == JPEG:
        return jpeg_ends_early(data)
    if compression != UNCOMPRESSED or page.number(tiff.PHOTOMETRIC) == YCBCR:
        return False
    width, rows = page.segment_size
    samples = page.number(tiff.SAMPLES, 1) if page.number(tiff.PLANAR, 1) == 1 else 1
    if not page.tiled:
        first_row = index % -(-page.number(tiff.HEIGHT) // rows) * rows
        rows = min(rows, page.number(tiff.HEIGHT) - first_row)
    return len(data) < -(-width * samples * page.number(tiff.BITS, 1) // 8) * rows


def jpeg_ends_early(data: bytes) -> bool:
    """Return whether a JPEG stream lacks the marker of its end behind its pixels."""
    return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")              # neither occurs inside pixels


@contextmanager
def tifffile_messages() -> Iterator[list[str]]:
    """Collect what tifffile logs while the block runs; it would go to stderr."""
    messages = list[str]()

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(collect)
    try:
        yield messages
    finally:
        logger.removeFilter(collect)
