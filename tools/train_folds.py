"""Train the network that sees folds (artifusion/detection/folds.py) on folds laid on clean tissue.

    python tools/train_folds.py ../shared/data/train OUT.safetensors [--steps 2000 --samples 2000]

DATA holds the training folders of configs/train/he-small.toml; images of its validation split are only used to report
Dice, at the end. Each sample is a square of SIDE_UM of clean tissue, now and then made up, often of two kinds side by
side (dense tissue beside light is no fold), with folds, or other artifacts, or both or none. Folds are those of
`artifusion damage`, or plain strips laid double. The same samples are seen again and again, turned, at other scales and
a little differently stained.
"""

from __future__ import annotations

import argparse
import sys
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
from artifusion.damage import artifacts
from artifusion.damage.spots import MARGIN_PX, SIZES_UM, Strength, paint
from artifusion.detection.folds import MULTIPLE, FoldNet, resized
from artifusion.detection.network import CPU, network_input
from artifusion.detection.signs import Look, look_of
from artifusion.device import autocast
from artifusion.slide.tissue import GLASS_OD, optical_density
from artifusion.training.corpus import is_validation
from artifusion.training.tiles import find_images

SIDE_UM = 256               # of a sample, at 1 um per pixel
FOLDS_UM = (100, 360)       # longest sides; real ones are of all sizes
OTHERS = ("pen", "pen", "pen", "bubble", "dark", "dust", "thread", "blur")
MADE_UP = 0.08              # of the squares: no real tissue, so that real texture is no condition
EOSIN, NUCLEAR = (0.06, 0.20, 0.11), (0.33, 0.48, 0.20)     # optical densities of what is made up
WITH_OTHERS, WITHOUT_FOLD, WITH_TWO, WITH_GRAFT = 0.5, 0.3, 0.2, 0.6
STRIPS = 0.35               # of the folds: plain strips of the tissue laid on itself, often across the whole square
STRIPS_UM = (15, 170)       # wide
LAYERS = (0.6, 1.3)         # of density added to that of the tissue below
ALONE = 0.5                 # of the squares: seen as whole pictures, so that folds and lack of glass change their look
DENSER = (0.8, 2.5)         # a graft than what it lies in
BANDS = 0.4                 # of the grafts
SCALES_UM = (1.7, 9.0)      # per pixel, before squares are cut to a MULTIPLE: 1.8 to 10.7
REPORTED_UM = (2.0, 4.0, 8.0)
BATCH = 16
RATE = 5e-3
SOURCES = ("brecahad", "osteosarcoma", "tnbc", "her2st")
SEVERAL = {"her2st": 20.0}  # whole sections: drawn from as often as so many small images


@dataclass(frozen=True)
class Scene:
    """Clean tissue at 1 um per pixel, uint8 (H, W, 3), and its look."""

    pixels: np.ndarray
    look: Look
    weight: float


@dataclass(frozen=True)
class Sample:
    """uint8 (S, S, 3) at 1 um per pixel, where folds lie in it, bool (S, S), and the look of its image."""

    pixels: np.ndarray
    truth: np.ndarray
    look: Look


def scenes(data: Path, validation: bool) -> list[Scene]:
    config = load_config(TrainConfig, "train", "he-small").data
    found = []
    for path in find_images([data / folder for folder in SOURCES]):
        folder = path.parent.name
        if is_validation(f"{folder}/{path.name}", config) == validation:
            image = Image.open(path).convert("RGB")
            size = [max(1, round(side * config.spacing_um[folder])) for side in image.size]
            pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
            look = look_of([middle(pixels)], 1.0, any_stain=True)
            pad = [(0, max(0, SIDE_UM - side)) for side in pixels.shape[:2]]
            found.append(Scene(np.pad(pixels, (*pad, (0, 0)), "symmetric"), look, SEVERAL.get(folder, 1.0)))
    return found


