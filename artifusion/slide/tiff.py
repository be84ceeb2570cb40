"""TIFF files as they lie on disk: directories with every tag's raw bytes, and a fresh file written from them.

tifffile reads pixels and metadata; copying needs the bytes themselves, of every tag, known or not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from artifusion.errors import SlideError

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SHORT, LONG, IFD, LONG8, IFD8 = 3, 4, 13, 16, 18
INTEGERS = {1: "u1", SHORT: "u2", LONG: "u4", LONG8: "u8", IFD: "u4", IFD8: "u8"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT, JPEG_TABLES, DEPTH = 277, 278, 284, 322, 323, 347, 32997
OFFSETS, COUNTS = {False: 273, True: 324}, {False: 279, True: 325}         # keyed by "is tiled"
POINTERS = {330: "SubIFDs", 34665: "an EXIF directory", 34853: "a GPS directory", 288: "free-space lists",
            40965: "an interoperability directory", 513: "an old-style JPEG", 519: "old-style JPEG tables",
            400: "global parameters"}
COPY_BYTES = 1 << 22
CLASSIC_LIMIT = (1 << 32) - (1 << 20)


@dataclass(frozen=True)
class Tag:
    code: int
    type: int
    count: int
    raw: bytes                         # in the file's byte order


@dataclass(frozen=True)
class Page:
    """One directory of a file: its tags by code, in order, and where its segments (tiles or strips) lie."""

    tags: dict[int, Tag]
    order: str                         # "<" or ">"

    def numbers(self, code: int) -> np.ndarray:
        """The integers of a tag; empty where the page has no such tag."""
        tag = self.tags.get(code)
        if tag is None or tag.type not in INTEGERS:
            return np.zeros(0, np.int64)
        return np.frombuffer(tag.raw, self.order + INTEGERS[tag.type]).astype(np.int64)

    def number(self, code: int, default: int = 0) -> int:
        found = self.numbers(code)
        return int(found[0]) if len(found) else default

    def text(self, code: int) -> str:
        """The text of a tag; bytes that are no UTF-8 survive encode(errors="surrogateescape")."""
        tag = self.tags.get(code)
        return tag.raw.rstrip(b"\0").decode("utf-8", "surrogateescape") if tag else ""

    @property
    def tiled(self) -> bool:
        return OFFSETS[True] in self.tags

    @cached_property
    def offsets(self) -> np.ndarray:
        return self.numbers(OFFSETS[self.tiled])

    @cached_property
    def counts(self) -> np.ndarray:
        return self.numbers(COUNTS[self.tiled])


@dataclass(frozen=True)
class Tiff:
    path: Path
    order: str
    big: bool
    pages: tuple[Page, ...]


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
        pages, seen = [], set()
        try:
            while offset:
                if offset in seen:
                    raise ValueError("directories run in a circle")
                seen.add(offset)
                page, offset = _read_page(file, offset, order, big)
                pages.append(page)
        except (struct.error, ValueError, KeyError, OSError, OverflowError) as error:
            raise SlideError(f"{path}: its TIFF directories are damaged ({error}); get a whole copy of it") from None
    return Tiff(path, order, big, tuple(pages))


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


def write_tiff(source: Tiff, out: Path, replaced: Callable[[int], Iterable[tuple[int, bytes]]],
               descriptions: dict[int, bytes], big: bool, progress: Callable[[int], None] | None = None) -> None:
    """Write a fresh file with every page, tag and segment of `source`, in the same byte order.

    Args:
        replaced: the segments of a page (by number) that get other bytes, index by index, rising.
        descriptions: new ImageDescription bytes by page number.
        big: write BigTIFF.
        progress: called with the number of source bytes copied.

    Segments that shared their bytes in the source share them again, sparse ones stay sparse. Memory: one segment
    and the tables of offsets. The file is not synced.

    Raises:
        OverflowError: a classic TIFF would grow over 4 GiB.
    """
    with source.path.open("rb") as file, out.open("wb") as target:
        head = b"II" if source.order == "<" else b"MM"
        target.write(head + (struct.pack(source.order + "HHHQ", 43, 8, 0, 0) if big
                             else struct.pack(source.order + "HI", 42, 0)))
        link = 8 if big else 4                               # where the offset of the next directory goes
        placed: dict[tuple[int, int], int] = {}
        for number, page in enumerate(source.pages):
            offsets, counts = page.offsets.copy(), page.counts.copy()
            fresh = iter(replaced(number))
            following = next(fresh, None)
            for index, (offset, count) in enumerate(zip(page.offsets.tolist(), page.counts.tolist(), strict=True)):
                if following is not None and following[0] == index:
                    offsets[index], counts[index] = target.tell(), len(following[1])
                    target.write(following[1])
                    following = next(fresh, None)
                elif count:
                    if (offset, count) not in placed:
                        placed[offset, count] = target.tell()
                        _copy(file, target, offset, count)
                        if progress:
                            progress(count)
                    offsets[index] = placed[offset, count]
            if not big and target.tell() > CLASSIC_LIMIT:
                raise OverflowError("over 4 GiB")
            tags = dict(page.tags)
            if len(offsets):
                tags[OFFSETS[page.tiled]] = _integers(OFFSETS[page.tiled], offsets, LONG8 if big else LONG, page.order)
                kind = page.tags[COUNTS[page.tiled]].type
                kind = LONG if kind == SHORT and counts.max() > 0xFFFF else kind
                tags[COUNTS[page.tiled]] = _integers(COUNTS[page.tiled], counts, kind, page.order)
            if number in descriptions:
                text = descriptions[number] + b"\0"
                tags[DESCRIPTION] = Tag(DESCRIPTION, 2, len(text), text)
            if DESCRIPTION not in page.tags:
                tags = dict(sorted(tags.items()))
            link = _write_page(target, list(tags.values()), link, source.order, big)


def _read_page(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[Page, int]:
    file.seek(offset)
    count, = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > 4096:
        raise ValueError(f"{count} tags in one directory")
    size, room = (20, 8) if big else (12, 4)
    entries = file.read(count * size)
    following, = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    end = file.seek(0, 2)
    tags: dict[int, Tag] = {}
    for at in range(0, count * size, size):
        code, kind, items = struct.unpack_from(order + ("HHQ" if big else "HHI"), entries, at)
        if kind not in SIZES:
            continue                                          # TIFF 6: readers skip types they do not know
        length = SIZES[kind] * items
        raw = entries[at + size - room : at + size - room + length]
        if length > room:
            where, = struct.unpack(order + ("Q" if big else "I"), raw[:room])
            if where + length > end:
                raise ValueError(f"tag {code} lies behind the end of the file")
            file.seek(where)
            raw = file.read(length)
        tags[code] = Tag(code, kind, items, raw)
    return Page(tags, order), following


def _write_page(target: BinaryIO, tags: list[Tag], link: int, order: str, big: bool) -> int:
    """Write the values, then the directory, then its offset at `link`; returns where the next one's offset goes."""
    room = 8 if big else 4
    entries = []
    for tag in tags:
        value = tag.raw
        if len(value) > room:
            _align(target)
            value = struct.pack(order + ("Q" if big else "I"), target.tell())
            target.write(tag.raw)
        entries.append(struct.pack(order + ("HHQ" if big else "HHI"), tag.code, tag.type, tag.count)
                       + value.ljust(room, b"\0"))
    _align(target)
    start = target.tell()
    target.write(struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries))
    after = target.tell()
    target.write(bytes(room))
    end = target.tell()
    target.seek(link)
    target.write(struct.pack(order + ("Q" if big else "I"), start))
    target.seek(end)
    return after


def _integers(code: int, values: np.ndarray, kind: int, order: str) -> Tag:
    return Tag(code, kind, len(values), values.astype(order + INTEGERS[kind]).tobytes())


def _align(target: BinaryIO) -> None:
    if target.tell() % 8:
        target.write(bytes(-target.tell() % 8))


def _copy(file: BinaryIO, target: BinaryIO, offset: int, count: int) -> None:
    file.seek(offset)
    while count:
        data = file.read(min(count, COPY_BYTES))
        if not data:
            raise SlideError(f"{file.name}: ends inside a segment; get a whole copy of it")
        target.write(data)
        count -= len(data)
