"""A small picture of a whole slide, and where on it lies tissue or glass that may stand in for what is hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from artifusion.evidence.likeness import Picture, features, opponent
from artifusion.geometry import Box, Point, Size
from artifusion.mask.mask import Mask
from artifusion.slide.reader import Slide, in_memory

INDEX_UM = (2.0, 4.0, 8.0, 16.0)     # um per pixel of the picture: the finest with few pixels, but see FULL_PX
SMALL_PX = 1_000_000                 # up to so many pixels, finer than 4 um per pixel
FULL_PX = 40_000_000                 # of a picture: 160 MB with what is usable
VIEW_PX = 360                        # longest side of what is searched at once
LOCAL_STEP = 2                       # pixels of the picture per pixel of the view around a hole
VIEWS_KEPT = 4                       # all, and what is near several holes: threads; 6 MB each
MARGIN_UM = 4.0                      # around what is masked, that is no donor either
LEAST_GLASS, MOST_GLASS = 200, 235   # darkest channel from which on a pixel may be, and is, glass
GLASS_SPREAD = 8                     # grey levels below the lightest pixels that glass may be dark
BINS = 16                            # per channel, of the histogram that tells rare colours


class SearchView(NamedTuple):
    """A part of an index's picture, ready to be searched."""

    picture: Picture
    origin: Point           # in pixels of the index's picture
    step: int               # such pixels per pixel of the view


