"""Tiles in memory -> crops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
from PIL import Image

from artifusion.config import DEFAULT_SPACING_UM, DataConfig
from artifusion.errors import DataError
from artifusion.slide.tissue import TISSUE_BLOCK_PX, glass_blocks, optical_density, spoiled_blocks
from artifusion.training.tiles import Tile

PLACES = 8                  # looked at for a crop
MAX_GLASS = 0.75            # share of a crop


@dataclass(frozen=True)
class Corpus:
    """Tiles by folder, with how often each folder's are drawn."""

    folders: dict[str, list[Tile]]
    glass: dict[str, list[np.ndarray]]      # of each tile, by blocks
    spoiled: dict[str, list[np.ndarray]]
    weights: np.ndarray                     # of the folders, add up to 1

    @classmethod
    def of(cls, tiles: Sequence[Tile], config: DataConfig) -> Corpus:
        """The tiles that hold a crop.

        Raises:
            DataError: none does.
        """
        folders: dict[str, list[Tile]] = {}
        for tile in tiles:
            if min(tile.pixels.shape[:2]) >= config.crop_px:
                folders.setdefault(tile.folder, []).append(tile)
        if not folders:
            raise DataError(f"none of {len(tiles)} tiles of clean tissue holds a crop of {config.crop_px} px; "
                            "see docs/training.md")
        weights = np.array([config.weights.get(folder, 1.0) for folder in folders])
        glass, spoiled = ({folder: [judge(tile.pixels) for tile in members] for folder, members in folders.items()}
                          for judge in (glass_blocks, spoiled_blocks))
        return cls(folders, glass, spoiled, weights / weights.sum())

    def digest(self) -> str:
        """SHA-256 of everything that a crop depends on, but the configuration."""
        digest = hashlib.sha256()
        for tiles in self.folders.values():
            for tile in tiles:
                digest.update(f"{tile.image} {tile.spacing_um} {tile.pixels.shape}".encode())
                digest.update(np.ascontiguousarray(tile.pixels).data)
        return digest.hexdigest()


def is_validation(image: str, config: DataConfig) -> bool:
    """Whether folder/name matches a validation pattern; such images are never trained on."""
    return any(fnmatch(image, pattern) for pattern in config.validation)


def cut_crop(corpus: Corpus, config: DataConfig, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A training crop and its um per pixel: uint8 (crop, crop, 3).

    Random folder (by weight), tile, scale (down only), place, flip, quarter turn and stain. Of a few places the first
    that shows enough tissue, and neither ink nor a bubble, else the last. The scale is the folder's in the
    configuration, else the slide's own, else the default.
    """
    folder = list(corpus.folders)[rng.choice(len(corpus.folders), p=corpus.weights)]
    number = rng.integers(len(corpus.folders[folder]))
    tile, glass, spoiled = corpus.folders[folder][number], corpus.glass[folder][number], corpus.spoiled[folder][number]
    spacing_um = config.spacing_um.get(folder) or tile.spacing_um or DEFAULT_SPACING_UM
    side, (height, width) = config.crop_px, tile.pixels.shape[:2]
    most = min(config.max_zoom, min(height, width) / side, max(1.0, config.max_spacing_um / spacing_um))
    zoom = 1.0 if rng.random() < 0.4 else float(np.exp(rng.uniform(0, np.log(most))))
    span = int(side * zoom)
    for _ in range(PLACES):
        x, y = int(rng.integers(width - span + 1)), int(rng.integers(height - span + 1))
        blocks = tuple(slice(start // TISSUE_BLOCK_PX, -(-(start + span) // TISSUE_BLOCK_PX)) for start in (y, x))
        if glass[blocks].mean() <= MAX_GLASS and not spoiled[blocks].any():
            break
    crop = tile.pixels[y : y + span, x : x + span]
    if span != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BOX))
    crop = np.rot90(crop[:, ::-1] if rng.random() < 0.5 else crop, int(rng.integers(4)))
    if config.stain_jitter:
        gain = np.exp(rng.normal(0, config.stain_jitter, (3, 1)))
        table = np.rint(256 * 10 ** (-gain * optical_density(np.arange(256))) - 1).clip(0, 255).astype(np.uint8)
        crop = np.stack([table[c][crop[..., c]] for c in range(3)], axis=-1)
    return crop, spacing_um * span / side
