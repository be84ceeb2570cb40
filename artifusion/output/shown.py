"""What readers show of a restored slide: OpenSlide and tifffile, with nothing of the writer but how levels are reduced.

`verify` compares stored segments; here the file is opened as the world opens it. Every touched place of every level,
and some others of levels that were built, must show what the level above it shows, and not rather something else: the
same a little aside, with other colours, or as it was.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from artifusion.ahead import ahead
from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask, footprint
from artifusion.output.container import DECODERS_DIFFER, THUMBNAIL
from artifusion.output.patches import Patches
from artifusion.output.reencode import halved
from artifusion.output.region_colours import FEWEST_PX, inner
from artifusion.output.segments import area_mean
from artifusion.output.stored import masked_segments
from artifusion.output.tiff_pixels import LOSSY, TiffPixels
from artifusion.slide.levels import Grid
from artifusion.slide.reader import Slide, associated_image
from artifusion.slide.whole import tifffile_messages

SAMPLED = 32                         # untouched segments of a built level that are looked at
WINDOW_PX = 512                      # side of the boxes in which pages without tiles are looked at
NOISE = 1.5                          # grey levels, on average, that encoding explains without looking further
BETTER = 0.7                         # of the distance to what should be shown: something else explains it better
DETAIL_PX = 2                        # blur below which detail may be lost where colours are stored at half the size
STALE = 0.3                          # of that distance: nearer to the source than encoding it again comes
LOOKED_AHEAD = 8

Picture = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Shown:
    """A place to look at: what is shown there, what should be, and what else might be."""

    name: str
    shown: Picture
    right: Picture
    wrong: Mapping[str, Picture]
    source: Picture | None           # what the source shows
    where: np.ndarray                # bool (H, W): the pixels that count
    furthest: float                  # grey levels, on average, that encoding explains
    before: Picture | None = None    # what the source should show; where that is about what is right, no look can tell

    def problem(self) -> str:
        """Return what is wrong with the place; empty where it shows what it should."""
        if np.count_nonzero(self.where) < FEWEST_PX:
            return ""
        shown, right = self.shown(), self.right()
        distance = self._distance(shown, right)
        if distance <= NOISE:
            return ""
        swapped = {"what should be there with swapped channels": lambda: right[..., ::-1]}
        for what, picture in (swapped | dict(self.wrong)).items():
            if self._distance(shown, picture()) < BETTER * distance:
                return f"{self.name} shows {what}"
        if self.source and self._distance(shown, self.source()) < STALE * distance and not self._stays(right, distance):
            return f"{self.name} shows what the source shows"
        detail = self._distance(right, gaussian_filter(right, (DETAIL_PX, DETAIL_PX, 0)))
        far = distance > self.furthest + detail              # encoders drop fine colours
        return f"{self.name} is {distance:.1f} grey levels off on average" if far else ""

    def _stays(self, right: np.ndarray, distance: float) -> bool:
        """Whether the place changed too little to be told from the source, which is off by its own encoding."""
        if self.source is None or self.before is None:
            return False
        before = self.before()
        return self._distance(right, before) < max(NOISE, distance / 2, self._distance(self.source(), before))

    def _distance(self, shown: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(shown[self.where].astype(np.int16) - other[self.where]).mean())


def shown_problems(before: Slide, after: Slide, mask: Mask, written: Mapping[str, Any],
                   patches: Patches | None = None) -> list[str]:
    """Return what readers show of a restored slide that they should not.

    Args:
        written: what the sidecar says of how the slide and every level was written.
        patches: what was painted, where it is at hand: level 0 must show it.
    """
    problems, levels = list[str](), written.get("levels", ())
    with ExitStack() as stack, tifffile_messages():
        pixels = old = None
        if after.kind == "slide":
            try:
                pixels = stack.enter_context(closing(TiffPixels(after)))
                if any(level["how"] == "copied" for level in levels):
                    old = stack.enter_context(closing(TiffPixels(before)))
            except ValueError as error:
                return [str(error)]
        looks = _looks(before, after, mask, levels, patches, pixels, old)
        with closing(ahead(lambda look: look.problem(), looks, LOOKED_AHEAD, os.cpu_count() or 1)) as found:
            problems += [problem for problem in found if problem]
        if pixels is not None:
            problems += [] if written["container"] == "copied" else _scale_problems(pixels)    # copied tags are alike
            problems += _reader_problems(before, after, mask, pixels, old)
    return problems


def _looks(before: Slide, after: Slide, mask: Mask, levels: Sequence[Mapping[str, Any]], patches: Patches | None,
           pixels: TiffPixels | None, old: TiffPixels | None) -> Iterator[Shown]:
    """Yield the places to look at: on level 0 where it is known what was painted, below it on every level.

    Args:
        pixels, old: of the restored slide and of its source, where they are TIFFs and levels are copied.
    """
    if patches is not None:
        grid = pixels.grids[0] if pixels else Grid(after.size, Size(WINDOW_PX, WINDOW_PX), True)
        for index in masked_segments(grid, mask):
            furthest = pixels.furthest(0, index) if pixels else LOSSY
            l0_box = grid.box(index).intersection(Box(0, 0, *after.size))
            yield _painted(before, after, mask, patches, l0_box, furthest)
    if pixels is None:
        return
    how = {level["name"]: level["how"] for level in levels}
    for level, grid in enumerate(pixels.grids):
        if level:
            source = old if how.get(f"level {level}", "copied") == "copied" else None
            some = [] if source else np.linspace(0, grid.columns * grid.rows - 1, SAMPLED).astype(int).tolist()
            for index in sorted({*masked_segments(grid, mask), *some}):
                window = grid.box(index).intersection(Box(0, 0, *grid.size))
                yield (_copied(source, mask, pixels, level, window, pixels.furthest(level, index)) if source else
                       _built(pixels, level, window, pixels.furthest(level, index)))
    if how.get(THUMBNAIL) == "copied" and THUMBNAIL in after.associated:
        yield from _thumbnail(before, after, mask, pixels)


def _painted(before: Slide, after: Slide, mask: Mask, patches: Patches, l0_box: Box, furthest: float) -> Shown:
    """A place on level 0, which must show what was painted there."""
    wide = l0_box.expanded(1)
    pixels = cache(lambda: patches.read(wide))

    def painted(x: int, y: int) -> np.ndarray:
        return _part(pixels(), wide, l0_box, x, y)

    shifts = {f"what was painted {x} px and {y} px aside": partial(painted, x, y) for x, y in _around(1, 1)}
    return Shown(f"level 0 at {tuple(l0_box[:2])}", partial(after.read, l0_box), partial(painted, 0, 0), shifts,
                 partial(before.read, l0_box), inner(mask.read(l0_box)), furthest)


def _copied(old: TiffPixels, mask: Mask, pixels: TiffPixels, level: int, window: Box, furthest: float) -> Shown:
    """A touched place of a copied level: its masked pixels are means of the level above."""
    size, up_size = pixels.grids[level].size, pixels.grids[level - 1].size
    masked = mask.coverage(size, window)
    rows, columns = np.nonzero(masked)                       # the part that counts
    part = Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    masked, window = masked[part.slices()], Box(window.x + part.x, window.y + part.y, part.width, part.height)
    above = footprint(window, size, up_size)
    x_px, y_px = (max(1, round(up / lv / 2)) for up, lv in zip(up_size, size, strict=True))
    wide = Box(above.x - x_px, above.y - y_px, above.width + 2 * x_px, above.height + 2 * y_px)
    upper = cache(lambda: pixels.read(level - 1, wide))

    def reduced(x: int, y: int) -> np.ndarray:
        return area_mean(_part(upper(), wide, above, x, y), above, window, size, up_size)

    def reduced_source() -> np.ndarray:
        number = old.above(size)
        old_size = old.grids[number].size
        box = footprint(window, size, old_size)
        return area_mean(old.read(number, box), box, window, size, old_size)

    return Shown(f"level {level} at {tuple(window[:2])}", lambda: pixels.read(level, window), lambda: reduced(0, 0),
                 _shifts(reduced, x_px, y_px), partial(old.read_size, size, window), inner(masked), furthest,
                 reduced_source)


def _built(pixels: TiffPixels, level: int, window: Box, furthest: float) -> Shown:
    """A place of a level that was built: it is the level above, halved."""
    above = Box(2 * window.x, 2 * window.y, 2 * window.width, 2 * window.height)
    wide = above.expanded(1)
    upper = cache(lambda: pixels.read(level - 1, wide))

    def reduced(x: int, y: int) -> np.ndarray:
        return halved(_part(upper(), wide, above, x, y))

    return Shown(f"level {level} at {tuple(window[:2])}", lambda: pixels.read(level, window), lambda: reduced(0, 0),
                 _shifts(reduced, 1, 1), None, np.ones((window.height, window.width), bool), furthest)


def _thumbnail(before: Slide, after: Slide, mask: Mask, pixels: TiffPixels) -> Iterator[Shown]:
    """The masked parts of the thumbnail, which are means of the smallest level that is larger."""
    shown, old = (associated_image(slide.path, THUMBNAIL) for slide in (after, before))
    if shown is None or old is None:                         # what cannot be read is copied as it is
        return
    size = Size(shown.shape[1], shown.shape[0])
    level = pixels.above(size)
    lv_size, grid = pixels.grids[level].size, Grid(size, Size(WINDOW_PX, WINDOW_PX), True)
    for index in masked_segments(grid, mask):
        window = grid.box(index).intersection(Box(0, 0, *size))
        lv_box = footprint(window, size, lv_size)
        right = area_mean(pixels.read(level, lv_box), lv_box, window, size, lv_size)
        pictures = [partial(np.asarray, picture) for picture in (shown[window.slices()], right, old[window.slices()])]
        yield Shown("the thumbnail", pictures[0], pictures[1], {}, pictures[2], mask.coverage(size, window), math.inf)


def _scale_problems(pixels: TiffPixels) -> list[str]:
    """Return the levels that state a scale which does not follow from that of level 0."""
    l0_resolution, l0_size = pixels.resolution(0), pixels.grids[0].size
    problems = []
    for level, grid in enumerate(pixels.grids):
        expected = [value * lv / l0 for value, lv, l0 in zip(l0_resolution, grid.size, l0_size, strict=True)]
        if any(l0_resolution) and any(stated := pixels.resolution(level)) and not np.allclose(stated, expected, 0.005):
            problems.append(f"level {level} states another scale than follows from level 0")
    return problems


def _reader_problems(before: Slide, after: Slide, mask: Mask, pixels: TiffPixels, old: TiffPixels | None) -> list[str]:
    """Return the touched places of which OpenSlide shows something else than tifffile, if it does not of the source."""
    problems = list[str]()
    for level, grid in enumerate(pixels.grids):
        for index in [index for index in masked_segments(grid, mask) if pixels.holds(level, index)]:
            window = grid.box(index).intersection(Box(0, 0, *grid.size))
            reason = _disagreement(after, pixels, level, window)
            if reason and not _disagree(before, old, grid.size, window):
                problems.append(reason)
    return problems


def _disagreement(slide: Slide, pixels: TiffPixels, level: int, window: Box) -> str:
    """Return that OpenSlide and tifffile show a place differently, or that OpenSlide shows nothing; empty where not.

    On reduced levels, where OpenSlide may interpolate, their means are compared.
    """
    try:
        difference = slide.read_level(level, window).astype(np.int16) - pixels.read(level, window)
    except SlideError as error:
        return str(error)
    if min(window[2:]) <= 8:
        return ""
    inner_part = np.abs(difference[1:-1, 1:-1].mean(axis=(0, 1))) if level else np.abs(difference)
    differ = inner_part.max() > DECODERS_DIFFER
    return f"level {level} at {tuple(window[:2])}: OpenSlide and tifffile show different pixels" if differ else ""


def _disagree(slide: Slide, pixels: TiffPixels | None, size: Size, window: Box) -> bool:
    """Return whether they show a place of the source differently, or OpenSlide cannot read it."""
    if pixels is None or size not in slide.level_sizes:
        return False
    return bool(_disagreement(slide, pixels, slide.level_sizes.index(size), window))


def _shifts(reduced: Callable[[int, int], np.ndarray], x_px: int, y_px: int) -> dict[str, Picture]:
    """Return the pictures of a level half a pixel aside, and a whole one."""
    return {f"the level above {x / x_px / 2:g} px and {y / y_px / 2:g} px aside": partial(reduced, x, y)
            for x, y in _around(x_px, y_px)}


def _around(x_px: int, y_px: int) -> list[tuple[int, int]]:
    return [(x, y) for x in (-x_px, 0, x_px) for y in (-y_px, 0, y_px) if x or y]


def _part(pixels: np.ndarray, wide: Box, box: Box, x: int, y: int) -> np.ndarray:
    """Return a box of the pixels of a wider one, shifted."""
    return pixels[Box(box.x + x, box.y + y, box.width, box.height).slices(wide)]
