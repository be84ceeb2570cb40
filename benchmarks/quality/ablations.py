"""What each choice in the denoiser and its training is worth: small runs of equal time on equal data.

    python -m benchmarks.quality.ablations TRAIN_FOLDER [--minutes 3.5] [--seeds 2] [--only NAMES]
        [--json FILE] [--docs FILE]

Every variant is a reduced denoiser that differs from the reduced ours in one choice. All learn from the training split
of he-small for so many minutes of processor time (so that other work on the machine takes nothing from them), all are
judged at 128 px on its validation split, and variants of one seed and one crop see the same crops in the same order:

error     the trainer's own figure: squared error of the clean image in held-out holes over the mean fill's, per noise
          level; the headline is the geometric mean over the levels 0.1 to 0.9
texture   gradient energy over the truth's, over two artifact-shaped holes in each of 48 held-out crops, all together;
          painted in 10 evaluations, nothing grafted
stain     Wasserstein distance of the haematoxylin and of the eosin densities in these holes, crop by crop, over the
          truth's standard deviation, both summed over the crops; the mean of the two stains
auc, kid  how well a linear probe tells 64 px crops of these holes from the truth, and their kernel distance, as
          `artifusion evaluate` measures them, both stored as JPEG

Runs are added to the JSON one by one, all variants of a seed before those of the next; the same command goes on where
it was stopped. The page shows the runs that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from artifusion import __version__
from artifusion.checkpoint import Weights
from artifusion.config import DenoiserConfig, RestoreConfig, TargetConfig, TrainConfig, load_config
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.evaluation.features import OWN, NetworkSpace, hole_crops
from artifusion.evaluation.measures import as_stored, stain_distances
from artifusion.evaluation.methods import PLAIN, gflop_per_evaluation
from artifusion.evaluation.probe import auc, detectability, kid
from artifusion.restorer import Restorer
from artifusion.training.batches import batches
from artifusion.training.corpus import Corpus, is_validation
from artifusion.training.distributed import Group
from artifusion.training.held_out import HeldOut, held_out_crops, level_errors
from artifusion.training.holes import artifact_hole
from artifusion.training.run import learning_rate
from artifusion.training.shards import read_tiles
from artifusion.training.state import Trainer
from artifusion.training.tiles import find_images
from benchmarks.quality.ablation_networks import (
    AdaptiveNorms,
    ConvolutionalTop,
    ConvolutionalUNet,
    ShiftedGrid,
    TokenAlone,
)
from benchmarks.quality.ablation_page import Run, page
from benchmarks.quality.gradients import gradient_energy

JUDGED_PX = 128
HOLES, EVALUATIONS = 2, 10           # of a held-out crop; of a canvas, as for the runs that are there
BATCH_PX = 16 * 64**2               # pixels of a batch, about, whatever the crop
WARMUP_STEPS = 32
SEED_OF_HOLES = 11
REFERENCES = {"mean fill": "mean", "Telea": "telea"}    # title -> name in artifusion.evaluation.methods

Paint = Callable[[np.ndarray, np.ndarray, float], np.ndarray]       # truth, hole, um per pixel -> filled

OURS = {"pixel_dim": 24, "dims": (32, 96, 192), "heads": (1, 3, 6), "depths": (2, 2, 2), "window_sizes": (8, 4, 4),
        "time_dim": 64}


@dataclass(frozen=True)
class Variant:
    """What is asked, the answer that is tried, and how it differs from ours."""

    question: str
    answer: str
    denoiser: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)
    crop_px: int = 64
    network: type[SwinDenoiser] = SwinDenoiser

    def config(self, seed: int) -> TrainConfig:
        given = load_config(TrainConfig, "train", "he-small")
        batch = round(BATCH_PX / self.crop_px**2)
        return TrainConfig(
            name="ablation", seed=seed, denoiser=DenoiserConfig(**{**OURS, **self.denoiser}),
            targets=TargetConfig(**self.targets),
            data=given.data.model_copy(update={"crop_px": self.crop_px, "other_crops_px": {}}),
            batch_size=batch, warmup_crops=WARMUP_STEPS * batch)


VARIANTS = {
    "ours": Variant("", "ours, reduced"),
    "token": Variant("noise level", "time token alone", network=TokenAlone),
    "adaln": Variant("noise level", "adaptive layer norm instead of the token", network=AdaptiveNorms),
    "noise": Variant("prediction", "noise, not velocity", {"prediction": "noise"}),
    "patches": Variant("pixels", "no pixel skip, no convolutions",
                       {"pixel_dim": 0, "mlp_conv": False, "dims": (44, 108, 216)}),
    "small-holes": Variant("targets", "thin strokes and small blobs alone",
                           targets={"kinds": {"stroke": 1, "blobs": 1}}),
    "crop-128": Variant("crop", "128 px", crop_px=128),
    "crop-192": Variant("crop", "192 px", crop_px=192),
    "unet": Variant("network", "convolutional U-Net", {"dims": (24, 72, 144)}, network=ConvolutionalUNet),
    "top": Variant("network", "convolutions at 1/4, Swin below", {"dims": (24, 96, 192)},
                   network=ConvolutionalTop),
    "shifted": Variant("network", "shifted grid in the MLPs' convolutions", network=ShiftedGrid),
    "deeper": Variant("network", "twice as deep, narrower", {"dims": (24, 72, 144), "heads": (1, 3, 6),
                                                            "depths": (4, 4, 4)}),
    "wider": Variant("network", "half as deep, wider", {"dims": (48, 120, 240), "heads": (2, 4, 8),
                                                        "depths": (1, 1, 1)}),
}


def run(name: str, seed: int, minutes: float, corpus: Corpus, held_out: HeldOut) -> Run:
    """One run, judged."""
    trainer = begin(name, seed)
    seconds = learn(trainer, corpus, 60 * minutes)
    restorer = Restorer(Weights(trainer.ema, name, "", {}), "cpu", RestoreConfig(graft="off"))

    def paint(truth: np.ndarray, hole: np.ndarray, spacing_um: float) -> np.ndarray:
        return restorer.restore(truth, hole, steps=EVALUATIONS, mpp=spacing_um)

    return {
        "variant": name, "question": VARIANTS[name].question, "answer": VARIANTS[name].answer, "seed": seed,
        "parameters": sum(p.numel() for p in trainer.ema.parameters()),
        "gflop": gflop_per_evaluation(restorer, 256),
        "crops": trainer.record.crops, "crops_per_second": trainer.record.crops / seconds,
        "errors": {str(level): error for level, error in level_errors(trainer.ema, trainer.schedule, held_out).items()},
        **painted(paint, held_out),
    }


def begin(name: str, seed: int) -> Trainer:
    """The trainer of a variant, before its first step."""
    network = patch("artifusion.training.state.SwinDenoiser", VARIANTS[name].network)
    with tempfile.TemporaryDirectory() as folder, network:
        return Trainer(VARIANTS[name].config(seed), Path(folder), Group(0, 1, torch.device("cpu")), None)


def learn(trainer: Trainer, corpus: Corpus, limit_s: float) -> float:
    """Train for so many seconds of processor time, and to the end of the step; the seconds it took."""
    begun = time.process_time()

    def done() -> float:
        return min(1.0, (time.process_time() - begun) / limit_s)

    with closing(batches(corpus, trainer.config, 0)) as coming:
        for batch in coming:
            seen = trainer.record.crops
            trainer.step(batch, learning_rate(seen, done(), trainer.config))
            if done() >= 1:
                break
    return time.process_time() - begun


def painted(paint: Paint, held_out: HeldOut) -> dict[str, float]:
    """How far what is painted into the held-out crops is from tissue: texture, stain, auc and kid."""
    energy = true_energy = 0.0
    stains: list[dict[str, float]] = []
    real: list[np.ndarray] = []
    fake: list[np.ndarray] = []
    places: list[int] = []
    for number, (truth, spacing_um) in enumerate(zip(*held_out, strict=True)):
        for which in range(HOLES):
            hole = artifact_hole(truth.shape[0], np.random.default_rng([SEED_OF_HOLES, number, which]))
            image = paint(truth, hole, float(spacing_um))
            energy, true_energy = energy + gradient_energy(image, hole), true_energy + gradient_energy(truth, hole)
            stains.append(stain_distances(image, truth, hole))
            crops = hole_crops(hole)
            true_pixels, pixels = as_stored(truth), as_stored(image)
            real += [true_pixels[crop] for crop in crops]
            fake += [pixels[crop] for crop in crops]
            places += [number] * len(crops)
    space = NetworkSpace()
    true_vectors, vectors = space.vectors(real), space.vectors(fake)
    return {"texture": energy / true_energy, "stain": mean(
        sum(crop[f"{stain}_distance"] for crop in stains) / sum(crop[f"true_{stain}_spread"] for crop in stains)
        for stain in ("haematoxylin", "eosin")),
        "auc": auc(detectability(true_vectors, vectors, np.array(places))),
        "kid": kid(true_vectors[:, -OWN:], vectors[:, -OWN:])}


def read_folder(folder: Path) -> tuple[Corpus, HeldOut]:
    """What every variant learns from, and the crops that it is judged by."""
    data = VARIANTS["ours"].config(0).data
    tiles = list(read_tiles(find_images([folder])))
    largest = data.model_copy(update={"crop_px": max(variant.crop_px for variant in VARIANTS.values())})
    corpus = Corpus.of([tile for tile in tiles if not is_validation(tile.image, data)], largest)
    judged = TrainConfig(data=data.model_copy(update={"crop_px": JUDGED_PX}))
    held_out = held_out_crops([tile for tile in tiles if is_validation(tile.image, data)], judged)
    if held_out is None:
        raise SystemExit(f"{folder}: holds no image of the validation split of configs/train/he-small.toml")
    return corpus, held_out


def fill(name: str) -> Paint:
    """A method without weights."""
    return lambda truth, hole, spacing_um: PLAIN[name](SimpleNamespace(damaged=truth, hole=hole))


def keep(report: dict[str, Any], data: Path, docs: Path) -> None:
    """Write the runs and the page, each file whole or not at all."""
    for path, text in ((data, json.dumps(report, indent=1) + "\n"), (docs, page(report))):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(text)
        os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="TRAIN_FOLDER")
    parser.add_argument("--minutes", type=float, default=3.5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAMES")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results") / __version__ / "ablations.json")
    parser.add_argument("--docs", type=Path, default=Path("docs/generated/ablations.md"))
    given = parser.parse_args()
    conditions = {"minutes": given.minutes, "threads": torch.get_num_threads()}
    report: dict[str, Any] = {"conditions": conditions, "references": {}, "runs": []}
    if given.json.is_file():
        report = json.loads(given.json.read_text())
    finished = {(one["variant"], one["seed"]) for one in report["runs"]}
    missing = [(name, seed) for seed in range(given.seeds) for name in given.only if (name, seed) not in finished]
    if missing:
        if report["conditions"] != conditions:
            parser.error(f"{given.json}: holds runs under {report['conditions']}, not {conditions}; use another --json")
        corpus, held_out = read_folder(given.folder)
        report["references"] = {title: painted(fill(name), held_out) for title, name in REFERENCES.items()}
        for name, seed in missing:
            one = run(name, seed, given.minutes, corpus, held_out)
            print(json.dumps(one), flush=True)
            report["runs"].append(one)
            keep(report, given.json, given.docs)
    keep(report, given.json, given.docs)


if __name__ == "__main__":
    main()
