"""What a click finds: IoU with masks drawn by hand of real artifacts, after each of several simulated clicks.

    python -m benchmarks.quality.prompts DATA SLIDES [--use judge] [--method network] [--clicks 3] [--json FILE]

DATA is the folder of wsi/, train/ and artifacts/, SLIDES holds the slides as NAME.tiff; the masks are those of
benchmarks/masks. The first click is at the most interior point of an artifact, each next one at the most interior
point of the largest error so far: a point where something is missing, a not-point where too much was found. "box" is
the box around the artifact alone. A mean is one of artifacts; "by image" gives every image the same weight.

One half of the images tuned ("tune": what shares an organ with it is in it), the other judges. "walker" is the
random walker of Grady (2006) from scikit-image, on densities, their local means and contrasts, in windows of growing
size around the clicks; seeds are the clicks and the window's edge.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from scipy import ndimage
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry
from skimage.segmentation import random_walker

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.pointing import detect_at, squared
from artifusion.detection.prompts import Prompts
from artifusion.geometry import Box, Point, Size
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.polygons import polygons_of
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import optical_density

MASKS = Path(__file__).parents[1] / "masks"
# Images with masks, what is in them, and which half they are in; no organ is in both.
TUNE = ("congestion-spleen", "ovarianserousmicropapillary", "giardia", "ectopic-pancreas", "keloid",
        "eosinophilic", "myxoidliposarcoma", "her2st-C4", "intrapancreaticspleen")
UM = {"her2st": 0.65, "L15": 1.04, "L16": 0.5}
SEEN_PX = 512                       # longest side at which masks are compared
WIDEST_UM = 1500.0                  # half of the side of the walker's largest window
WALKER_PX = 96                      # side of the walker's window
MOST = 3                            # artifacts of a file of masks, evenly chosen
LEAST_PX = 12                       # of an artifact at level 0, else it is left out

Clicks = Sequence[tuple[int, int]]
Method = Callable[[Slide, Clicks, Sequence[Box], Clicks], BaseGeometry]
"""Slide, points, boxes and not-points in level-0 pixels -> what was found, in level-0 pixels."""


@dataclass(frozen=True)
class Case:
    """One artifact on an image: its class, its outline in level-0 pixels, and the image's um per pixel."""

    image: Path
    mpp: float
    kind: str
    outline: BaseGeometry


