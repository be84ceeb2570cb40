"""From maps of evidence to artifacts: connected places, each with a class and a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import regionprops
from skimage.morphology import disk

from artifusion.detection.signs import LOW
from artifusion.geometry import Box

UNIT = 100                  # the byte in a map that means evidence 1
SPECK_UM = 14.0             # no thicker: dust
LINE_TIMES = 7.0            # longer than this many widths: a thread
HOLLOW = 0.8                # least area that a bubble's rim encloses, as a share of the rim's own
LARGEST_CELL = 0.6          # largest share of the whole picture that a bubble encloses
SMALLEST_UM2 = {"fold": 600.0, "bubble": 300.0, "pen": 600.0, "blur": 3000.0, "dark": 150.0, "dust": 3.0,
                "other": 100.0}
RIM_LEVELS = (2.0, 1.3, 0.9, 0.6, LOW["black"])
OWN_LOW = 0.22
GAP_UM = 3.0                # in a bubble's rim
STREAK_UM = 4.0             # between streaks of ink
SOLID_UM = 4.0              # per pixel; in a coarser picture the inside of a ring of ink is tissue and is kept
SLENDER = 1.7               # black ink is longer than wide by this much; a dark spot is not
FOLD_LOW, FOLD_HIGH = 0.5, 0.98         # probability
FOLD_ENOUGH = 0.85          # least mean probability over a fold
FOLD_STEP = 1.35            # least ratio of a fold's density to that of its surroundings
STEP_UM = 12.0
GLASS_SHARE = 0.1           # of a fold's density; lighter surroundings are glass, and everything is denser than glass


@dataclass(frozen=True)
class Finding:
    """An artifact in the maps: its class, score 0..1, box in pixels of the maps, and which pixels of the box it covers.

    `map_name`: the map in which it was found.
    """

    kind: str
    map_name: str
    score: float
    box: Box
    covered: np.ndarray                                                     # bool (box.height, box.width)


def find(maps: Mapping[str, np.ndarray], mpp: float) -> Iterator[Finding]:
    """The artifacts in maps of evidence, uint8 (H, W) in UNIT, at mpp um per pixel; a place is found once.

    `maps` holds the KINDS of `evidence` and "fold" (its probability), of which an absent one counts as all zero, and
    "density" (mean optical density). Memory: about 25 bytes a pixel, more for a very large finding.
    """
    free = np.ones(next(iter(maps.values())).shape, bool)
    for map_name, finder in (("black", bubble), ("pen", pen), ("fold", fold), ("black", black), ("blur", blur)):
        if map_name in maps:
            for finding in finder(maps, free, mpp):
                yield finding
                around = finding.box.expanded(round(6 / mpp)).intersection(whole_of(free))
                covered = np.zeros((around.height, around.width), bool)
                covered[finding.box.slices(around)] = finding.covered
                free[around.slices()] &= ~dilated(covered, 6 / mpp)


def score_of(times: float) -> float:
    """0.5 where the evidence is just enough, towards 1 with more of it."""
    return float(min(0.999, times / (1 + times)))


def components(map_: np.ndarray, low: float, high: float, smallest_px: float) -> Iterator[tuple[Box, np.ndarray]]:
    """Connected places above `low` that reach `high` somewhere: box and bool pixels, in reading order."""
    count, labels = cv2.connectedComponents((map_ > int(low * UNIT)).view(np.uint8), connectivity=4)
    reaches = np.zeros(count, np.uint8)
    reaches[labels[map_ > int(high * UNIT)]] = 1
    _, labels, places, _ = cv2.connectedComponentsWithStats(reaches[labels], connectivity=8)
    boxes = {number: Box(*map(int, place[:4])) for number, place in enumerate(places)
             if number and place[cv2.CC_STAT_AREA] >= smallest_px}
    for number, box in sorted(boxes.items(), key=lambda one: first_pixel(labels, *one)):
        yield box, labels[box.slices()] == number


def first_pixel(labels: np.ndarray, number: int, box: Box) -> tuple[int, int]:
    """The row and column of a label's first pixel in reading order; the box holds the label exactly."""
    return box.y, box.x + int((labels[box.y, box.x : box.right] == number).argmax())


def bubble(maps: Mapping[str, np.ndarray], free: np.ndarray, mpp: float) -> Iterator[Finding]:
    """Bubbles, found by their rims: a rim is black at some level at which the dark tissue beside it is not."""
    whole = whole_of(free)
    taken = np.zeros(free.shape, bool)
    for level in RIM_LEVELS:
        for box, covered in components(maps["black"], level, max(level, 0.9), 8.0):
            if covered.mean() > 0.7 or taken[box.slices()][covered].any():
                continue
            around = box.expanded(round(2 * GAP_UM / mpp) + 1).intersection(whole)
            rim = np.zeros((around.height, around.width), bool)
            rim[box.slices(around)] = covered
            inside = enclosed(rim, around, whole, mpp)
            if inside.any():
                taken[around.slices()] |= rim | inside
                peak = float(np.percentile(maps["black"][box.slices()][covered], 90)) / UNIT
                yield Finding("bubble", "black", score_of(1.5 * peak), around, rim | inside)


