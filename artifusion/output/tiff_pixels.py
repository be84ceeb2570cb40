"""The pixels of a TIFF slide as tifffile shows them, which is also much faster than OpenSlide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import tifffile

from artifusion.errors import BROKEN_FILE, SlideError
from artifusion.geometry import Box, Size
from artifusion.output.allowed_change import quantisation_error
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.segment_codecs import APERIO_YCBCR, JpegCodec, PackedCodec, codec_of
from artifusion.slide import tiff
from artifusion.slide.levels import Grid, level_pages
from artifusion.slide.reader import TIFF_VENDORS, Slide

JPEG, RGB, YCBCR = 7, 2, 6           # of compressions and photometric interpretations
EXACT, LOSSY = 3.0, 12.0             # grey levels: rounding, also of other colours; any usual encoding


class TiffPixels:
    """The pixels of a TIFF's levels, as tifffile decodes them. Threads may share it."""

    def __init__(self, slide: Slide) -> None:
        source = tiff.read_tiff(slide.path)
        pages = level_pages(source, slide)
        if pages is None:
            raise ValueError("its tiled directories are not the levels OpenSlide shows")
        self._stored = [source.pages[number] for number in pages]
        self.grids = [Grid.of(page) for page in self._stored]
        self._tifffile = tifffile.TiffFile(slide.path)
        self._pages: list[Any] = [self._tifffile.pages[number] for number in pages]
        self._file, self._lock = slide.path.open("rb"), threading.Lock()

    def close(self) -> None:
        self._tifffile.close()
        self._file.close()

    def read(self, level: int, lv_box: Box, strict: bool = False) -> np.ndarray:
        """Return a box of a level, uint8 (H, W, 3); beyond the level its edge is repeated, missing tiles are white.

        Damaged tiles are white, too; if `strict` they raise SlideError.
        """
        grid = self.grids[level]
        inside = lv_box.intersection(Box(0, 0, *grid.size))
        pixels = np.full((inside.height, inside.width, 3), 255, np.uint8)
        for index in grid.over(inside):
            tile = self._tile(level, index)
            if tile is not None:
                part = grid.box(index).intersection(inside)
                pixels[part.slices(inside)] = tile[part.slices(grid.box(index))]
            elif strict and self.holds(level, index):
                raise SlideError(f"{self._file.name}: level {level} is damaged at {tuple(grid.box(index)[:2])}")
        across, down = ((inside.x - lv_box.x, lv_box.right - inside.right),
                        (inside.y - lv_box.y, lv_box.bottom - inside.bottom))
        return np.pad(pixels, (down, across, (0, 0)), mode="edge")

    def read_size(self, size: Size, lv_box: Box) -> np.ndarray:
        """Return a box of the level of that size."""
        return self.read(next(n for n, grid in enumerate(self.grids) if grid.size == size), lv_box)

    def above(self, size: Size) -> int:
        """Return the smallest level that is larger than a size; level 0 where none is."""
        return max(n for n, grid in enumerate(self.grids) if n == 0 or grid.size.width > size.width)

    def _tile(self, level: int, index: int) -> np.ndarray | None:
        """Return a tile, uint8 (H, W, 3); None where it is missing, or damaged in the source as well."""
        page, stored = self._pages[level], self._stored[level]
        with self._lock:
            data = tiff.read_segment(self._file, stored, index)
        if not data:
            return None
        try:
            if page.compression == APERIO_YCBCR:               # which tifffile does not convert
                return codec_of(stored).rgb(codec_of(stored).decode(data))
            return page.decode(data, index, jpegtables=page.jpegtables)[0][0]
        except (SlideError, tifffile.TiffFileError, *BROKEN_FILE):
            return None

    def furthest(self, level: int, index: int) -> float:
        """Return the grey levels by which encoding can move the pixels of a tile, on average over any part of it."""
        codec = codec_of(self._stored[level])
        if not isinstance(codec, JpegCodec):
            return EXACT if isinstance(codec, PackedCodec) else LOSSY
        with self._lock:
            data = tiff.read_segment(self._file, self._stored[level], index)
        return max(LOSSY, quantisation_error(jpeg.parse(data, codec.tables)))

    def resolution(self, level: int) -> tuple[float, float]:
        """Return the pixels per cm of a level along x and y; 0 where it states none."""
        page, stored = self._pages[level], self._stored[level]
        try:
            stated = tiff.X_RESOLUTION in stored.tags and page.resolutionunit != 1
            return page.get_resolution("CENTIMETER") if stated else (0.0, 0.0)
        except BROKEN_FILE:
            return 0.0, 0.0

    @property
    def are_plain(self) -> bool:
        """Return whether every level is JPEG in RGB or YCbCr, upright, and holds all its tiles."""
        return all(page.number(tiff.COMPRESSION) == JPEG and page.number(tiff.PHOTOMETRIC) in (RGB, YCBCR)
                   and page.number(tiff.SAMPLES) == 3 and page.number(tiff.PLANAR, 1) == 1
                   and page.number(tiff.ORIENTATION, 1) == 1 and page.counts.all() for page in self._stored)

    def holds(self, level: int, index: int) -> bool:
        """Return whether a tile is not missing."""
        return bool(self._stored[level].counts[index])


class TiledSlide(Slide):
    """A slide whose tiles tifffile decodes; OpenSlide reads what is damaged."""

    def __init__(self, slide: Slide, pixels: TiffPixels) -> None:
        self.__dict__ |= slide.__dict__
        self._slide, self._tiles = slide, pixels

    def is_missing(self, l0_box: Box) -> bool:
        return self._slide.is_missing(l0_box)

    def read_associated(self, name: str) -> np.ndarray:
        return self._slide.read_associated(name)

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        try:
            return self._tiles.read(level, lv_box, strict=True)
        except SlideError:
            return self._slide._pixels(level, lv_box)


@contextmanager
def read_fast(slide: Slide) -> Iterator[Slide]:
    """The slide, read through tifffile where that is known to show what OpenSlide shows."""
    try:
        if slide.vendor not in TIFF_VENDORS:
            raise ValueError("its tiles may overlap")
        pixels = TiffPixels(slide)
    except (ValueError, SlideError, tifffile.TiffFileError, *BROKEN_FILE):
        yield slide
        return
    with closing(pixels):
        yield TiledSlide(slide, pixels) if pixels.are_plain else slide