def cases(data: Path, slides: Path, use: str | None) -> Iterator[Case]:
    for path in sorted(MASKS.glob("*.geojson")):
        if use and (use == "tune") != any(name in path.stem for name in TUNE):
            continue
        image, mpp = image_of(path.stem, data, slides)
        if image is None:
            print(f"{path.stem}: no image, left out")
            continue
        features = json.loads(path.read_text())["features"]
        for feature in features[:: -(-len(features) // MOST)]:
            name = feature["properties"]["classification"]
            name = (name["name"] if isinstance(name, dict) else name).lower()
            outline = shapely.make_valid(shapely.geometry.shape(feature["geometry"]))
            left, top, right, bottom = outline.bounds
            if min(right - left, bottom - top) >= LEAST_PX:
                yield Case(image, mpp, name, outline)


def image_of(stem: str, data: Path, slides: Path) -> tuple[Path | None, float]:
    """The image of a mask, and its um per pixel."""
    stem = stem.removesuffix("-edges")
    found = [*slides.glob(f"{stem}.tiff"), *(data / "wsi").glob(f"{stem}.*"),
             *(data / "artifacts/real").glob(f"*_{stem}.jpg"),
             *(data / "train/her2st").glob(f"{stem.removeprefix('her2st-')}.jpg")]
    if not found:
        return None, 0.0
    if found[0].parent == slides:
        with open_slide(found[0]) as slide:
            return found[0], slide.mpp or DEFAULT_SPACING_UM
    return found[0], next((um for name, um in UM.items() if name in stem), DEFAULT_SPACING_UM)


# --------------------------------------------------------------------------------------------------------------------
# Clicking.

@dataclass(frozen=True)
class View:
    """A box of level 0, seen at a size of at most SEEN_PX."""

    l0_box: Box
    size: Size

    @classmethod
    def of(cls, shapes: Sequence[BaseGeometry]) -> View:
        left, top, right, bottom = shapely.union_all([shapely.box(*shape.bounds) for shape in shapes]).bounds
        margin = max(4, round(0.05 * max(right - left, bottom - top)))
        box = Box.from_edges(int(left) - margin, int(top) - margin, int(right) + margin, int(bottom) + margin)
        ratio = max(1.0, max(box.width, box.height) / SEEN_PX)
        return cls(box, Size(max(1, round(box.width / ratio)), max(1, round(box.height / ratio))))

    def draw(self, shape: BaseGeometry) -> np.ndarray:
        """Which pixels a shape covers: bool (H, W)."""
        x, y = self.size.width / self.l0_box.width, self.size.height / self.l0_box.height
        placed = affine_transform(shape, [x, 0, 0, y, -self.l0_box.x * x, -self.l0_box.y * y])
        return Mask.of(polygons_of(placed), self.size).read(Box(0, 0, *self.size))

    def l0_of(self, row: int, column: int) -> tuple[int, int]:
        return (self.l0_box.x + int((column + 0.5) * self.l0_box.width / self.size.width),
                self.l0_box.y + int((row + 0.5) * self.l0_box.height / self.size.height))


def most_interior(wrong: np.ndarray) -> tuple[float, int, int]:
    """The depth, row and column of the pixel that lies deepest in a mask."""
    depth = ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth.max()), int(row), int(column)


def next_click(truth: BaseGeometry, found: BaseGeometry | None) -> tuple[bool, tuple[int, int]] | None:
    """Whether the next click is a point (else a not-point), and where; None where nothing is wrong."""
    view = View.of([truth, found] if found is not None and not found.is_empty else [truth])
    true = view.draw(truth)
    have = view.draw(found) if found is not None else np.zeros_like(true)
    missing, surplus = most_interior(true & ~have), most_interior(have & ~true)
    depth, row, column = max(missing, surplus)
    return (missing >= surplus, view.l0_of(row, column)) if depth else None


def iou(truth: BaseGeometry, found: BaseGeometry) -> float:
    view = View.of([truth, found] if not found.is_empty else [truth])
    true, have = view.draw(truth), view.draw(found)
    return float((true & have).sum() / max(1, (true | have).sum()))


@dataclass(frozen=True)
class Trial:
    """What came of one artifact: IoU after each click, with the box alone, and the seconds of the slowest answer."""

    case: Case
    by_clicks: tuple[float, ...]
    by_box: float
    seconds: float


def trial(case: Case, slide: Slide, method: Method, clicks: int) -> Trial:
    points: list[tuple[int, int]] = []
    not_points: list[tuple[int, int]] = []
    found, ious, slowest = None, [], 0.0
    for _ in range(clicks):
        click = next_click(case.outline, found)
        if click is not None:
            (points if click[0] else not_points).append(click[1])
            begun = time.perf_counter()
            found = method(slide, points, (), not_points)
            slowest = max(slowest, time.perf_counter() - begun)
        ious.append(iou(case.outline, found))
    left, top, right, bottom = case.outline.bounds
    box = Box.from_edges(int(left), int(top), int(right) + 1, int(bottom) + 1)
    return Trial(case, tuple(ious), iou(case.outline, method(slide, (), (box,), ())), slowest)


# --------------------------------------------------------------------------------------------------------------------
# The random walker.

def walker_features(rgb: np.ndarray) -> np.ndarray:
    """Densities, their means around, and the contrast there: float32 (H, W, 7)."""
    od = optical_density(rgb)
    gray = od.mean(axis=2)
    means = ndimage.gaussian_filter(od, (2, 2, 0))
    contrast = np.sqrt(np.maximum(ndimage.gaussian_filter(gray**2, 2) - ndimage.gaussian_filter(gray, 2) ** 2, 0))
    return np.concatenate([0.5 * od, means, contrast[..., None]], axis=2)


def walked(slide: Slide, window: Box, points: Clicks, boxes: Sequence[Box], not_points: Clicks, beta: float
           ) -> tuple[np.ndarray, float]:
    """Which pixels of a window, WALKER_PX a side, are the artifact's, and how unlike they are to those beside."""
    rgb = slide.read_as(window, Size(WALKER_PX, WALKER_PX))
    features = walker_features(rgb)
    seeds = np.zeros(rgb.shape[:2], np.int32)
    seeds[[0, -1]] = seeds[:, [0, -1]] = 2
    y, x = np.mgrid[:WALKER_PX, :WALKER_PX]
    scale = WALKER_PX / window.width
    for box in boxes:
        left, top, right, bottom = ((edge - start) * scale for edge, start in
                                    zip((box.x, box.y, box.right, box.bottom), (window.x, window.y) * 2, strict=True))
        seeds[(x < left) | (x >= right) | (y < top) | (y >= bottom)] = 2
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        seeds[(abs(x - middle_x) < (right - left) / 6) & (abs(y - middle_y) < (bottom - top) / 6)] = 1
    for clicks, label in ((not_points, 2), (points, 1)):
        for l0_x, l0_y in clicks:
            seeds[np.hypot(x - (l0_x - window.x) * scale, y - (l0_y - window.y) * scale) <= 2] = label
    if not (seeds == 1).any():
        return np.zeros(seeds.shape, bool), 0.0
    found = random_walker(features, seeds, beta=beta, mode="cg_j", tol=1e-2, channel_axis=-1, return_full_prob=True)[0]
    covered = found > 0.5
    beside = ndimage.binary_dilation(covered, iterations=4) & ~covered
    if not covered.any() or not beside.any():
        return covered, 0.0
    inner, outer = features[covered][:, 3:6].mean(axis=1), features[beside][:, 3:6].mean(axis=1)
    return covered, float(abs(inner.mean() - outer.mean()) / (inner.std() + outer.std() + 0.01))


def walker(beta: float = 400.0, grow: float = 2.0) -> Method:
    def method(slide: Slide, points: Clicks, boxes: Sequence[Box], not_points: Clicks) -> BaseGeometry:
        around = Prompts(tuple(Point(*at) for at in points), tuple(boxes)).around
        window = squared(around, 1.5, 96 if points else 0)
        best: tuple[float, Box, np.ndarray] | None = None
        while window.width < 1.5 * max(slide.size):
            covered, clear = walked(slide, window, points, boxes, not_points, beta)
            if covered.any() and (best is None or clear > best[0]):
                best = clear, window, covered
            if boxes or window.width * (slide.mpp or DEFAULT_SPACING_UM) > WIDEST_UM:
                break
            window = squared(around, 0, round(window.width * grow))
        return shapely.Polygon() if best is None else raster_outline(best[2], best[1])

    return method


def raster_outline(covered: np.ndarray, window: Box) -> BaseGeometry:
    """The outline of a raster over a box of level 0."""
    x, y = window.width / covered.shape[1], window.height / covered.shape[0]
    return shapely.union_all([affine_transform(p, [x, 0, 0, y, window.x, window.y]) for p in rectilinear(covered)])


def network() -> Method:
    def method(slide: Slide, points: Clicks, boxes: Sequence[Box], not_points: Clicks) -> BaseGeometry:
        found = detect_at(slide, points=points, boxes=boxes, not_points=not_points)
        return shapely.union_all(found.mask.polygons)

    return method


METHODS: dict[str, Callable[[], Method]] = {"network": network, "walker": walker}


def report(trials: Sequence[Trial]) -> dict[str, Any]:
    """The figures, and their lines on stdout."""
    table: dict[str, Any] = {}
    groups: dict[str, list[Trial]] = defaultdict(list)
    for one in trials:
        groups[one.case.kind].append(one)
    for kind, some in {**groups, "all": list(trials)}.items():
        images = sorted({one.case.image for one in some})
        by_image = [np.mean([one.by_clicks for one in some if one.case.image == image], axis=0) for image in images]
        table[kind] = {
            "artifacts": len(some), "images": len(images),
            "by clicks": np.mean([one.by_clicks for one in some], axis=0).round(3).tolist(),
            "by clicks, by image": np.mean(by_image, axis=0).round(3).tolist(),
            "by box": round(float(np.mean([one.by_box for one in some])), 3),
            "slowest s": round(max(one.seconds for one in some), 2)}
        print(kind, json.dumps(table[kind]))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("slides", type=Path)
    parser.add_argument("--use", choices=("tune", "judge"))
    parser.add_argument("--method", choices=tuple(METHODS), default="network")
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    method, trials = METHODS[given.method](), []
    for (image, mpp), some in groupby(cases(given.data, given.slides, given.use), lambda case: (case.image, case.mpp)):
        with open_slide(image, mpp) as slide:
            for case in some:
                one = trial(case, slide, method, given.clicks)
                trials.append(one)
                print(image.stem, case.kind, [round(value, 2) for value in one.by_clicks], f"box {one.by_box:.2f}",
                      f"{one.seconds:.2f} s", flush=True)
    table = report(trials)
    if given.json:
        given.json.write_text(json.dumps({"use": given.use, "method": given.method, "results": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
