"""How large a restored slide will be, before anything is painted."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from artifusion.geometry import Box
from artifusion.output.container import container_of
from artifusion.output.reencode import JPEG_IMAGE_QUALITY, TILE_PX, encode_tile, pyramid_sizes
from artifusion.slide.reader import ImageSlide, Slide

SAMPLES = 6                          # tiles per side that are encoded to learn how many bytes a pixel takes


@dataclass(frozen=True)
class Forecast:
    """The container that the output will have, why, its size in bytes, and where that figure comes from."""

    container: str
    reason: str
    size_bytes: int
    basis: str

    def __str__(self) -> str:
        return f"{self.container} ({self.reason}): about {self.size_bytes / 1e6:,.1f} MB, {self.basis}"


def forecast(slide: Slide, out: Path, lossless: bool = False) -> Forecast:
    """What writing a restored slide to `out` will give. Reads a few tiles at most.

    Raises:
        OutputError: a suffix that does not fit the source.
        SlideError: the source is damaged.
    """
    container, reason = container_of(slide, out)
    if container == "image":
        pixels, exact = slide.size.width * slide.size.height, out.suffix.lower() == ".png"
    elif container == "re-encoded":
        pixels = sum(size.width * size.height for size in pyramid_sizes(slide.size))
        exact = lossless or (isinstance(slide, ImageSlide) and slide.lossless)
    else:
        return Forecast(container, reason, slide.path.stat().st_size, "as the source")
    tiles = samples(slide)
    encode = _image_bytes if container == "image" else encode_tile
    per_px = sum(len(encode(tile, exact)) for tile in tiles) / sum(tile.shape[0] * tile.shape[1] for tile in tiles)
    basis = f"{per_px:.2f} bytes per pixel in {len(tiles)} sampled tiles"
    return Forecast(container, reason, round(per_px * pixels), basis)


def samples(slide: Slide) -> list[np.ndarray]:
    """Tiles of level 0, evenly spread over the slide: uint8 (h, w, 3)."""
    columns, rows = (-(-length // TILE_PX) for length in slide.size)
    middles = (np.arange(SAMPLES) + 0.5) / SAMPLES                 # of equal parts: an edge would count for too much
    xs, ys = (np.unique((middles * count).astype(int)).tolist() for count in (columns, rows))
    frame = Box(0, 0, *slide.size)
    return [slide.read(Box(x * TILE_PX, y * TILE_PX, TILE_PX, TILE_PX).intersection(frame)) for y in ys for x in xs]


def _image_bytes(pixels: np.ndarray, exact: bool) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if exact else "JPEG", quality=JPEG_IMAGE_QUALITY, subsampling=0)
    return file.getvalue()
