"""What adapting to a slide is worth: weights that learned its left half paint holes in its right half.

    python -m benchmarks.quality.adapt SLIDE... [--minutes 1 3 10 | --crops N...] [--tiles 24]
        [--weights NAME] [--json FILE]

Of every slide, the clean tissue of the left half trains the weights for so many minutes (each time from the start); the
right half is under the mask that `restore --adapt` leaves out. Tiles of 256 px of the right half's clean tissue get
smooth holes of 5 to 35 % of their area, fixed by --seed, and the weights before and after fill the same holes:

texture   gradient energy over the truth's, over all holes together (1 = as sharp as the truth)
stain     Wasserstein distance of the haematoxylin and of the eosin densities to the truth's, tile by tile, over the
          truth's standard deviation, both summed over the tiles; the mean of the two stains (0 = same distribution)
error     root mean square error of 16 px block means inside the hole, in grey levels

--config learns by other settings than the shipped "adapt"; --mpp is for slides that do not tell.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import shapely
from scipy.ndimage import uniform_filter, zoom

from artifusion import Restorer, open_slide
from artifusion.config import DEFAULT_SPACING_UM, TrainConfig, load_config
from artifusion.evaluation.measures import stain_distances
from artifusion.mask.mask import Mask
from artifusion.restoration.adaptation import adapt, tiles_all_over
from artifusion.slide.reader import Slide
from artifusion.slide.tissue import glass_blocks
from benchmarks.quality.gradients import gradient_energy

SIDE_PX = 256
BLOCK_PX = 16
MAX_GLASS = 0.25                    # of a piece


def halves(slide: Slide) -> tuple[Mask, Mask]:
    """Masks of the left and of the right half of a slide."""
    width, height = slide.size
    return tuple(Mask.of([shapely.box(left, 0, right, height)], slide.size)
                 for left, right in ((0, width // 2), (width // 2, width)))


def test_tiles(slide: Slide, avoid: Mask, count: int) -> list[np.ndarray]:
    """Up to `count` pieces of 256 px outside a mask that are mostly tissue, uint8 (256, 256, 3), from many tiles."""
    tiles = [tile.pixels for tile in tiles_all_over(slide, avoid)]
    pieces = (pixels[y : y + SIDE_PX, x : x + SIDE_PX] for y in (0, SIDE_PX) for x in (0, SIDE_PX) for pixels in tiles)
    tissue = (piece for piece in pieces
              if piece.shape[:2] == (SIDE_PX, SIDE_PX) and glass_blocks(piece).mean() < MAX_GLASS)
    return list(islice(tissue, count))


def hole(seed: int) -> np.ndarray:
    """A smooth hole of 5 to 35 % of the tile: bool (256, 256)."""
    rng = np.random.default_rng([seed, SIDE_PX])
    cells = int(rng.integers(4, 9))
    smooth = zoom(rng.normal(size=(cells, cells)), SIDE_PX / cells, order=3)
    return smooth > np.quantile(smooth, 1 - rng.uniform(0.05, 0.35))


def block_error(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Squared difference of block means, at the pixels whose block lies in the mask."""
    inside = uniform_filter(mask.astype(float), BLOCK_PX) > 0.99
    difference = uniform_filter(image.astype(float) - truth, (BLOCK_PX, BLOCK_PX, 0))
    return difference[inside].ravel() ** 2


def measure(filled: list[np.ndarray], truth: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, float]:
    energies = [(gradient_energy(f, m), gradient_energy(t, m)) for f, t, m in zip(filled, truth, masks, strict=True)]
    stains = [stain_distances(f, t, m) for f, t, m in zip(filled, truth, masks, strict=True)]
    stain = [sum(tile[f"{name}_distance"] for tile in stains) / sum(tile[f"true_{name}_spread"] for tile in stains)
             for name in ("haematoxylin", "eosin")]
    blocks = np.concatenate([block_error(f, t, m) for f, t, m in zip(filled, truth, masks, strict=True)])
    return {
        "texture": round(sum(e for e, _ in energies) / sum(e for _, e in energies), 3),
        "stain": round(float(np.mean(stain)), 3),
        "error": round(float(np.sqrt(blocks.mean())), 2),
    }


def worth(slide: Slide, spacing_um: float, restorer: Restorer, given: argparse.Namespace) -> dict[str, object]:
    """Before and after every length of adaptation: the measures on the right half, crops seen and seconds taken."""
    left, right = halves(slide)
    truth = test_tiles(slide, left, given.tiles)
    masks = [hole(given.seed + n) for n in range(len(truth))]

    def measured(painter: Restorer) -> dict[str, float]:
        filled = [painter.restore(t, m, mpp=spacing_um, seed=given.seed) for t, m in zip(truth, masks, strict=True)]
        return measure(filled, truth, masks)

    results: dict[str, object] = {"before": measured(restorer)}
    print(f"{slide.path.name}, {len(truth)} tiles\nbefore", json.dumps(results["before"]), flush=True)
    lengths = [{"crops": n} for n in given.crops] if given.crops else [{"minutes": m} for m in given.minutes]
    for length in lengths:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            adapted, facts = adapt(restorer, slide, right, Path(folder),
                                   config=load_config(TrainConfig, "train", given.config), **length)
            seconds = round(time.monotonic() - begin, 1)
        (name,) = (f"{value:g} {unit}" for unit, value in length.items())
        about = facts["adaptation"]
        results[name] = measured(adapted) | {"crops": about["crops"], "tissue_px": about["tissue_px"],
                                             "seconds": seconds}
        print(name, json.dumps(results[name]), flush=True)
    return {"tiles": len(truth), "um_per_px": spacing_um, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--crops", type=int, nargs="+")
    parser.add_argument("--weights", default="he-small")
    parser.add_argument("--config", default="adapt")
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--mpp", type=float, default=DEFAULT_SPACING_UM)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    restorer = Restorer.from_pretrained(given.weights, device="cpu")
    report: dict[str, object] = {"weights": restorer.weights.name, "sha256": restorer.weights.sha256,
                                 "config": given.config, "cpus": os.cpu_count(), "slides": {}}
    for path in given.slides:
        with open_slide(path) as slide:
            report["slides"] |= {path.name: worth(slide, slide.mpp or given.mpp, restorer, given)}
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
