"""Encoding anew: any source of pixels, streamed into a tiled pyramidal BigTIFF, or a plain image file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin

from artifusion.ahead import ahead
from artifusion.geometry import Box, Size
from artifusion.output.tiffwriter import TiffWriter, integers
from artifusion.slide import tiff
from artifusion.slide.tiff import Tag

TILE_PX = 256
QUALITY = 90
SMALLEST_PX = 512                    # levels halve until both sides are at most this
JPEG_IMAGE_QUALITY = 95
AHEAD = 16                           # tiles that are read while others are encoded

Read = Callable[[Box], np.ndarray]


def pyramid_sizes(size: Size) -> tuple[Size, ...]:
    """Level sizes, each half of the one before, odd ones rounded up so that no pixel is lost."""
    sizes = [size]
    while max(sizes[-1]) > SMALLEST_PX:
        sizes.append(half_size(sizes[-1]))
    return tuple(sizes)


def half_size(size: Size) -> Size:
    return Size(-(-size.width // 2), -(-size.height // 2))


def tile_count(size: Size) -> int:
    return -(-size.width // TILE_PX) * -(-size.height // TILE_PX)


def encoding(lossless: bool) -> str:
    """How `encode_tile` encodes, for the report."""
    return "deflate, exact" if lossless else f"JPEG quality {QUALITY}, 4:4:4: kept pixels change a little"


def write_pyramid(out: Path, size: Size, read: Read, *, mpp: float | None, icc: bytes | None, description: str,
                  work: Path, lossless: bool = False, progress: Callable[[int], None] | None = None) -> None:
    """Write a tiled pyramidal BigTIFF: JPEG (quality 90, 4:4:4), or deflate where lossless.

    Levels are sequential directories: OpenSlide ignores SubIFD pyramids. The same pixels give the same bytes.

    Args:
        read: box -> uint8 (H, W, 3), asked for every tile of level 0 once, row by row.
        progress: called with the number of level-0 pixels read.

    Memory: two rows of tiles per level below level 0. Their compressed tiles wait in files in `work`.
    """
    sizes = pyramid_sizes(size)
    spools = level_spools(sizes[1:], work, lossless)
    first = spools[0] if spools else None

    def level0() -> Iterator[np.ndarray]:
        for y in range(0, size.height, TILE_PX):
            height = min(TILE_PX, size.height - y)
            band = np.empty((-(-height // 2), -(-size.width // 2), 3), np.uint8) if first else None
            for x in range(0, size.width, TILE_PX):
                box = Box(x, y, min(TILE_PX, size.width - x), height)
                pixels = read(box)
                if band is not None:
                    half = halved(pixels)
                    band[:, x // 2 : x // 2 + half.shape[1]] = half
                if progress:
                    progress(box.area)
                yield pixels
            if first and band is not None:
                first.add(band)

    try:
        with out.open("wb") as target, TiffWriter(target, "<", True) as writer:
            tags = scale_tags(mpp, icc, description) | encoded_tags(size, lossless)
            writer.add(tags, True, encoded(level0(), lossless))
            for spool in spools:
                writer.add(spool.tags(mpp and mpp * size.width / spool.size.width, icc), True, spool.tiles())
    finally:
        for spool in spools:
            spool.remove()


def encoded_tags(size: Size, lossless: bool, order: str = "<") -> dict[int, Tag]:
    """The tags that say how `encode_tile` encodes a level of this size."""
    numbers: dict[int, tuple[int, Sequence[int]]] = {
        tiff.WIDTH: (tiff.LONG, [size.width]), tiff.HEIGHT: (tiff.LONG, [size.height]),
        tiff.BITS: (tiff.SHORT, [8, 8, 8]), tiff.COMPRESSION: (tiff.SHORT, [8 if lossless else 7]),
        tiff.PHOTOMETRIC: (tiff.SHORT, [2 if lossless else 6]), tiff.SAMPLES: (tiff.SHORT, [3]),
        tiff.PLANAR: (tiff.SHORT, [1]),
        tiff.TILE_WIDTH: (tiff.LONG, [TILE_PX]), tiff.TILE_HEIGHT: (tiff.LONG, [TILE_PX]),
        **({tiff.PREDICTOR: (tiff.SHORT, [2])} if lossless else {tiff.SUBSAMPLING: (tiff.SHORT, [1, 1])})}
    return {code: integers(code, values, kind, order) for code, (kind, values) in numbers.items()}


def scale_tags(mpp: float | None, icc: bytes | None, description: str | None, order: str = "<") -> dict[int, Tag]:
    """The tags that tell a level's scale and colours; with a description it is level 0.

    The resolution is in pixels per CENTIMETER, which OpenSlide turns into mpp.
    """
    tags = {tiff.SUBFILE: integers(tiff.SUBFILE, [1 if description is None else 0], tiff.LONG, order)}
    for code, text in ((tiff.DESCRIPTION, description), (tiff.SOFTWARE, "artifusion")):
        if text is not None:
            raw = text.encode(errors="surrogateescape") + b"\0"
            tags[code] = Tag(code, tiff.ASCII, len(raw), raw)
    if mpp:
        ratio = Fraction(1e4 / mpp).limit_denominator(10_000)
        for code in (tiff.X_RESOLUTION, tiff.Y_RESOLUTION):
            tags[code] = Tag(code, tiff.RATIONAL, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator))
        tags[tiff.RESOLUTION_UNIT] = integers(tiff.RESOLUTION_UNIT, [3], tiff.SHORT, order)
    if icc:
        tags[tiff.ICC] = Tag(tiff.ICC, tiff.UNDEFINED, len(icc), icc)
    return tags


def write_image(out: Path, pixels: np.ndarray, *, mpp: float | None, icc: bytes | None, note: str) -> None:
    """Write a plain PNG (exact) or JPEG (quality 95, 4:4:4) with the note as its description."""
    dpi = {"dpi": (25400 / mpp, 25400 / mpp)} if mpp else {}
    profile = {"icc_profile": icc} if icc else {}
    image = Image.fromarray(pixels)
    if out.suffix.lower() == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Description", f"artifusion: {note}")
        image.save(out, "PNG", pnginfo=info, **dpi, **profile)
    else:
        density = {"dpi": tuple(round(value) for value in dpi["dpi"])} if dpi and dpi["dpi"][0] < 65535 else {}
        image.save(out, "JPEG", quality=JPEG_IMAGE_QUALITY, subsampling=0, comment=f"artifusion: {note}", **density,
                   **profile)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd last row or column counts twice."""
    height, width = pixels.shape[:2]
    wide = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    return ((wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) >> 2).astype(np.uint8)