@dataclass(frozen=True, eq=False)
class DonorIndex:
    """Where a slide has pixels that may be grafted, at low magnification.

    Attributes:
        slide: what donors are read from.
        mpp: um per level-0 pixel.
        avoid: level-0 pixels that are no donors: every mask of the slide.
        step: level-0 pixels per pixel of the picture.
        picture: uint8 (H, W, 3), the slide reduced; at most 40 million pixels.
        usable: bool (H, W), nothing of `avoid` within MARGIN_UM, and not damaged. Glass is usable too.
        own: holes lie on this slide, not on another.
    """

    slide: Slide
    mpp: float
    avoid: tuple[Mask, ...]
    step: int
    picture: np.ndarray
    usable: np.ndarray
    own: bool = True

    @classmethod
    def of(cls, slide: Slide, mpp: float, avoid: Sequence[Mask] = (), own: bool = True) -> DonorIndex:
        """The index of a slide of so many um per pixel, without what the masks cover.

        Memory: 4 bytes a pixel of the picture, and one read.
        """
        step = index_step(slide.size, mpp)
        size = Size(max(1, slide.size.width // step), max(1, slide.size.height // step))
        whole = Box(0, 0, min(slide.size.width, size.width * step), min(slide.size.height, size.height * step))
        picture, seen = slide.seen_as(whole, size)
        return cls(slide, mpp, (), step, picture, seen, own).without(*avoid)

    @classmethod
    def of_images(cls, images: Sequence[np.ndarray], mpp: float) -> tuple[DonorIndex, ...]:
        """An index of each of some images without artifacts, uint8 (H, W, 3), of so many um per pixel."""
        return tuple(cls.of(in_memory(image), mpp, own=False) for image in images)

    def without(self, *masks: Mask) -> DonorIndex:
        """The same index with more to avoid: what these masks cover, and MARGIN_UM around it."""
        barred = np.zeros(self.usable.shape, bool)
        stepped = Size(*(-(-side // self.step) for side in self.slide.size))
        for mask in masks:
            barred |= mask.coverage(stepped, Box(0, 0, *self.size))
        side = 2 * round(MARGIN_UM / (self.step * self.mpp)) + 3
        grown = cv2.dilate(barred.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        return replace(self, avoid=(*self.avoid, *masks), usable=self.usable & (grown == 0))

    def read(self, l0_box: Box, size: Size | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A box in so many pixels, uint8 (h, w, 3), by default its own, and which level-0 pixels may be a donor's, bool
        (H, W): none that is damaged."""
        pixels, seen = self.slide.seen_as(l0_box, size)
        if size is not None:
            seen = cv2.resize(seen.view(np.uint8), l0_box[2:], interpolation=cv2.INTER_NEAREST).view(bool)
        return pixels, seen & self.allowed(l0_box)

    def allowed(self, l0_box: Box) -> np.ndarray:
        """Which level-0 pixels of a box lie on the slide and outside every mask: bool (H, W)."""
        free = np.zeros((l0_box.height, l0_box.width), bool)
        free[l0_box.intersection(Box(0, 0, *self.slide.size)).slices(l0_box)] = True
        for mask in self.avoid:
            free &= ~mask.read(l0_box)
        return free

    def views(self, l0_centre: Point) -> Iterator[SearchView]:
        """What to search for a hole there: all of the picture, and what is near, where all is seen too coarsely."""
        whole = -(-max(self.size) // VIEW_PX)
        yield SearchView(self._view(Point(0, 0), self.size, whole), Point(0, 0), whole)
        if self.own and whole > LOCAL_STEP:
            extent = Size(*(min(length, VIEW_PX * LOCAL_STEP) for length in self.size))
            side = VIEW_PX * LOCAL_STEP // 8                         # pieces of one region ask for the same part
            origin = Point(*(min(max(0, round((at / self.step - part / 2) / side) * side), length - part)
                             for at, part, length in zip(l0_centre, extent, self.size, strict=True)))
            yield SearchView(self._view(origin, extent, LOCAL_STEP), origin, LOCAL_STEP)

    @cached_property
    def _view(self) -> Callable[[Point, Size, int], Picture]:
        def picture(origin: Point, extent: Size, step: int) -> Picture:
            size = Size(*(max(1, side // step) for side in extent))
            part = Box(*origin, size.width * step, size.height * step).slices()
            seen, usable = (cv2.resize(values[part], size, interpolation=cv2.INTER_AREA)
                            for values in (self.picture, self.usable.view(np.uint8) * np.uint8(255)))
            return Picture(features(opponent(seen), usable == 255, self.step * step * self.mpp), usable == 255)

        return lru_cache(maxsize=VIEWS_KEPT)(picture)

    @property
    def size(self) -> Size:
        return Size(self.picture.shape[1], self.picture.shape[0])

    @cached_property
    def lightest(self) -> int:
        """The darkest channel from which on a pixel is bare glass; on a slide without glass, among its lightest."""
        seen = self.picture.reshape(-1, 3)[:: max(1, self.picture.size // 6_000_000)].min(axis=1)
        return int(np.clip(np.percentile(seen, 99) - GLASS_SPREAD, LEAST_GLASS, MOST_GLASS))

    @cached_property
    def rarity(self) -> np.ndarray:
        """How rare each colour is on the slide, by its cell of the RGB cube: float32 (BINS, BINS, BINS), in nats."""
        seen = self.picture.reshape(-1, 3)
        cells = (seen[:: max(1, len(seen) // 2_000_000)] // (256 // BINS)) @ np.array([BINS**2, BINS, 1])
        counts = np.bincount(cells, minlength=BINS**3).reshape((BINS,) * 3).astype(np.float32)
        counts = gaussian_filter(counts, 0.7, mode="constant")      # neighbouring cells are like colours
        return -np.log((counts + 0.5) / (counts.sum() + 0.5 * counts.size)).astype(np.float32)


def index_step(size: Size, mpp: float) -> int:
    """Level-0 pixels per pixel of the index of a slide of that size and scale."""
    area_um2 = size.width * size.height * mpp**2
    um = next((um for um in INDEX_UM if area_um2 / um**2 <= (SMALL_PX if um < 4 else FULL_PX)), INDEX_UM[-1])
    least = int(np.ceil((size.width * size.height / FULL_PX) ** 0.5))       # where a scale is mistaken
    return max(1, round(um / mpp), least)
