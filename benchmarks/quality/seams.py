"""How well painted and grafted holes pass for tissue: end of the walk, match of the fine bands, grafting, on one set.

    python -m benchmarks.quality.seams DATA [DATA ...] [--tiles 72] [--methods telea,paint,graft] [--end 3.0,1.5]
        [--match on,off] [--weights WEIGHTS] [--validation] [--json FILE]

Tiles of 256 px get holes of 4 to 30 %: ellipses up to 112 px wide and bands up to 48 px. Grafts come from the rest of
each image. Per tile up to six crops of 64 px, at least 40 % hole, are compared with the truth's: AUC of a linear probe
(0.5: it cannot tell) and KID, as `artifusion evaluate` measures them, as the pixels are and after a slide's JPEG of
both. "real" compares the same places of another tile of the image. The AUC rises with the number of crops: compare rows
of one table only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from artifusion.checkpoint import load_weights
from artifusion.config import RestoreConfig
from artifusion.evaluation.features import OWN, NetworkSpace, hole_crops
from artifusion.evaluation.measures import as_stored
from artifusion.evaluation.methods import PLAIN, Fill, restore
from artifusion.evaluation.probe import auc, detectability, kid
from artifusion.evaluation.trials import SIDE_PX, Trial, cut_pairs, partner
from artifusion.restorer import Restorer

SHARE = 0.04, 0.30          # of a tile that is hole
ELLIPSE_PX, BAND_PX = (40, 112), (16, 48)
CROPS = 6


def plan(data: list[Path], count: int, seed: int, validation: bool) -> list[Trial]:
    """Tiles with holes; a function of the pixels and the seed."""
    tiles = list(chain(*cut_pairs(data, -(-count // 2), seed, None, validation)))[:count]
    trials = []
    for number, tile in enumerate(tiles):
        rng = np.random.default_rng([seed, 4, number])
        hole, least = np.zeros((SIDE_PX, SIDE_PX), bool), rng.uniform(SHARE[0], 0.2)
        while not (least <= hole.mean() <= SHARE[1] and hole_crops(hole)):
            hole = hole | piece(rng) if hole.mean() < SHARE[1] else np.zeros_like(hole)
        damaged = np.where(hole[..., None], np.uint8(0), tile.pixels)
        trials.append(Trial(number, min(number // 2, count // 2 - 1), tile.image, tile.spacing_um, tile.pixels, damaged,
                            hole, "", "", "", tile))
    return trials


def piece(rng: np.random.Generator) -> np.ndarray:
    """One ellipse, or a band that winds through the tile: bool (SIDE_PX, SIDE_PX)."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - rng.uniform(0.2, 0.8, (2, 1, 1)) * SIDE_PX
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    wander = gaussian_filter(rng.normal(size=2 * SIDE_PX), 30) * 120
    if rng.random() < 0.5:
        long, short = rng.uniform(*ELLIPSE_PX, 2) / 2
        return np.hypot(along / long, across / short) < 1
    middle = np.interp(along, np.arange(-SIDE_PX, SIDE_PX), wander)
    return np.abs(across - middle) < rng.uniform(*BAND_PX) / 2


def cases(
    trials: list[Trial], methods: list[str], ends: list[float], matches: list[str], weights: str, device: str
) -> Iterator[tuple[str, Fill]]:
    """What is compared, by name."""
    yield "real", lambda trial: partner(trials, trial).truth
    for method in methods:
        if method in PLAIN:
            yield method, PLAIN[method]
            continue
        for end, match in product(ends, matches):
            config = RestoreConfig(end_half_log_snr=end, match_bands=match == "on",
                                   graft="auto" if method == "graft" else "off")
            restorer = Restorer(load_weights(weights), device, config)
            yield f"{method}, end {end:g}, match {match}", partial(restore, restorer, 0)


def compare(trials: list[Trial], painted: list[np.ndarray], space: NetworkSpace) -> dict[str, float]:
    """AUC and KID of the crops in the holes, as they are and after JPEG."""
    found = {}
    for suffix, store in (("", np.asarray), ("_jpeg", as_stored)):
        crops = [(store(trial.truth)[crop], store(image)[crop], trial.group)
                 for trial, image in zip(trials, painted, strict=True) for crop in hole_crops(trial.hole, CROPS)]
        real, fake = (space.vectors([crop[n] for crop in crops]) for n in (0, 1))
        found[f"auc{suffix}"] = auc(detectability(real, fake, np.array([group for *_, group in crops])))
        found[f"kid{suffix}"] = kid(real[:, -OWN:], fake[:, -OWN:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--tiles", type=int, default=72)
    parser.add_argument("--methods", default="telea,paint,graft")
    parser.add_argument("--end", default=str(RestoreConfig().end_half_log_snr), help="half-log-SNRs")
    parser.add_argument("--match", default="on", help="on, off or both with a comma")
    parser.add_argument("--weights", default="he-small", help="name or folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true", help="only images that he-small was not trained on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trials, space, rows = plan(given.data, given.tiles, given.seed, given.validation), NetworkSpace(), []
    methods, matches, ends = given.methods.split(","), given.match.split(","), [*map(float, given.end.split(","))]
    print(f"{len(trials)} tiles, {sum(len(hole_crops(trial.hole, CROPS)) for trial in trials)} crops\n\n"
          "| method | AUC | KID | AUC, JPEG | KID, JPEG | s per tile |\n|---|---|---|---|---|---|", flush=True)
    for name, fill in cases(trials, methods, ends, matches, given.weights, given.device):
        begin = time.perf_counter()
        painted = [fill(trial) for trial in tqdm(trials, name, leave=False, disable=None)]
        seconds = (time.perf_counter() - begin) / len(trials)
        row = compare(trials, painted, space) | {"seconds": seconds}
        rows.append({"method": name} | row)
        print(f"| {name} | {row['auc']:.3f} | {row['kid']:.3f} | {row['auc_jpeg']:.3f} | {row['kid_jpeg']:.3f} | "
              f"{seconds:.1f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"tiles": len(trials), "seed": given.seed, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
