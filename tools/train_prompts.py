"""Train the classifiers that find what a person points at (artifusion/detection/clicks.py).

    python -m tools.train_prompts ../shared/data/train OUT.safetensors [--samples 600 --processes N]

DATA holds the training folders of configs/train/he-small.toml. Each sample is a canvas of clean tissue at any scale
with one artifact, now and then beside others that are not meant, and the truth is that artifact alone. Some are those
of `artifusion damage`; folds of other kinds, bubbles, and regions that differ from their surroundings in any way are
made here. Prompts are simulated: a click in the middle or anywhere inside, more clicks, not-clicks beside it, boxes a
little off, and an earlier answer, coarse and not quite right.

Never seen: the validation split, and slides of the atlas that judge.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from scipy import ndimage
from sklearn.neural_network import MLPClassifier

from artifusion.config import DEFAULT_SPACING_UM, TrainConfig, load_config
from artifusion.damage.spots import MARGIN_PX, SMALLEST_PX, paint
from artifusion.detection.clicks import Pointed, classified, context, features, seeds_of
from artifusion.slide.tissue import GLASS_OD, optical_density
from artifusion.training.corpus import first_match, is_validation
from artifusion.training.tiles import find_images
from benchmarks.quality.labelled import judging_cases
from tools.laid_artifacts import as_light

CANVAS_PX, WINDOW_PX = 160, 64
REDUCED = (1.0, 2.4)                # canvas pixels per window pixel
SCALES_UM = (0.5, 12.0)
SIZES_PX = (20, 220)                # of an artifact, longest side
KINDS = {"fold": 0.55, "region": 0.14, "bubble": 0.15, "pen": 0.05, "dark": 0.05, "thread": 0.03, "blur": 0.03}
PAINTED = 0.3                       # of the folds: those of `artifusion damage`
BESIDE = 0.45                       # of the samples: with artifacts that are not meant
WINDOWS, PIXELS = 2, 120            # of every sample; of every window, twice
HIDDEN, EPOCHS = (24, 24), 14
JOBS = 12
MOST_PX = 3000                      # longest side of an image that is kept in memory


@dataclass(frozen=True)
class Scene:
    """Clean tissue, uint8 (H, W, 3), and how often it is drawn."""

    pixels: np.ndarray
    um: float
    weight: float


@dataclass(frozen=True)
class Sample:
    """Pixels uint8 (S, S, 3) and where the artifact that is meant lies, bool (S, S)."""

    pixels: np.ndarray
    truth: np.ndarray


@cache
def scenes(data: Path, validation: bool) -> list[Scene]:
    config, judging = load_config(TrainConfig, "train", "he-small").data, judging_cases()
    found = []
    for path in find_images([data]):
        name = path.relative_to(data).as_posix().removeprefix("patolojiatlasi/")
        if is_validation(name, config) != validation or name.startswith(judging):
            continue
        um = first_match(config.spacing_um, path.as_posix()) or DEFAULT_SPACING_UM
        image = Image.open(path).convert("RGB")
        ratio = max(1.0, max(image.size) / MOST_PX)
        if ratio > 1:
            image = image.resize([round(side / ratio) for side in image.size], Image.Resampling.BOX)
        weight = {"her2st": 8, "patolojiatlasi": 4}.get(path.relative_to(data).parts[0], 1)
        found.append(Scene(np.asarray(image), um * ratio, weight))
    return found


def tissue(scenes: list[Scene], rng: np.random.Generator) -> np.ndarray:
    """A canvas of clean tissue at a random scale, turned and stained anew: uint8 (S, S, 3)."""
    weights = np.array([scene.weight for scene in scenes])
    while True:
        scene = scenes[rng.choice(len(scenes), p=weights / weights.sum())]
        most = min(scene.pixels.shape[:2])
        um = np.exp(rng.uniform(*np.log(SCALES_UM)))
        side = int(np.clip(CANVAS_PX * um / scene.um, min(most, 0.6 * CANVAS_PX), most))
        y, x = (int(rng.integers(length - side + 1)) for length in scene.pixels.shape[:2])
        piece = Image.fromarray(scene.pixels[y : y + side, x : x + side])
        pixels = np.asarray(piece.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BOX if side > CANVAS_PX else
                                         Image.Resampling.BICUBIC))
        od = optical_density(pixels)
        if (od.mean(axis=2) > GLASS_OD).mean() > 0.25:
            od = np.rot90(od, rng.integers(4))
            od = od * np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.06, 3)).astype(np.float32)
            return as_light(od)


def noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal((CANVAS_PX, CANVAS_PX), np.float32), sigma, mode="wrap")
    return field / field.std()


def band(at: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Distance inwards from the outline of a bent, tapering band with uneven edges, px; negative outside."""
    y, x = np.mgrid[:CANVAS_PX, :CANVAS_PX].astype(np.float32) - at[:, None, None]
    angle, bend = rng.uniform(0, np.pi), rng.uniform(0, 0.35) * rng.choice([-1, 1]) / size
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    v = v + bend * (u * u - size * size / 12) + 0.03 * size * noise(rng, max(2, size / rng.uniform(4, 14)))
    half = max(1.6, size * np.exp(rng.uniform(np.log(0.035), np.log(0.28)))) * rng.choice([1, 1, 0.6])
    taper = np.clip(1 - (2 * abs(u) / size) ** rng.choice([2, 4, 8]), 0, 1) ** rng.uniform(0.3, 0.8)
    uneven = 1 + rng.uniform(0, 0.35) * noise(rng, max(1.5, size / rng.uniform(6, 30)))
    return np.where(taper > 0, half * taper * uneven, -1) - abs(v)


