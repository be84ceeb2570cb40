"""Re-encoding: pixels of any source, streamed into a tiled pyramidal BigTIFF, or written as a plain image file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from artifusion.ahead import ahead
from artifusion.geometry import Box, Size, strips
from artifusion.output.tiffwriter import TiffWriter, integers
from artifusion.slide import tiff
from artifusion.slide.images import comment_of
from artifusion.slide.tiff import Tag

SEGMENT_PX = 256                     # side of the tiles that are written
QUALITY = 90                         # of JPEG segments
SMALLEST_PX = 512                    # levels halve until both sides are at most this
JPEG_IMAGE_QUALITY = 95
ENCODED_AHEAD = 16                   # segments in work while the ones before them are written

Read = Callable[[Box], np.ndarray]


@dataclass(frozen=True)
class Metadata:
    """What a generic TIFF says of the slide that it holds."""

    l0_size: Size
    mpp_xy: tuple[float, float] | None     # um per level-0 pixel along x and y
    icc: bytes | None
    description: str                 # ImageDescription of level 0
    software: str = "artifusion"     # Software of level 0

    def tags(self, size: Size, level0: bool, order: str = "<") -> dict[int, Tag]:
        """Return the tags of a level of this size that state its scale and colours, and on level 0 the description.

        The resolution is in pixels per CENTIMETER, from which OpenSlide computes mpp.
        """
        tags = {tiff.SUBFILE: integers(tiff.SUBFILE, [0 if level0 else 1], tiff.LONG, order)}
        for code, text in ((tiff.DESCRIPTION, self.description if level0 else None),
                           (tiff.SOFTWARE, self.software if level0 else "artifusion")):
            if text is not None:
                raw = text.encode(errors="surrogateescape") + b"\0"
                tags[code] = Tag(code, tiff.ASCII, len(raw), raw)
        if self.mpp_xy:
            for code, mpp, l0_px, px in zip((tiff.X_RESOLUTION, tiff.Y_RESOLUTION), self.mpp_xy, self.l0_size, size,
                                            strict=True):
                per_cm = 1e4 / (mpp if level0 else mpp * l0_px / px)
                ratio = Fraction(per_cm).limit_denominator(min(10_000, int(0xFFFFFFFF / per_cm)))
                tags[code] = Tag(code, tiff.RATIONAL, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator))
            tags[tiff.RESOLUTION_UNIT] = integers(tiff.RESOLUTION_UNIT, [3], tiff.SHORT, order)
        if self.icc:
            tags[tiff.ICC] = Tag(tiff.ICC, tiff.UNDEFINED, len(self.icc), self.icc)
        return tags


def pyramid_sizes(size: Size) -> tuple[Size, ...]:
    """Return the level sizes of a pyramid, each half of the one before until both sides are at most SMALLEST_PX."""
    sizes = [size]
    while max(sizes[-1]) > SMALLEST_PX:
        sizes.append(half_size(sizes[-1]))
    return tuple(sizes)


def half_size(size: Size) -> Size:
    """Return half a size; odd sides are rounded up so that no pixel is lost."""
    return Size(-(-size.width // 2), -(-size.height // 2))


def segment_count(size: Size) -> int:
    """Return the number of segments of a level that is written here."""
    return -(-size.width // SEGMENT_PX) * -(-size.height // SEGMENT_PX)


def encoding_name(lossless: bool) -> str:
    """Return how `encode_segment` encodes, in words, for the report."""
    return "deflate, exact" if lossless else f"JPEG quality {QUALITY}, 4:4:4: kept pixels change a little"


def write_pyramid(out: Path, read: Read, metadata: Metadata, *, work: Path, lossless: bool = False,
                  progress: Callable[[int], None] | None = None) -> None:
    """Write a tiled pyramidal BigTIFF: JPEG (quality 90, 4:4:4), or deflate where lossless.

    Levels are sequential directories: OpenSlide ignores SubIFD pyramids. The same pixels give the same bytes.

    Args:
        read: box -> uint8 (H, W, 3), called once for the box of every segment of level 0, row by row.
        work: the folder in which compressed segments of lower levels wait.
        progress: called with the number of level-0 pixels read since the last call.

    Memory: two rows of segments per level below level 0.
    """
    size = metadata.l0_size
    spools = level_spools(pyramid_sizes(size)[1:], work, lossless)
    try:
        with out.open("wb") as target, TiffWriter(target, "<", True) as writer:
            tags = metadata.tags(size, True) | encoding_tags(size, lossless)
            pixels = _level0_pixels(size, read, spools[0] if spools else None, progress)
            writer.add(tags, True, encoded_segments(pixels, lossless))
            for spool in spools:
                writer.add(spool.tags(metadata), True, spool.segments())
    finally:
        for spool in spools:
            spool.remove()


def _level0_pixels(size: Size, read: Read, below: LevelSpool | None, progress: Callable[[int], None] | None
                   ) -> Iterator[np.ndarray]:
    """Yield the pixels of every segment of level 0, row by row, and feed their halves to the level below."""
    for y in range(0, size.height, SEGMENT_PX):
        height = min(SEGMENT_PX, size.height - y)
        half_rows = np.empty((-(-height // 2), -(-size.width // 2), 3), np.uint8) if below else None
        for x in range(0, size.width, SEGMENT_PX):
            box = Box(x, y, min(SEGMENT_PX, size.width - x), height)
            pixels = read(box)
            if half_rows is not None:
                half = halved(pixels)
                half_rows[:, x // 2 : x // 2 + half.shape[1]] = half
            if progress:
                progress(box.area)
            yield pixels
        if below and half_rows is not None:
            below.add(half_rows)


def encoding_tags(size: Size, lossless: bool, order: str = "<") -> dict[int, Tag]:
    """Return the tags that say how `encode_segment` encodes a level of this size."""
    numbers: dict[int, tuple[int, Sequence[int]]] = {
        tiff.WIDTH: (tiff.LONG, [size.width]), tiff.HEIGHT: (tiff.LONG, [size.height]),
        tiff.BITS: (tiff.SHORT, [8, 8, 8]), tiff.COMPRESSION: (tiff.SHORT, [8 if lossless else 7]),
        tiff.PHOTOMETRIC: (tiff.SHORT, [2 if lossless else 6]), tiff.SAMPLES: (tiff.SHORT, [3]),
        tiff.PLANAR: (tiff.SHORT, [1]),
        tiff.TILE_WIDTH: (tiff.LONG, [SEGMENT_PX]), tiff.TILE_HEIGHT: (tiff.LONG, [SEGMENT_PX]),
        **({tiff.PREDICTOR: (tiff.SHORT, [2])} if lossless else {tiff.SUBSAMPLING: (tiff.SHORT, [1, 1])})}
    return {code: integers(code, values, kind, order) for code, (kind, values) in numbers.items()}


def write_image(out: Path, read: Read, size: Size, *, mpp_xy: tuple[float, float] | None, icc: bytes | None,
                text: Mapping[str, str], colour: Mapping[bytes, bytes]) -> None:
    """Write a plain PNG (exact) or JPEG (quality 95, 4:4:4).

    Args:
        colour: chunks of a PNG that say how its numbers are to be shown, by name.
        text: by keyword; a JPEG gets it as its comment, of up to 65,533 bytes.

    Memory: four bytes for each pixel, and a few strips of STRIP_PX.
    """
    dpi = tuple(25400 / mpp for mpp in mpp_xy) if mpp_xy else None
    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    image = Image.new("RGB", size)
    for rows, _ in strips((size.height, size.width)):
        image.paste(Image.fromarray(read(Box(0, rows.start, size.width, rows.stop - rows.start))), (0, rows.start))
    if out.suffix.lower() == ".png":
        info = PngImagePlugin.PngInfo()
        for chunk, content in colour.items():
            info.add(chunk, content)
        for key, value in text.items():
            info.add_text(key, value)
        image.save(out, "PNG", pnginfo=info, **options, **({"dpi": dpi} if dpi else {}))
        return
    if dpi and min(dpi) > 6000 and max(dpi) < 65535:         # which whole numbers tell to 0.01 %
        options["dpi"] = tuple(map(round, dpi))
    elif dpi:
        exif = Image.Exif()
        exif[tiff.X_RESOLUTION], exif[tiff.Y_RESOLUTION] = (TiffImagePlugin.IFDRational(number) for number in dpi)
        exif[tiff.RESOLUTION_UNIT] = 2
        options["exif"] = exif
    image.save(out, "JPEG", quality=JPEG_IMAGE_QUALITY, subsampling=0, comment=comment_of(text), **options)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Return means of 2x2 pixels: uint8 (H, W, 3) -> half of it, rounded up; an odd last row or column counts twice."""
    height, width = pixels.shape[:2]
    wide = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    return ((wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) >> 2).astype(np.uint8)