def middle(pixels: np.ndarray, most: int = 1500) -> np.ndarray:
    top, left = (max(0, side - most) // 2 for side in pixels.shape[:2])
    return pixels[top : top + most, left : left + most]


def piece(scenes: list[Scene], rng: np.random.Generator) -> tuple[np.ndarray, Look, np.ndarray]:
    """A square of clean tissue, the look of its image, and the places (N, 2) that are no glass."""
    if rng.random() < MADE_UP:
        pixels = made_up(rng)
        return pixels, look_of([pixels], 1.0, any_stain=True), np.argwhere(np.ones(pixels.shape[:2], bool))
    weights = np.array([scene.weight for scene in scenes])
    while True:
        scene = scenes[rng.choice(len(scenes), p=weights / weights.sum())]
        y, x = (rng.integers(side - SIDE_UM + 1) for side in scene.pixels.shape[:2])
        pixels = scene.pixels[y : y + SIDE_UM, x : x + SIDE_UM]
        density = ndimage.gaussian_filter(optical_density(pixels).mean(axis=2), 3) - np.mean(scene.look.glass)
        tissue = np.argwhere(density > GLASS_OD)
        if len(tissue) > SIDE_UM**2 / 4:
            return pixels, scene.look, tissue


def made_up(rng: np.random.Generator) -> np.ndarray:
    """Round nuclei of one size on a ground of one colour, uneven and noisy: uint8 (S, S, 3)."""
    ground, nucleus = (np.array(colour) * rng.uniform(0.6, 1.6) * rng.uniform(0.85, 1.15, 3)
                       for colour in (EOSIN, NUCLEAR))
    field = rng.standard_normal((2, SIDE_UM, SIDE_UM))
    radius = rng.uniform(2, 5)
    spread = ndimage.gaussian_filter((rng.random(field.shape[1:]) < rng.uniform(0.02, 0.1) / radius**2) * 1.0, radius)
    uneven = ndimage.gaussian_filter(field[0], rng.uniform(5, 40))
    uneven *= rng.uniform(0, 0.2) / uneven.std()
    density = np.where(spread[..., None] > 0.08 / radius**2, nucleus, ground) * (1 + uneven)[..., None]
    return (255 * 10**-density + rng.uniform(0, 6) * field[1][..., None]).clip(0, 255).round().astype(np.uint8)


def grafted(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tissue with places of other tissue, or bands of it, mostly denser, behind an uneven border, sharp or soft."""
    field = ndimage.gaussian_filter(rng.standard_normal(pixels.shape[:2]), rng.uniform(8, 50))
    field = -abs(field) if rng.random() < BANDS else field
    share = (field > np.quantile(field, rng.uniform(0.5, 0.85))).astype(np.float32)
    share = ndimage.gaussian_filter(share, rng.uniform(0.3, 4))[..., None]
    od, other_od = optical_density(pixels), optical_density(other)
    other_od = other_od * (rng.uniform(*DENSER) * od.mean() / max(0.05, other_od.mean()))
    return (255 * 10 ** -((1 - share) * od + share * other_od)).clip(0, 255).round().astype(np.uint8)


def strip(pixels: np.ndarray, at: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with a straight strip of it, through (row, column) `at`, laid double, and what shows: bool (S, S)."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    y, x = np.mgrid[:SIDE_UM, :SIDE_UM] - at[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    half = np.exp(rng.uniform(*np.log(STRIPS_UM))) / 2
    reach = SIDE_UM if rng.random() < 0.6 else rng.uniform(1, 4) * half
    ragged = ndimage.gaussian_filter1d(rng.standard_normal(2 * SIDE_UM), rng.uniform(2, 20), mode="wrap")
    ragged *= rng.choice([0, rng.uniform(0, 0.3)]) * half / ragged.std()
    covered = (abs(across + ragged[along.astype(int) % len(ragged)]) < half) & (abs(along) < reach)
    od = optical_density(pixels)
    above = (od - artifacts.MOUNTANT_OD).clip(0)
    if rng.random() < 0.5:
        above = np.roll(above, rng.integers(-40, 41, 2), (0, 1))
    od = od + covered[..., None] * rng.uniform(*LAYERS) * above
    shows = covered & (ndimage.gaussian_filter(above.mean(axis=2), 6) > GLASS_OD)
    return (255 * 10**-od).clip(0, 255).round().astype(np.uint8), shows


def draw(scenes: list[Scene], rng: np.random.Generator) -> Sample:
    pixels, look, tissue = piece(scenes, rng)
    truth = np.zeros(pixels.shape[:2], bool)
    if rng.random() < WITH_GRAFT:
        pixels = grafted(pixels, piece(scenes, rng)[0], rng)

    def add(kind: str, size_um: float) -> np.ndarray:
        nonlocal pixels
        row, column = tissue[rng.integers(len(tissue))]
        strength: Strength = "strong" if rng.random() < 0.7 else "mild"
        pixels, mask = paint(kind, pixels, (int(column), int(row)), round(size_um), rng, strength)
        return ndimage.binary_erosion(mask, iterations=MARGIN_PX, border_value=1)

    if rng.random() < WITH_OTHERS:
        kind = OTHERS[rng.integers(len(OTHERS))]
        add(kind, rng.uniform(0.6, 1.3) * float(np.mean(SIZES_UM[kind])))
    if rng.random() >= WITHOUT_FOLD:
        for _ in range(2 if rng.random() < WITH_TWO else 1):
            if rng.random() < STRIPS:
                pixels, shows = strip(pixels, tissue[rng.integers(len(tissue))], rng)
                truth |= shows
            else:
                truth |= add("fold", rng.uniform(*FOLDS_UM))
    if rng.random() < ALONE:
        look = look_of([pixels], 1.0, any_stain=True)
    return Sample(pixels, truth, look)


def shown(samples: list[Sample], um: float) -> tuple[Tensor, Tensor]:
    """What the network sees of samples at um per pixel, (N, 3, S, S), and where folds lie, (N, 1, S, S) in 0..1."""
    side = int(SIDE_UM / um) // MULTIPLE * MULTIPLE

    x = torch.cat([network_input(resized(sample.pixels, side, side), sample.look) for sample in samples])
    truth = torch.from_numpy(np.stack([sample.truth for sample in samples]))[:, None].float()
    return x, F.interpolate(truth, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and soft Dice (Milletari et al. 2016)."""
    found = torch.sigmoid(logits)
    dice = (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice


def fit(net: FoldNet, samples: list[Sample], steps: int, rng: np.random.Generator) -> FoldNet:
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    for _ in (line := tqdm(range(steps), desc="learning", unit="batch")):
        chosen = [samples[number] for number in rng.integers(len(samples), size=BATCH)]
        x, truth = shown(chosen, float(np.exp(rng.uniform(*np.log(SCALES_UM)))))
        stain = rng.normal(0, 0.12, (BATCH, 1, 1, 1)) + rng.normal(0, 0.06, (BATCH, 3, 1, 1))
        x = x * torch.from_numpy(np.exp(stain).astype(np.float32))
        turn, mirror = int(rng.integers(4)), rng.random() < 0.5
        x, truth = (t.rot90(turn, (2, 3)).flip(3) if mirror else t.rot90(turn, (2, 3)) for t in (x, truth))
        with autocast(CPU):
            logits = net(x.contiguous())
        loss = loss_of(logits.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        line.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return net.eval()


@torch.inference_mode()
def report(net: FoldNet, samples: list[Sample]) -> None:
    for um in REPORTED_UM:
        x, truth = shown(samples, um)
        found, true = net(x) > 0, truth > 0.5
        dice = 2 * (found & true).sum() / (found.sum() + true.sum())
        clean = found[~true.flatten(1).any(1)].float().mean()
        print(f"validation, {um} um/px: Dice {dice:.3f}; of the samples without a fold {clean:.2%} is found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="batches")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="a file to go on from; give another seed, for other samples")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists; name another file")
    Image.MAX_IMAGE_PIXELS = None
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    training, held_out = scenes(given.data, False), scenes(given.data, True)
    samples = [draw(training, rng) for _ in tqdm(range(given.samples), desc="laying folds", unit="sample")]
    net = FoldNet()
    if given.init:
        net.load_state_dict(load_file(given.init))
    net = fit(net, samples, given.steps, rng)
    save_file({name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()},
              given.out)
    report(net, [draw(held_out, rng) for _ in range(200)])


if __name__ == "__main__":
    main()
