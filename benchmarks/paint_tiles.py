"""How true painted tissue is, on tiles whose truth is known: colour, texture and pictures.

    python benchmarks/paint_tiles.py IMAGE_OR_FOLDER... [--weights NAME|DIR] [--tiles 24] [--steps 10] [--json FILE]

Tiles of 256 px, evenly spread over the images, get smooth holes of 5 to 35 % of their area, fixed by --seed. Every
method fills the same holes. Per method, over the pixels of all holes together:

texture   gradient energy over the truth's (1 = as sharp as the truth)
stain     Wasserstein distance of the haematoxylin and of the eosin densities to the truth's, tile by tile, over the
          truth's standard deviation, both summed over the tiles; the mean of the two stains (0 = same distribution).
          stain_pooled: of all holes as one
error     root mean square error of 16 px block means inside the hole, in grey levels

--validation keeps only the validation split of configs/train/he-small.toml, --pictures writes truth, hole and every
method side by side, at full size, --sheet all of these in one picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter, zoom
from scipy.stats import wasserstein_distance
from skimage.color import rgb2hed

from artifusion import Restorer
from artifusion.config import RestoreConfig, TrainConfig, load_config
from artifusion.corpus import is_validation
from artifusion.slide.tissue import glass_blocks
from artifusion.tiles import Tile, cut_tiles, find_images

SIDE_PX = 256
BLOCK_PX = 16
PLACES, MAX_GLASS = 8, 0.25         # looked at for a tile, the first that is mostly tissue is taken
KNOWN_UM = {"monuseg": 0.25}        # um per pixel of folders that are no training data

Fill = Callable[[np.ndarray, np.ndarray, float | None], np.ndarray]


def tiles_of(paths: list[Path], count: int, validation: bool) -> list[Tile]:
    """`count` clean tiles of 256 px with their um per pixel, the same number from every image as far as it goes."""
    data = load_config(TrainConfig, "train", "he-small").data
    images = [path for path in find_images(paths)
              if not validation or is_validation(f"{path.parent.name}/{path.name}", data)]
    rng, found = np.random.default_rng(0), []
    by_image = [list(cut_tiles(path)) for path in images]
    while len(found) < count and any(by_image):
        for tiles in by_image:
            if tiles and len(found) < count:
                tile = tiles.pop(int(rng.integers(len(tiles))))
                height, width = tile.pixels.shape[:2]
                for _ in range(PLACES):
                    y, x = int(rng.integers(height - SIDE_PX + 1)), int(rng.integers(width - SIDE_PX + 1))
                    pixels = tile.pixels[y : y + SIDE_PX, x : x + SIDE_PX]
                    if glass_blocks(pixels).mean() < MAX_GLASS:
                        break
                spacing_um = data.spacing_um.get(tile.folder) or tile.spacing_um or KNOWN_UM.get(tile.folder)
                found.append(Tile(pixels, tile.image, spacing_um))
    return found


def hole(seed: int) -> np.ndarray:
    """A smooth hole of 5 to 35 % of the tile: bool (256, 256)."""
    rng = np.random.default_rng([seed, 256])
    cells = int(rng.integers(4, 9))
    smooth = zoom(rng.normal(size=(cells, cells)), SIDE_PX / cells, order=3)
    return smooth > np.quantile(smooth, 1 - rng.uniform(0.05, 0.35))


def mean_fill(image: np.ndarray, mask: np.ndarray, spacing_um: float | None) -> np.ndarray:
    filled = image.copy()
    filled[mask] = np.rint(image[~mask].mean(0))
    return filled


def telea(image: np.ndarray, mask: np.ndarray, spacing_um: float | None) -> np.ndarray:
    import cv2

    return cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def gradient_energy(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared difference of neighbouring grey values that both lie in the mask."""
    grey = image.astype(float).mean(2)
    across, down = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    return float(np.concatenate([np.diff(grey, axis=1)[across], np.diff(grey, axis=0)[down]]).__pow__(2).sum())


