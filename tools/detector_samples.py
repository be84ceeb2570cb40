"""Samples for tools/train_detector.py: squares of tissue with artifacts laid on them, and labelled places of slides.

    python -m tools.detector_samples DATA SLIDES OUT [--parts images slides --count 5000 --tissue 60]

DATA holds the training folders of configs/train/he-small.toml, SLIDES the tuning slides of benchmarks/labels as
NAME.tiff. Images of the validation split, and of the cases of the slides that judge, are left out. What the embedded
network takes for an artifact and no labelled place touches is ignored. OUT gets an .npz of images and one of each
slide; a slide whose file is there is not read again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw
from shapely.affinity import affine_transform, scale, translate
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM, TrainConfig, load_config
from artifusion.detection.network import ArtifactNet, network
from artifusion.detection.sight import Sight, seen_findings
from artifusion.detection.signs import Look, look_of
from artifusion.detection.survey import OVERVIEW_PX, Survey
from artifusion.geometry import Box, Size, fitted
from artifusion.mask.classes import CLASSES
from artifusion.mask.outlines import rectilinear
from artifusion.output.tiff_pixels import read_fast
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import optical_density, tissue_mask
from artifusion.training.corpus import first_match, is_validation
from artifusion.training.tiles import find_images
from benchmarks.quality.labelled import LabelledSlide, judging_cases, labelled_slides
from tools.laid_artifacts import composite

SIDE_PX = 192
IGNORED = 255
SCALES_UM = (1.0, 2.0, 4.0, 8.0)
SHARES = (0.50, 0.12, 0.30, 0.08)       # of the squares
SOURCES = ("brecahad", "osteosarcoma", "tnbc", "her2st", "patolojiatlasi", "liverquant_gtex", "histolab_tcga")
DRAWN = {"her2st": 30.0}
UNSURE_UM = 4.0             # around the outline of a labelled artifact: not learned from
UNREAD = 0.5                # what the network sees with this probability, and no place touches, is ignored


@dataclass(frozen=True)
class Sample:
    """A square: uint8 (S, S, 3), class ids uint8 (S, S), um per pixel, the look, where it is from, and what it is."""

    pixels: np.ndarray
    truth: np.ndarray
    um: float
    look: Look
    slide: str
    what: str


@dataclass(frozen=True)
class Tissue:
    """An image of clean tissue at `um` per pixel, and its look."""

    pixels: np.ndarray
    um: float
    look: Look
    slide: str
    weight: float = 1.0


def tissues(data: Path) -> list[Tissue]:
    """The training images of DATA, at 0.5 um per pixel or coarser."""
    config = load_config(TrainConfig, "train", "he-small").data
    judging = judging_cases()
    found = []
    for path, name in find_images([data / folder for folder in SOURCES]).items():
        name = name if "patolojiatlasi" in name or "_tcga" in name else f"{path.parent.name}/{path.name}"
        if is_validation(name, config) or path.parent.name in judging:
            continue
        um = first_match(config.spacing_um, name) or DEFAULT_SPACING_UM
        image = Image.open(path).convert("RGB")
        factor = um / max(um, 1.0)
        if factor < 1:
            image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BOX)
        pixels = np.asarray(image)
        small = np.asarray(image.reduce(max(1, max(image.size) // 300)))
        look = look_of([small], 4.0, any_stain=True)
        folder = path.parent.name
        found.append(Tissue(pixels, um / factor, look, folder, DRAWN.get(folder, 1.0)))
    return found


def is_large_enough(tissue: Tissue, um: float) -> bool:
    """Whether an image shows at least half the side of a square at um per pixel."""
    return min(tissue.pixels.shape[:2]) * tissue.um >= SIDE_PX * um / 2


def square(tissue: Tissue, um: float, rng: np.random.Generator) -> np.ndarray | None:
    """A random square of SIDE_PX at um per pixel, mirrored where the image is smaller; None if it is mostly glass."""
    span = max(8, round(SIDE_PX * um / tissue.um))
    height, width = tissue.pixels.shape[:2]
    y, x = (int(rng.integers(max(1, side - span + 1))) for side in (height, width))
    piece = tissue.pixels[y : y + span, x : x + span]
    pad = [(0, max(0, span - side)) for side in piece.shape[:2]]
    piece = np.pad(piece, (*pad, (0, 0)), "symmetric")
    piece = np.asarray(Image.fromarray(piece).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))
    covered = (optical_density(piece).mean(axis=2) - np.mean(tissue.look.glass) > 0.06).mean()
    return piece if covered > 0.15 or rng.random() < 0.1 else None


def composites(images: list[Tissue], count: int, rng: np.random.Generator) -> Iterator[Sample]:
    usable = {um: [image for image in images if is_large_enough(image, um)] for um in SCALES_UM}
    scales = [um for um in SCALES_UM if usable[um]]
    if not scales:
        raise SystemExit("no image is large enough")
    shares = np.array([SHARES[SCALES_UM.index(um)] for um in scales])
    for _ in tqdm(range(count), desc="laying artifacts"):
        um = scales[rng.choice(len(scales), p=shares / shares.sum())]
        weights = np.array([image.weight for image in usable[um]])
        drawn: list[np.ndarray] = []
        tissue = usable[um][0]
        while len(drawn) < 2:
            chosen = usable[um][rng.choice(len(weights), p=weights / weights.sum())]
            piece = square(chosen, um, rng)
            if piece is not None:
                drawn.append(piece)
                tissue = chosen if len(drawn) == 1 else tissue
        pixels, truth, name = composite(drawn[0], um, drawn[1], rng)
        yield Sample(pixels, truth, um, tissue.look, tissue.slide, f"laid {name}")


def raster(shapes: list[tuple[shapely.Geometry, int]], box: Box, side: int) -> np.ndarray:
    """Class ids of outlines in a box of level 0: uint8 (side, side); later shapes lie above earlier ones."""
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    ratio = side / box.width
    for shape, value in shapes:
        moved = affine_transform(shape, (ratio, 0, 0, ratio, -box.x * ratio, -box.y * ratio))
        for part in getattr(moved, "geoms", [moved]):
            if part.geom_type == "Polygon" and not part.is_empty:
                draw.polygon([tuple(p) for p in part.exterior.coords], fill=value)
    return np.asarray(image).copy()


def layers_of(labels: LabelledSlide, mpp: float, size: Size) -> list[tuple[shapely.Geometry, int]]:
    """What is drawn of a slide's labels: places in doubt and rims of artifacts are ignored."""
    doubts = [(shape, IGNORED) for shape in labels.outlines("unsure", size)]
    artifacts = [(shape, CLASSES[kind]) for kind in CLASSES for shape in labels.outlines(kind, size)]
    rims = [(shapely.make_valid(shape).buffer(UNSURE_UM / mpp), IGNORED) for shape, _ in artifacts]
    return doubts + rims + [(s, CLASSES["dust"] if v == CLASSES["other"] else v) for s, v in artifacts]


