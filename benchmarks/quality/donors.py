"""How well real tissue of the same slide fills holes: the weights that choose it, and what comes of it.

    python -m benchmarks.quality.donors DATA [--split validation|training] [--holes 6] [--weights] [--imagine]
        [--sheets FOLDER] [--json FILE]

DATA holds the training folders (her2st, patolojiatlasi, brecahad). Of the large images of a split, each gets so many
holes on tissue, fixed by --seed: ellipses and bent bands, 30 to 250 um long and no longer than two fifths of the
image's shorter side. Each is filled from the rest of its image; what is compared with the truth, inside the hole:

colour    root mean square difference under a blur of 8 um, grey levels
nuclei    absolute difference of the numbers of nuclei, summed, over their true sum
bands     mean absolute log2 ratio of the energies in four bands (0.5 to 8 um)
edge      mean step across the hole's outline over that of the truth
seconds   per hole, on one thread: finding, fitting, toning

--weights tells how the costs' weights do: all donors that are judged for a hole get their figures once, and each
setting picks the cheapest (holes of one piece only, untoned). --imagine asks the denoiser for what it imagines (one
evaluation); without it the surroundings smoothed into the hole stand in. Weights are chosen on the training split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import shapely.affinity
from PIL import Image

from artifusion.evaluation.nuclei import find_nuclei, nuclear_threshold, stains
from artifusion.evidence import find
from artifusion.evidence.donors import CostWeights, Hole, donor_pixels
from artifusion.evidence.fitting import reach_px
from artifusion.evidence.graft import graft
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.likeness import blurred
from artifusion.evidence.pieces import PIECE_UM
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.slide.reader import in_memory
from artifusion.slide.tissue import tissue_mask

COARSE = ("chorioamnionitis", "kidneyoncocytoma")                       # 1.0 um per pixel at the top
FINE = ("anthracosis", "ectopic-pancreas", "eosinophilic-esophagitis", "ganglioneuroma", "giardia", "hodgkin",
        "hyperplasticpolyp", "lung-squamous-cell-carcinoma", "molluscum-contagiosum", "pilocytic-astrocytoma",
        "signet-ring-cell-carcinoma")                                   # 0.26; the others 0.5
HELD_OUT = ("pituitary-adenoma", "giardia", "lung-squamous-cell-carcinoma-HE4", "chronicpyelonephritis-HE2",
            "myxoidliposarcoma")
EACH = 2                                                                # windows of a case, at most
SHEET_UM = 60.0                                                         # around a hole that a sheet shows


@dataclass(frozen=True)
class Trial:
    """A hole in an image: its name, um per pixel, the box that is shown and known, and the hole in it."""

    name: str
    mpp: float
    l0_box: Box
    hole: np.ndarray
    outline: shapely.Polygon


def images(data: Path, split: str) -> Iterator[tuple[Path, float]]:
    """The large images of a split, with their um per pixel."""
    held_out = split == "validation"
    yield from ((data / f"her2st/{name}.jpg", 0.65) for name in (["C6"] if held_out else ["C3", "C4"]))
    breast = sorted((data / "brecahad").glob("*.jpg"))
    yield from ((path, 0.25) for path in (breast[-4:] if held_out else breast[:-4:5]))
    windows = [path for path in sorted((data / "patolojiatlasi").rglob("*.jpg"))
               if path.name.startswith(HELD_OUT) == held_out]
    for case, found in groupby(windows, key=lambda path: path.parent.name):
        for path in list(found)[:EACH]:
            top = 0.26 if case in FINE else 1.0 if case in COARSE else 0.5
            level, of = path.stem.split("_L")[1].split("_")[0].split("of")
            yield path, top * 2.0 ** (int(of) - int(level))


def trials(name: str, image: np.ndarray, mpp: float, count: int, rng: np.random.Generator) -> Iterator[Trial]:
    """Holes on the tissue of an image, their centres and all of their boxes inside it."""
    step = max(1, round(4 / mpp))
    small = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    tissue = tissue_mask(small) if min(small.shape[:2]) > 16 else np.ones(small.shape[:2], bool)
    height, width = image.shape[:2]
    made = tries = 0
    while made < count and tries < 200:
        tries += 1
        length = min(rng.uniform(30, 250) / mpp, 0.4 * min(height, width))
        outline = ellipse(length, rng) if rng.random() < 0.6 else band(length, mpp, rng)
        left, top, right, bottom = outline.bounds
        x, y = (rng.uniform(8 - low, side - 8 - high) if side - 16 > high - low else -1.0
                for low, high, side in ((left, right, width), (top, bottom, height)))
        outline = shapely.affinity.translate(outline, x, y)
        left, top, right, bottom = (int(at) for at in outline.bounds)
        on = tissue[top // step : bottom // step + 1, left // step : right // step + 1]
        if x == -1.0 or y == -1.0 or on.mean() < 0.8:
            continue
        box = Box.from_edges(left, top, right + 1, bottom + 1).expanded(reach_px(mpp) + 2)
        box = box.intersection(Box(0, 0, width, height))
        hole = Mask.of([outline], (width, height)).read(box)
        made += 1
        yield Trial(f"{name}-{made}", mpp, box, hole, outline)


def ellipse(length: float, rng: np.random.Generator) -> shapely.Polygon:
    circle = shapely.Point(0, 0).buffer(length / 2)
    return shapely.affinity.rotate(shapely.affinity.scale(circle, 1, rng.uniform(0.5, 1)), rng.uniform(0, 180))


def band(length: float, mpp: float, rng: np.random.Generator) -> shapely.Polygon:
    along = np.linspace(-0.5, 0.5, 20)
    line = shapely.LineString(np.c_[along * length, rng.uniform(-0.12, 0.12) * length * np.sin(2 * np.pi * along)])
    wide = max(12 / mpp, length * rng.uniform(0.1, 0.25))
    return shapely.affinity.rotate(line.buffer(wide / 2, cap_style="flat"), rng.uniform(0, 180))


class Truth:
    """What a hole is compared with, of the pixels around it: uint8 (H, W, 3) and bool (H, W)."""

    def __init__(self, truth: np.ndarray, hole: np.ndarray, mpp: float) -> None:
        haematoxylin = stains(truth)[..., 0]
        self.threshold = nuclear_threshold(haematoxylin, ~hole)
        rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
        margin = round(6 / mpp)
        self.part = tuple(slice(max(0, at[0] - margin), at[-1] + margin) for at in (rows, columns))
        self.hole, self.mpp = hole[self.part], mpp
        inner = cv2.erode(self.hole.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
        self.inner = inner if inner.any() else self.hole
        self.all = self.seen(truth)

    def seen(self, image: np.ndarray) -> tuple[np.ndarray, int, list[float], float]:
        """Low frequencies, nuclei, energies and step across the outline of an image of the same place."""
        image = image[self.part]
        nuclei = find_nuclei(stains(image)[..., 0], self.threshold, self.mpp).inside(self.hole)[0]
        low = blurred(image, np.ones(self.hole.shape, bool), 8 / self.mpp)[self.hole]
        return low, nuclei, energies(image, self.inner, self.mpp), step_across(image, self.hole)

    def figures(self, filled: np.ndarray) -> dict[str, float]:
        """What is compared with the truth; see above."""
        low, nuclei, bands, step = self.seen(filled)
        true_low, true_nuclei, true_bands, true_step = self.all
        ratios = [abs(np.log2((a + 0.05) / (b + 0.05))) for a, b in zip(bands, true_bands, strict=True)]
        return {"colour": float(np.sqrt(np.square(low - true_low).mean())), "nuclei": abs(nuclei - true_nuclei),
                "true_nuclei": true_nuclei, "bands": float(np.mean(ratios)), "edge": step / max(true_step, 0.5)}


def energies(image: np.ndarray, where: np.ndarray, mpp: float) -> list[float]:
    grey = image.astype(np.float32).mean(axis=2)
    levels = [grey, *(cv2.GaussianBlur(grey, (0, 0), um / mpp) for um in (0.5, 1, 2, 4, 8))]
    return [float(np.square(fine - coarse)[where].mean()) for fine, coarse in pairwise(levels[1:])]


def step_across(image: np.ndarray, hole: np.ndarray) -> float:
    grey = image.astype(np.float32).mean(axis=2)
    across, down = hole[:, 1:] != hole[:, :-1], hole[1:] != hole[:-1]
    return float(np.abs(np.concatenate([np.diff(grey, axis=1)[across], np.diff(grey, axis=0)[down]])).mean())


def settings() -> dict[str, CostWeights]:
    """The weights as they are, and each of them without, at a third and at three times."""
    usual = CostWeights()
    found = {"as they are": usual}
    for name, value in asdict(usual).items():
        found |= {f"{name} x {factor:g}": replace(usual, **{name: value * factor}) for factor in (0, 1 / 3, 3)}
    return found


def imagination(wanted: bool) -> Callable[[Hole, float], np.ndarray] | None:
    """What the denoiser expects in a part of a hole, by one evaluation; nothing where it is not asked."""
    if not wanted:
        return None
    from artifusion.restorer import Restorer

    restorer = Restorer.from_pretrained(device="cpu")
    return lambda part, mpp: restorer.imagine(part, mpp, seed=0)


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("colour", "bands", "edge")}
    nuclei = sum(row["nuclei"] for row in rows) / max(1, sum(row["true_nuclei"] for row in rows))
    return {name: round(value, 3) for name, value in (mean | {"nuclei": nuclei}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=["validation", "training"], default="validation")
    parser.add_argument("--holes", type=int, default=6)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--imagine", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    imagine = imagination(given.imagine)
    rows: dict[str, list[dict[str, Any]]] = {}
    if given.weights:
        find.FINISHED = find.JUDGED
    for number, (path, mpp) in enumerate(images(given.data, given.split)):
        image = np.asarray(Image.open(path).convert("RGB"))
        index = DonorIndex.of(in_memory(image), mpp)
        count = given.holes * (4 if image.size > 1e8 else 1)
        for trial in trials(path.stem, image, mpp, count, np.random.default_rng([given.seed, number])):
            measure(trial, image, index, imagine, given, rows)
    table = {name: summary(found) | {"holes": len(found)} for name, found in rows.items() if name != 'donors'}
    for name, found in table.items():
        print(f"{name:>18}", *(f"{key} {value:<7g}" for key, value in found.items()))
    if given.json:
        given.json.write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(given).items()}, "means": table,
                                          "rows": rows}, indent=1) + "\n")


def measure(trial: Trial, image: np.ndarray, index: DonorIndex,
            imagine: Callable[[Hole, float], np.ndarray] | None, given: argparse.Namespace,
            rows: dict[str, list[dict[str, Any]]]) -> None:
    """Fill one hole and add its figures to the rows."""
    truth = image[trial.l0_box.slices()]
    damaged = np.where(trial.hole[..., None], np.uint8(0), truth)
    own = index.without(Mask.of([trial.outline], index.slide.size))
    hole = Hole(trial.l0_box, damaged, trial.hole, ~trial.hole)
    start = time.perf_counter()
    if given.weights:
        if max(hole.filled_box[2:]) * trial.mpp > PIECE_UM:
            return
        donors = find.find_donors(hole, [own], imagined=None if imagine is None else imagine(hole, trial.mpp))
        box = donors[0].hole_box.slices(trial.l0_box) if donors else None
        target = Truth(truth[box], trial.hole[box], trial.mpp) if donors else None
        scores = [target.figures(np.where(trial.hole[box][..., None], donor_pixels(donor, [own]), truth[box]))
                  for donor in donors]
        for name, weights in settings().items() if donors else ():
            costs = [weights.cost(donor.fit) for donor in donors]
            rows.setdefault(name, []).append(scores[int(np.argmin(costs))])
        rows.setdefault("donors", []).append([score | {"fit": donor.fit}
                                              for score, donor in zip(scores, donors, strict=True)])
        return
    found = graft(hole, [own], imagine=None if imagine is None else lambda part: imagine(part, trial.mpp))
    seconds = time.perf_counter() - start
    row = Truth(truth, trial.hole, trial.mpp).figures(found.pixels)
    row |= {"seconds": seconds, "score": found.score, "pieces": len(found.donors)}
    print(f"{trial.name:>60} {found.verdict:>12}", *(f"{key} {value:<6.3g}" for key, value in row.items()), flush=True)
    row["name"] = trial.name
    rows.setdefault("all", []).append(row)
    rows.setdefault(found.verdict, []).append(row)
    if given.sheets:
        given.sheets.mkdir(parents=True, exist_ok=True)
        around = trial.l0_box.expanded(round(SHEET_UM / trial.mpp)).intersection(Box(0, 0, *index.slide.size))
        at = trial.l0_box.slices(around)
        shown = [image[around.slices()].copy() for _ in range(3)]
        shown[1][at][trial.hole] = (0, 160, 80)
        shown[2][at] = found.pixels
        Image.fromarray(np.concatenate(shown, axis=1)).save(given.sheets / f"{trial.name}.jpg", quality=92)


if __name__ == "__main__":
    main()
