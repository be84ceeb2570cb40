"""Train the network that finds what a person points at (artifusion/detection/clicks.py).

    python tools/train_prompts.py ../shared/data/train OUT.safetensors [--samples 2500 --minutes 25]

DATA holds the training folders of configs/train/he-small.toml. Each sample is a canvas of clean tissue at any scale
with one artifact, now and then beside others that are not meant, and the truth is that artifact alone. Half of the
folds are those of `artifusion damage`; the others, and regions that differ from their surroundings in any way, are
made here. Prompts are simulated: a click in the middle or anywhere inside, more clicks and not-clicks where the network
itself is wrong, boxes a little off, and an earlier answer, coarse and not quite right.

Never seen: the validation split, and slides of the atlas that judge (HELD_OUT).
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from artifusion.config import TrainConfig, load_config
from artifusion.damage.spots import MARGIN_PX, SMALLEST_PX, paint
from artifusion.detection import folds
from artifusion.detection.clicks import Pointed, PromptNet, network_input
from artifusion.slide.tissue import GLASS_OD, optical_density
from artifusion.training.corpus import first_key, is_validation
from artifusion.training.tiles import find_images

CANVAS_PX, WINDOW_PX = 160, 64
REDUCED = (1.0, 2.4)                # canvas pixels per window pixel
SCALES_UM = (0.5, 12.0)
SIZES_PX = (20, 220)                # of an artifact, longest side
KINDS = {"fold": 0.55, "region": 0.14, "bubble": 0.15, "pen": 0.05, "dark": 0.05, "thread": 0.03, "blur": 0.03}
PAINTED = 0.3                       # of the folds: those of `artifusion damage`
BESIDE = 0.45                       # of the samples: with artifacts that are not meant
BATCH = 24
RATE = 4e-3
AVERAGED = 0.99             # of the weights, at every batch
MOST_PX = 3000                      # longest side of an image that is kept in memory
HELD_OUT = ("anthracosis", "chronicpyelonephritis", "liver-hemangioma", "ganglioneuroma", "hodgkin",
            "lung-squamous-cell-carcinoma", "pilocytic-astrocytoma")


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


def scenes(data: Path, validation: bool) -> list[Scene]:
    config = load_config(TrainConfig, "train", "he-small").data
    found = []
    for path in find_images([data]):
        name = path.relative_to(data).as_posix().removeprefix("patolojiatlasi/")
        if is_validation(name, config) != validation or name.startswith(HELD_OUT):
            continue
        um = config.spacing_um.get(first_key(config.spacing_um, path.as_posix()) or "", 0.5)
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
            return light(od)


def light(od: np.ndarray) -> np.ndarray:
    return (256 * 10**-od - 1).clip(0, 255).round().astype(np.uint8)


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
    return light(out), shows & (ndimage.gaussian_filter(above.mean(axis=2), 4) > GLASS_OD)


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
    return light(out.clip(0)), shows


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
    return light((od * (1 - share) + share * within).clip(0)), shows


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
        near = ~truth & ~ndimage.binary_erosion(~truth, iterations=int(rng.integers(3, 20)))
        if near.any():
            not_points.append(inner(near, rng, 0.3))
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


def batch(samples: list[Sample], net: PromptNet, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """What the network sees, (B, INPUTS, H, W), and the truth, (B, 1, H, W); a part after a click on its own error."""
    windows = [window(samples[number], rng) for number in rng.integers(len(samples), size=BATCH)]
    x = torch.from_numpy(np.stack([network_input(pixels, pointed, before) for pixels, _, pointed, before in windows]))
    truth = torch.from_numpy(np.stack([truth for _, truth, *_ in windows]))[:, None]
    if rng.random() < 0.35:
        net.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = (net(x.contiguous(memory_format=torch.channels_last)) > 0).numpy()[:, 0]
        net.train()
        for number, (pixels, true, pointed, before) in enumerate(windows):
            missing, surplus = depth_of(true & ~found[number]), depth_of(found[number] & ~true)
            worst = missing if missing.max() >= surplus.max() else surplus
            if worst.max() > 1:
                row, column = np.unravel_index(worst.argmax(), worst.shape)
                click = [(float(column) + 0.5, float(row) + 0.5)]
                pointed = Pointed([*pointed.points, *(click if worst is missing else [])],
                                  [*pointed.not_points, *(click if worst is surplus else [])], pointed.boxes)
                x[number] = torch.from_numpy(network_input(pixels, pointed, before))
    turn, mirror = int(rng.integers(4)), rng.random() < 0.5
    x, truth = (t.rot90(turn, (2, 3)).flip(3) if mirror else t.rot90(turn, (2, 3)) for t in (x, truth))
    return x.contiguous(), truth.contiguous().float()


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of every window (Milletari et al. 2016)."""
    found = torch.sigmoid(logits)
    both = (found * truth).flatten(1).sum(1)
    dice = (2 * both + 10) / (found.flatten(1).sum(1) + truth.flatten(1).sum(1) + 10)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - dice).mean()