def block_error(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Squared difference of block means, at the pixels whose block lies in the mask."""
    inside = uniform_filter(mask.astype(float), BLOCK_PX) > 0.99
    difference = uniform_filter(image.astype(float) - truth, (BLOCK_PX, BLOCK_PX, 0))
    return difference[inside].ravel() ** 2


def stain_error(painted: list[np.ndarray], real: list[np.ndarray]) -> float:
    """Distance of the stain densities (pixels, 2) of every tile, over the real ones' spread; mean of the two stains."""
    return float(np.mean([
        np.sum([wasserstein_distance(p[:, n], r[:, n]) for p, r in zip(painted, real, strict=True)])
        / np.sum([r[:, n].std() for r in real]) for n in (0, 1)]))


def measure(filled: list[np.ndarray], truth: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, float]:
    energies = [(gradient_energy(f, m), gradient_energy(t, m)) for f, t, m in zip(filled, truth, masks, strict=True)]
    painted, real = ([rgb2hed(i)[m][:, :2] for i, m in zip(images, masks, strict=True)] for images in (filled, truth))
    blocks = np.concatenate([block_error(f, t, m) for f, t, m in zip(filled, truth, masks, strict=True)])
    return {
        "texture": round(sum(e for e, _ in energies) / sum(e for _, e in energies), 3),
        "texture_median_tile": round(float(np.median([e / max(t, 1e-9) for e, t in energies])), 3),
        "stain": round(stain_error(painted, real), 3),
        "stain_pooled": round(stain_error([np.concatenate(painted)], [np.concatenate(real)]), 3),
        "error": round(float(np.sqrt(blocks.mean())), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--weights", default="he-small")
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--sampler", nargs="+", default=[RestoreConfig().sampler])
    parser.add_argument("--steps", type=int, nargs="+", default=[RestoreConfig().steps])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    tiles = tiles_of(given.paths, given.tiles, given.validation)
    truth, masks = [tile.pixels for tile in tiles], [hole(given.seed + n) for n in range(len(tiles))]
    methods: dict[str, Fill] = {"mean fill": mean_fill, "Telea": telea} if given.baselines else {}
    for sampler in given.sampler:
        for steps in given.steps:
            restorer = Restorer.from_pretrained(
                given.weights, config=RestoreConfig().model_copy(update={"sampler": sampler, "steps": steps}))
            methods[f"{sampler} {steps}"] = lambda i, m, um, r=restorer: r.restore(i, m, mpp=um, seed=given.seed)
    holes = [np.where(m[..., None], np.uint8(255), t) for t, m in zip(truth, masks, strict=True)]
    results, columns = {}, [truth, holes]
    for name, fill in methods.items():
        begin = time.monotonic()
        filled = [fill(t, m, tile.spacing_um) for t, m, tile in zip(truth, masks, tiles, strict=True)]
        seconds = (time.monotonic() - begin) / len(tiles)
        results[name] = measure(filled, truth, masks) | {"seconds_per_tile": round(seconds, 3)}
        print(f"{name:14}", json.dumps(results[name]), flush=True)
        columns.append(filled)
    rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
        for n, row in enumerate(rows):
            Image.fromarray(row).save(given.pictures / f"{n:02d}_{tiles[n].folder}.png")
    if given.sheet:
        half = len(rows) // 2
        gap = np.full((half * SIDE_PX, 16, 3), 255, np.uint8)
        sheet = np.concatenate([np.concatenate(rows[:half]), gap, np.concatenate(rows[half : 2 * half])], axis=1)
        Image.fromarray(sheet).save(given.sheet, quality=85)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"images": [path.name for path in given.paths], "tiles": len(tiles), "seed": given.seed,
                  "weights": Restorer.from_pretrained(given.weights).weights.sha256, "methods": results}
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
