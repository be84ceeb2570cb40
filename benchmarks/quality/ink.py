"""How well tissue is recovered from under ink.

    python -m benchmarks.quality.ink [--pair FOLDER] [--data FOLDER] [--tiles 32] [--inks A,B] [--repaint] [--mpx N]
        [--sheets FOLDER] [--json FILE]

--pair: inked.png and wiped.png, one place of a slide under ink and without. The wiped scan is registered on the inked
one; then each half, and a slanting stroke, is taken from the inked scan and the rest from the wiped one, as if the
stroke ended there. --data: clean images, from each of which squares of 512 px are cut; a pen stroke of known ink is
painted over each (`artifusion damage`), the scan's noise and a slide's JPEG (quality 80, 4:2:0) put on it, and its
recovery compared with the square as it was. Inks are COLOUR-PEAK[-streaky], with the peak as a natural logarithm: 1.5
and 4 are optical densities of 0.65 and 1.74. --repaint: the same strokes painted by the denoiser. --mpx: time and
memory of a stroke of so many million pixels.

psnr, h, f1: peak signal-to-noise ratio, correlation of haematoxylin, and F1 of nuclei (centres within 3 um), inside the
    mask, what is to be painted having the mean colour of the tissue around
seen: psnr where the level is below 0.6; recovered, faint, painted: shares of the masked pixels
rank: Spearman's correlation of level and absolute error (mean of the channels), pixel by pixel, over all of them
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from artifusion.damage.artifacts import PenInk
from artifusion.damage.spots import paint
from artifusion.evaluation.measures import as_stored, psnr
from artifusion.evaluation.nuclei import count_matches, find_nuclei, nuclear_threshold, stains
from artifusion.evidence.recover import FAINT_ID, PAINTED_ID, RECOVERED_ID, Recovery, recover
from artifusion.slide.tissue import optical_density
from benchmarks.memory import peak_mb

SIDE_PX, STROKE_PX, MPP = 512, 700, 0.25
INKS = [f"{colour}-{peak}{streaky}" for streaky in ("", "-streaky") for peak in (1.5, 4)
        for colour in ("blue", "green", "red", "black")]
BLOCKS = ((128, 14), (96, 6), (96, 4))          # of the registration: side and reach in pixels, pass by pass
LEAST_ALIKE = 0.3                               # correlation of a block with its match

Rows = dict[str, list[dict[str, float]]]


def register(inked: np.ndarray, wiped: np.ndarray) -> np.ndarray:
    """The wiped scan on the inked one: a cubic field of displacements fitted to matched blocks of green density."""
    still, moving = (cv2.GaussianBlur(green, (0, 0), 1) - cv2.GaussianBlur(green, (0, 0), 16)
                     for green in (optical_density(image[..., 1]) for image in (inked, wiped)))
    height, width = still.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    field = np.zeros((10, 2))

    def warped(image: np.ndarray) -> np.ndarray:
        moved = terms(y, x, still.shape) @ field
        return cv2.remap(image, (x + moved[..., 0]).astype(np.float32), (y + moved[..., 1]).astype(np.float32),
                         cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    for side, reach in BLOCKS:
        places, shifts, alike = (np.array(each) for each in zip(*matches(still, warped(moving), side, reach),
                                                                strict=True))
        basis, weight = terms(places[:, 0], places[:, 1], still.shape), alike
        for _ in range(10):
            change = np.linalg.lstsq(basis * weight[:, None], shifts * weight[:, None], rcond=None)[0]
            weight = alike / (1 + (np.hypot(*(basis @ change - shifts).T) / 0.7) ** 2)
        field += change
    return warped(wiped)


def terms(y: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    y, x = 2 * y / shape[0] - 1, 2 * x / shape[1] - 1
    return np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], axis=-1)


def matches(still: np.ndarray, moving: np.ndarray, side: int, reach: int
            ) -> Iterator[tuple[tuple[float, float], tuple[float, float], float]]:
    """Middles (y, x) of blocks, by how much (x, y) they moved, to a part of a pixel, and how alike they are there."""
    for top in range(reach, still.shape[0] - side - reach + 1, side // 3):
        for left in range(reach, still.shape[1] - side - reach + 1, side // 3):
            around = moving[top - reach : top + side + reach, left - reach : left + side + reach]
            alike = cv2.matchTemplate(around, still[top : top + side, left : left + side], cv2.TM_CCOEFF_NORMED)
            i, j = (int(at) for at in np.unravel_index(alike.argmax(), alike.shape))
            if 0 < i < 2 * reach and 0 < j < 2 * reach and alike[i, j] > LEAST_ALIKE:
                shift = (j - reach + peak(*alike[i, j - 1 : j + 2]), i - reach + peak(*alike[i - 1 : i + 2, j]))
                yield (top + side / 2, left + side / 2), shift, float(alike[i, j])


def peak(before: float, at: float, after: float) -> float:
    """Where between two neighbours a parabola through three values has its peak."""
    return float((before - after) / (2 * (before - 2 * at + after)))


def pair_cases(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, pixels, mask and truth of each case of a pair."""
    inked, wiped = (np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in ("inked", "wiped"))
    truth = register(inked, wiped)
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    left = x < truth.shape[1] // 2
    stroke = np.abs((x - 0.12 * truth.shape[1]) - 0.3 * y) < 0.21 * truth.shape[1]
    for name, mask in (("pair, left half", left), ("pair, right half", ~left), ("pair, stroke", stroke)):
        yield name, np.where(mask[..., None], inked, truth), mask, truth


