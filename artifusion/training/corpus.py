"""Tiles in memory -> crops."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from artifusion.config import DEFAULT_SPACING_UM, DataConfig
from artifusion.errors import DataError
from artifusion.slide.tissue import TISSUE_BLOCK_PX, glass_blocks, optical_density, spoiled_blocks
from artifusion.training.degradation import degrade
from artifusion.training.grafts import graft_tissue
from artifusion.training.tiles import Tile

MAX_TRIES = 8               # places that are tried for a crop
MAX_GLASS = 0.75            # share of a crop
FULL_SCALE = 0.4            # share of the crops that are not scaled
DONORS = 8                  # places that are compared for a graft
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Source:
    """The tiles of one source, what is known of their scale, and which of their blocks show glass or are spoiled."""

    tiles: list[Tile]
    spacing_um: list[float]
    spacing_jitter: list[float]
    glass: list[np.ndarray]
    spoiled: list[np.ndarray]

    @classmethod
    def of(cls, tiles: list[Tile], config: DataConfig) -> Source:
        return cls(
            tiles,
            [first_match(config.spacing_um, tile.image) or tile.spacing_um or DEFAULT_SPACING_UM for tile in tiles],
            [first_match(config.spacing_jitter, tile.image) or 0.0 for tile in tiles],
            [glass_blocks(tile.pixels) for tile in tiles],
            [spoiled_blocks(tile.pixels) for tile in tiles],
        )


@dataclass(frozen=True)
class Corpus:
    """Sources by name, with how often each is drawn."""

    sources: dict[str, Source]
    weights: np.ndarray                     # of the sources, add up to 1

    @classmethod
    def of(cls, tiles: Sequence[Tile], config: DataConfig) -> Corpus:
        """The tiles that hold a crop.

        Raises:
            DataError: none does.
        """
        sources: dict[str, list[Tile]] = {}
        weights: dict[str, float] = {}
        largest = max(config.sides_px)
        for tile in tiles:
            if min(tile.pixels.shape[:2]) >= largest:
                name = first_key(config.weights, tile.image) or tile.folder
                sources.setdefault(name, []).append(tile)
                weights[name] = config.weights.get(name, 1.0)
        if not sources:
            raise DataError(f"none of {len(tiles)} tiles of clean tissue holds a crop of {largest} px; "
                            "see docs/training.md")
        shares = np.array(list(weights.values()))
        return cls({name: Source.of(members, config) for name, members in sources.items()}, shares / shares.sum())

    def digest(self) -> str:
        """SHA-256 of everything that a crop depends on, but the configuration."""
        digest = hashlib.sha256()
        for source in self.sources.values():
            for tile in source.tiles:
                digest.update(f"{tile.image} {tile.spacing_um} {tile.pixels.shape}".encode())
                digest.update(np.ascontiguousarray(tile.pixels).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class TileView:
    """A tile as crops of one side see it: at one scale, mirrored or not, turned by quarters."""

    pixels: np.ndarray
    glass: np.ndarray
    spoiled: np.ndarray
    side_px: int
    span_px: int            # of the tile, under a crop
    filter: Image.Resampling
    mirrored: bool
    quarters: int

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A crop at a random place: the first tried that shows enough tissue and no spoiled block, else the last."""
        span, (height, width) = self.span_px, self.pixels.shape[:2]
        for _ in range(MAX_TRIES):
            x, y = int(rng.integers(width - span + 1)), int(rng.integers(height - span + 1))
            blocks = tuple(slice(start // TISSUE_BLOCK_PX, -(-(start + span) // TISSUE_BLOCK_PX)) for start in (y, x))
            if self.glass[blocks].mean() <= MAX_GLASS and not self.spoiled[blocks].any():
                break
        crop = self.pixels[y : y + span, x : x + span]
        if span != self.side_px:
            crop = np.asarray(Image.fromarray(crop).resize((self.side_px, self.side_px), self.filter))
        return np.rot90(crop[:, ::-1] if self.mirrored else crop, self.quarters)


def cut_crop(
    corpus: Corpus, config: DataConfig, side_px: int, rng: np.random.Generator, graft: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """A training crop, uint8 (side, side, 3), and the um per pixel that the denoiser gets with it.

    Random source (by weight), tile, scale (down only), place, flip, quarter turn, stain and degradation. The scale is
    the configuration's, else the slide's own, else the default; an estimate gets a random error within its
    uncertainty.

    Args:
        graft: int8 (side, side); where 1 the crop shows another place of the tile, where 0 its own, and where -1 the
            two are joined.
    """
    source = corpus.sources[list(corpus.sources)[rng.choice(len(corpus.sources), p=corpus.weights)]]
    number = int(rng.integers(len(source.tiles)))
    pixels, spacing_um = source.tiles[number].pixels, source.spacing_um[number]
    most = min(config.max_zoom, min(pixels.shape[:2]) / side_px, max(1.0, config.max_spacing_um / spacing_um))
    zoom = 1.0 if rng.random() < FULL_SCALE else float(np.exp(rng.uniform(0, np.log(most))))
    view = TileView(
        pixels, source.glass[number], source.spoiled[number], side_px, int(side_px * zoom),
        FILTERS[rng.integers(len(FILTERS))] if config.degraded else Image.Resampling.BOX,
        bool(rng.random() < 0.5), int(rng.integers(4)),
    )
    crop = view.draw(rng)
    if graft is not None:
        crop = graft_tissue(crop, [view.draw(rng) for _ in range(DONORS)], graft)
    if config.stain_jitter:
        crop = jitter_stain(crop, config.stain_jitter, rng)
    if config.degraded:
        crop = degrade(crop, rng)
    jitter = source.spacing_jitter[number]
    error = (1 + jitter) ** rng.uniform(-1, 1) if jitter else 1.0
    return crop, spacing_um * view.span_px / side_px * error


def jitter_stain(rgb: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """The optical density of each channel times a random gain near 1: uint8 (H, W, 3) -> the same."""
    gain = np.exp(rng.normal(0, spread, (3, 1)))
    table = np.rint(256 * 10 ** (-gain * optical_density(np.arange(256))) - 1).clip(0, 255).astype(np.uint8)
    return np.stack([table[c][rgb[..., c]] for c in range(3)], axis=-1)


def is_validation(image: str, config: DataConfig) -> bool:
    """Whether an image matches a validation pattern; such images are never trained on."""
    return any(matches(image, pattern) for pattern in config.validation)


def matches(image: str, pattern: str) -> bool:
    """Whether the last parts of an image's path, or of its folder's, match a pattern."""
    path = PurePosixPath(image)
    return path.match(pattern) or path.parent.match(pattern)


def first_key(table: Mapping[str, float], image: str) -> str | None:
    """The first key of a table that an image matches."""
    return next((pattern for pattern in table if matches(image, pattern)), None)


def first_match(table: Mapping[str, float], image: str) -> float | None:
    """What a table holds for an image."""
    key = first_key(table, image)
    return None if key is None else table[key]
