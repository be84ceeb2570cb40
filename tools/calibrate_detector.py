"""Turn what detection sees into probabilities.

    python -m tools.calibrate_detector SLIDES DATA OUT.json --look NET.safetensors NAME ... [--look ...]

Fits the weights of `artifusion.detection.sight.FEATURES` (logistic regression, Platt 1999) to the verdicts on what
networks see on the tuning slides that are named after them (for the first, which counts more, ones that it has not
learned from), and what the first sees on training images of DATA that `artifusion damage` damages; SLIDES holds slides
as NAME.tiff. `--mined FOLDER` keeps squares of what was found falsely, for tools/train_detector.py to learn from.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from artifusion.damage.spots import damage_spot, plan_damage
from artifusion.detection.findings import Finding, find
from artifusion.detection.network import ArtifactNet, for_use
from artifusion.detection.sight import FEATURES, Sight, features, seen_findings
from artifusion.detection.survey import Survey
from artifusion.geometry import Box
from artifusion.mask.mask import footprint
from artifusion.output.tiff_pixels import read_fast
from artifusion.slide.reader import in_memory, open_slide
from artifusion.slide.tissue import tissue_mask
from benchmarks.quality.judge_detect import HALF, MARGIN_UM
from benchmarks.quality.labelled import LabelledSlide, labelled_slides
from tools.detector_samples import SIDE_PX, Sample, SlideSquares, raster, save, sight_of

SOFTNESS = 0.3              # C of the regression
FIRST = 2.0
PAINTED_KINDS = ("pen", "bubble", "fold", "dust", "dark")
PAINTED = 20.0              # how many findings the true ones of each painted kind count as
IMAGES = {"brecahad": (0.25, slice(0, 20, 7)), "osteosarcoma": (1.0, slice(1, 50, 25))}     # um per pixel, which
DOUBT = 0.2                 # share of a finding on what is painted, from which it is not called false
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
    survey, shapes = sight.survey, []
    for kind, margin in (("artifact", MARGIN_UM), ("unsure", 0), ("normal", 0)):
        outlines = [shapely.make_valid(o).buffer(margin / survey.mpp) for o in labels.outlines(kind, survey.slide.size)]
        shapes.append((outlines, shapely.STRtree(outlines)))
    return [Judged(finding, values, verdict_on(finding, shapes, survey, labels.looked_over))
            for finding, values in looked_at(sight)]


def looked_at(sight: Sight) -> Iterator[tuple[Finding, np.ndarray]]:
    """What rules find and the network sees, but blur, with its FEATURES."""
    um = sight.survey.coarse_um
    maps = sight.survey.maps(sight.survey.tiles(), sight.look, seen=sight.at)
    for finding in (*find(maps, um), *seen_findings(maps, um)):
        if finding.kind != "blur":
            yield finding, features(finding, maps, um)


def verdict_on(finding: Finding, shapes: list[tuple[list[shapely.Geometry], shapely.STRtree]], survey: Survey,
               looked_over: bool) -> str:
    """The verdict of benchmarks/quality/judge_detect.py, on the pixels of a finding."""
    box = finding.box
    side = max(box.width, box.height)
    square = footprint(Box(box.x, box.y, side, side), survey.coarse, survey.slide.size)
    square = Box(square.x, square.y, square.width, square.width)
    on = []
    for outlines, tree in shapes:
        touching = tree.query(shapely.box(square.x, square.y, square.right, square.bottom))
        placed = raster([(outlines[i], 1) for i in touching], square, side)[: box.height, : box.width] > 0
        on.append((placed & finding.covered).sum() / np.count_nonzero(finding.covered))
    if on[0] >= HALF:
        return "true"
    if on[0] + on[1] >= HALF:
        return "doubt"
    return "unread" if (finding.kind == "dust" or not looked_over) and not on[2] else "false"


def mined(found: list[Judged], squares: SlideSquares, survey: Survey, rng: np.random.Generator) -> list[Sample]:
    """Squares of what was taken for an artifact and is none, the worst first."""
    seen = {n: float(expit(j.features[0])) for n, j in enumerate(found) if j.verdict == "false"}
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


def damaged(path: Path, mpp: float, kind: str | None, net: ArtifactNet, seed: int) -> list[Judged]:
    """What is found on an image on which artifacts of one kind, or none, are painted."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    clean, truth = in_memory(pixels), np.zeros(pixels.shape[:2], bool)
    tissue = tissue_mask(np.asarray(Image.fromarray(pixels).reduce(max(1, round(2 / mpp)))))
    spots = plan_damage(clean.size, tissue, (kind,), 0.04, mpp, seed) if kind else ()
    pixels = pixels.copy()
    for spot in spots:
        box, new, mask = damage_spot(spot, clean.read)
        at = box.intersection(Box(0, 0, *clean.size))
        pixels[at.slices()] = np.where(mask[at.slices(box)][..., None], new[at.slices(box)], pixels[at.slices()])
        truth[at.slices()] |= mask[at.slices(box)]
    survey = Survey.of(in_memory(pixels, mpp), mpp)
    sight = Sight(survey, survey.look(survey.tiles(), True), net)
    small = np.asarray(Image.fromarray(truth.astype(np.uint8) * 255).resize(tuple(survey.coarse))) > 127
    judged = []
    for finding, values in looked_at(sight):
        on = small[finding.box.slices()][finding.covered].mean()
        judged.append(Judged(finding, values, "true" if on >= HALF else "doubt" if on > DOUBT else "false"))
    return judged


