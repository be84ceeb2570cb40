"""A whole slide, read in tiles: what its tissue looks like, maps of evidence, and outlines at a finer scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import cv2
import numpy as np
from scipy import ndimage

from artifusion.detection.findings import SMALLEST_UM2, UNIT, Finding, dilated
from artifusion.detection.signs import KINDS, LOW, Look, density_above_glass, evidence, gray, look_of
from artifusion.geometry import Box, Size, fitted
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import footprint
from artifusion.slide.reader import Slide
from artifusion.slide.tissue import optical_density

COARSE_UM = (1.0, 2.0, 4.0, 8.0, 16.0)      # um per pixel of the coarse scale: the finest that gives at most COARSE_PX
COARSE_PX = 26_000_000
FINEST_UM = 0.5
TILE_PX = 512
HALO_PX, HALO_UM = 72, 144.0               # both at least: what the network looks at around a pixel
HALO_STEP = 16                              # of its coarsest pixels, so that tiles show them alike
OVERVIEW_PX = 1024
SAMPLE_TILES = 12
FULL_OD = 2.0                               # of the density map's 255
REFINE_PX = 1024
SOLID = ("bubble", "pen")                   # their inside belongs to them
MARGIN_UM = {"pen": 6.0, "fold": 1.0, "dark": 4.0, "dust": 2.5, "other": 2.5, "blur": 0.0}

FoldProbability = Callable[[np.ndarray], np.ndarray]
"""Pixels uint8 (H, W, 3) at the coarse scale -> float32 (H, W), 0 to 1."""
SIGHTS = ("fold", "bubble", "pen", "blur", "dark", "dust")
Seen = Callable[[Box], Mapping[str, np.ndarray]]
"""A box of the coarse scale -> the probability of each of SIGHTS, float32 (H, W), 0 to 1."""


@dataclass(frozen=True)
class Survey:
    """A slide and the two scales at which it is read: sizes in pixels and um per pixel."""

    slide: Slide
    mpp: float
    coarse: Size
    coarse_um: float
    fine: Size
    fine_um: float

    @classmethod
    def of(cls, slide: Slide, mpp: float) -> Survey:
        """The scales for a slide of mpp um per level-0 pixel: as fine as its size allows, never finer than level 0."""
        area_um2 = slide.size.width * slide.size.height * mpp**2
        coarse_um = max(mpp, next((um for um in COARSE_UM if area_um2 / um**2 <= COARSE_PX), COARSE_UM[-1]))
        fine_um = min(coarse_um, max(mpp, FINEST_UM, coarse_um / 2))
        coarse, fine = (Size(*(max(1, round(side * mpp / um)) for side in slide.size)) for um in (coarse_um, fine_um))
        return cls(slide, mpp, coarse, coarse_um, fine, fine_um)

    def read(self, box: Box, size: Size) -> np.ndarray:
        """The pixels of a box at one of the two scales, uint8 (H, W, 3)."""
        return self.slide.read_as(footprint(box, size, self.slide.size), Size(box.width, box.height))

    def tiles(self) -> list[Box]:
        """The tiles of the coarse scale that show more than bare glass, in reading order."""
        small = fitted(self.coarse, OVERVIEW_PX)
        od = optical_density(self.slide.read_as(Box(0, 0, *self.slide.size), small)).mean(axis=2)
        busy = ndimage.binary_dilation(od > min(0.12, float(np.percentile(od, 1))) + 0.03, iterations=2)
        found = []
        for y in range(0, self.coarse.height, TILE_PX):
            for x in range(0, self.coarse.width, TILE_PX):
                box = Box(x, y, TILE_PX, TILE_PX).intersection(Box(0, 0, *self.coarse))
                if busy[footprint(box, self.coarse, small).slices() if small != self.coarse else box.slices()].any():
                    found.append(box)
        return found

    def look(self, tiles: list[Box], any_stain: bool) -> Look:
        """The look of the tissue in a few tiles, evenly spread. Raises SlideError as `look_of`."""
        chosen = [tiles[i] for i in np.unique(np.linspace(0, len(tiles) - 1, SAMPLE_TILES).round().astype(int))]
        return look_of([self.read(box, self.coarse) for box in chosen], self.coarse_um, any_stain)

    def maps(
        self, tiles: Iterable[Box], look: Look, *, fold_probability: FoldProbability | None = None,
        seen: Seen | None = None,
    ) -> dict[str, np.ndarray]:
        """The maps that `find` takes, of the whole slide, from its tiles; "fold" and "seen KIND" only where given.

        Memory: up to nine maps of a byte per coarse pixel, and one tile.
        """
        maps: dict[str, np.ndarray] = {}
        halo = max(HALO_PX, math.ceil(HALO_UM / self.coarse_um / HALO_STEP) * HALO_STEP)
        for box in tiles:
            window = box.expanded(halo).intersection(Box(0, 0, *self.coarse))
            rgb = self.read(window, self.coarse)
            od = density_above_glass(rgb, look)
            found = evidence(od, self.coarse_um, look)
            found["density"] = gray(od) * (255 / FULL_OD / UNIT)
            if fold_probability is not None:
                found["fold"] = fold_probability(rgb)
            found = {kind: values[box.slices(window)] for kind, values in found.items()}
            if seen is not None:
                found |= {f"seen {kind}": values for kind, values in seen(box).items()}
            for kind, values in found.items():
                if kind not in maps:
                    maps[kind] = np.zeros(self.coarse[::-1], np.uint8)
                maps[kind][box.slices()] = np.clip(values * UNIT, 0, 255).round()
        return maps

    def outline(
        self, findings: Collection[Finding], look: Look, progress: Callable[[list[Box]], Iterable[Box]] = iter,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class ids and scores (in 255ths) at the fine scale, uint8 (H, W) each; the better score keeps a pixel.

        Every tile of the fine scale is read once for all findings in it. Memory: the two arrays, and one tile.
        """
        ids, scores = (np.zeros(self.fine[::-1], np.uint8) for _ in range(2))
        shares: dict[Box, list[tuple[Finding, int, Box]]] = {}
        for finding in sorted(findings, key=lambda finding: -finding.score):
            reach = round((margin_of(finding, self.coarse_um) + 4 * self.coarse_um) / self.fine_um) + 2
            for tile, part in self.parts(finding.box, reach):
                shares.setdefault(tile, []).append((finding, reach, part))
        for tile in progress(list(shares)):
            needed = (part.expanded(reach + round(16 / self.fine_um)) for _, reach, part in shares[tile])
            window = reduce(Box.union, needed).intersection(Box(0, 0, *self.fine))
            kinds = {finding.map_name for finding, _, _ in shares[tile]} & {*KINDS}
            fine_maps = {}
            if kinds:
                od = density_above_glass(self.read(window, self.fine), look)
                fine_maps = evidence(od, self.fine_um, look, kinds)
            for finding, reach, part in shares[tile]:
                new = self.refined(finding, part, reach, window, fine_maps) & (ids[part.slices()] == 0)
                ids[part.slices()][new] = CLASSES[finding.kind]
                scores[part.slices()][new] = round(255 * finding.score)
        for finding in findings:
            if finding.map_name == "seen":
                self.drop_crumbs(finding, ids)
        return ids, scores

    def drop_crumbs(self, finding: Finding, ids: np.ndarray) -> None:
        """Clear what others leave of a finding's pixels at the fine scale where it is too small for its class."""
        margin = math.ceil((margin_of(finding, self.coarse_um) + self.coarse_um) / self.fine_um) + 1
        part = self.in_fine(finding.box).expanded(margin).intersection(Box(0, 0, *self.fine))
        own = (ids[part.slices()] == CLASSES[finding.kind]).view(np.uint8)
        _, labels, places, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        left, top, width, height, px = places.T
        inside = (left > 0) & (top > 0) & (left + width < part.width) & (top + height < part.height)
        crumbs = inside & (px * self.fine_um**2 < SMALLEST_UM2[finding.kind])
        ids[part.slices()][crumbs[labels] & (own > 0)] = 0

    def parts(self, box: Box, reach: int) -> Iterator[tuple[Box, Box]]:
        """The tiles of the fine scale within reach of a box of the coarse one, each with its part within reach."""
        whole = Box(0, 0, *self.fine)
        around = self.in_fine(box).expanded(reach).intersection(whole)
        for y in range(around.y // REFINE_PX * REFINE_PX, around.bottom, REFINE_PX):
            for x in range(around.x // REFINE_PX * REFINE_PX, around.right, REFINE_PX):
                tile = Box(x, y, REFINE_PX, REFINE_PX)
                yield tile, tile.intersection(around)

    def in_fine(self, box: Box) -> Box:
        """The pixels of the fine scale that a box of the coarse one meets."""
        return footprint(box, self.coarse, self.fine) if self.fine != self.coarse else box

    def refined(
        self, finding: Finding, part: Box, reach: int, read: Box, fine_maps: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Which pixels of a part of the fine scale a finding covers, its margin included: bool, the part's shape.

        `fine_maps`: the evidence in the box `read`, which holds the part and all within reach of it.
        """
        window = part.expanded(reach).intersection(read)
        covered = placed = self.placed(finding, window)
        if not placed.any():
            return np.zeros((part.height, part.width), bool)
        if finding.map_name in fine_maps:
            evident = fine_maps[finding.map_name][window.slices(read)] > LOW[finding.map_name]
            covered = evident & dilated(placed, 1.5 * self.coarse_um / self.fine_um)
            if finding.kind in SOLID:
                covered |= ndimage.binary_erosion(placed, iterations=round(self.coarse_um / self.fine_um))
        return dilated(covered, margin_of(finding, self.coarse_um) / self.fine_um)[part.slices(window)]

    def placed(self, finding: Finding, fine_box: Box) -> np.ndarray:
        """A finding's pixels, enlarged to the fine scale without smoothing, in a box of it: bool, the box's shape."""
        rows, columns = ((np.arange(start, stop) * coarse // fine - first) for start, stop, coarse, fine, first in (
            (fine_box.y, fine_box.bottom, self.coarse.height, self.fine.height, finding.box.y),
            (fine_box.x, fine_box.right, self.coarse.width, self.fine.width, finding.box.x)))
        inside = ((rows >= 0) & (rows < finding.box.height))[:, None] & ((columns >= 0) & (columns < finding.box.width))
        at = np.ix_(rows.clip(0, finding.box.height - 1), columns.clip(0, finding.box.width - 1))
        return finding.covered[at] & inside


def margin_of(finding: Finding, mpp: float) -> float:
    """um by which a finding is widened, since the evidence misses soft rims and halos."""
    if finding.map_name == "seen":
        return 3.0
    if finding.kind != "bubble":
        return MARGIN_UM[finding.kind]
    return min(8.0, 0.17 * (np.count_nonzero(finding.covered) / np.pi) ** 0.5 * mpp)
