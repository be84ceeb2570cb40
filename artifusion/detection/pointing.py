"""Find the artifact that a person points at: prompts on a slide in, its mask at full detail out.

An artifact is looked for in windows of growing size around its prompts until it lies within one, then again in finer
and finer windows around it alone, each of which starts from the answer of the one before. A further point starts
from the answer to the former ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from shapely import Polygon
from shapely.affinity import translate

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.clicks import FINER, Pointed, probability
from artifusion.detection.detected import DetectedRegion, Detection, opened, write_found
from artifusion.detection.findings import dilated
from artifusion.detection.prompts import Prompts, check_prompts, read_prompts
from artifusion.detection.survey import Survey
from artifusion.errors import MaskError
from artifusion.geometry import Box, Point, Size
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.polygons import pixel_box
from artifusion.mask.writer import class_ids
from artifusion.slide.reader import Slide
from artifusion.slide.spacing import check_spacing

WINDOW_PX = 64                      # side of the answer in windows in which an artifact is first looked for
FINEST_UM = 0.5                     # per pixel of the first answer
WIDEST_UM = 5000.0                  # a window's side, less than
GROW = 2.0
CENTRED = 2                         # times that a window is centred on what is found in it
ROOM, CLOSE = 1.6, 1.2              # side of a window over the longest side of what is in it: to find it, to draw it
FINE_PX = (64, 128)                 # longest sides at which an artifact's outline is drawn, one after the other
LIKELY = 0.5
REACH_PX = 2                        # from a click to the artifact it means
CUT = 2.0                           # what a share of the window's edge costs: the artifact goes on outside
FEWEST_PX = 24                      # of a window: what covers less is seen too small
BESIDE_PX = 4
MARGIN_UM = 2.5                     # by which it is widened: rims are soft


@dataclass(frozen=True)
class Found:
    """An artifact: its prompts, its raster bool and probability (H, W) over a box of level 0, its score from 0 to 1."""

    prompts: Prompts
    l0_box: Box
    covered: np.ndarray
    likely: np.ndarray
    score: float

    @property
    def around(self) -> Box:
        """The box of level 0 in which another point means the same artifact."""
        return squared(covered_box(self.covered, self.l0_box).union(self.prompts.around), ROOM)


def detect_at(
    source: str | Path | Slide | np.ndarray,
    *,
    points: Sequence[tuple[int, int]] = (),
    boxes: Sequence[tuple[int, int, int, int]] = (),
    not_points: Sequence[tuple[int, int]] = (),
    prompts: Sequence[Prompts] = (),
    mpp: float | None = None,
) -> Detection:
    """Find the artifacts that somebody points at. A function of its arguments: the same call finds the same.

    Args:
        source: a path, an open slide, or uint8 (H, W, 3).
        points: (x, y) in level-0 pixels, on an artifact. Points near each other mean one artifact.
        boxes: (x, y, width, height), around one artifact each.
        not_points: on what belongs to none of them.
        prompts: more of these, with the class of the artifact.
        mpp: um per pixel, where the slide does not tell; without either 0.5 is taken.

    Returns polygons at full detail (`mask`), with a class of "other" where prompts have none, and `ids` at the scale
    of `detect`. Memory: that of `ids`, and a window of 256 px a side.

    Raises:
        SlideError: cannot be read.
        MaskError: prompts outside the slide, points on bare glass, only not-points, or where nothing is found.
        ValueError: mpp does not lie in 0.01 to 100.
    """
    check_spacing(mpp)
    if not isinstance(source, Slide):
        with opened(source, mpp) as slide:
            return detect_at(slide, points=points, boxes=boxes, not_points=not_points, prompts=prompts, mpp=mpp)
    um = mpp or source.mpp or DEFAULT_SPACING_UM
    given = Prompts(tuple(Point(*map(int, at)) for at in points), tuple(Box(*map(int, box)) for box in boxes),
                    tuple(Point(*map(int, at)) for at in not_points))
    asked = [one for one in (given, *prompts) if one != Prompts()]
    check_prompts(source, um, asked)
    whole = Box(0, 0, *source.size)
    asked = [replace(one, boxes=tuple(box.intersection(whole) for box in one.boxes)) for one in asked]
    return detection_of_found(source, um, artifacts_at(source, um, asked))


def detect_slide_at(
    source: str | Path, out: str | Path, *, points: Sequence[tuple[int, int]] = (),
    boxes: Sequence[tuple[int, int, int, int]] = (), not_points: Sequence[tuple[int, int]] = (),
    prompts: str | Path | None = None, **written: Any,
) -> Detection:
    """Write what `detect_at` finds as `detect_slide` does; `prompts` is a GeoJSON file, `written` as there."""

    def find(slide: Slide) -> Detection:
        more = read_prompts(Path(prompts), slide) if prompts else ()
        return detect_at(slide, points=points, boxes=boxes, not_points=not_points, prompts=more)

    return write_found(source, out, find, **written)


def artifacts_at(slide: Slide, mpp: float, asked: Sequence[Prompts]) -> list[Found]:
    """The artifacts that are pointed at, in the order of their first prompts. Raises MaskError where there is none."""
    not_points = tuple(point for one in asked for point in one.not_points)
    found: list[Found] = []
    for one in asked:
        found += [artifact_at(slide, mpp, Prompts((), (box,), not_points, one.kind)) for box in one.boxes]
        for point in one.points:
            same = next((n for n, other in enumerate(found) if other.prompts.kind == one.kind
                         and not other.around.intersection(Box(*point, 1, 1)).empty), None)
            if same is None:
                found.append(artifact_at(slide, mpp, Prompts((point,), (), not_points, one.kind)))
            else:
                former = found[same]
                if point not in former.prompts.points:
                    prompts = replace(former.prompts, points=(*former.prompts.points, point))
                    found[same] = artifact_at(slide, mpp, prompts, former)
    return found


def artifact_at(slide: Slide, mpp: float, prompts: Prompts, former: Found | None = None) -> Found:
    """The artifact that prompts point at; a former answer to fewer points is gone on from.

    Raises MaskError where nothing is found.
    """
    window, likely = further_look(slide, prompts, former) if former else first_look(slide, mpp, prompts)
    for px in FINE_PX:
        box = around_found(likely, window, prompts, CLOSE)
        box = box.intersection(Box(0, 0, *slide.size))
        ratio = min(1.0, px / max(box.width, box.height))
        size = Size(max(1, round(box.width * ratio)), max(1, round(box.height * ratio)))
        finer = look(slide, box, size, prompts, resampled(likely, window, box, size))
        if not meant(finer, box, prompts).any():
            break
        window, likely = box, finer
        if ratio == 1:
            break
    covered = meant(likely, window, prompts)
    wide = dilated(ndimage.binary_fill_holes(covered), MARGIN_UM / (mpp * window.width / likely.shape[1]))
    rows, columns = np.ogrid[: wide.shape[0], : wide.shape[1]]
    for point in prompts.not_points:
        row, column = ((at + 0.5 - start) * length / whole for at, start, length, whole in (
            (point.y, window.y, wide.shape[0], window.height), (point.x, window.x, wide.shape[1], window.width)))
        wide &= np.hypot(rows + 0.5 - row, columns + 0.5 - column) > REACH_PX
    if not covered.any() or not wide.any():
        x, y = prompts.points[0] if prompts.points else prompts.boxes[0][:2]
        raise MaskError(f"{slide.path}: no artifact is seen at {x},{y}; draw a box around it, or give more points")
    return Found(prompts, window, wide, likely, float(likely[covered].mean()))


def first_look(slide: Slide, mpp: float, prompts: Prompts) -> tuple[Box, np.ndarray]:
    """A window that holds an artifact whole, and the probability in it, WINDOW_PX a side.

    Of windows of growing size it is the one in which the artifact stands out most; then it is centred.
    """
    size, least = Size(WINDOW_PX, WINDOW_PX), round(WINDOW_PX * max(1.0, FINEST_UM / mpp))
    window = squared(prompts.around, ROOM, 1 if prompts.boxes else least)
    seen: list[tuple[float, Box, np.ndarray]] = []
    while not seen or (not prompts.boxes and window.width * mpp < WIDEST_UM and window.width < 2 * max(slide.size)):
        likely = look(slide, window, size, prompts)
        seen.append((standing_out(likely, meant(likely, window, prompts)), window, likely))
        window = squared(window, GROW)
    best, window, likely = max(seen, key=lambda one: one[0])
    for _ in range(CENTRED):
        closer = around_found(likely, window, prompts, ROOM, least)
        looked = look(slide, closer, size, prompts)
        standing = standing_out(looked, meant(looked, closer, prompts))
        if standing < best:
            break
        best, window, likely = standing, closer, looked
    return window, likely


def further_look(slide: Slide, prompts: Prompts, former: Found) -> tuple[Box, np.ndarray]:
    """As `first_look`, but around a former answer and the prompts alone: at another scale that could be lost."""
    size, window, likely = Size(WINDOW_PX, WINDOW_PX), former.l0_box, former.likely
    for _ in range(1 + CENTRED):
        around = around_found(likely, window, prompts, ROOM)
        window, likely = around, look(slide, around, size, prompts, resampled(likely, window, around, size))
    return window, likely


def standing_out(likely: np.ndarray, covered: np.ndarray) -> float:
    """How much likelier covered pixels are than those beside them, less where they reach the window's edge: -3 to 1.

    One less where they are too few or too many to be an artifact seen whole; -3 where nothing is covered.
    """
    if not covered.any():
        return -3.0
    beside = ndimage.binary_dilation(covered, iterations=BESIDE_PX) & ~covered
    edge = np.concatenate([covered[0], covered[-1], covered[:, 0], covered[:, -1]])
    contrast = float(likely[covered].mean() - likely[beside].mean()) if beside.any() else 0.0
    whole = FEWEST_PX <= np.count_nonzero(covered) <= covered.size / 2
    return contrast - CUT * min(0.5, float(edge.mean())) - (not whole)


def look(slide: Slide, window: Box, size: Size, prompts: Prompts, before: np.ndarray | None = None) -> np.ndarray:
    """The probability of the artifact in a window of level 0, seen at a size: float32 (H, W)."""
    x, y = size.width / window.width, size.height / window.height

    def placed(points: Sequence[Point]) -> list[tuple[float, float]]:
        return [((point.x + 0.5 - window.x) * x, (point.y + 0.5 - window.y) * y) for point in points]

    boxes = [((box.x - window.x) * x, (box.y - window.y) * y, (box.right - window.x) * x, (box.bottom - window.y) * y)
             for box in prompts.boxes]
    pointed = Pointed(placed(prompts.points), placed(prompts.not_points), boxes)
    finer = Size(FINER * size.width, FINER * size.height)
    return probability(slide.read_as(window, finer), pointed, before)


def meant(likely: np.ndarray, window: Box, prompts: Prompts) -> np.ndarray:
    """The likely pixels of a window that are connected with a point, or lie for the greater part in a box: bool."""
    labels, count = ndimage.label(likely > LIKELY, np.ones((3, 3)))
    height, width = likely.shape
    x, y = width / window.width, height / window.height
    wanted = np.zeros(count + 1, bool)
    for point in prompts.points:
        row, column = int((point.y + 0.5 - window.y) * y), int((point.x + 0.5 - window.x) * x)
        reached = labels[max(0, row - REACH_PX) : max(0, row + REACH_PX + 1),
                         max(0, column - REACH_PX) : max(0, column + REACH_PX + 1)]
        wanted[np.unique(reached)] = True
    for box in prompts.boxes:
        inside = np.zeros(likely.shape, bool)
        inside[max(0, round((box.y - window.y) * y)) : max(0, round((box.bottom - window.y) * y)),
               max(0, round((box.x - window.x) * x)) : max(0, round((box.right - window.x) * x))] = True
        whole = np.bincount(labels.ravel(), minlength=count + 1)
        wanted |= 2 * np.bincount(labels[inside], minlength=count + 1) > whole
    wanted[0] = False
    return wanted[labels]


def around_found(likely: np.ndarray, window: Box, prompts: Prompts, room: float, least: int = 1) -> Box:
    """The square around the prompts and what is likely in a window, with room."""
    return squared(covered_box(meant(likely, window, prompts), window).union(prompts.around), room, least)


def squared(box: Box, room: float, least: int = 1) -> Box:
    """The square with the middle of a box whose side is `room` times the box's longer one, or more."""
    side = max(least, round(room * max(box.width, box.height)))
    return Box(box.x + (box.width - side) // 2, box.y + (box.height - side) // 2, side, side)


def covered_box(covered: np.ndarray, window: Box) -> Box:
    """The box of level 0 around the covered pixels of a window."""
    rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return window
    x, y = window.width / covered.shape[1], window.height / covered.shape[0]
    return Box.from_edges(window.x + int(columns[0] * x), window.y + int(rows[0] * y),
                          window.x + int(np.ceil((columns[-1] + 1) * x)), window.y + int(np.ceil((rows[-1] + 1) * y)))


def resampled(likely: np.ndarray, window: Box, box: Box, size: Size) -> np.ndarray:
    """The probability in a window as that in another box, seen at a size; 0 outside the window."""
    x, y = likely.shape[1] / window.width, likely.shape[0] / window.height
    left, top = (box.x - window.x) * x, (box.y - window.y) * y
    image = Image.fromarray(likely).transform(size, Image.Transform.AFFINE, (
        box.width * x / size.width, 0, left, 0, box.height * y / size.height, top), Image.Resampling.BILINEAR)
    return np.asarray(image)


def detection_of_found(slide: Slide, mpp: float, found: Sequence[Found]) -> Detection:
    """The detection that artifacts make up; where two overlap, the earlier one keeps the pixels."""
    polygons: list[Polygon] = []
    owners: list[str] = []
    for number, one in enumerate(found):
        scale = (Fraction(one.l0_box.width, one.covered.shape[1]), Fraction(one.l0_box.height, one.covered.shape[0]))
        outlines = [translate(polygon, one.l0_box.x, one.l0_box.y) for polygon in rectilinear(one.covered, *scale)]
        polygons += outlines
        owners += [str(number)] * len(outlines)
    placed = Mask.of(polygons, slide.size, owners)
    whose = [found[int(owner)] for owner in placed.classes]
    mask = Mask(placed.polygons, slide.size, tuple(one.prompts.kind for one in whose), "pointed at")
    survey = Survey.of(slide, mpp)
    regions = tuple(DetectedRegion(one.prompts.kind, min(0.999, one.score), pixel_box(polygon))
                    for polygon, one in zip(mask.polygons, whose, strict=True))
    return Detection(class_ids(mask, survey.fine), survey.fine_um, mask, regions)
