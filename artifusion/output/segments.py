"""Compressed segments of a level, once they are restored: the touched ones decoded, painted and encoded again."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from artifusion.ahead import ahead
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask, blocks, footprint, footprint_edges
from artifusion.output.codecs.block_arrays import copy_where
from artifusion.output.patches import Patches
from artifusion.output.stored import StoredPage, touched_segments

AVERAGED_PX = 1024                  # side of the level-0 boxes that are averaged at once
RESTORED_AHEAD = 8                  # touched segments in work while the ones before them are written


@dataclass
class PixelChange:
    """How pixels outside the mask changed: in touched segments, or everywhere in a re-encoded slide."""

    px: int = 0                       # compared
    changed_px: int = 0               # of these, with a change in any channel
    largest: int = 0                  # grey levels, of any channel
    total: int = 0                    # grey levels, summed over pixels and channels

    def add(self, before: np.ndarray, after: np.ndarray, where: np.ndarray) -> None:
        """Count in the pixels, uint8 (H, W, 3), where `where`, bool (H, W), is set."""
        same = before == after
        changed = np.flatnonzero(where & ~(same[..., 0] & same[..., 1] & same[..., 2]))
        old, new = (pixels.reshape(-1, 3).take(changed, axis=0) for pixels in (before, after))    # (changed, 3)
        difference = np.abs(old.astype(np.int16) - new)
        self.px += int(np.count_nonzero(where))
        self.changed_px += len(difference)
        self.largest = max(self.largest, int(difference.max(initial=0)))
        self.total += int(difference.sum(dtype=np.int64))

    def include(self, other: PixelChange) -> None:
        """Count in the pixels that another one counted."""
        self.px += other.px
        self.changed_px += other.changed_px
        self.largest = max(self.largest, other.largest)
        self.total += other.total

    @property
    def share(self) -> float:
        """Share of the compared pixels that changed."""
        return self.changed_px / self.px if self.px else 0.0

    def to_dict(self) -> dict[str, float]:
        return {"px": self.px, "changed_share": self.share, "largest": self.largest,
                "mean": self.total / 3 / self.px if self.px else 0.0}


@dataclass
class Change:
    """What happened to the touched segments of one page."""

    touched: int = 0
    whole: int = 0                    # of these, encoded whole since they could not be taken apart into blocks
    outside: PixelChange = field(default_factory=PixelChange)

    def include(self, other: Change) -> None:
        """Count in the segments that another one counted."""
        self.touched += other.touched
        self.whole += other.whole
        self.outside.include(other.outside)


def restored_segments(stored: StoredPage, mask: Mask, patches: Patches, change: Change
                      ) -> Generator[tuple[int, bytes], None, None]:
    """Yield (index, new bytes) of every segment that the mask touches: decoded, painted, and encoded like the old one.

    Args:
        stored: the slide's page.
        change: counts what happened to the segments that were yielded.

    On level 0 masked pixels come from the patches. On other levels a pixel whose footprint holds a masked pixel
    becomes the mean of the painted level 0 over that footprint. All other pixels are encoded as they were decoded;
    what `Codec.reach` leaves out is decoded unchanged. A segment that cannot be written in its own form is encoded
    whole in that of another one (`StoredPage.like`), and a missing one of a reduced level is built from level 0.

    Threads work on up to RESTORED_AHEAD segments in advance and read the slide, so close the generator before the
    slide. Memory: four times the pixels of each of these, and AVERAGED_PX squared of level 0.
    """
    grid, codec = stored.grid, stored.codec

    def restored(segment: tuple[int, bytes, bytes]) -> tuple[int, bytes, Change]:
        index, old, like = segment
        box = grid.box(index)
        lv_box = box.intersection(Box(0, 0, *grid.size))
        shown = np.s_[: lv_box.height, : lv_box.width]
        if not old:
            colours = painted_means(mask, patches, grid.size, lv_box, np.ones((lv_box.height, lv_box.width), bool))
            beyond = ((0, box.height - lv_box.height), (0, box.width - lv_box.width), (0, 0))
            samples = np.pad(codec.samples(colours), beyond, "edge")
            return index, codec.encode(samples, like, np.ones(samples.shape[:2], bool)), Change(1, 1)
        before = stored.decode(index, old)
        touched = np.zeros(before.shape[:2], bool)
        touched[shown] = mask.coverage(grid.size, lv_box)
        samples = before.copy()
        if grid.size == mask.l0_size:
            colours = codec.rgb(before[shown]).copy()
            patches.paint(colours, lv_box, touched[shown])
        else:
            colours = painted_means(mask, patches, grid.size, lv_box, touched[shown])
        copy_where(samples[shown], codec.samples(colours), touched[shown])
        new = codec.encode(samples, like, touched if like is old else np.ones_like(touched))
        after = codec.decode(new)
        own = Change(1, int(like is not old or ((before != after) & ~codec.reach(touched, old)[..., None]).any()))
        own.outside.add(before[shown], after[shown], ~touched[shown])
        return index, new, own

    with closing(ahead(restored, touched_segments(stored, mask), RESTORED_AHEAD, os.cpu_count() or 1)) as segments:
        for index, new, own in segments:
            change.include(own)
            yield index, new


def painted_means(mask: Mask, patches: Patches, lv_size: Size, lv_box: Box, touched: np.ndarray) -> np.ndarray:
    """Return the painted level 0 averaged on a lower level, uint8 (H, W, 3).

    Only pixels where `touched`, bool (H, W), is set have a meaning.
    """
    pixels = np.zeros((lv_box.height, lv_box.width, 3), np.uint8)
    for block in blocks(lv_box, lv_size, mask.l0_size, AVERAGED_PX):
        rows, columns = np.nonzero(touched[block.slices(lv_box)])
        if len(rows):                                         # read only the needed part of a block
            part = Box(block.x + int(columns.min()), block.y + int(rows.min()), int(np.ptp(columns)) + 1,
                       int(np.ptp(rows)) + 1)
            l0_box = footprint(part, lv_size, mask.l0_size)
            mean = area_mean(patches.read(l0_box), l0_box, part, lv_size, mask.l0_size)
            pixels[part.slices(lv_box)] = mean
    return pixels


def area_mean(pixels: np.ndarray, l0_box: Box, lv_box: Box, lv_size: Size, l0_size: Size) -> np.ndarray:
    """Return level pixels as means over their footprints, by the levels' real ratio: uint8 (h, w, 3), rounded.

    Args:
        pixels: uint8 (H, W, 3) of `l0_box`, which holds the footprints of all pixels of `lv_box`.
    """
    across = _weights(lv_box.x, lv_box.right, lv_size.width, l0_size.width, l0_box.x, l0_box.width)
    down = _weights(lv_box.y, lv_box.bottom, lv_size.height, l0_size.height, l0_box.y, l0_box.height)
    rows = down @ pixels.reshape(l0_box.height, -1).astype(np.float32)                    # (h, W * 3)
    rows = rows.reshape(lv_box.height, l0_box.width, 3).transpose(1, 0, 2)                # (W, h, 3)
    mean = (across @ np.ascontiguousarray(rows).reshape(l0_box.width, -1)).reshape(lv_box.width, lv_box.height, 3)
    return np.rint(mean.transpose(1, 0, 2)).clip(0, 255).astype(np.uint8)


def _weights(start: int, stop: int, lv_length: int, l0_length: int, l0_start: int, l0_count: int) -> csr_array:
    """Return the share of each level pixel's footprint that each level-0 pixel fills, along one axis.

    float32 (stop - start, l0_count): the level pixels from `start` on, the level-0 pixels from `l0_start` on.
    """
    first, last = footprint_edges(start, stop, lv_length, l0_length)
    ratio = l0_length / lv_length
    counts = last - first
    row = np.repeat(np.arange(stop - start), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + first[row]
    left, right = (start + row) * ratio, (start + row + 1) * ratio
    weight = np.clip(np.minimum(column + 1, right) - np.maximum(column, left), 0, None) / ratio
    return csr_array((weight.astype(np.float32), (row, column - l0_start)), shape=(stop - start, l0_count))
