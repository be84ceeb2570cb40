"""Can a reader tell restored tissue from the truth? Pictures for a blinded trial, and its score.

    python -m benchmarks.quality.readers IMAGE... --folder FOLDER [--holes 12] [--mpp UM]
    python -m benchmarks.quality.readers --folder FOLDER --score ANSWERS.json...

Of every image or slide, uneven ellipses of 60 to 250 um on tissue are restored, each in the image as it was; their
pictures do not overlap, so that no reader sees a place from two sides. The folder gets two sheets, first/ and second/,
each with one picture of every place at full scale, in an order of its own: half of them the truth, half the
restoration, and where one sheet shows the truth the other shows the restoration. Ticks at the edges frame the place. A
reader sees one sheet alone, never the same place twice, and writes {"00": "real", "01": "restored", ...}; --score
compares the answers of one or more readers with key.json, which no reader sees.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import binomtest

from artifusion import Restorer, open_slide
from artifusion.config import DEFAULT_SPACING_UM
from artifusion.geometry import Box
from artifusion.slide.tissue import tissue_mask
from artifusion.training.holes import ellipse, square

ACROSS_UM, SURROUNDINGS_UM = (60, 250), 60
MIN_TISSUE = 0.85                   # of a hole
TRIES = 2000                        # of an image, after which no more places fit
TICK_PX = 12
ANSWERS = ("real", "restored")


def places(image: np.ndarray, spacing_um: float, count: int, rng: np.random.Generator
           ) -> list[tuple[int, int, np.ndarray]]:
    """Left, top and hole, bool (S, S), of places on tissue whose pictures do not overlap: `count`, or what fits."""
    tissue, shown = tissue_mask(image), np.zeros(image.shape[:2], bool)
    around, found = round(SURROUNDINGS_UM / spacing_um), list[tuple[int, int, np.ndarray]]()
    for _ in range(TRIES):
        if len(found) == count:
            break
        side = round(math.exp(rng.uniform(*np.log(ACROSS_UM))) / spacing_um)
        hole = ellipse(*square(2 * side), rng, radius=(0.2, 0.25), stretch=2.0) > 0
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        if not len(rows) or min(rows[0], columns[0]) == 0 or max(rows[-1], columns[-1]) == 2 * side - 1:
            continue
        hole = np.pad(hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], around)
        height, width = hole.shape
        if height > image.shape[0] or width > image.shape[1]:
            continue
        top = int(rng.integers(image.shape[0] - height + 1))
        left = int(rng.integers(image.shape[1] - width + 1))
        part = np.s_[top : top + height, left : left + width]
        if tissue[part][hole].mean() > MIN_TISSUE and not shown[part].any():
            shown[part] = True
            found.append((left, top, hole))
    return found


def framed(pixels: np.ndarray, hole: np.ndarray) -> Image.Image:
    """The pixels with ticks at the edges where the hole begins and ends."""
    pixels = pixels.copy()
    for edge in np.flatnonzero(hole.any(1))[[0, -1]]:
        pixels[edge, :TICK_PX] = pixels[edge, -TICK_PX:] = 0
    for edge in np.flatnonzero(hole.any(0))[[0, -1]]:
        pixels[:TICK_PX, edge] = pixels[-TICK_PX:, edge] = 0
    return Image.fromarray(pixels)


def draw(images: list[Path], folder: Path, count: int, mpp: float | None, seed: int) -> None:
    """Restore the places of every image and write the pictures and their key."""
    rng, restorer = np.random.default_rng(seed), Restorer.from_pretrained()
    shown: list[dict[str, tuple[Image.Image, dict[str, object]]]] = []
    for path in images:
        with open_slide(path) as slide:
            image, spacing_um = slide.read(Box(0, 0, *slide.size)), slide.mpp or mpp or DEFAULT_SPACING_UM
        found = places(image, spacing_um, count, rng)
        if len(found) < count:
            print(f"{path.name}: {len(found)} of {count} places fit")
        for left, top, hole in found:
            mask, part = np.zeros(image.shape[:2], bool), np.s_[top : top + hole.shape[0], left : left + hole.shape[1]]
            mask[part] = hole
            place = {"image": path.name, "left": left, "top": top, "um": round(math.sqrt(hole.sum()) * spacing_um)}
            versions = {"real": image, "restored": restorer.restore(image, mask, mpp=spacing_um, seed=seed)}
            shown.append({answer: (framed(pixels[part], hole), {"answer": answer, **place})
                          for answer, pixels in versions.items()})
    key = {}
    answers = rng.permutation([ANSWERS[n % 2] for n in range(len(shown))])
    for sheet, swapped in (("first", False), ("second", True)):
        (folder / sheet).mkdir(parents=True)
        for at in rng.permutation(len(shown)):
            name = f"{len(key):02}"
            picture, key[name] = shown[at][ANSWERS[(answers[at] == ANSWERS[1]) ^ swapped]]
            picture.save(folder / sheet / f"{name}.png")
    (folder / "key.json").write_text(json.dumps(key, indent=1) + "\n")


def score(folder: Path, answers: list[Path]) -> dict[str, float]:
    """The share of right answers with its exact 95 % interval, and the shares of each kind called restored."""
    key = json.loads((folder / "key.json").read_text())
    given = [(key[name]["answer"], called) for path in answers for name, called in json.loads(path.read_text()).items()]
    right = sum(truth == called for truth, called in given)
    interval = binomtest(right, len(given)).proportion_ci()
    called = {kind: np.mean([called == "restored" for truth, called in given if truth == kind]) for kind in ANSWERS}
    return {"pictures": len(given), "right": right / len(given), "low": interval.low, "high": interval.high,
            **{f"{kind}_called_restored": float(share) for kind, share in called.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--folder", type=Path, required=True, help="of the pictures; must not exist yet")
    parser.add_argument("--holes", type=int, default=12, help="per image")
    parser.add_argument("--mpp", type=float, help="um per pixel of images that do not tell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", type=Path, nargs="+", help="readers' answers")
    given = parser.parse_args()
    if given.score:
        print(json.dumps(score(given.folder, given.score)))
    elif not given.images or given.folder.exists():
        parser.error(f"{given.folder}: is there already" if given.images else "give images, or answers to --score")
    else:
        draw(given.images, given.folder, given.holes, given.mpp, given.seed)


if __name__ == "__main__":
    main()
