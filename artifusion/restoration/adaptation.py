"""Before a slide is painted, the weights learn from its own clean tissue."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from artifusion.checkpoint import Weights, load_weights
from artifusion.config import TrainConfig, load_config
from artifusion.errors import DataError
from artifusion.files import whole_file, write_text
from artifusion.mask.mask import Mask
from artifusion.restoration.plan import check_length
from artifusion.restorer import Restorer
from artifusion.slide.reader import Slide
from artifusion.training.run import train
from artifusion.training.shards import read_shard, save_tiles
from artifusion.training.state import STATE
from artifusion.training.tiles import TILE_PX, Tile, clean_tiles, grid

MOST_PX = 256 * TILE_PX**2      # of clean tissue that is learned from: 200 MB in memory
LEAST_PX = TILE_PX**2           # with less, a run would overfit to the same few crops
CROP_PX = 128                   # rounded up to whole windows of the denoiser
EMA_HALFLIFE = 0.1              # of the run
TIMED_STEPS = 3                 # from which the crops per minute are computed, after one step that is not timed


def adapt(
    restorer: Restorer, slide: Slide, avoid: Mask, folder: Path, *, minutes: float | None = None,
    crops: int | None = None, config: TrainConfig | None = None, quiet: bool = True,
) -> tuple[Restorer, dict[str, Any]]:
    """A restorer whose weights have learned from a slide's clean tissue too, and what the sidecar says of it.

    Minutes become a number of crops once, by timing a few steps. The folder keeps that number and everything else
    follows from it, so that the same call goes on after a crash bit for bit, and `crops` repeats the run. No crop holds
    a pixel of `avoid`. Memory is bounded by MOST_PX of tissue and the training of one batch.

    Args:
        folder: holds the tissue, the run and its weights; the same call goes on with what it finds in the folder.
        minutes: about how long to learn. Give this or `crops`.
        crops: how many crops of the slide to learn from, rounded up to whole batches.
        config: how to learn (default: the shipped "adapt"); crops, warm-up and average follow from the crops.

    Raises:
        ValueError: neither minutes nor crops, both, or one not above 0.
        DataError: too little clean tissue outside the mask.
    """
    check_length(minutes, crops)
    weights, device, shard = restorer.weights, str(restorer.device), folder / "tissue.tar"
    folder.mkdir(exist_ok=True)
    if not shard.is_file():
        collect_tissue(slide, avoid, slide.mpp or restorer.config.default_spacing_um, shard, quiet)
    settings = settings_for(weights, config or load_config(TrainConfig, "train", "adapt"))
    if crops is None:
        crops = crops_in(minutes or 0, settings, weights, shard, folder, device)
    count = -(-crops // settings.batch_size) * settings.batch_size
    settings = run_of(count, settings, weights)
    run_dir = folder / "run"
    if not (run_dir / STATE).is_file():
        shutil.rmtree(run_dir, ignore_errors=True)          # killed within its first checkpoint
    run = train(settings, [shard], run_dir, init=weights, name=settings.name, device=device, quiet=True)
    with tqdm(desc="adapting", unit="crop", total=count, disable=quiet or None) as line:
        for progress in run:
            line.update(progress.crops - line.n)
    adapted = load_weights(run_dir / "weights")
    tiles = [tile.pixels.shape for tile in read_shard(shard)]
    return Restorer(adapted, ",".join(map(str, restorer.devices)), restorer.config), {
        "weights": adapted.named(),
        "adaptation": {
            "from": weights.named(),
            "crops": count,
            "minutes": minutes,
            "crop_px": settings.data.crop_px,
            "tissue_px": sum(height * width for height, width, _ in tiles),
        },
    }


def settings_for(weights: Weights, config: TrainConfig) -> TrainConfig:
    """The configuration for the architecture of these weights."""
    architecture = weights.denoiser.config
    crop_px = -(-CROP_PX // architecture.multiple) * architecture.multiple
    return config.model_copy(update={"denoiser": architecture,
                                     "data": config.data.model_copy(update={"crop_px": crop_px})})


def run_of(crops: int, config: TrainConfig, weights: Weights) -> TrainConfig:
    """The configuration of a run of this many crops.

    A Trainer's average counts the crops of the initial weights as well; here its half-life is a share of this run.
    """
    earlier = int(weights.training.get("crops", 0))
    return config.model_copy(update={
        "name": f"{weights.name} adapted {crops} crops",
        "crops": crops,
        "warmup_crops": min(config.warmup_crops, max(1, crops // 5)),
        "ema_halflife": EMA_HALFLIFE * crops / (earlier + crops),
    })


def collect_tissue(slide: Slide, avoid: Mask, spacing_um: float, shard: Path, quiet: bool = True) -> None:
    """Write clean tiles of a slide that hold no masked pixel.

    Raises:
        DataError: less than LEAST_PX of them.
    """
    tiles = [replace(tile, spacing_um=spacing_um) for tile in tiles_all_over(slide, avoid, quiet)]
    found_px = sum(tile.pixels[..., 0].size for tile in tiles)
    if found_px < LEAST_PX:
        raise DataError(f"{slide.path}: {found_px / 1e6:.2f} Mpx of clean tissue outside the mask are too little to "
                        f"adapt to, which takes {LEAST_PX / 1e6:.2f}; restore without --adapt")
    with whole_file(shard) as part:
        save_tiles(tiles, part)


def tiles_all_over(slide: Slide, avoid: Mask, quiet: bool = True) -> Iterator[Tile]:
    """Clean tiles from all over a slide, up to MOST_PX, in a random order that is always the same."""
    boxes = list(grid(slide.size, TILE_PX))
    order = tqdm(np.random.default_rng(0).permutation(len(boxes)), desc="clean tissue", unit="tile",
                 disable=quiet or None)
    found_px = 0
    for tile in clean_tiles(slide, (boxes[n] for n in order), avoid):
        yield tile
        found_px += tile.pixels[..., 0].size
        if found_px >= MOST_PX:
            return


def crops_in(
    minutes: float, config: TrainConfig, weights: Weights, shard: Path, folder: Path, device: str
) -> int:
    """How many crops are learned from in these minutes. Measured once, on a few steps whose result is dropped."""
    known, trial = folder / "crops.json", folder / "trial"
    if not known.is_file():
        shutil.rmtree(trial, ignore_errors=True)
        steps = train(config, [shard], trial, init=weights, device=device, quiet=True)
        next(steps)
        began = time.monotonic()
        for _ in range(TIMED_STEPS):
            next(steps)
        seconds = (time.monotonic() - began) / TIMED_STEPS
        steps.close()                                                       # type: ignore[attr-defined]
        shutil.rmtree(trial)
        write_text(known, json.dumps(max(1, round(60 * minutes / seconds)) * config.batch_size))
    return json.loads(known.read_text())