def encoded_segments(segments: Iterable[np.ndarray], lossless: bool) -> Iterator[bytes]:
    """Yield the compressed bytes of segments, in order. All cores encode; ENCODED_AHEAD segments are in memory."""
    return ahead(partial(encode_segment, lossless=lossless), segments, ENCODED_AHEAD, os.cpu_count() or 1)


def encode_segment(pixels: np.ndarray, lossless: bool) -> bytes:
    """Return the compressed bytes of a segment: uint8 (h, w, 3), filled up with its last row and column."""
    height, width = pixels.shape[:2]
    if (height, width) != (SEGMENT_PX, SEGMENT_PX):
        pixels = np.pad(pixels, ((0, SEGMENT_PX - height), (0, SEGMENT_PX - width), (0, 0)), mode="edge")
    pixels = np.ascontiguousarray(pixels)
    if lossless:
        return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(pixels, axis=1).tobytes(), level=6))
    return bytes(imagecodecs.jpeg8_encode(pixels, level=QUALITY, subsampling="444",
                                          colorspace="RGB", outcolorspace="YCBCR"))


def level_spools(sizes: Sequence[Size], work: Path, lossless: bool) -> list[LevelSpool]:
    """Return spools for the levels below another one, each fed by the one before."""
    spools = [LevelSpool(work / f"level-{size.width}x{size.height}.segments", size, lossless) for size in sizes]
    for upper, lower in pairwise(spools):
        upper.below = lower
    return spools


