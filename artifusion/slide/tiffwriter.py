"""Fresh TIFF files: directories written in sequence, segments copied from a source or given as bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from artifusion.errors import SlideError
from artifusion.slide.tiff import COUNTS, DESCRIPTION, INTEGERS, LONG, LONG8, OFFSETS, SHORT, Page, Tag, Tiff

CLASSIC_LIMIT = (1 << 32) - (1 << 20)
COPY_BYTES = 1 << 22


class Extent(NamedTuple):
    """A segment that is copied from the source; length 0: a sparse one."""

    offset: int
    length: int


def segments_of(page: Page, replaced: Iterable[tuple[int, bytes]] = ()) -> Iterator[bytes | Extent]:
    """The segments of a page, some replaced: (index, bytes), rising. One replacement is in memory at a time."""
    fresh = iter(replaced)
    following = next(fresh, None)
    for index, extent in enumerate(zip(page.offsets.tolist(), page.counts.tolist(), strict=True)):
        if following is not None and following[0] == index:
            yield following[1]
            following = next(fresh, None)
        else:
            yield Extent(*extent)


class TiffWriter:
    """Writes a fresh file, directory by directory, each behind its segments.

    Args:
        target, order, big: the file, empty; the byte order of all tags; BigTIFF.
        source: where extents are copied from.
        progress: called with the number of bytes copied from the source.

    Segments that shared their bytes in the source share them again, sparse ones stay sparse. Memory: one segment, a
    few MB to copy through, and the tables of offsets.
    """

    def __init__(self, target: BinaryIO, order: str, big: bool, source: Tiff | None = None,
                 progress: Callable[[int], None] | None = None) -> None:
        self.order, self.big, self._target, self._progress = order, big, target, progress
        self._file = source.path.open("rb", buffering=0) if source else None
        self._placed: dict[Extent, int | None] = dict.fromkeys(_shared(source) if source else ())
        self._run = Extent(0, 0)                             # to be copied next, in one go
        self._at = 16 if big else 8
        self._link = 8 if big else 4                         # where the offset of the next directory goes
        target.write((b"II" if order == "<" else b"MM") + (struct.pack(order + "HHHQ", 43, 8, 0, 0) if big
                                                           else struct.pack(order + "HI", 42, 0)))

    def __enter__(self) -> TiffWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, tags: Mapping[int, Tag], tiled: bool, segments: Iterable[bytes | Extent]) -> Page:
        """Write one directory: its segments, then its tags, with the offsets and counts put in. Returns it.

        Raises:
            OverflowError: a classic TIFF would grow over 4 GiB.
        """
        offsets, counts = array("Q"), array("Q")
        for segment in segments:
            offset, count = self._extent(segment) if isinstance(segment, Extent) else self._bytes(segment)
            offsets.append(offset)
            counts.append(count)
        self._flush()
        if not self.big and self._at > CLASSIC_LIMIT:
            raise OverflowError("over 4 GiB")
        placed = dict(tags)
        if offsets:
            known = tags.get(COUNTS[tiled])
            kind = known.type if known else LONG
            kind = LONG if kind == SHORT and max(counts) > 0xFFFF else kind
            placed[OFFSETS[tiled]] = integers(OFFSETS[tiled], offsets, LONG8 if self.big else LONG, self.order)
            placed[COUNTS[tiled]] = integers(COUNTS[tiled], counts, kind, self.order)
        if placed.keys() != tags.keys():                     # else in the order in which the source has them
            placed = dict(sorted(placed.items()))
        self._link = _write_page(self._target, list(placed.values()), self._link, self.order, self.big)
        self._at = self._target.tell()
        return Page(placed, self.order)

    def _bytes(self, data: bytes) -> tuple[int, int]:
        self._flush()
        self._target.write(data)
        self._at += len(data)
        return self._at - len(data), len(data)

    def _extent(self, extent: Extent) -> tuple[int, int]:
        if not extent.length:
            return 0, 0
        known = self._placed.get(extent)
        if known is not None:
            return known, extent.length
        if extent.offset != self._run.offset + self._run.length or self._run.length > COPY_BYTES:
            self._flush()
            self._run = Extent(extent.offset, 0)
        at = self._at
        self._run = Extent(self._run.offset, self._run.length + extent.length)
        self._at += extent.length
        if extent in self._placed:
            self._placed[extent] = at
        return at, extent.length

    def _flush(self) -> None:
        if self._run.length and self._file:
            _copy(self._file, self._target, *self._run)
            if self._progress:
                self._progress(self._run.length)
        self._run = Extent(0, 0)


def copy_tiff(source: Tiff, out: Path, replaced: Callable[[int], Iterable[tuple[int, bytes]]], description: bytes,
              big: bool, progress: Callable[[int], None] | None = None) -> None:
    """Write a fresh file with every directory, tag and segment of `source`, in the same byte order.

    Args:
        replaced: the segments of a directory (by number) that get other bytes, index by index, rising.
        description: the new ImageDescription of the first directory.
        big: write BigTIFF.

    The file is not synced. Raises OverflowError as `TiffWriter.add` does.
    """
    with out.open("wb") as target, TiffWriter(target, source.order, big, source, progress) as writer:
        for number, page in enumerate(source.pages):
            tags = dict(page.tags) if number else described(page.tags, description)
            writer.add(tags, page.tiled, segments_of(page, replaced(number)))


def described(tags: Mapping[int, Tag], description: bytes) -> dict[int, Tag]:
    """Tags with another ImageDescription."""
    text = description + b"\0"
    changed = {**tags, DESCRIPTION: Tag(DESCRIPTION, 2, len(text), text)}
    return changed if DESCRIPTION in tags else dict(sorted(changed.items()))


def integers(code: int, values: Sequence[int], kind: int, order: str) -> Tag:
    """A tag that holds integers of one type."""
    return Tag(code, kind, len(values), np.asarray(values).astype(order + INTEGERS[kind]).tobytes())


def _shared(source: Tiff) -> list[Extent]:
    """The extents that several segments of a file share."""
    found = [np.stack([page.offsets, page.counts], axis=1) for page in source.pages if len(page.offsets)]
    extents, times = np.unique(np.concatenate(found or [np.zeros((0, 2), np.int64)]), axis=0, return_counts=True)
    return [Extent(*extent) for extent in extents[times > 1].tolist() if extent[1]]


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


def _align(target: BinaryIO) -> None:
    if target.tell() % 8:
        target.write(bytes(-target.tell() % 8))


def _copy(file: IO[bytes], target: BinaryIO, offset: int, count: int) -> None:
    file.seek(offset)
    while count:
        data = file.read(min(count, COPY_BYTES))
        if not data:
            raise SlideError(f"{file.name}: ends inside a segment; get a whole copy of it")
        target.write(data)
        count -= len(data)
