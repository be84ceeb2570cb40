"""Segments as a TIFF holds them: how a page is cut, which of them the mask touches, what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from artifusion.errors import SlideError
from artifusion.geometry import Box
from artifusion.mask.mask import Mask, level_box
from artifusion.output.codecs.segment_codecs import Codec, codec_of
from artifusion.slide import tiff
from artifusion.slide.levels import Grid

PATTERNS = 32                       # of the largest segments, among which one that can be written again is looked for


@dataclass(frozen=True)
class StoredPage:
    """A directory of an open file, whose segments can be read.

    Attributes:
        name: what the directory is, for messages: "level 1".
    """

    file: BinaryIO
    page: tiff.Page
    name: str = "a directory"
    same_size: bool = False

    @cached_property
    def grid(self) -> Grid:
        return Grid.of(self.page)

    @cached_property
    def codec(self) -> Codec:
        """Its codec. Raises SlideError as `codec_of` does."""
        return codec_of(self.page, self.same_size)

    def segment(self, index: int) -> bytes:
        """Return the compressed bytes of a segment; empty for a sparse one."""
        return tiff.read_segment(self.file, self.page, index)

    @cached_property
    def pattern(self) -> tuple[int, bytes]:
        """The largest segment that is whole and can be written again, and its index; without such one, the largest.

        In its form is written what has no form of its own to be written in.
        """
        largest = [int(index) for index in np.argsort(-self.page.counts, kind="stable")[:PATTERNS]]
        for index in largest:
            data = self.segment(index)
            try:
                if data and not self.codec.why_not(data) and len(self.decode(index, data)):
                    return index, data
            except SlideError:
                continue
        return largest[0], self.segment(largest[0])

    def like(self, data: bytes) -> bytes:
        """Return the segment in whose form a touched one is written: its own, or else `pattern`."""
        return data if data and not self.codec.why_not(data) else self.pattern[1]

    def decode(self, index: int, data: bytes) -> np.ndarray:
        """Return the samples of a segment, uint8 (H, W, 3).

        Raises:
            SlideError: it is damaged, or has another size than its tags tell; with the file and the place.
        """
        box = self.grid.box(index)
        try:
            samples = self.codec.decode(data)
            if samples.shape[1] != box.width or samples.shape[0] < box.height:
                raise SlideError(f"it holds {samples.shape[1]} x {samples.shape[0]} px instead of {box.width} x "
                                 f"{box.height}; get a whole copy of the slide")
        except SlideError as error:
            raise SlideError(f"{self.file.name}: {self.name}, at {tuple(box[:2])}: {error}") from None
        return samples


def masked_segments(grid: Grid, mask: Mask) -> list[int]:
    """Return the indices of a page's segments with a pixel whose footprint holds a masked level-0 pixel, rising."""
    candidates: set[int] = set()
    for index, area in enumerate(mask.areas_px):
        if area:
            candidates.update(grid.over(level_box(mask.polygons[index].bounds, grid.size, mask.l0_size)))
    frame = Box(0, 0, *grid.size)
    return [i for i in sorted(candidates) if mask.coverage(grid.size, grid.box(i).intersection(frame)).any()]


def touched_segments(stored: StoredPage, mask: Mask) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (index, bytes, the segment in whose form it is written) of every segment that the mask touches, rising.

    Where segments are missing there is nothing on level 0; a reduced level gets them, if only from below the mask.
    """
    level0 = stored.grid.size == mask.l0_size
    for index in masked_segments(stored.grid, mask):
        data = stored.segment(index)
        if data or not level0:
            yield index, data, stored.like(data)