def crops_of(place: shapely.Geometry, kind: str, mpp: float) -> dict[float, int]:
    """How many squares of each scale are cut at a labelled place."""
    left, top, right, bottom = place.bounds
    length = math.hypot(right - left, bottom - top) * mpp
    if kind == "fold":
        return {1.0: int(np.clip(length / 100, 3, 10)), 2.0: int(np.clip(length / 200, 3, 8)), 4.0: 2}
    if kind == "normal":
        return {1.0: int(np.clip(length / 150, 2, 6)), 2.0: 2, 4.0: 1}
    return {1.0: int(np.clip(length / 150, 3, 8)), 2.0: 3, 4.0: 1}


def sight_of(slide: Slide, labels: LabelledSlide, net: ArtifactNet) -> Sight:
    """A labelled slide as a network sees it."""
    survey = Survey.of(slide, labels.mpp * labels.size.width / slide.size.width)
    return Sight(survey, survey.look(survey.tiles(), True), net)


class SlideSquares:
    """Cuts squares of a labelled slide; looks at all of it first, for what nobody has read (`unread_outlines`)."""

    def __init__(self, sight: Sight, labels: LabelledSlide) -> None:
        self.slide, self.mpp, self.look, self.labels = sight.survey.slide, sight.survey.mpp, sight.look, labels
        self.layers = [*((outline, IGNORED) for outline in unread_outlines(sight, labels)),
                       *layers_of(labels, self.mpp, self.slide.size)]
        self.tree = shapely.STRtree([shape for shape, _ in self.layers])

    def cut(self, x: float, y: float, um: float, what: str) -> Sample:
        """The square around (x, y) of level 0."""
        span = round(SIDE_PX * um / self.mpp)
        box = Box(round(x) - span // 2, round(y) - span // 2, span, span)
        pixels = self.slide.read_as(box, Size(SIDE_PX, SIDE_PX))
        touching = sorted(self.tree.query(shapely.box(box.x, box.y, box.right, box.bottom)))
        truth = raster([self.layers[i] for i in touching], box, SIDE_PX)
        return Sample(pixels, truth, um, self.look, self.labels.name, what)

    def cut_at(self, shape: shapely.Geometry, um: float, what: str, rng: np.random.Generator) -> Sample:
        """A square at a random point of a shape, seldom in its middle."""
        x, y = point_in(shape, rng) + rng.uniform(-0.3, 0.3, 2) * SIDE_PX * um / self.mpp
        return self.cut(x, y, um, what)


def unread_outlines(sight: Sight, labels: LabelledSlide) -> list[shapely.Geometry]:
    """What the network takes for artifacts and no place of the labels touches, in level-0 pixels, holes filled: of
    slides that were looked over, too, since small folds do not show at 4 um/px."""
    survey = sight.survey
    ratio = [whole / small for whole, small in zip(survey.slide.size, survey.coarse, strict=True)]
    places = shapely.STRtree([shapely.make_valid(outline) for outline in labels.outlines(None, survey.slide.size)])
    maps = survey.maps(survey.tiles(), sight.look, seen=sight.at)
    found = []
    for finding in seen_findings(maps, survey.coarse_um):
        if finding.score >= UNREAD:
            outline = shapely.union_all([shapely.Polygon(part.exterior) for part in rectilinear(finding.covered)])
            outline = scale(translate(outline, finding.box.x, finding.box.y), *ratio, origin=(0, 0))
            if not len(places.query(outline, "intersects")):
                found.append(outline)
    return found


def labelled_squares(squares: SlideSquares, rng: np.random.Generator, tissue_squares: int) -> Iterator[Sample]:
    """Squares of a slide at its labelled places and at random places of its tissue, some of these with artifacts."""
    slide = squares.slide
    for place in squares.labels.places:
        if place.kind != "unsure":
            shape = shapely.make_valid(place.outline)
            for um, count in crops_of(shape, place.kind, squares.mpp).items():
                for _ in range(count):
                    yield squares.cut_at(shape, um, f"place {place.kind}", rng)
    whole = slide.read_as(Box(0, 0, *slide.size), fitted(slide.size, OVERVIEW_PX))
    cells = np.argwhere(tissue_mask(whole))
    for um, share in zip(SCALES_UM, (1.0, 1.2, 0.6, 0.25), strict=True):
        for number in range(round(tissue_squares * share)):
            y, x = (cells[rng.integers(len(cells))] + rng.random(2)) * slide.size.width / whole.shape[1]
            sample = squares.cut(x, y, um, "tissue")
            yield sample
            if number % 2 == 0 and not sample.truth.any():
                pixels, truth, name = composite(sample.pixels, um, None, rng)
                yield replace(sample, pixels=pixels, truth=truth, what=f"laid {name}")


def point_in(shape: shapely.Geometry, rng: np.random.Generator) -> np.ndarray:
    left, top, right, bottom = shape.bounds
    for _ in range(300):
        x, y = rng.uniform(left, right), rng.uniform(top, bottom)
        if shape.contains(shapely.Point(x, y)):
            return np.array([x, y])
    return np.array(shape.representative_point().coords[0])


def save(samples: list[Sample], out: Path) -> None:
    np.savez(out, pixels=np.stack([s.pixels for s in samples]), truth=np.stack([s.truth for s in samples]),
             um=np.array([s.um for s in samples], np.float32),
             glass=np.array([s.look.glass for s in samples], np.float32),
             density=np.array([np.mean(s.look.density) for s in samples], np.float32),
             slide=np.array([s.slide for s in samples]), what=np.array([s.what for s in samples]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("slides", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--tissue", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=["images", "slides"])
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    given.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(given.seed)
    if "images" in given.parts:
        images = tissues(given.data)
        save(list(composites(images, given.count, rng)), given.out / f"images-{given.seed}.npz")
    if "slides" in given.parts:
        for labels in labelled_slides("tune"):
            if (given.out / f"{labels.name}.npz").exists():
                continue
            with open_slide(given.slides / f"{labels.name}.tiff") as opened, read_fast(opened) as slide:
                squares = labelled_squares(SlideSquares(sight_of(slide, labels, network()), labels), rng, given.tissue)
                save(list(tqdm(squares, desc=labels.name)), given.out / f"{labels.name}.npz")


if __name__ == "__main__":
    main()
