"""How well painted and grafted holes pass for tissue: size of hole, kind of scan, end of the walk, match of the fine
bands, grafting, on one set.

    python -m benchmarks.quality.seams DATA [DATA ...] [--tiles 72] [--methods telea,paint,graft] [--holes wide]
        [--scan png,jpeg,blur] [--end 3.0,1.5] [--match on,off] [--weights WEIGHTS] [--validation] [--mpp UM]
        [--json FILE]

Tiles of 256 px, as they are, stored as JPEG of quality 50 or blurred by 1 px, get holes of 4 to 30 %: "wide" ones
(ellipses up to 112 px wide, bands up to 48 px), "small" ones (nowhere wider than 50 px) or the "outlines" of ellipses,
5 to 8 px wide, with the truth on both sides. Grafts come from the rest of each image, as it is. Per tile up to six
crops of 64 px, at least 40 % hole (outlines: 8 %), are compared with the truth's: AUC of a linear probe (0.5: it cannot
tell) and KID, as `artifusion evaluate` measures them, as the pixels are and after a slide's JPEG of both; and the
energy in the hole over the truth's in the bands of 2, 4 and 8 px. "real" compares the same places of another tile of
the image. The AUC rises with the number of crops: compare rows of one table only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from tqdm import tqdm

from artifusion.checkpoint import load_weights
from artifusion.config import RestoreConfig
from artifusion.evaluation.features import MIN_INSIDE, OWN, NetworkSpace, hole_crops
from artifusion.evaluation.measures import as_stored, band_energies
from artifusion.evaluation.methods import PLAIN, Fill, restore
from artifusion.evaluation.probe import auc, detectability, kid
from artifusion.evaluation.trials import SIDE_PX, CleanTile, Trial, cut_pairs, partner
from artifusion.restorer import Restorer

SHARE = 0.04, 0.30          # of a tile that is hole
LEAST_SHARE = 0.2           # up to which a tile's hole grows
OUTLINE_PX = 5, 8
CROPS = 6
BANDS = "2 px", "4 px", "8 px"
MEASURES = "auc", "kid", "auc_jpeg", "kid_jpeg", *BANDS


@dataclass(frozen=True)
class Holes:
    """A kind of holes: the widths of its ellipses and of its bands, how wide a hole may be where pieces meet, and the
    share of a crop that is hole at least."""

    ellipse_px: tuple[float, float]
    band_px: tuple[float, float] = (0, 0)
    widest_px: float = np.inf
    crop_share: float = MIN_INSIDE

    def crops(self, hole: np.ndarray) -> list[tuple[slice, slice]]:
        """The crops of a tile that are judged."""
        return hole_crops(hole, CROPS, self.crop_share)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A tile's hole, bool (SIDE_PX, SIDE_PX)."""
        hole, least = np.zeros((SIDE_PX, SIDE_PX), bool), rng.uniform(SHARE[0], LEAST_SHARE)
        while not (least <= hole.mean() <= SHARE[1] and self.crops(hole)):
            grown = hole | self.piece(rng)
            if 2 * distance_transform_edt(grown).max() <= self.widest_px:
                hole = grown if hole.mean() < SHARE[1] else np.zeros_like(hole)
        return hole

    def piece(self, rng: np.random.Generator) -> np.ndarray:
        """One ellipse, or a band that winds through the tile: bool (SIDE_PX, SIDE_PX)."""
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - rng.uniform(0.2, 0.8, (2, 1, 1)) * SIDE_PX
        angle = rng.uniform(0, np.pi)
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        wander = gaussian_filter(rng.normal(size=2 * SIDE_PX), 30) * 120
        if rng.random() < 0.5:
            long, short = rng.uniform(*self.ellipse_px, 2) / 2
            return np.hypot(along / long, across / short) < 1
        middle = np.interp(along, np.arange(-SIDE_PX, SIDE_PX), wander)
        return np.abs(across - middle) < rng.uniform(*self.band_px) / 2


class Outlines(Holes):
    """The outlines of ellipses."""

    def piece(self, rng: np.random.Generator) -> np.ndarray:
        """One outline: bool (SIDE_PX, SIDE_PX)."""
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - rng.uniform(0.2, 0.8, (2, 1, 1)) * SIDE_PX
        width, height = rng.uniform(*self.ellipse_px, 2)
        outside_px = distance_transform_edt(np.hypot(x / width, y / height) >= 0.5)
        return (outside_px > 0) & (outside_px <= rng.uniform(*OUTLINE_PX))


HOLES = {
    "wide": Holes((40, 112), (16, 48)),
    "small": Holes((24, 50), (16, 48), widest_px=50),
    "outlines": Outlines((40, 112), crop_share=0.08),
}


def out_of_focus(pixels: np.ndarray) -> np.ndarray:
    """A tile, blurred by 1 px."""
    return np.rint(gaussian_filter(pixels.astype(float), (1, 1, 0))).astype(np.uint8)


SCANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "png": lambda pixels: pixels, "jpeg": partial(as_stored, quality=50), "blur": out_of_focus}


def several(choices: Collection[str]) -> Callable[[str], list[str]]:
    """Reads some of the choices, with commas between them."""
    def read(text: str) -> list[str]:
        if wrong := [name for name in text.split(",") if name not in choices]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(choices)}")
        return text.split(",")
    return read


def plan(tiles: Sequence[CleanTile], holes: Holes, seed: int, scan: str) -> list[Trial]:
    """Tiles with holes; a function of the pixels and the seed."""
    trials = []
    for number, tile in enumerate(tiles):
        hole, truth = holes.draw(np.random.default_rng([seed, 4, number])), SCANS[scan](tile.pixels)
        damaged = np.where(hole[..., None], np.uint8(0), truth)
        trials.append(Trial(number, min(number // 2, len(tiles) // 2 - 1), tile.image, tile.spacing_um, truth, damaged,
                            hole, "", "", "", tile))
    return trials


def cases(
    trials: list[Trial], methods: list[str], ends: list[float | None], matches: list[str], weights: str, device: str
) -> Iterator[tuple[str, Fill]]:
    """What is compared, by name."""
    yield "real", lambda trial: partner(trials, trial).truth
    for method in methods:
        if method in PLAIN:
            yield method, PLAIN[method]
            continue
        for end, match in product(ends, matches):
            walk = {} if end is None else {"end_half_log_snr": end}
            config = RestoreConfig(**walk, match_bands=match == "on", graft="auto" if method == "graft" else "off")
            restorer = Restorer(load_weights(weights), device, config)
            yield f"{method}, end {restorer.config.end_half_log_snr:g}, match {match}", partial(restore, restorer, 0)


def compare(trials: list[Trial], painted: list[np.ndarray], space: NetworkSpace, holes: Holes) -> dict[str, float]:
    """AUC and KID of the crops in the holes, as they are and after JPEG; the energy of bands over the truth's."""
    energies, true = (np.array([band_energies(image, trial.hole) for trial, image in zip(trials, images, strict=True)])
                      for images in (painted, [trial.truth for trial in trials]))
    found: dict[str, float] = dict(zip(BANDS, (energies.sum(0) / true.sum(0)).tolist(), strict=True))
    for suffix in ("", "_jpeg"):
        real, fake = (space.vectors([(as_stored(image) if suffix else image)[crop]
                                     for trial, image in zip(trials, images, strict=True)
                                     for crop in holes.crops(trial.hole)])
                      for images in ([trial.truth for trial in trials], painted))
        groups = [trial.group for trial in trials for _ in holes.crops(trial.hole)]
        found[f"auc{suffix}"] = auc(detectability(real, fake, np.array(groups)))
        found[f"kid{suffix}"] = kid(real[:, -OWN:], fake[:, -OWN:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--tiles", type=int, default=72)
    parser.add_argument("--methods", type=several([*PLAIN, "paint", "graft"]), default="telea,paint,graft")
    parser.add_argument("--holes", choices=HOLES, default="wide")
    parser.add_argument("--scan", type=several(SCANS), default="png", help="png, jpeg, blur or several with commas")
    parser.add_argument("--end", help="half-log-SNRs (default: the weights' own)")
    parser.add_argument("--match", type=several(("on", "off")), default="on", help="on, off or both with a comma")
    parser.add_argument("--weights", default="he-small", help="name or folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true", help="only images that he-small was not trained on")
    parser.add_argument("--mpp", type=float, help="um per pixel of images that do not tell")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.tiles < 4:
        parser.error("--tiles must be at least 4: a probe learns from some pairs and is asked about others")
    pairs = cut_pairs(given.data, -(-given.tiles // 2), given.seed, given.mpp, given.validation)
    tiles, holes, space, rows = [*chain(*pairs)][: given.tiles], HOLES[given.holes], NetworkSpace(), []
    ends: list[float | None] = [*map(float, given.end.split(","))] if given.end else [None]
    for scan in given.scan:
        trials = plan(tiles, holes, given.seed, scan)
        print(f"{scan}: {len(trials)} tiles, {sum(len(holes.crops(trial.hole)) for trial in trials)} crops\n\n"
              f"| method | AUC | KID | AUC, JPEG | KID, JPEG | {' | '.join(BANDS)} | s per tile |\n|{'---|' * 9}",
              flush=True)
        for name, fill in cases(trials, given.methods, ends, given.match, given.weights, given.device):
            begin = time.perf_counter()
            painted = [fill(trial) for trial in tqdm(trials, name, leave=False, disable=None)]
            seconds = (time.perf_counter() - begin) / len(trials)
            row = compare(trials, painted, space, holes)
            rows.append({"scan": scan, "method": name} | row | {"seconds": seconds})
            print(f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in MEASURES)} | {seconds:.2f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"tiles": len(tiles), "holes": given.holes, "seed": given.seed, "rows": rows},
                                         indent=2) + "\n")


if __name__ == "__main__":
    main()