@dataclass
class LevelSpool:
    """A level that is being built: takes rows of pixels, keeps compressed segments on disk, feeds the level below."""

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
        """Take the next rows of the level, uint8 (h, width, 3), any number of them."""
        self._rows = np.concatenate([self._rows, rows])
        self._received += len(rows)
        while len(self._rows) >= SEGMENT_PX:
            self._encode_rows(self._rows[:SEGMENT_PX])
            self._rows = self._rows[SEGMENT_PX:].copy()

    def tags(self, metadata: Metadata, order: str = "<") -> dict[int, Tag]:
        """Return all tags of the level's directory, except where its segments lie."""
        return metadata.tags(self.size, False, order) | encoding_tags(self.size, self.lossless, order)

    def segments(self) -> Iterator[bytes]:
        """Yield the compressed segments, row by row; the level must have taken all of its rows."""
        if len(self._rows):
            self._encode_rows(self._rows)
            self._rows = self._rows[:0]
        assert self._received == self.size.height, (self._received, self.size)
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)

    def remove(self) -> None:
        """Delete the file in which segments wait."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _encode_rows(self, rows: np.ndarray) -> None:
        segments = (rows[:, x : x + SEGMENT_PX] for x in range(0, self.size.width, SEGMENT_PX))
        for data in encoded_segments(segments, self.lossless):
            self._lengths.append(len(data))
            self._file.write(data)
        if self.below is not None:
            self.below.add(halved(rows))
