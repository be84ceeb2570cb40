"""Turn what the second look sees into probabilities.

    python -m tools.calibrate_second_look SLIDES OUT.json --look NET.safetensors NAME ... [--look ...]

Fits the slope and intercept of `artifusion.detection.second_look.both_looks` (Platt 1999) to the readers' verdicts on
what the embedded first network finds, from LEAST_SCORE on, on the tuning slides that are named after a second one;
neither should have learned from them. SLIDES holds slides as NAME.tiff. Prints what the probabilities of each slide are
worth when they are fitted to the others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from artifusion.detection.network import network
from artifusion.detection.second_look import LEAST_SCORE, SecondLook, both_looks, ready
from artifusion.detection.sight import probability
from artifusion.output.tiff_pixels import read_fast
from artifusion.slide.reader import open_slide
from benchmarks.quality.labelled import LabelledSlide, labelled_slides
from tools.calibrate_detector import judged
from tools.detector_samples import sight_of

SOFTNESS = 0.3              # C of the regression
FROM = (0.5, 0.7, 0.8, 0.9)


def looked_at(path: Path, labels: LabelledSlide, net: SecondLook) -> list[tuple[float, bool, bool]]:
    """Of what is found on a slide, where the readers tell: `both_looks`, whether it is an artifact, whether a fold."""
    found = []
    with open_slide(path) as opened, read_fast(opened) as slide:
        sight = sight_of(slide, labels, network())
        for one in judged(sight, labels):
            finding = replace(one.finding, score=probability(one.features))
            if one.verdict in ("true", "false") and finding.score >= LEAST_SCORE:
                found.append((both_looks(net, finding, sight.survey), one.verdict == "true", finding.kind == "fold"))
    return found


def fitted(values: np.ndarray, truths: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=SOFTNESS).fit(values[:, None], truths)


def show(slides: np.ndarray, values: np.ndarray, truths: np.ndarray, folds: np.ndarray) -> None:
    """Print how many findings are artifacts from a probability on, each slide's being fitted to the others."""
    scores = np.empty(len(truths))
    for slide in np.unique(slides):
        own = slides == slide
        scores[own] = fitted(values[~own], truths[~own]).predict_proba(values[own, None])[:, 1]
    for name, chosen in (("folds", folds), ("others", ~folds)):
        counts = {least: chosen & (scores >= least) for least in FROM}
        print(name, f"{truths[chosen].sum()} of {chosen.sum()};", *(
            f"from {least}: {truths[on].sum()} of {on.sum()}" for least, on in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, metavar="SLIDES")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--look", nargs="+", action="append", required=True, metavar=("NET.safetensors", "NAME"))
    given = parser.parse_args()
    slides, found = [], []
    for path, *names in given.look:
        net = SecondLook()
        net.load_state_dict(load_file(path))
        net = ready(net)
        for labels in (labels for labels in labelled_slides("tune") if labels.name in names):
            of_slide = looked_at(given.slides / f"{labels.name}.tiff", labels, net)
            print(labels.name, f"{sum(true for _, true, _ in of_slide)} of {len(of_slide)} are artifacts", flush=True)
            slides += [labels.name] * len(of_slide)
            found += of_slide
    values, truths, folds = map(np.array, zip(*found, strict=True))
    show(np.array(slides), values, truths, folds)
    line = fitted(values, truths)
    given.out.write_text(json.dumps({"slope": round(float(line.coef_[0, 0]), 4),
                                     "intercept": round(float(line.intercept_[0]), 4)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
