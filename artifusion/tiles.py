"""Slides and images -> clean tiles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifusion.errors import DataError
from artifusion.geometry import Box, Size
from artifusion.slide.reader import open_slide
from artifusion.slide.tissue import is_clean

TILE_PX = 512
SHARD = ".tar"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".dcm", ".scn", ".bif", ".vms", SHARD)


@dataclass(frozen=True)
class Tile:
    """A piece of clean tissue, with the slide or image it is from."""

    pixels: np.ndarray          # uint8 (H, W, 3), sides at most TILE_PX
    image: str                  # folder/name
    spacing_um: float | None    # um per pixel that the slide tells

    @property
    def folder(self) -> str:
        return self.image.split("/")[0]


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Every slide, image and shard in files and folders (searched whole), sorted.

    Raises:
        DataError: a path that does not exist, or nothing found.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if not os.access(path, os.F_OK):            # Path.exists raises for a name that is too long
            raise DataError(f"{path}: no such file or folder")
        files = [path] if path.is_file() else path.rglob("*")
        found.update(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no slides or images there ({' '.join(SUFFIXES)})")
    return sorted(found)


def cut_tiles(path: Path) -> Iterator[Tile]:
    """The clean tiles of one slide or image, on a grid. One tile is in memory at a time."""
    with open_slide(path) as slide:
        for l0_box in grid(slide.size, TILE_PX):
            pixels = slide.read(l0_box)
            if is_clean(pixels):
                yield Tile(pixels, f"{path.absolute().parent.name}/{path.name}", slide.mpp)


def grid(size: Size, side_px: int) -> Iterator[Box]:
    """Boxes of one size that cover an image, evenly overlapping; the whole image where it is smaller."""
    xs, ys = ([0] if length <= side_px else np.linspace(0, length - side_px, -(-length // side_px)).astype(int).tolist()
              for length in size)
    return (Box(x, y, min(side_px, size.width), min(side_px, size.height)) for y in ys for x in xs)
