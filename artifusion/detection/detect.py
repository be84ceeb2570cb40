"""Find the artifacts of a slide: regions with classes and scores, and the mask files that hold them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.findings import Finding, find
from artifusion.detection.folds import COARSEST_UM, folds
from artifusion.detection.overlay import draw_outlines
from artifusion.detection.sight import Sight, apart, scored, seen_findings
from artifusion.detection.survey import Survey
from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import class_outlines
from artifusion.mask.writer import mask_geojson, write_class_png, write_geojson
from artifusion.output.output import beside, check_outputs
from artifusion.output.preview import check_picture_name
from artifusion.slide.reader import Slide, in_memory, open_slide

THRESHOLD = 0.5


@dataclass(frozen=True)
class Region:
    """One artifact: its class, a score from 0 to 1 and its box in level-0 pixels."""

    kind: str
    score: float
    l0_box: Box


@dataclass(frozen=True)
class Detection:
    """What was found on a slide.

    ids: class ids (0 = keep) at mpp um per pixel, uint8 (H, W), an image of the whole slide; mask: the same as
    polygons in level-0 pixels; regions: one for each of its polygons, in their order.
    """

    ids: np.ndarray
    mpp: float
    mask: Mask
    regions: tuple[Region, ...]

    def counts(self, classes: Collection[str]) -> dict[str, int]:
        """How many regions there are of each of these classes, without those of which there is none."""
        counts = Counter(region.kind for region in self.regions)
        return {name: counts[name] for name in CLASSES if name in classes and counts[name]}


def detect(
    source: str | Path | Slide | np.ndarray,
    *,
    mpp: float | None = None,
    threshold: float = THRESHOLD,
    any_stain: bool = False,
    quiet: bool = True,
) -> Detection:
    """Find the artifacts of a slide or image. A function of its arguments: the same call finds the same.

    Args:
        source: a path, an open slide, or uint8 (H, W, 3).
        mpp: um per pixel, where the slide does not tell; without either 0.5 is taken.
        threshold: least score of a region; 0.5 leaves alone what is in doubt.
        any_stain: look even at what is not H&E.

    Memory: some 30 bytes a pixel of the coarse scale (26 Mpx at most up to slides of 8 cm) and 2 of the fine one.

    Raises:
        SlideError: cannot be read, or is not H&E.
        ValueError: the threshold does not lie between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    if not isinstance(source, Slide):
        opened = open_slide(source, mpp) if isinstance(source, str | Path) else in_memory(source, mpp)
        with opened as slide:
            return detect(slide, threshold=threshold, any_stain=any_stain, quiet=quiet)
    survey = Survey.of(source, mpp or source.mpp or DEFAULT_SPACING_UM)
    tiles = survey.tiles()
    if not tiles:
        return empty_detection(survey)
    try:
        look = survey.look(tiles, any_stain)
    except SlideError as error:
        raise SlideError(f"{source.path}: {error}") from None
    sight = Sight.of(survey, look)
    looking = tqdm(tiles, desc="looking", unit="tile", disable=quiet or None)
    fold_probability = None if sight or survey.coarse_um > COARSEST_UM else folds(look, survey.coarse_um)
    maps = survey.maps(looking, look, fold_probability, sight.far if sight else None)
    found = [finding for finding in all_findings(maps, survey.coarse_um, sight) if finding.score >= threshold]
    if sight:
        found = list(apart(found, survey.coarse[::-1]))
    ids, scores = survey.outline(found, look, partial(tqdm, desc="outlining", unit="tile", disable=quiet or None))
    return detection_of(survey, ids, scores)


def detect_slide(
    source: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    overlay: str | Path | None = None,
    threshold: float = THRESHOLD,
    any_stain: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> Detection:
    """Write what `detect` finds: OUT, a PNG of class ids, OUT.geojson with a score per region, and an overlay.

    Raises:
        SlideError, OutputError: with what to do about it.
    """
    return write_found(source, out, partial(detect, threshold=threshold, any_stain=any_stain, quiet=quiet), mpp=mpp,
                       overlay=overlay, overwrite=overwrite, quiet=quiet)


def write_found(
    source: str | Path, out: str | Path, find: Callable[[Slide], Detection], *, mpp: float | None,
    overlay: str | Path | None, overwrite: bool, quiet: bool,
) -> Detection:
    """Write what `find` makes of a slide: a PNG of class ids, its GeoJSON with a score per region, and an overlay."""
    target = Path(out)
    pictures = [Path(overlay)] if overlay else []
    annotations = beside(target, ".geojson")
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: the mask is written as PNG; give it a name that ends in .png")
    for picture in pictures:
        check_picture_name(picture)
    check_outputs([Path(source)], [target, annotations, *pictures], overwrite)
    with open_slide(source, mpp=mpp) as slide:
        if slide.mpp is None and not quiet:
            why = slide.mpp_doubt or "does not tell its scale"
            print(f"{slide.path.name} {why}; taking {DEFAULT_SPACING_UM} um/px (--mpp to say better)", file=sys.stderr)
        found = find(slide)
        for picture in pictures:
            draw_outlines(slide, found.mask, picture)
        scores = [region.score for region in found.regions]
        write_geojson(annotations, mask_geojson(found.mask, slide.bounds_offset, scores))
        write_class_png(target, found.ids)
    return found


def all_findings(maps: Mapping[str, np.ndarray], mpp: float, sight: Sight | None) -> Iterator[Finding]:
    """What rules find and what the network sees, with the probability of each; rules' own scores without a network."""
    if sight is None:
        return find(maps, mpp)
    return scored(chain(find(maps, mpp), seen_findings(maps, mpp)), maps, sight)


def empty_detection(survey: Survey) -> Detection:
    return Detection(np.zeros(survey.fine[::-1], np.uint8), survey.fine_um, Mask((), survey.slide.size), ())


def detection_of(survey: Survey, ids: np.ndarray, scores: np.ndarray) -> Detection:
    """The detection that class ids and scores (in 255ths) at the fine scale describe."""
    if not ids.any():
        return empty_detection(survey)
    size = survey.slide.size
    polygons, classes = class_outlines(survey.slide.path, ids, size)
    x, y = survey.fine.width / size.width, survey.fine.height / size.height
    regions = []
    for polygon, kind in zip(polygons, classes, strict=True):
        left, top, right, bottom = polygon.bounds
        box = Box.from_edges(int(left * x), int(top * y), int(right * x + 0.999), int(bottom * y + 0.999))
        at = box.intersection(Box(0, 0, *survey.fine)).slices()
        best = int(scores[at][ids[at] == CLASSES[kind]].max(initial=0))
        l0_box = Box.from_edges(int(left), int(top), round(right), round(bottom))
        regions.append(Region(kind, best / 255, l0_box))
    mask = Mask(tuple(polygons), size, tuple(classes), "detected")
    return Detection(ids, survey.fine_um, mask, tuple(regions))
