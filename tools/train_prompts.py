"""Train the network that finds what a person points at (artifusion/detection/clicks.py).

    python -m tools.train_prompts ../shared/data/train SAMPLES ... OUT.safetensors [--seconds 1300 --init BEFORE]

DATA holds the training folders of configs/train/he-small.toml. Each sample is a canvas of clean tissue at any scale
with one artifact, now and then beside others that are not meant, and the truth is that artifact alone. Some are those
of `artifusion damage`; folds of other kinds, bubbles, and regions that differ from their surroundings in any way are
made here. SAMPLES are folders of tools/detector_samples.py, whose artifacts, laid or of real slides, are learned from
as well. Prompts are simulated: a click anywhere inside or a box a little off, then clicks and not-clicks where the
network was most wrong, which sees its former answer; and, to draw an artifact finer, an answer that is coarser.

Never seen: the validation split, and slides of the atlas that judge.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM, TrainConfig, load_config
from artifusion.damage.spots import MARGIN_PX, SMALLEST_PX, paint
from artifusion.detection.clicks import FINER, INPUTS, Pointed, prompt_maps
from artifusion.detection.network import CPU, ArtifactNet
from artifusion.device import autocast
from artifusion.mask.classes import CLASSES
from artifusion.slide.tissue import DENSITIES, GLASS_OD, optical_density
from artifusion.training.corpus import first_match, is_validation
from artifusion.training.tiles import find_images
from benchmarks.quality.labelled import judging_cases
from tools.detector_samples import IGNORED, SIDE_PX
from tools.laid_artifacts import as_light
from tools.train_detector import Recipe, fit, save_halves

CANVAS_PX = SIDE_PX
WINDOW_PX = 64                      # side of the answer; what goes in is FINER times as large
SCALES_UM = (0.5, 12.0)
SIZES_PX = (20, 220)                # of an artifact, longest side
KINDS = {"fold": 0.55, "region": 0.14, "bubble": 0.15, "pen": 0.05, "dark": 0.05, "thread": 0.03, "blur": 0.03}
PAINTED = 0.3                       # of the folds: those of `artifusion damage`
BESIDE = 0.45                       # of the samples: with artifacts that are not meant
MOST_PX = 3000                      # longest side of an image that is kept in memory
BATCH = 32
ODDS = {"fold": 1.0, "bubble": 1.0, "pen": 0.8, "blur": 0.4, "dark": 0.8, "dust": 0.5, "other": 0.5}
DRAWN_HERE, REAL = 2.0, 4.0         # times as often as an artifact that tools/laid_artifacts.py laid
ROOM, ROOM_FINER = (0.7, 9.0), (0.25, 1.4)          # a window's side over the artifact's longest
FINER_SHARE, BOX_SHARE = 0.3, 0.2
ROUNDS = (0.55, 0.25, 0.2)          # shares of batches with no, one and two further clicks


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
# Windows and prompts.

@dataclass(frozen=True)
class Artifact:
    """Pixels uint8 (S, S, 3), where one artifact lies, bool (S, S), where nobody knows, bool, and its odds."""

    pixels: np.ndarray
    truth: np.ndarray
    unknown: np.ndarray
    odds: float


@dataclass
class Window:
    """What the network sees of an artifact, (3, 2 W, 2 W), the truth and what is unknown, bool (W, W), and prompts."""

    density: Tensor
    truth: np.ndarray
    unknown: np.ndarray
    pointed: Pointed
    before: np.ndarray
    is_finer: bool


def artifacts_of(folders: Iterable[Path]) -> list[Artifact]:
    """The artifacts of what tools/detector_samples.py kept, each connected place one."""
    found = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.npz"))):
        part = np.load(path)
        for pixels, ids, what in zip(part["pixels"], part["truth"], part["what"], strict=True):
            real = what.startswith("place") and what != "place normal"
            for name, value in CLASSES.items():
                labels, count = ndimage.label(ids == value, np.ones((3, 3)))
                for number in range(1, count + 1):
                    truth = labels == number
                    if 30 <= np.count_nonzero(truth) <= 0.8 * truth.size:
                        found.append(Artifact(pixels, truth, ids == IGNORED, ODDS[name] * (REAL if real else 1.0)))
    return found


def window(artifact: Artifact, rng: np.random.Generator) -> Window:
    """A window over a random part of an artifact, turned and stained anew, with a first prompt."""
    is_finer = rng.random() < FINER_SHARE
    side_px = artifact.truth.shape[0]
    rows, columns = np.nonzero(artifact.truth)
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(np.clip(longest * np.exp(rng.uniform(*np.log(ROOM_FINER if is_finer else ROOM))), 20, side_px))
    at = rng.integers(len(rows))
    top, left = (int(np.clip(place - side * rng.beta(3, 3), 0, side_px - side)) for place in (rows[at], columns[at]))
    cut, turn, mirror = np.s_[top : top + side, left : left + side], int(rng.integers(4)), rng.random() < 0.5
    sampled = ((np.arange(WINDOW_PX) + 0.5) * side / WINDOW_PX).astype(int)

    def turned(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(values[:, ::-1] if mirror else values, turn))

    truth, unknown = (turned(values[cut])[sampled][:, sampled] for values in (artifact.truth, artifact.unknown))
    gain = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.1, 3))
    density = (DENSITIES[turned(artifact.pixels[cut])] * gain + rng.normal(0, 0.01)).astype(np.float32)
    shown = F.interpolate(torch.from_numpy(density).permute(2, 0, 1)[None], size=(FINER * WINDOW_PX,) * 2,
                          mode="bilinear", antialias=side >= FINER * WINDOW_PX, align_corners=False)[0]
    before = np.zeros(truth.shape, np.float32)
    if is_finer:
        soft = ndimage.gaussian_filter(artifact.truth.astype(np.float32), rng.integers(2, 7) * rng.uniform(0.3, 0.9))
        soft = ndimage.shift(soft[cut], rng.normal(0, 0.5, 2), order=1, mode="nearest")
        before = np.clip(turned(soft)[sampled][:, sampled] * rng.uniform(0.7, 1.2) + rng.normal(0, 0.05), 0, 1)
    return Window(shown, truth, unknown, first_prompt(truth, rng, is_finer), before.astype(np.float32), is_finer)


def first_prompt(truth: np.ndarray, rng: np.random.Generator, is_finer: bool) -> Pointed:
    """A click, or a box a little off; where an artifact is drawn finer the click may lie outside the window."""
    if not truth.any() or (is_finer and rng.random() < 0.3):
        return Pointed()
    if is_finer or rng.random() >= BOX_SHARE:
        return Pointed([deep(truth, rng)])
    rows, columns = (np.flatnonzero(truth.any(axis=axis)) for axis in (1, 0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    sides = np.tile(edges[2:] - edges[:2], 2)
    return Pointed(boxes=[tuple(edges + rng.normal(0, 0.04, 4) * sides)])


def deep(place: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A point (x, y) in a place: often its most interior one."""
    depth = ndimage.distance_transform_edt(np.pad(place, 1))[1:-1, 1:-1]
    chosen = np.argwhere(depth >= depth.max() * (1 if rng.random() < 0.4 else rng.uniform(0.3, 1)))
    row, column = chosen[rng.integers(len(chosen))]
    return float(column) + 0.5, float(row) + 0.5


