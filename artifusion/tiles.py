"""Slides and images -> clean tiles in memory -> crops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM, DataConfig
from artifusion.errors import DataError
from artifusion.geometry import Box, Size
from artifusion.slide.reader import open_slide
from artifusion.slide.tissue import is_clean, optical_density

TILE_PX = 512
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".dcm", ".scn", ".bif", ".vms")


@dataclass(frozen=True)
class Tile:
    """A piece of clean tissue: uint8 (H, W, 3), sides at most TILE_PX; its folder's name; um per pixel."""

    pixels: np.ndarray
    folder: str
    spacing_um: float


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Every slide and image in files and folders (searched whole), sorted.

    Raises:
        DataError: a path that does not exist, or nothing found.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        files = [path] if path.is_file() else path.rglob("*")
        found.update(file for file in files if file.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no slides or images there ({' '.join(SUFFIXES)})")
    return sorted(found)


def is_validation(path: Path, config: DataConfig) -> bool:
    """Whether folder/name matches a validation pattern; such images are never trained on."""
    return any(fnmatch(f"{path.parent.name}/{path.name}", pattern) for pattern in config.validation)


def cut_tiles(path: Path, config: DataConfig) -> Iterator[Tile]:
    """The clean tiles of one slide or image that hold a crop, on a grid. One tile is in memory at a time.

    The scale is the folder's in the configuration, else the slide's own, else the default.
    """
    with open_slide(path) as slide:
        spacing = config.spacing_um.get(path.parent.name) or slide.mpp or DEFAULT_SPACING_UM
        for l0_box in grid(slide.size, TILE_PX):
            if min(l0_box.width, l0_box.height) < config.crop_px:
                continue
            pixels = slide.read(l0_box)
            if is_clean(pixels):
                yield Tile(pixels, path.parent.name, spacing)


def grid(size: Size, side_px: int) -> Iterator[Box]:
    """Boxes of one size that cover an image, evenly overlapping; the whole image where it is smaller."""
    xs, ys = ([0] if length <= side_px else np.linspace(0, length - side_px, -(-length // side_px)).astype(int).tolist()
              for length in size)
    return (Box(x, y, min(side_px, size.width), min(side_px, size.height)) for y in ys for x in xs)


def read_tiles(paths: Sequence[Path], config: DataConfig, quiet: bool = False) -> list[Tile]:
    """The clean tiles of all images, in memory.

    Raises:
        DataError: none is clean and large enough for a crop.
    """
    tiles: list[Tile] = []
    for path in tqdm(paths, desc="tiles", unit="image", disable=quiet or None):
        tiles.extend(cut_tiles(path, config))
    if not tiles:
        raise DataError(f"no clean tissue of {config.crop_px} px in {len(paths)} images; see docs/training.md")
    return tiles


@dataclass(frozen=True)
class Corpus:
    """Tiles with how often each folder's are drawn."""

    folders: tuple[tuple[Tile, ...], ...]
    weights: np.ndarray     # of the folders, add up to 1

    @classmethod
    def of(cls, tiles: Iterable[Tile], config: DataConfig) -> Corpus:
        by_folder: dict[str, list[Tile]] = {}
        for tile in tiles:
            by_folder.setdefault(tile.folder, []).append(tile)
        names = sorted(by_folder)
        weights = np.array([config.weights.get(name, 1.0) for name in names])
        return cls(tuple(tuple(by_folder[name]) for name in names), weights / weights.sum())


def cut_crop(corpus: Corpus, config: DataConfig, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A training crop and its um per pixel: uint8 (crop, crop, 3).

    Random folder (by weight), tile, scale (down only), place, flip, quarter turn and stain.
    """
    folder = corpus.folders[rng.choice(len(corpus.folders), p=corpus.weights)]
    tile = folder[rng.integers(len(folder))]
    side, (height, width) = config.crop_px, tile.pixels.shape[:2]
    most = min(config.max_zoom, min(height, width) / side, max(1.0, config.max_spacing_um / tile.spacing_um))
    zoom = 1.0 if rng.random() < 0.4 else float(np.exp(rng.uniform(0, np.log(most))))
    span = int(side * zoom)
    x, y = int(rng.integers(width - span + 1)), int(rng.integers(height - span + 1))
    crop = tile.pixels[y : y + span, x : x + span]
    if span != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BOX))
    crop = np.rot90(crop[:, ::-1] if rng.random() < 0.5 else crop, int(rng.integers(4)))
    if config.stain_jitter:
        gain = np.exp(rng.normal(0, config.stain_jitter, (3, 1)))
        table = np.rint(256 * 10 ** (-gain * optical_density(np.arange(256))) - 1).clip(0, 255).astype(np.uint8)
        crop = np.stack([table[c][crop[..., c]] for c in range(3)], axis=-1)
    return crop, tile.spacing_um * span / side
