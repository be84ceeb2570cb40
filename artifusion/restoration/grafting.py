"""Regions -> grafts on disk: each large hole filled with the slide's own tissue, which the denoiser then joins.

The denoiser imagines a piece of the hole (one evaluation: its expectation), `evidence` finds real tissue that looks
like that and fits what lies around, and only a band along the seams is left to be painted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shapely import from_wkb
from shapely.affinity import translate

from artifusion.ahead import ahead
from artifusion.errors import BROKEN_FILE
from artifusion.evidence.donors import Hole
from artifusion.evidence.filling import Filling, fill, region_hole
from artifusion.evidence.index import DonorIndex
from artifusion.files import REMEDY, sync, whole_file
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.regions import Region
from artifusion.output.provenance import Filled, Grafted
from artifusion.restoration.recovering import Recoveries
from artifusion.slide.reader import Slide

if TYPE_CHECKING:
    from artifusion.restorer import Restorer  # torch, which planning does without

HELD = 8                    # grafts in memory
FINDERS = min(2, os.cpu_count() or 1)     # regions that are grafted at once
SMALL_PX = 4_000_000        # of a region's box: some 200 MB while it is grafted
LARGEST_PX = 36_000_000     # of a region's box; a larger one is painted, not grafted


class Grafts:
    """The grafts of finished regions, one whole file each in a folder, so that a killed run goes on from there.

    `filled`: how each region was filled, by its id; `recoveries`: what needs no graft. Memory: HELD grafts.
    """

    def __init__(self, folder: Path, recoveries: Recoveries) -> None:
        self.folder, self.recoveries, self.filled = folder, recoveries, dict[int, Filled]()
        self._boxes: dict[int, Box] = {}
        self._load = lru_cache(maxsize=HELD)(self._read)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.npz")):
            with suppress(*BROKEN_FILE), np.load(path) as held:                  # what cannot be read is found again
                box, filled = Box(*held["l0_box"].tolist()), from_text(str(held["filled"]))
                if held["pixels"].shape[:2] == held["levels"].shape == (box.height, box.width):
                    self._remember(int(path.stem), box, filled)

    def add(self, region: Region, hole: Hole, filling: Filling) -> None:
        """Keep what was found for a region's hole."""
        filled = filled_by(filling, hole.l0_box)
        levels = np.where(hole.hole, filling.levels, np.float32(1))           # nothing is put beside the hole
        with whole_file(self.folder / f"{region.id}.npz", f"{REMEDY}: finished grafts are kept") as part:
            with part.open("wb") as file:
                np.savez(file, pixels=filling.pixels, levels=levels, l0_box=np.array(hole.l0_box),
                         filled=np.array(as_text(filled)))
            sync(part)
        self._remember(region.id, hole.l0_box, filled)

    def without_doubtful(self) -> dict[int, Filled]:
        """Forget the grafts of regions that are not filled well; returns the verdicts, by the region's id."""
        doubtful = {number: filled for number, filled in self.filled.items() if filled.verdict != "good"}
        for number in doubtful:
            del self.filled[number]
            self._boxes.pop(number, None)
        return {number: Filled(score=filled.score, verdict=filled.verdict) for number, filled in doubtful.items()}

    def apply(self, pixels: np.ndarray, hole: np.ndarray, l0_box: Box) -> np.ndarray:
        """Put grafts and what was recovered into a box's pixels, uint8 (H, W, 3), where hole, bool (H, W), is set.

        Returns the levels.

        Levels, float32 (H, W): 0 outside the hole, where a donor's pixel stays and where one was recovered; 1 where
        nothing is known.
        """
        levels = hole.astype(np.float32)
        for number, box in self._boxes.items():
            part = box.intersection(l0_box)
            if part.empty:
                continue
            in_box, in_graft = part.slices(l0_box), part.slices(box)
            found, found_levels = self._load(number)
            grafted = hole[in_box] & (found_levels[in_graft] < 1)
            pixels[in_box][grafted] = found[in_graft][grafted]
            levels[in_box][grafted] = found_levels[in_graft][grafted]
        levels[self.recoveries.apply(pixels, hole, l0_box)] = 0
        return levels

    def _remember(self, number: int, l0_box: Box, filled: Filled) -> None:
        self.filled[number] = filled
        if filled.grafts:
            self._boxes[number] = l0_box

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The pixels and levels of a region; the levels are 1 outside its hole."""
        with np.load(self.folder / f"{number}.npz") as held:
            return held["pixels"], held["levels"]


def graft_regions(slide: Slide, mask: Mask, regions: Sequence[Region], index: DonorIndex, restorer: Restorer,
                  grafts: Grafts, seed: int) -> Iterator[Region]:
    """Graft every region that is not grafted yet; yields each when it is on disk. A function of the arguments.

    What was recovered of a region is known, and no part of its hole. Threads work on FINDERS regions at once, on one of
    over SMALL_PX alone.
    """
    def filled(region: Region) -> tuple[Region, Hole, Filling] | tuple[Region, None, None]:
        hole = grafts.recoveries.unseen(region_hole(slide, mask, region, index.mpp))
        if hole is None:
            return region, None, None
        return region, hole, fill(hole, [index], lambda part: restorer.imagine(part, index.mpp, seed), seed)

    left = [region for region in regions if region.id not in grafts.filled]
    yield from [region for region in regions if region.id in grafts.filled]
    small = [region for region in left if region.l0_box.area <= SMALL_PX]
    large = [region for region in left if SMALL_PX < region.l0_box.area <= LARGEST_PX]
    with closing(ahead(filled, small, FINDERS, FINDERS)) as found:
        for region, hole, filling in chain(found, map(filled, large)):
            if hole is None or filling is None:
                grafts.filled[region.id] = Filled()
            else:
                grafts.add(region, hole, filling)
            yield region
    for region in left:
        if region.l0_box.area > LARGEST_PX:
            grafts.filled[region.id] = Filled(score=0.0, verdict="unrestorable")
            yield region


def filled_by(filling: Filling, l0_box: Box) -> Filled:
    """What is declared of a region's filling."""
    grafts = []
    for piece in filling.pieces:
        kept = tuple(translate(polygon, l0_box.x, l0_box.y) for polygon in rectilinear(piece.kept))
        donor = piece.donor
        grafts.append(Grafted(kept, donor.hole_box, donor.l0_box, donor.orientation, donor.tone, round(piece.score, 3)))
    score = None if filling.score is None else round(filling.score, 3)
    return Filled(tuple(grafts), sum(int(piece.kept.sum()) for piece in filling.pieces), score, filling.verdict)


def as_text(filled: Filled) -> str:
    """How a region was filled as JSON, polygons as hexadecimal WKB."""
    return json.dumps(filled.to_dict() | {"kept": [[polygon.wkb_hex for polygon in graft.kept]
                                                   for graft in filled.grafts]})


def from_text(text: str) -> Filled:
    """The inverse of `as_text`."""
    held = json.loads(text)
    grafts = tuple(Grafted.from_dict(graft, list(map(from_wkb, kept)))
                   for graft, kept in zip(held["grafts"], held["kept"], strict=True))
    return Filled(grafts, held["grafted_px"], held["score"], held["verdict"])
