"""Regions -> grafts: each large hole is filled with the slide's own tissue, which the denoiser then joins.

The denoiser imagines a piece of the hole (one evaluation: its expectation), `evidence` finds real tissue that looks
like that and fits what lies around, and only a band along the seams is left to be painted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy import ndimage

from artifusion.evidence.donors import Donor, Hole
from artifusion.evidence.fitting import reach_px
from artifusion.evidence.graft import Graft, graft
from artifusion.evidence.index import DonorIndex
from artifusion.files import whole_file
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.regions import Region
from artifusion.slide.reader import Slide

if TYPE_CHECKING:
    from artifusion.restorer import Restorer  # torch, which planning does without

BAND_UM = 1.5               # wide is the band along the seams that is painted
BAND_LEVEL = 0.75           # noise level at which the graft enters in the band
THIN = 2.0                  # bands: a hole that is nowhere deeper is painted whole
HELD = 8                    # grafts in memory


@dataclass(frozen=True)
class Grafted:
    """The graft of one region.

    pixels: uint8 (H, W, 3) of l0_box, grafted where levels are below 1; levels: float32 (H, W), 0 where the pixel is
    the donor's own, BAND_LEVEL along the seams, 1 where nothing was found; record: what the sidecar says of it.
    """

    l0_box: Box
    pixels: np.ndarray
    levels: np.ndarray
    record: dict[str, Any]


class Grafts:
    """The grafts of finished regions, one whole file each in a folder, so that a killed run goes on from there.

    Memory: HELD grafts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._boxes: dict[int, Box] = {}
        self.records: dict[int, dict[str, Any]] = {}
        self._load = lru_cache(maxsize=HELD)(self._read)
        for path in folder.glob("*.npz"):
            self._remember(int(path.stem), self._read(int(path.stem)))

    def done(self, region: Region) -> bool:
        return region.id in self.records

    def add(self, region: Region, grafted: Grafted) -> None:
        with whole_file(self._path(region.id)) as part, part.open("wb") as file:
            np.savez(file, pixels=grafted.pixels, levels=grafted.levels, l0_box=np.array(grafted.l0_box),
                     record=np.array(json.dumps(grafted.record)))
        self._remember(region.id, grafted)

    def lay(self, pixels: np.ndarray, hole: np.ndarray, l0_box: Box) -> np.ndarray:
        """Lay the grafts over a box's pixels, uint8 (H, W, 3), where hole, bool (H, W), is set; returns the levels.

        Levels, float32 (H, W): 0 outside the hole and where a donor's pixel stays, 1 where nothing is known.
        """
        levels = hole.astype(np.float32)
        for number, box in self._boxes.items():
            part = box.intersection(l0_box)
            if part.empty:
                continue
            here, there = part.slices(l0_box), part.slices(box)
            grafted = self._load(number)
            laid = hole[here] & (grafted.levels[there] < 1)
            pixels[here][laid] = grafted.pixels[there][laid]
            levels[here][laid] = grafted.levels[there][laid]
        return levels

    def _remember(self, number: int, grafted: Grafted) -> None:
        self.records[number] = grafted.record
        if (grafted.levels < 1).any():
            self._boxes[number] = grafted.l0_box

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.npz"

    def _read(self, number: int) -> Grafted:
        with np.load(self._path(number)) as held:
            return Grafted(Box(*held["l0_box"].tolist()), held["pixels"], held["levels"],
                           json.loads(str(held["record"])))


def graft_regions(slide: Slide, mask: Mask, regions: Sequence[Region], index: DonorIndex, restorer: Restorer,
                  grafts: Grafts, seed: int) -> Iterator[Region]:
    """Graft every region that is not grafted yet; yields each when it is on disk. A function of the arguments."""
    for region in regions:
        if not grafts.done(region):
            grafts.add(region, graft_region(slide, mask, region, index, restorer, seed))
        yield region


def graft_region(slide: Slide, mask: Mask, region: Region, index: DonorIndex, restorer: Restorer, seed: int
                 ) -> Grafted:
    """The graft of a region. Memory: its box some 30 bytes a pixel."""
    slide_box = Box(0, 0, *slide.size)
    box = region.l0_box.expanded(reach_px(index.mpp)).intersection(slide_box)
    masked = mask.read(box)
    own = np.zeros_like(masked)
    own[region.l0_box.slices(box)] = masked[region.l0_box.slices(box)]
    band_px = max(2, round(BAND_UM / index.mpp))
    depth = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, 5)
    deep = deep_parts(own, depth, THIN * band_px)
    levels = own.astype(np.float32)
    if not deep.any() or masked.all():
        return Grafted(box, np.zeros((*own.shape, 3), np.uint8), levels,
                       {"verdict": "good", "score": None, "grafts": [], "grafted_px": 0})
    hole = Hole(box, slide.read(box), deep, ~masked)

    def imagine(part: Hole) -> np.ndarray:
        unknown = ~part.known
        return restorer.restore_batch([part.pixels], [unknown], steps=1, mpp=index.mpp, seed=seed,
                                      keys=[part.l0_box[:2]])[0]

    filled = graft(hole, [index], imagine=imagine, seed=seed)
    for number, donor in enumerate(filled.donors, 1):
        if donor is not None:
            levels[filled.pieces == number] = 0
    seams = depth <= band_px
    seams |= piece_seams(filled.pieces, band_px)
    levels[(levels == 0) & own & seams] = BAND_LEVEL
    return Grafted(box, filled.pixels, levels, record_of(filled, levels, own))


def deep_parts(own: np.ndarray, depth: np.ndarray, least: float) -> np.ndarray:
    """The connected parts of a hole, bool (H, W), that are deeper than `least` somewhere."""
    count, parts = cv2.connectedComponents(own.astype(np.uint8), connectivity=8)
    deepest = ndimage.maximum(depth, parts, np.arange(count))
    return (deepest > least)[parts] & own


def piece_seams(pieces: np.ndarray, band_px: int) -> np.ndarray:
    """Where two pieces of a graft meet, half a band to either side: bool (H, W)."""
    meets = np.zeros(pieces.shape, np.uint8)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        apart = (pieces[one] != pieces[other]) & (pieces[one] > 0) & (pieces[other] > 0)
        meets[one] |= apart
        meets[other] |= apart
    side = band_px | 1
    return cv2.dilate(meets, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0


def record_of(filled: Graft, levels: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """What the sidecar says of a region's graft."""
    grafts = [{"l0_box": list(donor.l0_box), "onto": list(donor.hole_box), "orientation": donor.orientation,
               "score": round(score, 3), "area_px": int((filled.pieces == number).sum())}
              for number, (donor, score) in enumerate(zip(filled.donors, filled.scores, strict=True), 1)
              if isinstance(donor, Donor)]
    return {"verdict": filled.verdict, "score": round(filled.score, 3), "grafts": grafts,
            "grafted_px": int(((levels == 0) & own).sum())}
