"""Where a slide is unlike clean tissue: image evidence and the denoiser's, regions with classes and scores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.findings import find
from artifusion.detection.folds import COARSEST_UM, folds
from artifusion.detection.overlay import draw_outlines
from artifusion.detection.survey import Survey
from artifusion.detection.unlikeness import against_own, disagreement
from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.rasters import outlined
from artifusion.mask.writer import mask_geojson, write_class_png, write_geojson
from artifusion.output.output import beside, check_outputs
from artifusion.output.preview import check_picture_name
from artifusion.restorer import Restorer
from artifusion.slide.reader import ImageSlide, Slide, open_slide

SOURCES = ("image", "denoiser")
DEFAULT_SOURCES = ("image",)             # the denoiser takes most of the time, and no gain is shown (docs/detection.md)
THRESHOLD = 0.5


@dataclass(frozen=True)
class Region:
    """A place unlike clean tissue: its class, a score from 0 to 1 and its box in level-0 pixels."""

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


def detect(
    source: str | Path | Slide | np.ndarray,
    *,
    mpp: float | None = None,
    threshold: float = THRESHOLD,
    sources: Collection[str] = DEFAULT_SOURCES,
    restorer: Restorer | None = None,
    any_stain: bool = False,
    quiet: bool = True,
) -> Detection:
    """Find the artifacts of a slide or image. A function of its arguments: the same call finds the same.

    Args:
        source: a path, an open slide, or uint8 (H, W, 3).
        mpp: um per pixel, where the slide does not tell; without either 0.5 is taken.
        threshold: least score of a region; 0.5 leaves alone what is in doubt.
        sources: kinds of evidence: "image" (densities, colours and shapes), "denoiser", or both.
        restorer: whose denoiser serves; by default the embedded one.
        any_stain: look even at what is not H&E.

    Memory: some 30 bytes a pixel of the coarse scale (26 Mpx at most up to slides of 8 cm) and 2 of the fine one.

    Raises:
        SlideError: cannot be read, or is not H&E.
        ValueError: a threshold or sources that there are not.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    if not sources or set(sources) - set(SOURCES):
        raise ValueError(f"sources must be some of {SOURCES}, got {sources}")
    if not isinstance(source, Slide):
        opened = open_slide(source, mpp) if isinstance(source, str | Path) else (
            ImageSlide(Path("image"), source, "array", True, None, None, mpp))
        with opened as slide:
            return detect(slide, threshold=threshold, sources=sources, restorer=restorer, any_stain=any_stain,
                          quiet=quiet)
    survey = Survey.of(source, mpp or source.mpp or DEFAULT_SPACING_UM)
    tiles = survey.tiles()
    if not tiles:
        return nothing(survey)
    try:
        look, samples = survey.look(tiles, any_stain)
    except SlideError as error:
        raise SlideError(f"{source.path}: {error}") from None
    more = [folds(look, survey.coarse_um)] if "image" in sources and survey.coarse_um <= COARSEST_UM else []
    if "denoiser" in sources:
        more.append(disagreement(restorer or Restorer.from_pretrained(), samples, survey.coarse_um))
    seen = tqdm(tiles, desc="looking", unit="tile", disable=quiet or None)
    maps = survey.maps(seen, look, "image" in sources, more)
    if "denoiser" in sources:
        maps["unlike"] = against_own(maps)
    found = [finding for finding in find(maps, survey.coarse_um) if finding.score >= threshold]
    ids, scores = survey.outline(found, look, partial(tqdm, desc="outlining", unit="tile", disable=quiet or None))
    return described(survey, ids, scores)


def detect_slide(
    source: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    overlay: str | Path | None = None,
    threshold: float = THRESHOLD,
    any_stain: bool = False,
    sources: Collection[str] = DEFAULT_SOURCES,
    restorer: Restorer | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> Detection:
    """Write what `detect` finds: OUT, a PNG of class ids, OUT.geojson with a score per region, and an overlay.

    Raises:
        SlideError, OutputError: with what to do about it.
    """
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
        found = detect(slide, threshold=threshold, sources=sources, restorer=restorer, any_stain=any_stain, quiet=quiet)
        for picture in pictures:
            draw_outlines(slide, found.mask, picture)
        scores = [region.score for region in found.regions]
        write_geojson(annotations, mask_geojson(found.mask, slide.bounds_offset, scores))
        write_class_png(target, found.ids)
    return found


def detect_mask(
    slide: Slide, out: Path, classes: Collection[str], any_stain: bool, overwrite: bool, quiet: bool
) -> bool:
    """Write what `detect` finds on a slide as class ids, where any of it is of these classes; whether there is.

    A mask that lies there already, the same to the byte, is one that an interrupted run left, and fine.

    Raises:
        SlideError: not H&E. OutputError: another mask lies there, without `overwrite`.
    """
    found = detect(slide, any_stain=any_stain, quiet=quiet)
    if not any(region.kind in classes for region in found.regions):
        return False
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / out.name
        write_class_png(fresh, found.ids)
        if out.exists() and out.read_bytes() == fresh.read_bytes():
            return True
    check_outputs([slide.path], [out], overwrite)
    write_class_png(out, found.ids)
    return True


def nothing(survey: Survey) -> Detection:
    return Detection(np.zeros(survey.fine[::-1], np.uint8), survey.fine_um, Mask((), survey.slide.size), ())


def described(survey: Survey, ids: np.ndarray, scores: np.ndarray) -> Detection:
    """The detection of class ids and scores at the fine scale."""
    if not ids.any():
        return nothing(survey)
    size = survey.slide.size
    polygons, classes = outlined(survey.slide.path, ids, size)
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