def black(maps: Mapping[str, np.ndarray], free: np.ndarray, mpp: float) -> Iterator[Finding]:
    """Dark spots, dust, threads and black ink, told apart by their shapes."""
    for box, covered in components(maps["black"] * free, LOW["black"], 1, max(1.0, SMALLEST_UM2["dust"] / mpp**2)):
        blackness = maps["black"][box.slices()]
        peak = float(np.percentile(blackness[covered], 95)) / UNIT
        own = covered & (blackness > OWN_LOW * peak * UNIT)  # without the dark tissue beside a black spot
        kind = black_kind(own, mpp)
        if np.count_nonzero(own) * mpp**2 >= SMALLEST_UM2[kind]:
            yield Finding(kind, "black", score_of(peak), box, own)


def enclosed(rim: np.ndarray, box: Box, whole: Box, mpp: float) -> np.ndarray:
    """Which pixels a bubble's rim encloses, alone or together with the picture's edge: bool, the rim's shape.

    A bubble is round and hollow: the places inside are convex and larger than their rim. Where they are not, no pixel
    is returned.
    """
    closed = np.pad(rim, 1, mode="edge")
    closed = ndimage.binary_dilation(closed, disk(max(1, round(GAP_UM / mpp / 2))))[1:-1, 1:-1]
    cells, _ = ndimage.label(~closed)
    open_sides = ([cells[0]] if box.y > 0 else []) + ([cells[-1]] if box.bottom < whole.height else []) + (
        [cells[:, 0]] if box.x > 0 else []) + ([cells[:, -1]] if box.right < whole.width else [])
    outside = set(np.unique(np.concatenate([side.ravel() for side in open_sides]))) if open_sides else set()
    inside = np.zeros_like(rim)
    for cell in regionprops(cells):
        if cell.label not in outside and cell.area < LARGEST_CELL * whole.area and cell.area * mpp**2 > 60 and (
                cell.solidity > 0.8):
            inside[cell.slice] |= cell.image
    if np.count_nonzero(inside) < HOLLOW * np.count_nonzero(rim):
        return np.zeros_like(rim)
    return ndimage.binary_dilation(inside, disk(max(1, round(GAP_UM / mpp / 2)))) | inside


def black_kind(covered: np.ndarray, mpp: float) -> str:
    """Dust, thread ("other"), black ink or dark spot, by the thickness and length of the place."""
    thick_um = 2 * mpp * float(ndimage.distance_transform_edt(np.pad(covered, 1)).max())
    area_um2 = np.count_nonzero(covered) * mpp**2
    if thick_um <= SPECK_UM:
        return "other" if area_um2 / thick_um**2 > LINE_TIMES and area_um2 > 400 else "dust"
    (shape,) = regionprops(covered.astype(np.uint8))
    slender = shape.axis_major_length / max(1.0, shape.axis_minor_length)
    return "pen" if slender > SLENDER else "dark"


def pen(maps: Mapping[str, np.ndarray], free: np.ndarray, mpp: float) -> Iterator[Finding]:
    """Coloured ink."""
    for box, covered in components(maps["pen"] * free, LOW["pen"], 1, max(6, SMALLEST_UM2["pen"] / mpp**2)):
        peak = float(np.percentile(maps["pen"][box.slices()][covered], 75)) / UNIT
        gap = round(STREAK_UM / mpp)
        solid = ndimage.binary_closing(np.pad(covered, gap), disk(gap)) if gap else covered
        solid = ndimage.binary_fill_holes(solid[gap : -gap or None, gap : -gap or None])
        yield Finding("pen", "pen", score_of(1.4 * peak), box, solid if mpp <= SOLID_UM else covered)


def fold(maps: Mapping[str, np.ndarray], free: np.ndarray, mpp: float) -> Iterator[Finding]:
    """Folds: places that are probably one, and denser than the tissue beside them."""
    for box, covered in components(maps["fold"] * free, FOLD_LOW, FOLD_HIGH, SMALLEST_UM2["fold"] / mpp**2):
        around = box.expanded(round(STEP_UM / mpp) + 1).intersection(whole_of(free))
        placed = np.zeros((around.height, around.width), bool)
        placed[box.slices(around)] = covered
        density = maps["density"][around.slices()]
        own = float(density[placed].mean())
        beside = dilated(placed, max(1.5, STEP_UM / mpp)) & ~dilated(placed, 3 / mpp)
        beside &= density > GLASS_SHARE * own
        if beside.any() and own >= FOLD_STEP * density[beside].mean():
            mean = min(0.999, float(maps["fold"][box.slices()][covered].mean()) / UNIT)
            yield Finding("fold", "fold", score_of(mean / (1 - mean) * (1 - FOLD_ENOUGH) / FOLD_ENOUGH), box, covered)


def blur(maps: Mapping[str, np.ndarray], free: np.ndarray, mpp: float) -> Iterator[Finding]:
    """Tissue out of focus."""
    for box, covered in components(maps["blur"] * free, LOW["blur"], 1, SMALLEST_UM2["blur"] / mpp**2):
        mean = float(maps["blur"][box.slices()][covered].mean()) / UNIT
        yield Finding("blur", "blur", score_of(1.25 * mean), box, covered)


def whole_of(pixels: np.ndarray) -> Box:
    """The box of a whole map."""
    return Box(0, 0, pixels.shape[1], pixels.shape[0])


def dilated(covered: np.ndarray, by_px: float) -> np.ndarray:
    """The pixels within by_px of covered ones."""
    return ndimage.distance_transform_edt(~covered) <= by_px if by_px >= 0.5 else covered

