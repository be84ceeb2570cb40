"""Streamed writing: any source of pixels into a tiled pyramidal BigTIFF, or a plain image file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from artifusion.geometry import Box, Size

TILE_PX = 256
QUALITY = 90
SMALLEST_PX = 512                    # levels halve until both sides are at most this
JPEG_IMAGE_QUALITY = 95

Read = Callable[[Box], np.ndarray]


def pyramid_sizes(size: Size) -> tuple[Size, ...]:
    """Level sizes, each half of the one before, odd ones rounded up so that no pixel is lost."""
    sizes = [size]
    while max(sizes[-1]) > SMALLEST_PX:
        sizes.append(Size(-(-sizes[-1].width // 2), -(-sizes[-1].height // 2)))
    return tuple(sizes)


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
    spools = [_Spool(work / f"level-{number}.tiles", lv_size, lossless) for number, lv_size in enumerate(sizes[1:], 1)]
    for upper, lower in pairwise(spools):
        upper.below = lower
    first = spools[0] if spools else None
    resolution = (1e4 / mpp, 1e4 / mpp) if mpp else None

    def level0() -> Iterator[bytes]:
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
                if first and band is not None and box.right == size.width:
                    first.add(band)                  # before the yield: tifffile asks for nothing after the last tile
                yield encode_tile(pixels, lossless)

    try:
        with tifffile.TiffWriter(out, bigtiff=True) as writer:
            _write_level(writer, level0(), size, 0, lossless, resolution, icc, description)
            for number, spool in enumerate(spools, 1):
                spool.finish()
                scale = sizes[number].width / size.width
                shrunk = (resolution[0] * scale, resolution[1] * scale) if resolution else None
                _write_level(writer, spool.tiles(), spool.size, number, lossless, shrunk, icc, None)
    finally:
        for spool in spools:
            spool.remove()


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


@dataclass
class _Spool:
    """One level in the making: rows come in, compressed tiles wait on disk, halved rows go to the level below."""

    path: Path
    size: Size
    lossless: bool
    below: _Spool | None = None

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

    def finish(self) -> None:
        if len(self._rows):
            self._band(self._rows)
            self._rows = self._rows[:0]
        assert self._received == self.size.height, (self._received, self.size)

    def tiles(self) -> Iterator[bytes]:
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)

    def remove(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _band(self, rows: np.ndarray) -> None:
        for x in range(0, self.size.width, TILE_PX):
            data = encode_tile(rows[:, x : x + TILE_PX], self.lossless)
            self._lengths.append(len(data))
            self._file.write(data)
        if self.below is not None:
            self.below.add(halved(rows))


def _write_level(writer: tifffile.TiffWriter, tiles: Iterator[bytes], size: Size, number: int, lossless: bool,
                 resolution: tuple[float, float] | None, icc: bytes | None, description: str | None) -> None:
    codec = ({"compression": "adobe_deflate", "predictor": True} if lossless else
             {"compression": "jpeg", "compressionargs": {"level": QUALITY}, "subsampling": (1, 1)})
    writer.write(tiles, shape=(size.height, size.width, 3), dtype=np.uint8, photometric="rgb", tile=(TILE_PX, TILE_PX),
                 subfiletype=1 if number else 0, resolution=resolution,
                 resolutionunit="CENTIMETER" if resolution else None,
                 iccprofile=icc, description=description, metadata=None, software="artifusion", **codec)