def fit(net: PromptNet, samples: list[Sample], minutes: float, rng: np.random.Generator, out: Path
        ) -> tuple[PromptNet, int]:
    """Train for so many minutes of processor time; returns the moving average of the weights and the batches.

    The average is kept in OUT.part once a minute.
    """
    averaged, kept = copy.deepcopy(net).eval(), 0
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    begun, steps, mean = time.process_time(), 0, 1.5
    line = tqdm(desc="learning", unit="batch", mininterval=20)
    while (done := (time.process_time() - begun) / (60 * minutes)) < 1:
        rate = RATE * min(1.0, steps / 60) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, truth = batch(samples, net, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps, mean = steps + 1, 0.98 * mean + 0.02 * loss.item()
        with torch.no_grad():
            share = max(1 - AVERAGED, 1 / steps)
            for slow, fast in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
                if slow.is_floating_point():
                    slow.lerp_(fast, share)
        if int(done * minutes) > kept:
            kept = int(done * minutes)
            save(averaged, out.with_name(f"{out.name}.part"))
        line.set_postfix(loss=f"{mean:.3f}", done=f"{done:.0%}", refresh=False)
        line.update()
    return averaged, steps


def begin(net: PromptNet, weights: dict[str, Tensor]) -> None:
    """Take over what fits, of the first convolution the channels that both have: the fold network knows folds."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            known = weights.get(name)
            if known is not None and known.shape == value.shape:
                value.copy_(known)
            elif known is not None and known.shape[0] == value.shape[0]:
                value[:, : known.shape[1]] = known


def save(net: PromptNet, path: Path) -> None:
    save_file({name: (value.half() if value.is_floating_point() else value).contiguous()
               for name, value in net.state_dict().items()}, path)


@torch.inference_mode()
def report(net: PromptNet, samples: list[Sample], rng: np.random.Generator) -> None:
    ious = []
    for sample in samples:
        pixels, truth, pointed, before = window(sample, rng)
        found = net(torch.from_numpy(network_input(pixels, pointed, before))[None])[0, 0].numpy() > 0
        ious.append((found & truth).sum() / max(1, (found | truth).sum()))
    print(f"validation: IoU {np.mean(ious):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=25, help="of processor time, for learning")
    parser.add_argument("--samples", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="a file to go on from; give another seed, for other samples")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists; name another file")
    Image.MAX_IMAGE_PIXELS = None
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    training, held_out = scenes(given.data, False), scenes(given.data, True)
    samples = [draw(training, rng) for _ in tqdm(range(given.samples), desc="painting", unit="sample", mininterval=20)]
    unseen = [draw(held_out, rng) for _ in range(100)]
    net = PromptNet().to(memory_format=torch.channels_last)
    begin(net, load_file(given.init) if given.init else folds.network().state_dict())
    net, steps = fit(net, samples, given.minutes, rng, given.out)
    save(net, given.out)
    print(f"{steps} batches of {BATCH}")
    report(net, unseen, rng)


if __name__ == "__main__":
    main()