def corrected(one: Window, answer: np.ndarray, rng: np.random.Generator) -> None:
    """Give a window a further prompt where an answer is most wrong, and the answer."""
    found = answer > 0.5
    missing, surplus = one.truth & ~found, found & ~one.truth & ~one.unknown
    points, not_points = list(one.pointed.points), list(one.pointed.not_points)
    if missing.any() and missing.sum() >= surplus.sum():
        points.append(deep(missing, rng))
    elif surplus.any():
        not_points.append(deep(surplus, rng))
    one.pointed, one.before = Pointed(points, not_points, one.pointed.boxes), answer


def batch_of(windows: list[Window]) -> Tensor:
    """The network's input for windows: (B, 7, 2 W, 2 W)."""
    maps = []
    for one in windows:
        prompts = prompt_maps(one.density.shape[1:], one.pointed)
        prompts[-1] = one.before.repeat(FINER, 0).repeat(FINER, 1)
        maps.append(torch.cat([one.density, torch.from_numpy(prompts)]))
    return torch.stack(maps).contiguous(memory_format=torch.channels_last)


def loss_of(logits: Tensor, windows: list[Window]) -> Tensor:
    """Cross-entropy, and soft Dice of each window, where the truth is known (Milletari et al. 2016)."""
    known = torch.from_numpy(np.stack([~one.unknown for one in windows])).float()
    truth = torch.from_numpy(np.stack([one.truth for one in windows])).float() * known
    entropy = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known).sum() / known.sum()
    found = torch.sigmoid(logits) * known
    dice = (2 * (found * truth).sum((1, 2)) + 1) / (found.sum((1, 2)) + truth.sum((1, 2)) + 1)
    return entropy + (1 - dice).mean()


def answers(net: ArtifactNet, windows: list[Window]) -> Tensor:
    """The network's logits for windows, (B, W, W)."""
    with autocast(CPU):
        logits: Tensor = net(batch_of(windows))
    return logits.float()[:, 0]


def loss_of_batch(net: ArtifactNet, artifacts: list[Artifact], odds: np.ndarray, rng: np.random.Generator) -> Tensor:
    """The loss of a batch of windows, after further prompts where the network was wrong."""
    drawn = [window(artifacts[n], rng) for n in rng.choice(len(artifacts), BATCH, p=odds)]
    windows = [one for one in drawn if one.truth.any()]
    for _ in range(rng.choice(len(ROUNDS), p=ROUNDS)):
        net.eval()
        with torch.no_grad():
            found = torch.sigmoid(answers(net, windows)).numpy()
        net.train()
        for one, answer in zip(windows, found, strict=True):
            if not one.is_finer:
                corrected(one, answer, rng)
    return loss_of(answers(net, windows), windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("samples", type=Path, nargs="*")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=6000, help="of samples that are made here")
    parser.add_argument("--seconds", type=float, default=1300)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists; name another file")
    torch.manual_seed(given.seed)
    rng, clean = np.random.default_rng(given.seed), scenes(given.data, False)
    artifacts = artifacts_of(given.samples)
    for _ in tqdm(range(given.count), desc="laying artifacts"):
        sample = draw(clean, rng)
        artifacts.append(Artifact(sample.pixels, sample.truth, np.zeros_like(sample.truth), DRAWN_HERE))
    net = ArtifactNet(len(INPUTS), 1)
    if given.init:
        net.load_state_dict(load_file(given.init))
    odds = np.array([one.odds for one in artifacts])
    loss = partial(loss_of_batch, net, artifacts, odds / odds.sum(), rng)
    save_halves(fit(net, loss, Recipe(given.seconds, given.rate, 0.04, 1e-2, 2.0)), given.out)


if __name__ == "__main__":
    main()
