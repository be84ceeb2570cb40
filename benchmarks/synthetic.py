"""Made-up slides of any size, Aperio-like, their tiles cut from real tissue; and masks for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import shapely
import tifffile
from PIL import Image

from artifusion.geometry import Size
from artifusion.mask.mask import Mask

TILE_PX, QUALITY, COLOUR = 256, 80, (200, 60, 120)
DESCRIPTION = "Aperio Image Library v11.2.1 \r\n{0}x{1} (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 0.5000"
STEP_PX = 32               # between tiles of the one image that stands in for a folder


def tissue_tiles(folder: Path | None, count: int = 400) -> list[bytes]:
    """JPEG tiles cut from the images of a folder, all with the same tables.

    Without a folder they overlap, cut from the immunohistochemistry that scikit-image carries: at most 81.
    """
    tiles = [_encoded(tile) for tile in islice(_cut(folder), count)]
    if len(tiles) < count and folder:
        raise SystemExit(f"{folder}: not enough images")
    return tiles


def _cut(folder: Path | None) -> Iterator[np.ndarray]:
    if folder is None:
        from skimage import data

        yield from _tiles_of(data.immunohistochemistry(), STEP_PX)
        return
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png")):
        yield from _tiles_of(np.asarray(Image.open(path).convert("RGB")), TILE_PX)


def _tiles_of(image: np.ndarray, step_px: int) -> Iterator[np.ndarray]:
    for y in range(0, image.shape[0] - TILE_PX + 1, step_px):
        for x in range(0, image.shape[1] - TILE_PX + 1, step_px):
            yield image[y : y + TILE_PX, x : x + TILE_PX]


def _encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def tiles_across(tiles: list[bytes], megabytes: int) -> int:
    """How many tiles wide and high a slide of about that many MB is."""
    mean = sum(map(len, tiles)) / len(tiles)
    return int((megabytes * 1e6 / mean / 1.3125) ** 0.5)


def make_slide(path: Path, tiles: list[bytes], side: int) -> None:
    """A pyramid of three levels (1, 4, 16), `side` tiles wide and high, the tiles drawn in turn on every level."""
    with tifffile.TiffWriter(path, bigtiff=1.4 * side**2 * max(map(len, tiles)) > 2**32) as file:
        for level in (0, 1, 2):
            width = side * TILE_PX // 4**level
            count = (-(-width // TILE_PX)) ** 2
            file.write(islice(cycle(tiles), count), shape=(width, width, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX),
                       photometric="ycbcr", subsampling=(2, 2), compression="jpeg", metadata=None,
                       subfiletype=1 if level else 0,
                       description=None if level else DESCRIPTION.format(width, width))


def spots(size: Size, share: float) -> Mask:
    """Discs of 200 px over tile corners, four level-0 tiles each, on that share of the level-0 tiles."""
    rng = np.random.default_rng(0)
    across = size.width // TILE_PX - 1
    corners = rng.choice(across**2, max(1, int(share * (across + 1) ** 2 / 4)), replace=False)
    return Mask.of([shapely.Point((c % across + 1) * TILE_PX, (c // across + 1) * TILE_PX).buffer(100)
                    for c in corners.tolist()], size)


def discs(size: Size, share: float, diameter_px: int) -> Mask:
    """Discs that cover that share of the pixels, each in a cell of its own and wholly inside the slide."""
    rng = np.random.default_rng(0)
    cell = 2 * diameter_px
    columns, rows = size.width // cell, size.height // cell
    count = max(1, round(share * size.width * size.height / (np.pi / 4 * diameter_px**2)))
    cells = rng.choice(columns * rows, count, replace=False)
    places = np.stack([cells % columns, cells // columns], axis=1) * cell + rng.uniform(
        diameter_px * 0.75, diameter_px * 1.25, (count, 2))
    return Mask.of([shapely.Point(place).buffer(diameter_px / 2) for place in places], size)
