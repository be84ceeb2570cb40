"""Writes TIFF files: directories in sequence, whose segments are copied from a source or given as bytes."""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from artifusion.errors import SlideError
from artifusion.slide.tiff import (
    ASCII,
    COUNTS,
    INTEGERS,
    LONG,
    LONG8,
    OFFSETS,
    REPEATED,
    SHORT,
    Page,
    Tag,
    Tiff,
    contiguous_runs,
)

CLASSIC_LIMIT = (1 << 32) - (1 << 20)  # bytes of a classic TIFF, with room for its last directory
COPY_BYTES = 1 << 20                   # copied at once: more does not fit the cache


class Extents(NamedTuple):
    """Consecutive segments to copy from the source; sparse ones have length 0."""

    offsets: np.ndarray
    lengths: np.ndarray


def segments_of(page: Page, replaced: Iterable[tuple[int, bytes]] = ()) -> Iterator[bytes | Extents]:
    """Yield the segments of a page: bytes where replaced, extents of the source in between.

    Args:
        replaced: (index, bytes) of segments, rising. One replacement is in memory at a time.
    """
    start = 0
    for index, data in replaced:
        yield Extents(page.offsets[start:index], page.counts[start:index])
        yield data
        start = index + 1
    yield Extents(page.offsets[start:], page.counts[start:])


class TiffWriter:
    """Writes a TIFF file, directory by directory, each after its segments.

    Args:
        target: the file, empty and open for writing.
        order: the byte order of all tags, "<" or ">".
        big: write BigTIFF.
        source: the file that extents are copied from.
        progress: called with the number of bytes copied from the source since the last call.

    Segments that share their bytes in the source share them again; sparse segments stay sparse. Memory: one segment,
    COPY_BYTES, and the tables of offsets.
    """

    def __init__(self, target: BinaryIO, order: str, big: bool, source: Tiff | None = None,
                 progress: Callable[[int], None] | None = None) -> None:
        self.order, self.big, self._target, self._progress = order, big, target, progress
        self._file = source.path.open("rb", buffering=0) if source else None
        self._shared = _shared_offsets(source) if source else set()
        self._copied_at: dict[tuple[int, int], int] = {}     # new offset of each shared segment, by offset and length
        self._buffer = memoryview(bytearray(COPY_BYTES))
        self._end = 16 if big else 8                         # where the next segment goes
        self._link = 8 if big else 4                         # where the offset of the next directory goes
        target.write((b"II" if order == "<" else b"MM") + (struct.pack(order + "HHHQ", 43, 8, 0, 0) if big
                                                           else struct.pack(order + "HI", 42, 0)))

    def __enter__(self) -> TiffWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, tags: Mapping[int, Tag], tiled: bool, segments: Iterable[bytes | Extents]) -> Page:
        """Write one directory, its segments first; return it.

        Args:
            tags: of the directory, by code; its offsets and counts are replaced.
            tiled: its segments are tiles, not strips.

        Raises:
            OverflowError: a classic TIFF would grow over 4 GiB.
            SlideError: the source ends inside a segment.
        """
        offsets, counts = array("Q"), array("Q")
        for segment in segments:
            if isinstance(segment, bytes):
                offsets.append(self._end)
                counts.append(len(segment))
                self._target.write(segment)
                self._end += len(segment)
            else:
                offsets.frombytes(self._copy_extents(segment).astype(np.uint64).tobytes())
                counts.frombytes(segment.lengths.astype(np.uint64).tobytes())
        if not self.big and self._end > CLASSIC_LIMIT:
            raise OverflowError("over 4 GiB")
        new_tags = dict(tags)
        if offsets:
            old_counts = tags.get(COUNTS[tiled])
            kind = old_counts.type if old_counts else LONG
            kind = LONG if kind == SHORT and max(counts) > 0xFFFF else kind
            new_tags[OFFSETS[tiled]] = integers(OFFSETS[tiled], offsets, LONG8 if self.big else LONG, self.order)
            new_tags[COUNTS[tiled]] = integers(COUNTS[tiled], counts, kind, self.order)
        if new_tags.keys() != tags.keys():                   # otherwise the source's order stays
            new_tags = in_order(new_tags)
        self._link = _write_page(self._target, list(new_tags.values()), self._link, self.order, self.big)
        self._end = self._target.tell()
        return Page(new_tags, self.order)

    def _copy_extents(self, extents: Extents) -> np.ndarray:
        """Copy segments from the source; return their new offsets, 0 for sparse ones."""
        if self._shared:
            each = zip(extents.offsets.tolist(), extents.lengths.tolist(), strict=True)
            return np.array([self._copy_once(*extent) for extent in each], np.int64)
        stored = np.flatnonzero(extents.lengths)
        offsets, lengths = extents.offsets[stored], extents.lengths[stored]
        new_offsets = np.zeros(len(extents.lengths), np.int64)
        new_offsets[stored] = self._end + np.cumsum(lengths) - lengths
        for first, stop in contiguous_runs(lengths, offsets):
            self._copy(int(offsets[first]), int(lengths[first:stop].sum()))
        return new_offsets

    def _copy_once(self, offset: int, length: int) -> int:
        """Copy one segment, unless another one that shares its bytes was copied already; return its new offset."""
        if not length:
            return 0
        new_offset = self._copied_at.get((offset, length))
        if new_offset is None:
            new_offset = self._end
            self._copy(offset, length)
            if offset in self._shared:
                self._copied_at[offset, length] = new_offset
        return new_offset

    def _copy(self, offset: int, length: int) -> None:
        assert self._file is not None                        # extents are the source's
        self._file.seek(offset)
        copy_bytes(self._file, self._target, length, self._buffer)
        self._end += length
        if self._progress:
            self._progress(length)


