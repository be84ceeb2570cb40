"""Find the artifacts of a slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.detected import DetectedRegion, Detection, opened, write_found
from artifusion.detection.findings import Finding, find
from artifusion.detection.folds import COARSEST_UM, folds
from artifusion.detection.second_look import looked_at_again
from artifusion.detection.sight import Sight, apart, scored, seen_findings
from artifusion.detection.survey import Survey
from artifusion.errors import SlideError
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import class_outlines
from artifusion.output.tiff_pixels import read_fast
from artifusion.slide.reader import Slide
from artifusion.slide.spacing import check_spacing

THRESHOLD = 0.5


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
        ValueError: the threshold does not lie between 0 and 1, or mpp in 0.01 to 100.
    """
    check_spacing(mpp)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    if not isinstance(source, Slide):
        with opened(source, mpp) as slide:
            return detect(slide, threshold=threshold, any_stain=any_stain, quiet=quiet)
    with read_fast(source) as slide:
        survey = Survey.of(slide, mpp or slide.mpp or DEFAULT_SPACING_UM)
        return detection_on(survey, threshold, any_stain, quiet)


def detection_on(survey: Survey, threshold: float, any_stain: bool, quiet: bool) -> Detection:
    """What `detect` finds on an open slide."""
    tiles = survey.tiles()
    if not tiles:
        return empty_detection(survey)
    try:
        look = survey.look(tiles, any_stain)
    except SlideError as error:
        raise SlideError(f"{survey.slide.path}: {error}") from None
    sight = Sight.of(survey, look)
    looking = tqdm(tiles, desc="looking", unit="tile", disable=quiet or None)
    fold_probability = None if sight or survey.coarse_um > COARSEST_UM else folds(look, survey.coarse_um)
    maps = survey.maps(looking, look, fold_probability=fold_probability, seen=sight.at if sight else None)
    again = partial(tqdm, desc="looking again", unit="place", disable=quiet or None)
    found = [finding for finding in all_findings(maps, survey, sight, again) if finding.score >= threshold]
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


def all_findings(
    maps: Mapping[str, np.ndarray], survey: Survey, sight: Sight | None,
    again: Callable[[list[Finding]], Iterable[Finding]],
) -> Iterator[Finding]:
    """What rules find and what the network sees, with the probability of each; rules' own scores without a network.

    `again` shows how far the second look is.
    """
    um = survey.coarse_um
    if sight is None:
        return find(maps, um)
    return looked_at_again(scored(chain(find(maps, um), seen_findings(maps, um)), maps, um), survey, again)


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
        regions.append(DetectedRegion(kind, best / 255, l0_box))
    mask = Mask(tuple(polygons), size, tuple(classes), "detected")
    return Detection(ids, survey.fine_um, mask, tuple(regions))