def squares(data: Path, count: int) -> list[tuple[str, np.ndarray]]:
    """So many squares of clean images, the middle of each image first, then its corners."""
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif"))
    found = []
    for corner in ((0.5, 0.5), (0, 0), (1, 1), (0, 1), (1, 0)):
        for path in paths:
            image = np.asarray(Image.open(path).convert("RGB"))
            y, x = (int(part * max(0, side - SIDE_PX)) for part, side in zip(corner, image.shape[:2], strict=True))
            found.append((f"{path.stem}-{y}-{x}", image[y : y + SIDE_PX, x : x + SIDE_PX]))
            if len(found) == count:
                return found
    return found


def inked(truth: np.ndarray, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A square under a stroke of ink as a scanner stores it, and its mask."""
    colour, peak_ln, *streaky = name.split("-")
    rng = np.random.default_rng([number, 17])
    ink = PenInk(colour, float(peak_ln) / np.log(10), 1.0 if streaky else 0.0)
    height, width = truth.shape[:2]
    centre = int(width * rng.uniform(0.35, 0.65)), int(height * rng.uniform(0.35, 0.65))
    pixels, mask = paint("pen", truth, centre, STROKE_PX, rng, ink=ink)
    noisy = np.where(mask[..., None], pixels + rng.normal(0, 1, truth.shape), truth)
    return as_stored(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)), mask


def figures(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    found, true = (stains(each)[..., 0] for each in (image, truth))
    threshold = nuclear_threshold(true, np.ones_like(mask))
    centres, true_centres = (centres[mask[tuple(centres.T)]] for centres in
                             (find_nuclei(each, threshold, MPP).centres for each in (found, true)))
    matched = count_matches(centres, true_centres, MPP)
    return {"psnr": psnr(image, truth, mask), "h": float(np.corrcoef(found[mask], true[mask])[0, 1]),
            "f1": 2 * matched / max(1, len(centres) + len(true_centres))}


def filled(recovery: Recovery, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The recovered image, with the mean clean colour where something is to be painted."""
    colour = np.rint(truth[~mask].mean(axis=0)).astype(np.uint8)
    return np.where((recovery.classes == PAINTED_ID)[..., None], colour, recovery.image)


def row_of(recovery: Recovery, image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """The figures of a recovery, and those of the image as it was, raw."""
    seen = (recovery.classes == RECOVERED_ID) | (recovery.classes == FAINT_ID)
    shares = {name: float((recovery.classes[mask] == number).mean())
              for name, number in (("recovered", RECOVERED_ID), ("faint", FAINT_ID), ("painted", PAINTED_ID))}
    shown = filled(recovery, truth, mask)
    return figures(shown, truth, mask) | {"seen": psnr(shown, truth, seen) if seen.any() else np.nan} | shares | {
        f"raw {name}": value for name, value in figures(image, truth, mask).items()}


def errors(recovery: Recovery, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Level and error of some masked pixels: (2, N)."""
    error = np.abs(filled(recovery, truth, mask).astype(np.float32) - truth).mean(axis=2)
    return np.stack([recovery.level[mask][::97], error[mask][::97]])


def measure(given: argparse.Namespace) -> tuple[Rows, dict[str, Any]]:
    rows: Rows = {}
    facts: dict[str, Any] = {}
    levels: dict[str, list[np.ndarray]] = {}
    restorer = None
    if given.repaint:
        from artifusion.restorer import Restorer

        restorer = Restorer.from_pretrained(device="cpu")

    def one(name: str, image: np.ndarray, mask: np.ndarray, truth: np.ndarray, sheet: str) -> None:
        begin = time.perf_counter()
        recovery = recover(image, mask, mpp=MPP)
        row = row_of(recovery, image, truth, mask) | {"seconds": time.perf_counter() - begin}
        views = [image, recovery.image]
        if restorer:
            repainted = restorer.restore(image, mask, mpp=MPP)
            row |= {f"repainted {key}": value for key, value in figures(repainted, truth, mask).items()}
            views.append(repainted)
        rows.setdefault(name, []).append(row)
        levels.setdefault(name, []).append(errors(recovery, truth, mask))
        if given.sheets:
            given.sheets.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([*views, truth], axis=1)).save(given.sheets / f"{sheet}.png")

    for name, image, mask, truth in pair_cases(given.pair) if given.pair else ():
        one(name, image, mask, truth, name.replace(", ", "-").replace(" ", "-"))
    if given.data:
        for name in given.inks:
            for number, (square, truth) in enumerate(squares(given.data, given.tiles)):
                one(name, *inked(truth, name, number), truth, f"{name}-{square}")
            say(name, rows[name])
        painted = np.concatenate([each for name in given.inks for each in levels[name]], axis=1)
        facts["rank, all inks"] = float(spearmanr(*painted)[0])
        facts |= {f"rank, {name}": float(spearmanr(*np.concatenate(levels[name], axis=1))[0]) for name in given.inks}
    if given.mpx:
        facts["large"] = large(given.mpx)
    return rows, facts


def large(mpx: float) -> dict[str, float]:
    """Time and memory of a stroke of so many million pixels over repeated tissue, drawn from noise."""
    side = int((1.5e6 * mpx) ** 0.5)
    rng = np.random.default_rng(0)
    cells = cv2.GaussianBlur(rng.standard_normal((SIDE_PX, SIDE_PX), np.float32), (0, 0), 6) * 20
    tissue = np.clip(np.stack([200 - 40 * cells, 130 - 40 * cells, 180 - 20 * cells], axis=2), 20, 250)
    tissue = np.rint(tissue + rng.normal(0, 3, tissue.shape)).astype(np.uint8)
    repeats = -(-side // SIDE_PX)
    image, mask = np.tile(tissue, (repeats, repeats, 1))[:side, :side].copy(), np.zeros((side, side), bool)
    mask[:, side // 6 : side // 6 + int(mpx * 1e6 / side)] = True
    ink, x = PenInk("blue", 0.65), np.arange(side) / SIDE_PX
    for y, line in enumerate(image):
        thickness = (0.8 + 0.2 * np.sin(x + y / SIDE_PX)).astype(np.float32)
        inked = 256 * 10.0 ** -(optical_density(line) + ink.added(thickness)) - 1
        line[mask[y]] = np.clip(np.rint(inked[mask[y]]), 0, 255)
    before = peak_mb()
    begin, cpu = time.perf_counter(), time.process_time()
    recovery = recover(image, mask, mpp=MPP)
    return {"mpx": mask.sum() / 1e6, "seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu,
            "mb_before": before, "mb_most": peak_mb(), **recovery.ink["shares"]}


def say(name: str, rows: list[dict[str, float]]) -> None:
    """A line: raw, recovered, repainted, shares."""
    mean = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    three = [" ".join(f"{mean[f'{part}{key}']:{width}}" for key, width in (("psnr", "5.2f"), ("h", ".3f"),
             ("f1", ".3f"))) for part in ("raw ", "", "repainted ") if f"{part}psnr" in mean]
    print(f"{name:>20} {len(rows):3} | {' | '.join(three)} | seen {mean['seen']:.2f} | recovered "
          f"{mean['recovered']:.2f} faint {mean['faint']:.2f} painted {mean['painted']:.2f} | {mean['seconds']:.1f} s",
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tiles", type=int, default=32)
    parser.add_argument("--inks", type=lambda text: text.split(","), default=INKS)
    parser.add_argument("--repaint", action="store_true")
    parser.add_argument("--mpx", type=float, default=0)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print("ink, images | raw psnr h f1 | recovered | repainted")
    rows, facts = measure(given)
    for name, found in rows.items():
        if not given.data or name not in given.inks:
            say(name, found)
    print(json.dumps(facts, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "facts": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
