"""What `artifusion detect` finds on real slides, judged by the places that readers labelled (benchmarks/labels).

    python -m benchmarks.quality.judge_detect SLIDES_FOLDER [--use judge] [--found FOLDER] [--json FILE]

SLIDES_FOLDER holds the slides as NAME.tiff, of any size in pixels. A region is *true* where at least half of it lies
within MARGIN_UM of places that both readers called artifact, *in doubt* where at least half lies on those and on places
that they disagree on or are unsure of, *unread* where it touches nothing read as normal and is dust or the slide was
not looked over ("looked over" in the labels), else *false*: elsewhere what no reader marked is normal. Shares are of
regions that are true or false. A fold is found where regions of any class but blur cover at least half of it, and found
in part from a tenth on.

- by rules: what rules find, everything but folds and blur, at the default threshold.
- offered: everything but blur, at the default threshold; "false per cm2" is of tissue.
- over thresholds: regions of class fold, all but blur, and how many of the folds that both readers saw are found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image
from shapely.geometry.base import BaseGeometry

from artifusion.detection.detect import THRESHOLD, detect
from artifusion.geometry import ORIGIN, Box, Size
from artifusion.mask.classes import CLASSES
from artifusion.mask.writer import mask_geojson
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import tissue_mask
from benchmarks.quality.labelled import LabelledSlide, labelled_slides

LEAST = 0.05                                 # threshold at which regions are asked for
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
MARGIN_UM = 10.0
BY_RULES = tuple(name for name in CLASSES if name not in ("fold", "blur"))
HALF, PART = 0.5, 0.1
TISSUE_UM = 16.0
ALL_BUT_BLUR = tuple(kind for kind in CLASSES if kind != "blur")
VERDICTS = ("true", "false", "doubt", "unread")


@dataclass(frozen=True)
class Judged:
    """A region that was found: outline in level-0 pixels, class, score, verdict, area and its part on artifacts."""

    outline: BaseGeometry
    kind: str
    score: float
    verdict: str
    um2: float
    true_um2: float


@dataclass(frozen=True)
class JudgedSlide:
    """The regions of a slide, its folds in level-0 pixels, and its tissue."""

    regions: tuple[Judged, ...]
    folds: tuple[BaseGeometry, ...]
    tissue_cm2: float


def regions_of(slide: Slide, kept: Path | None) -> list[tuple[BaseGeometry, str, float]]:
    """What detection finds at LEAST: outline, class and score. Where `kept` is a file, what that holds."""
    if kept is None or not kept.exists():
        found = detect(slide, threshold=LEAST)
        content = mask_geojson(found.mask, ORIGIN, [region.score for region in found.regions])
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(content))
    else:
        content = json.loads(kept.read_text())
    return [(shapely.geometry.shape(f["geometry"]), f["properties"]["classification"]["name"].lower(),
             f["properties"]["measurements"]["Score"]) for f in content["features"]]


def judged(slide: Slide, labels: LabelledSlide, kept: Path | None) -> JudgedSlide:
    """What is found on a slide, held against its labels."""
    mpp = labels.mpp * labels.size.width / slide.size.width
    artifacts, doubts, normals = (
        shapely.union_all([shapely.make_valid(o) for o in labels.outlines(kind, slide.size)])
        for kind in ("artifact", "unsure", "normal"))
    around = artifacts.buffer(MARGIN_UM / mpp)
    regions = []
    for outline, kind, score in regions_of(slide, kept):
        on, maybe, off = (outline.intersection(other).area / outline.area
                          for other in (around, around.union(doubts), normals))
        verdict = ("true" if on >= HALF else "doubt" if maybe >= HALF else
                   "unread" if off == 0 and (kind == "dust" or not labels.looked_over) else "false")
        regions.append(Judged(outline, kind, score, verdict, outline.area * mpp**2, on * outline.area * mpp**2))
    small = Size(*(max(1, round(side * mpp / TISSUE_UM)) for side in slide.size))
    tissue = tissue_mask(slide.read_as(Box(0, 0, *slide.size), small))
    return JudgedSlide(tuple(regions), tuple(labels.outlines("fold", slide.size)),
                       np.count_nonzero(tissue) * (TISSUE_UM / 1e4) ** 2)


def shares(slides: Sequence[JudgedSlide], kinds: Collection[str], threshold: float) -> dict[str, Any]:
    """The verdicts on regions of these classes from a score on, and the share that is artifact."""
    chosen = [r for s in slides for r in s.regions if r.kind in kinds and r.score >= threshold]
    counts = {verdict: sum(r.verdict == verdict for r in chosen) for verdict in VERDICTS}
    sure = [r for r in chosen if r.verdict in ("true", "false")]
    by_region = counts["true"] / len(sure) if sure else None
    by_area = sum(r.true_um2 for r in sure) / sum(r.um2 for r in sure) if sure else None
    false_per_cm2 = counts["false"] / sum(s.tissue_cm2 for s in slides)
    return {"regions": counts, "artifact by region": rounded(by_region), "artifact by area": rounded(by_area),
            "false per cm2": rounded(false_per_cm2)}


def folds_found(slides: Sequence[JudgedSlide], threshold: float) -> dict[str, Any]:
    """How many folds are found, whole and in part, by regions of any class but blur from a score on."""
    covered = []
    for slide in slides:
        found = shapely.union_all([shapely.make_valid(r.outline) for r in slide.regions
                                   if r.kind != "blur" and r.score >= threshold])
        covered += [fold.intersection(found).area / fold.area for fold in slide.folds]
    whole, part = (sum(share >= least for share in covered) for least in (HALF, PART))
    return {"folds": len(covered), "found": whole, "found in part": part - whole,
            "recall": rounded(whole / len(covered)) if covered else None}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def summary(slides: Sequence[JudgedSlide]) -> dict[str, Any]:
    """The figures of some slides at the default threshold, as the module's docstring says."""
    return {"tissue cm2": rounded(sum(s.tissue_cm2 for s in slides)), "by rules": shares(slides, BY_RULES, THRESHOLD),
            "offered": shares(slides, ALL_BUT_BLUR, THRESHOLD), "folds": folds_found(slides, THRESHOLD)}


