"""Slides and images -> clean tiles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from artifusion.errors import DataError
from artifusion.files import is_left_by_macos
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import is_clean

TILE_PX = 512
MIN_TILE_PX = 128            # beside a mask tiles are halved down to this side
SHARD = ".tar"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".dcm", ".scn", ".bif", ".vms", SHARD)


@dataclass(frozen=True)
class Tile:
    """A piece of clean tissue, with the slide or image it is from."""

    pixels: np.ndarray          # uint8 (H, W, 3), sides at most TILE_PX
    image: str                  # .../folder/name
    spacing_um: float | None    # um per pixel that the slide tells

    @property
    def folder(self) -> str:
        """Name of the folder that the image lies in; "." where none is told, as of one at the top of a disk."""
        return PurePosixPath(self.image).parent.name or "."


def find_images(paths: Sequence[str | Path]) -> dict[Path, str]:
    """Every slide, image and shard in files and folders (searched whole), sorted, with its name.

    The name of a file that is given is folder/name; below a folder that is given it begins with that folder's.

    Raises:
        DataError: a path that does not exist, or nothing found.
    """
    found: dict[Path, str] = {}
    for path in map(Path, paths):
        if not os.access(path, os.F_OK):            # Path.exists raises for a name that is too long
            raise DataError(f"{path}: no such file or folder")
        files = [path] if path.is_file() else path.rglob("*")
        top = path.absolute().parent if path.is_dir() else path.absolute().parent.parent
        found.update({file: file.absolute().relative_to(top).as_posix() for file in files
                      if file.suffix.lower() in SUFFIXES and file.is_file()
                      and (file == path or not is_left_by_macos(file.name))})
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no slides or images there ({' '.join(SUFFIXES)})")
    return dict(sorted(found.items()))


def cut_tiles(path: Path, name: str) -> Iterator[Tile]:
    """The clean tiles of one slide or image, on a grid. One tile is in memory at a time."""
    with open_slide(path) as slide:
        yield from clean_tiles(slide, grid(slide.size, TILE_PX), name=name)


def clean_tiles(
    slide: Slide, l0_boxes: Iterable[Box], mask: Mask | None = None, name: str | None = None
) -> Iterator[Tile]:
    """The clean ones of these boxes of an open slide; beside a mask the parts of them that hold no masked pixel and are
    not damaged."""
    name = name or f"{slide.path.absolute().parent.name}/{slide.path.name}"
    for l0_box in l0_boxes:
        for part in unmasked(l0_box, mask) if mask else [l0_box]:
            pixels, seen = slide.seen_as(part) if mask else (slide.read(part), None)
            if (seen is None or seen.all()) and is_clean(pixels):
                yield Tile(pixels, name, slide.mpp)


def unmasked(l0_box: Box, mask: Mask) -> Iterator[Box]:
    """The box, or the quarters of it, and theirs, of at least MIN_TILE_PX a side that hold no masked pixel."""
    if not mask.read(l0_box).any():
        yield l0_box
        return
    x, y, width, height = l0_box.x, l0_box.y, l0_box.width // 2, l0_box.height // 2
    if min(width, height) >= MIN_TILE_PX:
        for part in (Box.from_edges(left, top, right, bottom)
                     for top, bottom in ((y, y + height), (y + height, l0_box.bottom))
                     for left, right in ((x, x + width), (x + width, l0_box.right))):
            yield from unmasked(part, mask)


def grid(size: Size, side_px: int) -> Iterator[Box]:
    """Boxes of one size that cover an image, evenly overlapping; the whole image where it is smaller."""
    xs, ys = ([0] if length <= side_px else np.linspace(0, length - side_px, -(-length // side_px)).astype(int).tolist()
              for length in size)
    return (Box(x, y, min(side_px, size.width), min(side_px, size.height)) for y in ys for x in xs)
