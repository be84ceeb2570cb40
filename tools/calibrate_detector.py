"""Turn what detection sees into probabilities, on labelled slides that the network has not learned from.

    python -m tools.calibrate_detector SLIDES NET.safetensors OUT.json [--slides NAME ...] [--mined FOLDER]

Fits the weights of `artifusion.detection.sight.FEATURES` (logistic regression, Platt 1999) to the verdicts on what is
found on the tuning slides, or on some of them; SLIDES holds them as NAME.tiff. `--mined` keeps squares of what was
found falsely, for tools/train_detector.py to learn from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from artifusion.detection.findings import Finding, find
from artifusion.detection.network import ArtifactNet, for_use
from artifusion.detection.sight import FEATURES, Sight, features, seen_findings
from artifusion.detection.survey import Survey
from artifusion.geometry import Box
from artifusion.mask.mask import footprint
from artifusion.slide.reader import open_slide
from benchmarks.quality.judge_detect import HALF, MARGIN_UM
from benchmarks.quality.labelled import LabelledSlide, labelled_slides
from tools.detector_samples import SIDE_PX, Sample, SlideSquares, raster, save

SOFTNESS = 0.3              # C of the regression
MOST_MINED, LEAST_SEEN = 120, 0.3
SMALL_UM2 = 40_000.0        # a finding up to this is mined at 1 and 2 um per pixel, a larger one at 2 and 4


@dataclass(frozen=True)
class Judged:
    """A finding, its FEATURES, its verdict ("true", "false" or another), and the point of it nearest to its middle."""

    finding: Finding
    features: np.ndarray
    verdict: str


def judged(sight: Sight, labels: LabelledSlide) -> list[Judged]:
    """What rules and the network find on a slide, each with what readers say of the place."""
    survey = sight.survey
    tiles = survey.tiles()
    maps = survey.maps(tiles, sight.look, sight.far)
    shapes = []
    for kind, margin in (("artifact", MARGIN_UM), ("unsure", 0), ("normal", 0)):
        outlines = [shapely.make_valid(o).buffer(margin / survey.mpp) for o in labels.outlines(kind, survey.slide.size)]
        shapes.append((outlines, shapely.STRtree(outlines)))
    return [Judged(finding, features(finding, maps, sight), verdict_on(finding, shapes, survey))
            for found in (find(maps, survey.coarse_um), seen_findings(maps, survey.coarse_um)) for finding in found
            if finding.kind != "blur"]


def verdict_on(finding: Finding, shapes: list[tuple[list[shapely.Geometry], shapely.STRtree]], survey: Survey) -> str:
    """The verdict of benchmarks/quality/judge_detect.py, on the pixels of a finding."""
    box = finding.box
    side = max(box.width, box.height)
    square = footprint(Box(box.x, box.y, side, side), survey.coarse, survey.slide.size)
    square = Box(square.x, square.y, square.width, square.width)
    on = []
    for outlines, tree in shapes:
        near = tree.query(shapely.box(square.x, square.y, square.right, square.bottom))
        placed = raster([(outlines[i], 1) for i in near], square, side)[: box.height, : box.width] > 0
        on.append((placed & finding.covered).sum() / np.count_nonzero(finding.covered))
    if on[0] >= HALF:
        return "true"
    if on[0] + on[1] >= HALF:
        return "doubt"
    return "unread" if finding.kind == "dust" and not on[2] else "false"


def mined(found: list[Judged], squares: SlideSquares, survey: Survey, rng: np.random.Generator) -> list[Sample]:
    """Squares of what was taken for an artifact and is none, the worst first."""
    seen = {n: float(expit(max(j.features[0], j.features[3]))) for n, j in enumerate(found) if j.verdict == "false"}
    worst = sorted((n for n in seen if seen[n] > LEAST_SEEN), key=lambda n: -seen[n])[:MOST_MINED]
    samples = []
    for finding in (found[n].finding for n in worst):
        rows, columns = np.nonzero(finding.covered)
        small = len(rows) * survey.coarse_um**2 < SMALL_UM2
        for um in (1.0, 2.0) if small else (2.0, 4.0):
            at = rng.integers(len(rows))
            point = Box(finding.box.x + int(columns[at]), finding.box.y + int(rows[at]), 1, 1)
            middle = footprint(point, survey.coarse, survey.slide.size)
            off = rng.uniform(-0.25, 0.25, 2) * SIDE_PX * um / squares.mpp
            samples.append(squares.cut(middle.x + off[0], middle.y + off[1], um, "mined"))
    return samples


def fitted(found: list[Judged]) -> dict[str, object]:
    """The calibration as weights/artifacts/calibration.json holds it."""
    sure = [j for j in found if j.verdict in ("true", "false")]
    values = np.stack([j.features for j in sure])
    spread = values.std(axis=0) + 1e-6
    line = LogisticRegression(C=SOFTNESS, max_iter=2000).fit(values / spread, [j.verdict == "true" for j in sure])
    return {"weights": dict(zip(FEATURES, (line.coef_[0] / spread).round(4).tolist(), strict=True)),
            "intercept": round(float(line.intercept_[0]), 4), "true": sum(j.verdict == "true" for j in sure),
            "false": sum(j.verdict == "false" for j in sure)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, metavar="SLIDES")
    parser.add_argument("net", type=Path, metavar="NET.safetensors")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--slides", nargs="+", dest="names", help="their names  [all that tune]")
    parser.add_argument("--mined", type=Path, help="a folder for NAME-mined.npz")
    given = parser.parse_args()
    net = ArtifactNet()
    net.load_state_dict(load_file(given.net))
    net = for_use(net)
    rng, found = np.random.default_rng(0), []
    for labels in labelled_slides("tune"):
        if given.names and labels.name not in given.names:
            continue
        with open_slide(given.slides / f"{labels.name}.tiff") as slide:
            squares = SlideSquares(slide, labels)
            sight = Sight(Survey.of(slide, squares.mpp), squares.look, net)
            of_slide = judged(sight, labels)
            if given.mined and (samples := mined(of_slide, squares, sight.survey, rng)):
                save(samples, given.mined / f"{labels.name}-mined.npz")
        print(labels.name, {v: sum(j.verdict == v for j in of_slide) for v in ("true", "false")}, flush=True)
        found += of_slide
    given.out.write_text(json.dumps(fitted(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