def blob(at: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Distance inwards from the outline of an uneven round place, px; negative outside."""
    y, x = np.mgrid[:CANVAS_PX, :CANVAS_PX].astype(np.float32) - at[:, None, None]
    angle, flat = rng.uniform(0, np.pi), rng.uniform(1, 2.5)
    u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) * flat
    return size / 2 * (1 + rng.uniform(0, 0.3) * noise(rng, max(2, size / rng.uniform(3, 10)))) - np.hypot(u, v)


def connected(covered: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The largest connected part of a place."""
    labels, count = ndimage.label(covered, np.ones((3, 3)))
    return labels == 1 + np.bincount(labels.ravel(), minlength=2)[1:].argmax() if count > 1 else covered


def laid(pixels: np.ndarray, at: np.ndarray, size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with a fold: layers of it, displaced, out of focus, nearly black where it is dense, gaps beside."""
    inside = blob(at, 0.7 * size, rng) if rng.random() < 0.15 else band(at, size, rng)
    shows = connected(inside > 0, at)
    inside = np.where(shows, inside, np.minimum(inside, -0.5))
    od = optical_density(pixels)
    above = od
    for _ in range(rng.choice([1, 1, 2])):
        other = np.roll(od, rng.integers(-60, 61, 2), (0, 1))
        other = other[::-1] if rng.random() < 0.5 else other[:, ::-1]
        above = above + rng.uniform(0.4, 1.1) * other
    haze = ndimage.gaussian_filter(od, (size / 10 + 3, size / 10 + 3, 0))
    above = above + rng.choice([0, rng.uniform(0.2, 1.2)]) * haze
    above = above * (1 + rng.choice([0, 0.15]) * noise(rng, rng.uniform(1.5, 6)))[..., None]
    above = above * np.exp(rng.normal(0, 0.08, 3))
    most = rng.uniform(0.7, 1.9)
    above = most * (1 - np.exp(-above / most)) if rng.random() < 0.6 else np.minimum(above, most)
    soft = rng.choice([0, rng.uniform(0.5, 2.5)])
    above = ndimage.gaussian_filter(above, (soft, soft, 0)) if soft else above
    share = ndimage.gaussian_filter(shows.astype(np.float32), rng.uniform(0.3, 1.8))
    crease = rng.choice([0, 1, 1]) * rng.uniform(0.1, 0.6) * np.exp(-np.square(inside / rng.uniform(0.8, 2.5)))
    if rng.random() < 0.35:                                     # tissue is torn away beside it
        gap = np.roll(inside, rng.integers(-1 - int(size / 10), 2 + int(size / 10), 2), (0, 1)) > -rng.uniform(0, 3)
        gap = ndimage.gaussian_filter((gap & ~shows).astype(np.float32), rng.uniform(0.3, 1.2))[..., None]
        od = od * (1 - rng.uniform(0.6, 1) * gap)
    out = od * (1 - share[..., None]) + (above + crease[..., None] * haze.mean()) * share[..., None]
    return as_light(out), shows & (ndimage.gaussian_filter(above.mean(axis=2), 4) > GLASS_OD)


def region(pixels: np.ndarray, other: np.ndarray, at: np.ndarray, size: float, rng: np.random.Generator
           ) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with a place that differs in any way: other tissue, density, colour, focus, a rim."""
    inside = band(at, size, rng) if rng.random() < 0.4 else blob(at, 0.8 * size, rng)
    shows = connected(inside > 0, at)
    od, changed = optical_density(pixels), optical_density(pixels)
    which = rng.random()
    if which < 0.35:
        changed = optical_density(other) * rng.uniform(0.6, 2)
    elif which < 0.7:
        changed = changed * np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 1) + rng.normal(0, 0.2, 3))
    else:
        changed = changed + rng.uniform(0.1, 0.6) * np.exp(rng.normal(0, 0.4, 3))
    if rng.random() < 0.4:
        soft = rng.uniform(0.5, 4)
        changed = ndimage.gaussian_filter(changed, (soft, soft, 0))
    share = ndimage.gaussian_filter(shows.astype(np.float32), rng.uniform(0.3, 2))[..., None]
    out = (1 - share) * od + share * changed
    if rng.random() < 0.3:
        rim = np.exp(-np.square((inside - 1) / rng.uniform(0.7, 3)))[..., None]
        out = out + rng.uniform(-0.2, 0.9) * rim * shows[..., None]
    return as_light(out.clip(0)), shows


