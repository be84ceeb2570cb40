"""Clean slides and images -> trials: tiles whose truth is known, damaged in known places."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from artifusion.config import DEFAULT_SPACING_UM, TrainConfig, load_config
from artifusion.damage.artifacts import PenInk
from artifusion.damage.spots import paint
from artifusion.errors import DataError
from artifusion.geometry import Box
from artifusion.slide.reader import open_slide
from artifusion.slide.tissue import glass_blocks, is_clean
from artifusion.training.corpus import first_match, is_validation
from artifusion.training.tiles import SHARD, find_images, grid

SIDE_PX = 256
PLACES = 500                # looked at in one image, at most
MAX_GLASS = 0.25            # share of a tile
AROUND_PX = 2000            # of a tile's image, on every side, that donors are taken from
MIN_PART_PX = 128           # side of a part of it

SIZES = {"5-15": (0.05, 0.15), "15-30": (0.15, 0.30), "30-50": (0.30, 0.50)}      # % of the tile
THIN_PX, THICK_PX = 16, 24  # thin: no hole pixel is further from known tissue; thick: some pixel is at least as far
MISSES, TRIES = 8, 200     # pieces that do not fit before another kind is tried; such tries

# Longest side in px of the artifacts that make a hole thin or thick.
ARTIFACTS = {
    "thin": {"thread": (110, 230), "fold": (60, 125), "pen": (50, 90), "dust": (60, 190)},
    "thick": {"bubble": (60, 200), "blur": (80, 250), "dark": (80, 250), "pen": (150, 300)},
}

# TCGA's tissue source sites, the second part of a barcode (TCGA-AY-A8YK): the organ whose tumours the site gave.
TCGA_ORGANS = {
    "18": "lung", "21": "lung", "49": "lung", "A7": "breast", "AR": "breast", "E2": "breast", "AY": "colon",
    "B0": "kidney", "HE": "kidney", "BC": "liver", "DK": "bladder", "FG": "brain", "G9": "prostate", "KB": "stomach",
    "CR": "head and neck",
}


@dataclass(frozen=True)
class CleanTile:
    """A tile of clean tissue, and where it lies."""

    pixels: np.ndarray      # uint8 (SIDE_PX, SIDE_PX, 3)
    image: str              # folder/name
    spacing_um: float
    path: Path
    l0_box: Box

    def donors(self) -> list[np.ndarray]:
        """The image around the tile and without it: what lies above, below, left and right, uint8 (H, W, 3) each.

        The parts share their corners. They end AROUND_PX from the tile; none is narrower than MIN_PART_PX.
        """
        with open_slide(self.path) as slide:
            whole = self.l0_box.expanded(AROUND_PX).intersection(Box(0, 0, *slide.size))
            parts = (Box.from_edges(whole.x, whole.y, whole.right, self.l0_box.y),
                     Box.from_edges(whole.x, self.l0_box.bottom, whole.right, whole.bottom),
                     Box.from_edges(whole.x, whole.y, self.l0_box.x, whole.bottom),
                     Box.from_edges(self.l0_box.right, whole.y, whole.right, whole.bottom))
            return [slide.read(part) for part in parts if min(part.width, part.height) >= MIN_PART_PX]


@dataclass(frozen=True)
class Trial:
    """One tile: its truth, the same tile damaged, and where.

    Trials come in pairs, of one image where it has two clean tiles: `group` numbers the pair, and each is the other's
    example of real tissue.
    """

    number: int
    group: int
    image: str              # folder/name
    spacing_um: float
    truth: np.ndarray       # uint8 (SIDE_PX, SIDE_PX, 3)
    damaged: np.ndarray     # the same, with artifacts where `hole` is set
    hole: np.ndarray        # bool (SIDE_PX, SIDE_PX)
    artifact: str           # a kind of `artifusion damage`
    size: str               # key of SIZES
    width: str              # thin or thick
    tile: CleanTile | None = None
    ink: str = ""           # of a pen stroke, where it was asked for: its colour, density and streaks

    @property
    def source(self) -> str:
        return self.image.split("/")[0]

    @property
    def organ(self) -> str:
        """By the TCGA barcode that the image is named with; "" where it has none, or one of a site not in the list."""
        parts = self.image.split("/")[-1].split("-")
        return TCGA_ORGANS.get(parts[1], "") if parts[0] == "TCGA" and len(parts) > 2 else ""


def plan_trials(
    paths: Sequence[str | Path], count: int, seed: int, mpp: float | None = None, validation: bool = False,
    inks: Sequence[PenInk] = (),
) -> list[Trial]:
    """`count` trials, spread evenly over sources, images and kinds of hole; a function of the pixels and the seed.

    Args:
        mpp: um per pixel of images whose scale neither the file nor `configs/train/he-small.toml` (by folder) gives.
        validation: only images that he-small was not trained on, of the folders it was trained on.
        inks: where given, all artifacts are pen strokes, of each ink in turn.

    Raises:
        DataError: no images, or too few clean tiles in them.
    """
    pairs = cut_pairs(paths, -(-count // 2), seed, mpp, validation)
    tiles = list(chain.from_iterable(pairs))[:count]
    rng = np.random.default_rng([seed, 1])
    cells = [(size, width) for size in SIZES for width in ARTIFACTS]
    order = np.concatenate([rng.permutation(len(cells)) for _ in range(-(-count // len(cells)))])
    trials = []
    for number, tile in enumerate(tiles):
        size, width = cells[order[number]]
        ink = inks[number % len(inks)] if inks else None
        damaged, hole, artifact = damage_tile(tile.pixels, size, width, seed, number, ink)
        trials.append(Trial(number, min(number // 2, max(0, count // 2 - 1)), tile.image, tile.spacing_um,
                            tile.pixels, damaged, hole, artifact, size, width, tile, str(ink or "")))
    return trials


def partner(trials: Sequence[Trial], trial: Trial) -> Trial:
    """The other trial of the pair."""
    other = trial.number ^ 1
    return trials[other if other < len(trials) else trial.number - 1]


def digest(trials: Iterable[Trial]) -> str:
    """SHA-256 of all truths and holes."""
    whole = hashlib.sha256()
    for trial in trials:
        whole.update(f"{trial.image} {trial.spacing_um}".encode())
        for pixels in (trial.truth, trial.damaged, trial.hole):
            whole.update(np.ascontiguousarray(pixels).data)
    return whole.hexdigest()


def cut_pairs(
    paths: Sequence[str | Path], count: int, seed: int, spacing_um: float | None, validation: bool
) -> list[list[CleanTile]]:
    """`count` pairs of clean tiles; the first of every image before the second of any."""
    data = load_config(TrainConfig, "train", "he-small").data
    names = find_images(paths)
    images = [path for path, name in names.items()
              if path.suffix != SHARD and (not validation or is_validation(name, data))]
    if not images:
        which = " of he-small's validation split" if validation else ""
        raise DataError(f"{', '.join(map(str, paths))}: no slides or images{which} there")
    images, quota = by_folder(images, seed), -(-count // len(images))
    while True:
        found: list[list[list[CleanTile]]] = []
        single: list[CleanTile] = []
        for path in images:
            tiles = trial_tiles(path, 2 * quota, seed, first_match(data.spacing_um, names[path]), spacing_um)
            found.append([tiles[n : n + 2] for n in range(0, len(tiles) - 1, 2)])
            single += tiles[len(tiles) - len(tiles) % 2 :]
            if quota == 1 and sum(map(len, found)) >= count:
                break
        found.append([single[n : n + 2] for n in range(0, len(single) - 1, 2)])
        total = sum(map(len, found))
        if total >= count:
            return [pair for rank in zip_longest(*found) for pair in rank if pair][:count]
        if not any(len(pairs) == quota for pairs in found[:-1]):
            raise DataError(f"{', '.join(map(str, paths))}: {2 * total} clean tiles of {SIDE_PX} px found, not "
                            f"{2 * count}; " + (f"ask for --tiles {2 * total}" if total else "give other images"))
        quota *= 2


def by_folder(images: Sequence[Path], seed: int) -> list[Path]:
    """The images, shuffled, one of every folder in turn."""
    folders: dict[Path, list[Path]] = {}
    for path in images:
        folders.setdefault(path.parent, []).append(path)
    rng = np.random.default_rng([seed, 2])
    shuffled = [[paths[n] for n in rng.permutation(len(paths))] for paths in folders.values()]
    return [path for rank in zip_longest(*shuffled) for path in rank if path]


def trial_tiles(
    path: Path, count: int, seed: int, trained_um: float | None, spacing_um: float | None
) -> list[CleanTile]:
    """At most `count` clean tiles of an image, in random places of a grid.

    Their scale is `trained_um`, that of the training configuration, else that of the file, else `spacing_um`.
    """
    name = f"{path.absolute().parent.name}/{path.name}"
    rng, tiles = np.random.default_rng([seed, zlib.crc32(name.encode())]), []
    with open_slide(path) as slide:
        if min(slide.size) < SIDE_PX:
            return []
        boxes = list(grid(slide.size, SIDE_PX))
        for n in rng.permutation(len(boxes))[:PLACES]:
            pixels = slide.read(boxes[n])
            if is_clean(pixels) and glass_blocks(pixels).mean() < MAX_GLASS:
                scale = trained_um or slide.mpp or spacing_um or DEFAULT_SPACING_UM
                tiles.append(CleanTile(pixels, name, scale, path, boxes[n]))
            if len(tiles) == count:
                break
    return tiles


def damage_tile(
    truth: np.ndarray, size: str, width: str, seed: int, number: int, ink: PenInk | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """The tile with artifacts of one kind on it, where they are, and the kind: uint8 (H, W, 3), bool (H, W), str."""
    low, high = SIZES[size]
    for attempt in range(TRIES):
        rng = np.random.default_rng([seed, 3, number, attempt])
        artifact = "pen" if ink else str(rng.choice(list(ARTIFACTS[width])))
        wanted = rng.uniform(low, high)
        image, hole = truth, np.zeros(truth.shape[:2], bool)
        misses = 0
        while misses < MISSES and hole.mean() < wanted:
            center = (int(rng.integers(truth.shape[1])), int(rng.integers(truth.shape[0])))
            size_px = round(rng.uniform(*ARTIFACTS[width][artifact]))
            painted, piece = paint(artifact, image, center, size_px, rng, ink=ink)
            more = hole | piece
            if more.mean() > high or (width == "thin" and depth_px(more) > THIN_PX):
                misses += 1
            else:
                image, hole = painted, more
        if hole.mean() >= low and (width == "thin" or depth_px(hole) >= THICK_PX):
            return image, hole, artifact
    raise AssertionError(f"no {width} hole of {size} % found")


def depth_px(hole: np.ndarray) -> float:
    """The largest distance of a hole's pixel from known tissue."""
    return float(distance_transform_edt(hole).max()) if not hole.all() else math.inf
