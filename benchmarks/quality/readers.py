"""Can a reader tell restored tissue from the truth? Pictures for a blinded trial, and its score.

    python -m benchmarks.quality.readers IMAGE... --folder FOLDER [--holes 12] [--mpp UM]
    python -m benchmarks.quality.readers --folder FOLDER --score ANSWERS.json

Of every image or slide, uneven ellipses of 60 to 250 um on tissue are restored, each in the image as it was. The folder
gets two pictures of every place at full scale, the truth and the restoration, numbered in random order: 00.png, 01.png,
... Ticks at their edges frame the place. A reader sees the pictures alone and writes {"00": "real", "01": "restored",
...}; --score compares that with key.json, which the reader does not see.
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
TICK_PX = 12


def places(image: np.ndarray, spacing_um: float, count: int, rng: np.random.Generator
           ) -> list[tuple[int, int, np.ndarray]]:
    """Left, top and hole, bool (S, S), of `count` places on tissue."""
    tissue = tissue_mask(image)
    around, found = round(SURROUNDINGS_UM / spacing_um), []
    while len(found) < count:
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
        if tissue[part][hole].mean() > MIN_TISSUE:
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
    rng, restorer, pictures = np.random.default_rng(seed), Restorer.from_pretrained(), []
    for path in images:
        with open_slide(path) as slide:
            image, spacing_um = slide.read(Box(0, 0, *slide.size)), slide.mpp or mpp or DEFAULT_SPACING_UM
        for left, top, hole in places(image, spacing_um, count, rng):
            mask, part = np.zeros(image.shape[:2], bool), np.s_[top : top + hole.shape[0], left : left + hole.shape[1]]
            mask[part] = hole
            place = {"image": path.name, "left": left, "top": top, "um": round(math.sqrt(hole.sum()) * spacing_um)}
            shown = {"real": image, "restored": restorer.restore(image, mask, mpp=spacing_um, seed=seed)}
            pictures += [(framed(pixels[part], hole), {"answer": answer, **place}) for answer, pixels in shown.items()]
    folder.mkdir(parents=True)
    key = {}
    for number, at in enumerate(rng.permutation(len(pictures))):
        picture, key[f"{number:02}"] = pictures[at]
        picture.save(folder / f"{number:02}.png")
    (folder / "key.json").write_text(json.dumps(key, indent=1) + "\n")


def score(folder: Path, answers: Path) -> dict[str, float]:
    """The share of right answers with its exact 95 % interval, and the shares of each kind called restored."""
    key, given = json.loads((folder / "key.json").read_text()), json.loads(answers.read_text())
    right = sum(given[name] == one["answer"] for name, one in key.items())
    interval = binomtest(right, len(key)).proportion_ci()
    called = {kind: np.mean([given[name] == "restored" for name, one in key.items() if one["answer"] == kind])
              for kind in ("real", "restored")}
    return {"pictures": len(key), "right": right / len(key), "low": interval.low, "high": interval.high,
            **{f"{kind}_called_restored": float(share) for kind, share in called.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--folder", type=Path, required=True, help="of the pictures; must not exist yet")
    parser.add_argument("--holes", type=int, default=12, help="per image")
    parser.add_argument("--mpp", type=float, help="um per pixel of images that do not tell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", type=Path, help="a reader's answers")
    given = parser.parse_args()
    if given.score:
        print(json.dumps(score(given.folder, given.score)))
    else:
        draw(given.images, given.folder, given.holes, given.mpp, given.seed)


if __name__ == "__main__":
    main()