def lens(pixels: np.ndarray, at: np.ndarray, size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with a bubble: a dark rim, bright lines beside it, grey or dull or clear inside."""
    inside = blob(at, size, rng)
    shows = connected(inside > 0, at)
    od = optical_density(pixels)
    soft = rng.uniform(0.3, 3)
    within = ndimage.gaussian_filter(od, (soft, soft, 0)) * rng.uniform(0.2, 1.1) + rng.choice([0, rng.uniform(0, 0.4)])
    wide = max(0.8, size * rng.uniform(0.01, 0.07))
    depth = inside + wide * noise(rng, size / 6 + 2) * rng.uniform(0, 0.4)
    within = within + (rng.uniform(0.15, 1.2) * np.exp(-np.square((depth - wide) / wide))
                       - rng.choice([0, 0.15]) * np.exp(-np.square((depth - 3 * wide) / wide)))[..., None]
    share = ndimage.gaussian_filter(shows.astype(np.float32), 0.5)[..., None]
    return as_light((od * (1 - share) + share * within).clip(0)), shows


def artifact(kind: str, pixels: np.ndarray, scenes: list[Scene], at: np.ndarray, size: float,
             rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with one artifact around (row, column) `at`, and where it lies."""
    if kind == "region":
        return region(pixels, tissue(scenes, rng), at, size, rng)
    if kind == "fold" and (rng.random() >= PAINTED or size < SMALLEST_PX):
        return laid(pixels, at, size, rng)
    if kind == "bubble" and (rng.random() < 0.6 or size < SMALLEST_PX):
        return lens(pixels, at, size, rng)
    out, mask = paint(kind, pixels, (int(at[1]), int(at[0])), max(SMALLEST_PX, round(size)), rng,
                      "strong" if rng.random() < 0.6 else "mild")
    return out, ndimage.binary_erosion(mask, iterations=MARGIN_PX, border_value=1)


def draw(scenes: list[Scene], rng: np.random.Generator) -> Sample:
    """A sample whose artifact covers some of the canvas, and not nearly all of it."""
    names, shares = list(KINDS), np.array(list(KINDS.values()))
    while True:
        pixels = tissue(scenes, rng)
        at = rng.uniform(0.3, 0.7, 2) * CANVAS_PX
        size = float(np.exp(rng.uniform(*np.log(SIZES_PX))))
        kind = rng.choice(names, p=shares / shares.sum())
        if rng.random() < BESIDE:
            for _ in range(rng.integers(1, 4)):
                another = kind if rng.random() < 0.5 else rng.choice(names)
                pixels, _ = artifact(another, pixels, scenes, rng.uniform(0, 1, 2) * (CANVAS_PX - 1),
                                     size * rng.uniform(0.5, 1.2), rng)
        out, truth = artifact(kind, pixels, scenes, at, size, rng)
        if 20 < truth.sum() < 0.7 * truth.size:
            return Sample(scanned(out, rng), truth)


def scanned(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels after a scanner's blur and JPEG, now and then."""
    if rng.random() < 0.3:
        soft = rng.uniform(0.3, 1.0)
        pixels = ndimage.gaussian_filter(pixels, (soft, soft, 0))
    if rng.random() < 0.5:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(50, 95)))
        pixels = np.asarray(Image.open(file))
    return pixels


