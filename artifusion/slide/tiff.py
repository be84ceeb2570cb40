"""TIFF files as they lie on disk: directories with every tag's raw bytes.

tifffile reads pixels and metadata; a copy needs the bytes of every tag, known or not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from artifusion.errors import SlideError
from artifusion.geometry import Size

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8, IFD8 = 1, 2, 3, 4, 5, 7, 13, 16, 18
INTEGERS = {BYTE: "u1", SHORT: "u2", LONG: "u4", LONG8: "u8", IFD: "u4", IFD8: "u8"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT, JPEG_TABLES, DEPTH = 277, 278, 284, 322, 323, 347, 32997
FILL_ORDER, PREDICTOR, SUBSAMPLING, SUBFILE, SOFTWARE, ICC = 266, 317, 530, 254, 305, 34675
ORIENTATION, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 330, 338, 339
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
YCBCR_POSITIONING, REFERENCE_BLACK_WHITE = 531, 532
OFFSETS, COUNTS = {False: 273, True: 324}, {False: 279, True: 325}         # keyed by "is tiled"
LARGEST = (1 << 62) - 1                # of the numbers that are read: two of them add up without overflow
REPEATED = 1 << 16                     # added to the key of a tag whose code the directory holds already
POINTERS = {SUB_IFDS: "SubIFDs", 34665: "an EXIF directory", 34853: "a GPS directory", 288: "free-space lists",
            40965: "an interoperability directory", 513: "an old-style JPEG", 519: "old-style JPEG tables",
            400: "global parameters"}


@dataclass(frozen=True)
class Tag:
    """One tag as it is stored."""

    code: int
    type: int
    count: int                         # of values, not bytes
    raw: bytes                         # in the file's byte order


@dataclass(frozen=True)
class Page:
    """One directory of a file: its tags by code, in order, and where its segments (tiles or strips) lie.

    A tag that a directory holds again is kept under its code + REPEATED: tifffile writes two descriptions.
    """

    tags: dict[int, Tag]
    order: str                         # byte order, "<" or ">"

    def numbers(self, code: int) -> np.ndarray:
        """The integers of a tag, none over LARGEST; empty where the page has no such tag."""
        tag = self.tags.get(code)
        if tag is None or tag.type not in INTEGERS:
            return np.zeros(0, np.int64)
        values = np.frombuffer(tag.raw, self.order + INTEGERS[tag.type])
        return (np.minimum(values, np.uint64(LARGEST)) if tag.type in (LONG8, IFD8) else values).astype(np.int64)

    def number(self, code: int, default: int = 0) -> int:
        """The first integer of a tag; `default` where the page has no such tag."""
        values = self.numbers(code)
        return int(values[0]) if len(values) else default

    def text(self, code: int) -> str:
        """The text of a tag; bytes that are no UTF-8 survive encode(errors="surrogateescape")."""
        tag = self.tags.get(code)
        return tag.raw.rstrip(b"\0").decode("utf-8", "surrogateescape") if tag else ""

    @property
    def segment_size(self) -> Size:
        """The size of a tile, or of a strip, of which the last may be lower."""
        if self.tiled:
            return Size(self.number(TILE_WIDTH), self.number(TILE_HEIGHT))
        height = self.number(HEIGHT)
        return Size(self.number(WIDTH), min(height, self.number(ROWS_PER_STRIP, height)))

    @property
    def tiled(self) -> bool:
        return OFFSETS[True] in self.tags

    @cached_property
    def offsets(self) -> np.ndarray:
        return self.numbers(OFFSETS[self.tiled])

    @cached_property
    def counts(self) -> np.ndarray:
        """The bytes of each segment; of an uncompressed one those up to its last pixel, for readers refuse more."""
        width, height = self.segment_size
        samples, bits = max(1, self.number(SAMPLES, 1)), int(self.numbers(BITS).max(initial=1))
        most = -(-width * samples * bits // 8) * height if self.number(COMPRESSION, 1) == 1 else LARGEST
        return np.minimum(self.numbers(COUNTS[self.tiled]), most)

    @property
    def lengths_ignored(self) -> bool:
        """Whether libtiff takes segments as whole whatever the lengths: uncompressed ones, if the first two differ."""
        lengths = self.numbers(COUNTS[self.tiled])
        return self.tiled and self.number(COMPRESSION, 1) == 1 and len(lengths) > 2 and 0 < lengths[0] != lengths[1] > 0


@dataclass(frozen=True)
class Tiff:
    """A file's directories, in sequence."""

    path: Path
    order: str                         # byte order, "<" or ">"
    big: bool                          # BigTIFF
    pages: tuple[Page, ...]


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a classic or BigTIFF does."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(path: Path) -> Tiff:
    """Return the directories of a classic or BigTIFF file, in sequence.

    Raises:
        SlideError: not a TIFF file, or its directories are damaged.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if not order or len(head) < 16 or head[2:4] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
            raise SlideError(f"{path}: not a TIFF file")
        big = head[2:4] == struct.pack(order + "H", 43)
        offset = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]
        pages, visited = [], set()
        try:
            while offset:
                if offset in visited:
                    raise ValueError("directories run in a circle")
                visited.add(offset)
                page, offset = _read_page(file, offset, order, big)
                pages.append(page)
        except (struct.error, ValueError, KeyError, OSError, OverflowError) as error:
            raise SlideError(f"{path}: its TIFF directories are damaged ({error}); get a whole copy of it") from None
    return Tiff(path, order, big, tuple(pages))


def sub_pages(source: Tiff) -> list[Page]:
    """Return the directories that those of a file name as theirs (SubIFDs), without theirs in turn.

    Raises:
        SlideError: they are damaged.
    """
    with source.path.open("rb") as file:
        try:
            return [_read_page(file, offset, source.order, source.big)[0] for page in source.pages
                    for offset in page.numbers(SUB_IFDS).tolist()]
        except (struct.error, ValueError, OSError, OverflowError) as error:
            raise SlideError(f"{source.path}: its SubIFDs are damaged ({error}); get a whole copy of it") from None


def read_segment(file: BinaryIO, page: Page, index: int) -> bytes:
    """Return the compressed bytes of one segment; empty for a sparse one.

    Raises:
        SlideError: the file ends before the segment does.
    """
    offset, count = int(page.offsets[index]), int(page.counts[index])
    if not count:
        return b""
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise SlideError(f"{file.name}: ends inside segment {index}; get a whole copy of it")
    return data


def contiguous_runs(lengths: np.ndarray, *offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield runs of segments without a gap between them, as positions (first, one past the last).

    Args:
        lengths: of the segments, in bytes.
        offsets: of the same segments, one array per file; a run is contiguous in all of them.
    """
    if len(lengths):
        joined = np.logical_and.reduce([starts[1:] == starts[:-1] + lengths[:-1] for starts in offsets])
        edges = (np.flatnonzero(~joined) + 1).tolist()
        yield from zip([0, *edges], [*edges, len(lengths)], strict=True)


def _read_page(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[Page, int]:
    file.seek(offset)
    count, = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > 4096:
        raise ValueError(f"{count} tags in one directory")
    entry_bytes, value_bytes = (20, 8) if big else (12, 4)
    entries = file.read(count * entry_bytes)
    next_offset, = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    end = file.seek(0, 2)
    tags: dict[int, Tag] = {}
    for start in range(0, count * entry_bytes, entry_bytes):
        code, kind, items = struct.unpack_from(order + ("HHQ" if big else "HHI"), entries, start)
        if kind not in TYPE_BYTES:
            continue                                          # TIFF 6: readers skip types they do not know
        length = TYPE_BYTES[kind] * items
        value_start = start + entry_bytes - value_bytes
        raw = entries[value_start : value_start + length]
        if length > value_bytes:
            position, = struct.unpack(order + ("Q" if big else "I"), raw[:value_bytes])
            if position + length > end:
                raise ValueError(f"tag {code} lies behind the end of the file")
            file.seek(position)
            raw = file.read(length)
        while code in tags:                                   # readers take the first; a copy keeps them all
            code += REPEATED
        tags[code] = Tag(code % REPEATED, kind, items, raw)
    return Page(tags, order), next_offset
