"""Regions -> what can be seen through the ink over them, on disk: pixels that need no invention.

A region is recovered piece by piece; what stays too dark goes on as a hole like any other. Recovered pixels are put
into whatever reads the slide afterwards, and are known there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from shapely import Polygon
from shapely.affinity import translate

from artifusion.errors import BROKEN_FILE
from artifusion.evidence.donors import Hole
from artifusion.evidence.recover import FAINT_ID, RECOVERED_ID, Recovery, recover
from artifusion.files import REMEDY, sync, whole_file
from artifusion.geometry import Box, fitted
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.regions import Region
from artifusion.output.provenance import Recovered
from artifusion.slide.reader import Slide
from artifusion.slide.tissue import is_clean, tissue_mask

PIECE_PX = 3072             # side of the pieces into which a region is cut: some 400 MB while one is worked on
AROUND_PX = 256             # of tissue around a piece that is looked at
HELD = 4                    # pieces in memory
REFERENCE_PX, REFERENCES, TRIES = 256, 12, 60       # squares of clean tissue from all over the slide, and places tried
OVERVIEW_PX = 1024
NAMES = {RECOVERED_ID: "recovered", FAINT_ID: "faint"}


class Recoveries:
    """The finished pieces of regions, one whole file each in a folder, so that a killed run goes on from there.

    Memory: HELD pieces, and the outlines of what was recovered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pieces = dict[tuple[int, int], tuple[Box, Recovered]]()
        self._load = lru_cache(maxsize=HELD)(self._read)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.npz")):
            with suppress(*BROKEN_FILE), np.load(path) as held:             # what cannot be read is recovered again
                region, number = map(int, path.stem.split("-"))
                box = Box(*held["l0_box"].tolist())
                if held["pixels"].shape[:2] == held["classes"].shape == (box.height, box.width):
                    self._remember(region, number, box, held["classes"], str(held["ink"]))

    def add(self, region: Region, number: int, l0_box: Box, recovery: Recovery, part: tuple[slice, slice]) -> None:
        """Keep a piece of a region: the part of a recovery that lies in its box."""
        classes, ink = recovery.classes[part], json.dumps(recovery.ink)
        with whole_file(self.folder / f"{region.id}-{number}.npz", f"{REMEDY}: finished pieces are kept") as path:
            with path.open("wb") as file:
                np.savez(file, pixels=recovery.image[part], classes=classes, l0_box=np.array(l0_box),
                         ink=np.array(ink))
            sync(path)
        self._remember(region.id, number, l0_box, classes, ink)

    def apply(self, pixels: np.ndarray, hole: np.ndarray, l0_box: Box) -> np.ndarray:
        """Put what was recovered into a box, uint8 (H, W, 3), where hole, bool (H, W), is set; returns where it did."""
        where = np.zeros(pixels.shape[:2], bool)
        for key, (box, _) in self.pieces.items():
            part = box.intersection(l0_box)
            if part.empty:
                continue
            in_box, in_piece = part.slices(l0_box), part.slices(box)
            found, classes = self._load(key)
            seen = np.isin(classes[in_piece], list(NAMES)) & hole[in_box]
            pixels[in_box][seen] = found[in_piece][seen]
            where[in_box] |= seen
        return where

    def unseen(self, hole: Hole) -> Hole | None:
        """A hole without what was recovered of it, which is known; None where nothing is left of it."""
        pixels = hole.pixels.copy()
        where = self.apply(pixels, ~hole.known, hole.l0_box)
        left = hole.hole & ~where
        return Hole(hole.l0_box, pixels, left, hole.known | where) if left.any() else None

    def areas(self) -> dict[str, list[Polygon]]:
        """The level-0 polygons of all that was recovered, and of all that is faint."""
        return {name: [polygon for _, recovered in self.pieces.values() for polygon in recovered.areas[name]]
                for name in NAMES.values()}

    def of(self, region: Region) -> Recovered | None:
        """What is declared of a region; None where its class is not recovered."""
        parts = [recovered for (number, _), (_, recovered) in sorted(self.pieces.items()) if number == region.id]
        return Recovered.together(parts) if parts else None

    def _remember(self, region: int, number: int, l0_box: Box, classes: np.ndarray, ink: str) -> None:
        seen = {name: tuple(translate(polygon, l0_box.x, l0_box.y) for polygon in rectilinear(classes == at))
                for at, name in NAMES.items()}
        px = {name: int((classes == at).sum()) for at, name in NAMES.items()}
        self.pieces[region, number] = l0_box, Recovered(seen, px, ({"l0_box": list(l0_box), **json.loads(ink)},))

    def _read(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        region, number = key
        with np.load(self.folder / f"{region}-{number}.npz") as held:
            return held["pixels"], held["classes"]


def recover_regions(slide: Slide, mask: Mask, regions: Sequence[Region], classes: Collection[str], mpp: float,
                    recoveries: Recoveries, avoid: Mask | None = None) -> Iterator[Region]:
    """Recover every region of these classes that is not recovered yet; yields each when it is on disk.

    `avoid`: what is not clean, the mask and more of it (default: the mask). A function of the slide and the masks.
    Memory: one piece with what lies around it, some 400 MB.
    """
    inked, avoid = only(mask, classes), avoid or mask
    reference = None
    for region in regions:
        for number, box in enumerate(cut_into_pieces(region.l0_box)):
            if (region.id, number) in recoveries.pieces or not inked.read(box).any():
                continue
            if reference is None:
                reference = clean_squares(slide, avoid)
            wide = box.expanded(AROUND_PX).intersection(Box(0, 0, *slide.size))
            pixels, seen = slide.seen_as(wide)
            found = recover(pixels, inked.read(wide), reference, mpp, known=~avoid.read(wide) & seen)
            recoveries.add(region, number, box, found, box.slices(wide))
        yield region


def cut_into_pieces(l0_box: Box) -> Iterator[Box]:
    """A box cut into pieces of at most PIECE_PX a side, all about as large."""
    columns, rows = -(-l0_box.width // PIECE_PX), -(-l0_box.height // PIECE_PX)
    for row, column in np.ndindex(rows, columns):
        yield Box.from_edges(l0_box.x + l0_box.width * column // columns, l0_box.y + l0_box.height * row // rows,
                             l0_box.x + l0_box.width * (column + 1) // columns,
                             l0_box.y + l0_box.height * (row + 1) // rows)


def only(mask: Mask, classes: Collection[str]) -> Mask:
    """The polygons of a mask that have one of these classes."""
    kept = [at for at, name in enumerate(mask.classes) if name in classes]
    return Mask(tuple(mask.polygons[at] for at in kept), mask.l0_size, tuple(mask.classes[at] for at in kept))


def clean_squares(slide: Slide, mask: Mask) -> np.ndarray | None:
    """Clean tissue from all over a slide: uint8 (n * REFERENCE_PX, REFERENCE_PX, 3); None where there is none.

    A function of the slide and the mask.
    """
    whole, size = Box(0, 0, *slide.size), fitted(slide.size, OVERVIEW_PX)
    picture, seen = slide.seen_as(whole, size)
    places = np.argwhere(tissue_mask(picture) & seen & ~mask.coverage(size, Box(0, 0, *size)))
    found: list[np.ndarray] = []
    for row, column in np.random.default_rng(0).permutation(places)[:TRIES]:
        x, y = (round((at + 0.5) * full / small - REFERENCE_PX / 2)
                for at, full, small in zip((column, row), slide.size, size, strict=True))
        box = Box(x, y, REFERENCE_PX, REFERENCE_PX)
        if box.intersection(whole) == box and not mask.read(box).any():
            square, seen = slide.seen_as(box)
            if seen.all() and is_clean(square):
                found.append(square)
        if len(found) == REFERENCES:
            break
    return np.concatenate(found) if found else None