def encoded(tiles: Iterable[np.ndarray], lossless: bool) -> Iterator[bytes]:
    """The tiles' compressed bytes, in order; encoded on all cores, AHEAD of them in memory."""
    return ahead(partial(encode_tile, lossless=lossless), tiles, AHEAD, os.cpu_count() or 1)


def encode_tile(pixels: np.ndarray, lossless: bool) -> bytes:
    """A full tile's compressed bytes; pixels short of a tile are padded with their last row and column."""
    height, width = pixels.shape[:2]
    if (height, width) != (TILE_PX, TILE_PX):
        pixels = np.pad(pixels, ((0, TILE_PX - height), (0, TILE_PX - width), (0, 0)), mode="edge")
    pixels = np.ascontiguousarray(pixels)
    if lossless:
        return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(pixels, axis=1).tobytes(), level=6))
    return bytes(imagecodecs.jpeg8_encode(pixels, level=QUALITY, subsampling="444",
                                          colorspace="RGB", outcolorspace="YCBCR"))


def level_spools(sizes: Sequence[Size], work: Path, lossless: bool) -> list[LevelSpool]:
    """Levels in the making, each fed by the one before."""
    spools = [LevelSpool(work / f"level-{size.width}x{size.height}.tiles", size, lossless) for size in sizes]
    for upper, lower in pairwise(spools):
        upper.below = lower
    return spools


@dataclass
class LevelSpool:
    """One level in the making: rows come in, compressed tiles wait on disk, halved rows go to the level below."""

    path: Path
    size: Size
    lossless: bool
    below: LevelSpool | None = None

    def __post_init__(self) -> None:
        self._rows = np.empty((0, self.size.width, 3), np.uint8)
        self._lengths: list[int] = []
        self._received = 0
        self._file: BinaryIO = self.path.open("w+b")

    def add(self, rows: np.ndarray) -> None:
        self._rows = np.concatenate([self._rows, rows])
        self._received += len(rows)
        while len(self._rows) >= TILE_PX:
            self._band(self._rows[:TILE_PX])
            self._rows = self._rows[TILE_PX:].copy()

    def tags(self, mpp: float | None, icc: bytes | None, order: str = "<") -> dict[int, Tag]:
        return scale_tags(mpp, icc, None, order) | encoded_tags(self.size, self.lossless, order)

    def tiles(self) -> Iterator[bytes]:
        """The compressed tiles, row by row; all rows must have come in."""
        if len(self._rows):
            self._band(self._rows)
            self._rows = self._rows[:0]
        assert self._received == self.size.height, (self._received, self.size)
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)

    def remove(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _band(self, rows: np.ndarray) -> None:
        tiles = (rows[:, x : x + TILE_PX] for x in range(0, self.size.width, TILE_PX))
        for data in encoded(tiles, self.lossless):
            self._lengths.append(len(data))
            self._file.write(data)
        if self.below is not None:
            self.below.add(halved(rows))