def over_thresholds(slides: Sequence[JudgedSlide]) -> list[dict[str, Any]]:
    return [{"threshold": t, "regions of class fold": shares(slides, ["fold"], t),
             "all but blur": shares(slides, ALL_BUT_BLUR, t), **folds_found(slides, t)} for t in THRESHOLDS]


def show_unlabelled(slide: Slide, regions: Sequence[Judged], labels: LabelledSlide, folder: Path) -> None:
    """Write a crop of each region that touches no place, for a reader to label."""
    read = shapely.union_all([shapely.make_valid(p.outline) for p in labels.places])
    folder.mkdir(parents=True, exist_ok=True)
    for number, region in enumerate(r for r in regions if r.score >= THRESHOLD and not r.outline.intersects(read)):
        left, top, right, bottom = (round(edge) for edge in region.outline.bounds)
        side = max(right - left, bottom - top, 250) * 3 // 2
        box = Box((left + right - side) // 2, (top + bottom - side) // 2, side, side)
        box = box.intersection(Box(0, 0, *slide.size))
        pixels = slide.read_as(box, Size(*(max(1, edge * 512 // side) for edge in (box.width, box.height))))
        Image.fromarray(pixels).save(folder / f"{labels.name}-{number}-{region.kind}-{left}-{top}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path)
    parser.add_argument("--use", choices=("judge", "tune"), default="judge")
    parser.add_argument("--found", type=Path, help="a folder that keeps what was found, and is read where it is there")
    parser.add_argument("--crops", type=Path, help="a folder for pictures of regions that no reader saw")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    by_slide = {}
    for labels in labelled_slides(given.use):
        with open_slide(given.slides / f"{labels.name}.tiff") as slide:
            by_slide[labels.name] = judged(slide, labels, given.found and given.found / f"{labels.name}.geojson")
            if given.crops:
                show_unlabelled(slide, by_slide[labels.name].regions, labels, given.crops)
        print(labels.name, json.dumps(shares([by_slide[labels.name]], BY_RULES, THRESHOLD)), flush=True)
    slides = list(by_slide.values())
    result = {"use": given.use, **summary(slides), "over thresholds": over_thresholds(slides),
              "by class": {kind: shares(slides, [kind], THRESHOLD) for kind in CLASSES},
              "by slide": {name: summary([slide]) for name, slide in by_slide.items()}}
    print(json.dumps({key: result[key] for key in result if key != "by slide"}, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