def copy_tiff(source: Tiff, out: Path, replaced: Callable[[int], Iterable[tuple[int, bytes]]],
              texts: Mapping[int, bytes], big: bool, progress: Callable[[int], None] | None = None) -> None:
    """Write a file with every directory, tag and segment of `source`, in the same byte order. It is not synced.

    Args:
        replaced: number of a directory -> (index, bytes) of its segments that get other bytes, rising.
        texts: the text tags of the first directory that change, by code.
        big: write BigTIFF.

    Raises:
        OverflowError, SlideError: as `TiffWriter.add` does.
    """
    with out.open("wb") as target, TiffWriter(target, source.order, big, source, progress) as writer:
        for number, page in enumerate(source.pages):
            tags = dict(page.tags) if number else with_texts(page.tags, texts)
            writer.add(tags, page.tiled, segments_of(page, replaced(number)))


def with_texts(tags: Mapping[int, Tag], texts: Mapping[int, bytes]) -> dict[int, Tag]:
    """Return tags with other texts, by code."""
    changed = {**tags, **{key: Tag(key % REPEATED, ASCII, len(text) + 1, text + b"\0")
                        for key, text in texts.items()}}
    return changed if texts.keys() <= tags.keys() else in_order(changed)


def in_order(tags: Mapping[int, Tag]) -> dict[int, Tag]:
    """Return tags sorted by their code, as a directory has them."""
    return dict(sorted(tags.items(), key=lambda item: item[1].code))


def integers(code: int, values: Sequence[int], kind: int, order: str) -> Tag:
    """Return a tag that holds integers of one type: SHORT, LONG or LONG8."""
    return Tag(code, kind, len(values), np.asarray(values).astype(order + INTEGERS[kind]).tobytes())


def _shared_offsets(source: Tiff) -> set[int]:
    """Return the offsets that several segments of a file have in common."""
    offsets = np.sort(np.concatenate([page.offsets[page.counts > 0] for page in source.pages]))
    return set(offsets[1:][offsets[1:] == offsets[:-1]].tolist())


def _write_page(target: BinaryIO, tags: list[Tag], link: int, order: str, big: bool) -> int:
    """Write a directory's values, the directory, and its offset at `link`; return where the next one's offset goes."""
    value_bytes = 8 if big else 4
    entries = []
    for tag in tags:
        value = tag.raw
        if len(value) > value_bytes:
            _align(target)
            value = struct.pack(order + ("Q" if big else "I"), target.tell())
            target.write(tag.raw)
        entries.append(struct.pack(order + ("HHQ" if big else "HHI"), tag.code, tag.type, tag.count)
                       + value.ljust(value_bytes, b"\0"))
    _align(target)
    start = target.tell()
    target.write(struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries))
    next_link = target.tell()
    target.write(bytes(value_bytes))
    end = target.tell()
    target.seek(link)
    target.write(struct.pack(order + ("Q" if big else "I"), start))
    target.seek(end)
    return next_link


def _align(target: BinaryIO) -> None:
    """Fill up to a multiple of 8 bytes."""
    if target.tell() % 8:
        target.write(bytes(-target.tell() % 8))


def copy_bytes(file: io.FileIO, target: BinaryIO, length: int, buffer: memoryview) -> None:
    """Copy the next `length` bytes of a file to the target's position, through a buffer."""
    while length:
        count = file.readinto(buffer[:length])
        if not count:
            raise SlideError(f"{file.name}: ends inside a segment; get a whole copy of it")
        target.write(buffer[:count])
        length -= count