def fitted(found: list[list[Judged]], painted: list[Judged]) -> dict[str, object]:
    """The calibration as weights/artifacts/calibration.json holds it; each kind of painted artifact counts alike.

    `found`: by each network; what the first found counts FIRST times.
    """
    times = Counter(j.finding.kind for j in painted if j.verdict == "true")
    weighed = [(j, 1.0 if n else FIRST) for n, of_net in enumerate(found) for j in of_net]
    weighed += [(j, PAINTED / times[j.finding.kind] if j.verdict == "true" else 1.0) for j in painted]
    sure, share = zip(*((j, weight) for j, weight in weighed if j.verdict in ("true", "false")), strict=True)
    values = np.stack([j.features for j in sure])
    spread = values.std(axis=0) + 1e-6
    line = LogisticRegression(C=SOFTNESS, max_iter=5000).fit(
        values / spread, [j.verdict == "true" for j in sure], sample_weight=share)
    return {"weights": dict(zip(FEATURES, (line.coef_[0] / spread).round(4).tolist(), strict=True)),
            "intercept": round(float(line.intercept_[0]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, metavar="SLIDES")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--look", nargs="+", action="append", required=True, metavar=("NET.safetensors", "NAME"))
    parser.add_argument("--mined", type=Path, help="a folder for NAME-mined.npz")
    given = parser.parse_args()
    rng, nets = np.random.default_rng(0), [read_network(net) for net, *_ in given.look]
    found: list[list[Judged]] = []
    for net, (_, *names) in zip(nets, given.look, strict=True):
        found.append([])
        for labels in (labels for labels in labelled_slides("tune") if labels.name in names):
            with open_slide(given.slides / f"{labels.name}.tiff") as opened, read_fast(opened) as slide:
                sight = sight_of(slide, labels, net)
                of_slide = judged(sight, labels)
                if given.mined and (samples := mined(of_slide, SlideSquares(sight, labels), sight.survey, rng)):
                    save(samples, given.mined / f"{labels.name}-mined.npz")
            print(labels.name, {v: sum(j.verdict == v for j in of_slide) for v in ("true", "false")}, flush=True)
            found[-1] += of_slide
    images = [(path, mpp) for folder, (mpp, chosen) in IMAGES.items()
              for path in sorted((given.data / folder).iterdir())[chosen]]
    painted = [j for n, (path, mpp) in enumerate(images) for kind in (None, *PAINTED_KINDS)
               for j in damaged(path, mpp, kind, nets[0], n)]
    given.out.write_text(json.dumps(fitted(found, painted), indent=2) + "\n")


def read_network(path: str) -> ArtifactNet:
    net = ArtifactNet()
    net.load_state_dict(load_file(path))
    return for_use(net)


if __name__ == "__main__":
    main()