# --------------------------------------------------------------------------------------------------------------------
# Prompts.

def depth_of(covered: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(np.pad(covered, 1))[1:-1, 1:-1]


def inner(covered: np.ndarray, rng: np.random.Generator, middle: float) -> tuple[float, float]:
    """A point (x, y) in a place: with a probability its most interior one, else one that is not at the edge."""
    depth = depth_of(covered)
    chosen = np.argwhere(depth >= (0.999 if rng.random() < middle else 0.35) * depth.max())
    row, column = chosen[rng.integers(len(chosen))]
    return float(column) + 0.5, float(row) + 0.5


def window(sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Pointed, np.ndarray | None]:
    """A window of a sample, WINDOW_PX a side: pixels, truth, prompts, and an earlier answer or None."""
    zoomed = rng.random() < 0.35                            # a part of an artifact whose rest was seen before
    ratio = np.exp(rng.uniform(*np.log(REDUCED))) if not zoomed or rng.random() < 0.5 else 1.0
    first = inner(sample.truth, rng, 0.5)
    rows, columns = (np.flatnonzero(sample.truth.any(axis=axis))[[0, -1]] for axis in (1, 0))
    if zoomed:
        at = np.argwhere(sample.truth ^ ndimage.binary_erosion(sample.truth, iterations=2))
        middle = at[rng.integers(len(at))]
    elif rng.random() < 0.5:
        middle = np.array(first[::-1])
    else:
        middle = np.array([rows.mean(), columns.mean()]) + rng.normal(0, 5, 2)
    side = round(WINDOW_PX * ratio)
    top, left = (int(np.clip(m - side / 2, 0, CANVAS_PX - side)) for m in middle)
    ratio, cut = side / WINDOW_PX, np.s_[top : top + side, left : left + side]
    pixels, truth = reduced(sample.pixels[cut]), reduced(255 * sample.truth[cut].view(np.uint8)) > 127
    if not truth.any():
        return window(sample, rng)
    points, not_points, boxes = [((first[0] - left) / ratio, (first[1] - top) / ratio)], [], []
    for _ in range(rng.choice([0, 0, 1, 2])):
        points.append(inner(truth, rng, 0.2))
    if rng.random() < 0.25:
        rim = ~truth & ~ndimage.binary_erosion(~truth, iterations=int(rng.integers(3, 20)))
        if rim.any():
            not_points.append(inner(rim, rng, 0.3))
    if rng.random() < 0.2:
        edges = np.array([columns[0] - left, rows[0] - top, columns[1] + 1 - left, rows[1] + 1 - top]) / ratio
        off = rng.normal(0, 0.04, 4) * max(edges[2:] - edges[:2])
        boxes = [tuple(edges + off)]
        points = [] if rng.random() < 0.6 else points
    before = earlier(truth, rng) if zoomed or rng.random() < 0.15 else None
    return pixels, truth, Pointed(points, not_points, boxes), before


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 (S, S) or (S, S, 3) at the window's size."""
    return np.asarray(Image.fromarray(pixels).resize((WINDOW_PX, WINDOW_PX), Image.Resampling.BOX))


def earlier(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An answer at a coarser scale, not quite right: float32, the truth's shape."""
    shifted = np.roll(truth, rng.integers(-2, 3, 2), (0, 1)).astype(np.float32)
    field = ndimage.gaussian_filter(shifted, rng.uniform(1, 4)) + rng.uniform(0, 0.25) * noise(
        rng, rng.uniform(2, 8))[: len(truth), : len(truth)]
    return 1 / (1 + np.exp(-rng.uniform(4, 12) * (field - rng.uniform(0.35, 0.65))))


@dataclass(frozen=True)
class Shown:
    """What the first classifier sees of a window, where paths begin in it, and the truth."""

    seen: np.ndarray
    seeds: np.ndarray
    truth: np.ndarray


def shown(sample: Sample, rng: np.random.Generator) -> Shown:
    pixels, truth, pointed, before = window(sample, rng)
    seeds = seeds_of(pointed.points, pointed.boxes, before, truth.shape)
    return Shown(features(pixels, pointed, before).astype(np.float16), seeds, truth)


def make(job: tuple[Path, int, int]) -> list[Shown]:
    """Some samples, painted and seen."""
    data, seed, count = job
    rng = np.random.default_rng(seed)
    clean = scenes(data, False)
    return [shown(sample, rng) for sample in (draw(clean, rng) for _ in range(count)) for _ in range(WINDOWS)]


def chosen(windows: Sequence[Shown], rng: np.random.Generator) -> list[np.ndarray]:
    """Of every window which pixels are learned from: half anywhere, half in the artifact and beside it."""
    found = []
    for one in windows:
        around = np.flatnonzero(ndimage.binary_dilation(one.truth, iterations=4))
        found.append(np.concatenate([rng.integers(one.truth.size, size=PIXELS), rng.choice(around, PIXELS)]))
    return found


def learned(rows: np.ndarray, truth: np.ndarray, name: str, seed: int) -> dict[str, np.ndarray]:
    """The layers of a classifier of rows (N, F), which are standardised by its first layer."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    net = MLPClassifier(HIDDEN, alpha=1e-4, batch_size=512, learning_rate_init=3e-3, max_iter=EPOCHS, tol=0,
                        n_iter_no_change=EPOCHS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # that it has not converged
        net.fit(((rows - mean) / spread).astype(np.float32), truth)
    print(f"{name}: loss {net.loss_:.3f}", flush=True)
    weights = {f"{name}.{n}.weight": weight for n, weight in enumerate(net.coefs_)}
    weights |= {f"{name}.{n}.bias": bias for n, bias in enumerate(net.intercepts_)}
    weights[f"{name}.0.bias"] = weights[f"{name}.0.bias"] - (mean / spread) @ net.coefs_[0]
    weights[f"{name}.0.weight"] = net.coefs_[0] / spread[:, None]
    return {key: value.astype(np.float32) for key, value in weights.items()}


def fit(windows: Sequence[Shown], seed: int) -> dict[str, np.ndarray]:
    """The layers of both classifiers."""
    rng = np.random.default_rng(seed)
    at = chosen(windows, rng)
    truth = np.concatenate([one.truth.ravel()[pixels] for one, pixels in zip(windows, at, strict=True)])
    rows = np.concatenate([one.seen.reshape(-1, one.seen.shape[2])[pixels] for one, pixels in
                           zip(windows, at, strict=True)]).astype(np.float32)
    weights = learned(rows, truth, "first", seed)
    around = []
    for one, pixels in zip(windows, at, strict=True):
        first = classified(one.seen.astype(np.float32), weights, "first")
        around.append(context(first, one.seeds).reshape(one.truth.size, -1)[pixels])
    return weights | learned(np.concatenate([rows, np.concatenate(around)], axis=1), truth, "second", seed)


def report(windows: Sequence[Shown], weights: dict[str, np.ndarray]) -> float:
    """Mean IoU over windows."""
    ious = []
    for one in windows:
        seen = one.seen.astype(np.float32)
        first = classified(seen, weights, "first")
        found = classified(np.concatenate([seen, context(first, one.seeds)], axis=2), weights, "second") > 0.5
        ious.append((found & one.truth).sum() / max(1, (found | one.truth).sum()))
    return float(np.mean(ious))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists; name another file")
    jobs = [(given.data, 1000 * given.seed + n, given.samples // JOBS) for n in range(JOBS)]
    with Pool(given.processes) as pool:
        parts = list(pool.imap(make, jobs))
    held_out = [one for part in parts[: JOBS // 6] for one in part]
    windows = [one for part in parts[JOBS // 6 :] for one in part]
    weights = fit(windows, given.seed)
    save_file(weights, given.out)
    print(f"{len(windows)} windows; IoU {report(windows[:200], weights):.3f}, "
          f"of others {report(held_out, weights):.3f}")


if __name__ == "__main__":
    main()
