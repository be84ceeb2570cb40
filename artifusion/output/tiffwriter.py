"""Fresh TIFF files: directories written in sequence, segments copied from a source or given as bytes."""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from artifusion.errors import SlideError
from artifusion.slide.tiff import COUNTS, DESCRIPTION, INTEGERS, LONG, LONG8, OFFSETS, SHORT, Page, Tag, Tiff, runs

CLASSIC_LIMIT = (1 << 32) - (1 << 20)
COPY_BYTES = 1 << 20                   # more does not fit the cache


class Extents(NamedTuple):
    """Segments in a row that are copied from the source; sparse ones have length 0."""

    offsets: np.ndarray
    lengths: np.ndarray


def segments_of(page: Page, replaced: Iterable[tuple[int, bytes]] = ()) -> Iterator[bytes | Extents]:
    """The segments of a page, some replaced: (index, bytes), rising. One replacement is in memory at a time."""
    start = 0
    for index, data in replaced:
        yield Extents(page.offsets[start:index], page.counts[start:index])
        yield data
        start = index + 1
    yield Extents(page.offsets[start:], page.counts[start:])


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
        self._shared = _shared(source) if source else set()
        self._placed: dict[tuple[int, int], int] = {}        # where shared segments lie now, by offset and length
        self._buffer = memoryview(bytearray(COPY_BYTES))
        self._at = 16 if big else 8
        self._link = 8 if big else 4                         # where the offset of the next directory goes
        target.write((b"II" if order == "<" else b"MM") + (struct.pack(order + "HHHQ", 43, 8, 0, 0) if big
                                                           else struct.pack(order + "HI", 42, 0)))

    def __enter__(self) -> TiffWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, tags: Mapping[int, Tag], tiled: bool, segments: Iterable[bytes | Extents]) -> Page:
        """Write one directory: its segments, then its tags, with the offsets and counts put in. Returns it.

        Raises:
            OverflowError: a classic TIFF would grow over 4 GiB.
        """
        offsets, counts = array("Q"), array("Q")
        for segment in segments:
            if isinstance(segment, bytes):
                offsets.append(self._at)
                counts.append(len(segment))
                self._target.write(segment)
                self._at += len(segment)
            else:
                offsets.frombytes(self._copied(segment).astype(np.uint64).tobytes())
                counts.frombytes(segment.lengths.astype(np.uint64).tobytes())
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

    def _copied(self, extents: Extents) -> np.ndarray:
        """Copy segments; returns where they lie now."""
        if self._shared:
            each = zip(extents.offsets.tolist(), extents.lengths.tolist(), strict=True)
            return np.array([self._copied_once(*extent) for extent in each], np.int64)
        there = np.flatnonzero(extents.lengths)
        offsets, lengths = extents.offsets[there], extents.lengths[there]
        placed = np.zeros(len(extents.lengths), np.int64)
        placed[there] = self._at + np.cumsum(lengths) - lengths
        for first, after in runs(lengths, offsets):
            self._copy(int(offsets[first]), int(lengths[first:after].sum()))
        return placed

    def _copied_once(self, offset: int, length: int) -> int:
        """Copy one segment, or find it where another one that shares its bytes was put."""
        if not length:
            return 0
        at = self._placed.get((offset, length))
        if at is None:
            at = self._at
            self._copy(offset, length)
            if offset in self._shared:
                self._placed[offset, length] = at
        return at

    def _copy(self, offset: int, length: int) -> None:
        assert self._file is not None                        # extents are the source's
        self._file.seek(offset)
        copy_bytes(self._file, self._target, length, self._buffer)
        self._at += length
        if self._progress:
            self._progress(length)


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


def _shared(source: Tiff) -> set[int]:
    """The offsets at which several segments of a file lie."""
    offsets = np.sort(np.concatenate([page.offsets[page.counts > 0] for page in source.pages]))
    return set(offsets[1:][offsets[1:] == offsets[:-1]].tolist())


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


def copy_bytes(file: io.FileIO, target: BinaryIO, length: int, buffer: memoryview) -> None:
    """Copy bytes from where one file stands to where the other does, through a buffer."""
    while length:
        count = file.readinto(buffer[:length])
        if not count:
            raise SlideError(f"{file.name}: ends inside a segment; get a whole copy of it")
        target.write(buffer[:count])
        length -= count
