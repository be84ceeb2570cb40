"""Training: clean tiles -> crops -> steps -> checkpoints, as a generator of progress."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from artifusion.batches import batches
from artifusion.checkpoint import load_weights
from artifusion.config import TrainConfig
from artifusion.device import resolve_device
from artifusion.errors import ConfigError, DataError, OutputError
from artifusion.tiles import Corpus, cut_crop, find_images, is_validation, read_tiles
from artifusion.trainer import CONFIG, STATE, Trainer

LOG = "log.csv"
HELD_OUT = 48               # validation crops


@dataclass(frozen=True)
class Progress:
    """What one step of training says: crops seen in all, loss, crops per second, learning rate over its peak."""

    images: int
    loss: float
    images_per_second: float
    rate: float


def learning_rate(images: int, done: float, config: TrainConfig) -> float:
    """Trapezoid over its peak: up over `warmup_images`, then 1, then to 0 over the last `cooldown` of the run.

    `done` in [0, 1] is the finished share of the run.
    """
    down = min(1.0, (1 - done) / config.cooldown) if config.cooldown else 1.0
    return max(0.0, min(1.0, images / config.warmup_images, down))


def train(
    config: TrainConfig,
    data: Sequence[str | Path],
    run_dir: str | Path,
    *,
    init: str | Path | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Iterator[Progress]:
    """Train a denoiser; yields once per step. The same call again goes on where the last one stopped.

    The run ends after `config.images` crops, or after `max_minutes` of this call, whichever is first; the learning
    rate falls to 0 towards that end, so that what is saved is worth using. `run_dir/weights` always holds the
    averaged weights of the last checkpoint. Without max_minutes, a run that was stopped and resumed equals one
    that was not, bit for bit, on one device.

    Raises:
        DataError: no images, or none fit to learn from.
        ConfigError: `run_dir` holds another run.
        WeightsError: `init` cannot be loaded.
        OutputError: `run_dir` cannot be written.
    """
    run_dir = Path(run_dir)
    check_same_config(config, run_dir)
    trainer = Trainer(config, run_dir, resolve_device(device), load_weights(init) if init else None)
    paths = find_images(data)
    training = [path for path in paths if not is_validation(path, config.data)]
    if not training:
        raise DataError(f"all {len(paths)} images belong to the validation split of {config.name}")
    corpus = Corpus.of(read_tiles(training, config.data, quiet), config.data)
    held_out = held_out_crops([path for path in paths if is_validation(path, config.data)], config, quiet)
    started = saved = time.monotonic()
    begun_images, begun_minutes = trainer.record.images, trainer.record.minutes

    def done_share(images: int) -> float:
        minutes = (time.monotonic() - started) / 60
        return min(1.0, max(images / config.images, minutes / max_minutes if max_minutes else 0.0))

    for batch in batches(corpus, config, begun_images, done_share):
        if (done := done_share(trainer.record.images)) >= 1:
            break
        rate = learning_rate(trainer.record.images - (begun_images if max_minutes else 0), done, config)
        loss = trainer.step(batch, rate)
        elapsed = time.monotonic() - started
        trainer.record.minutes = begun_minutes + elapsed / 60
        progress = Progress(trainer.record.images, loss, (trainer.record.images - begun_images) / elapsed, rate)
        yield progress
        if time.monotonic() - saved > 60 * config.checkpoint_minutes:
            checkpoint(trainer, progress, held_out)
            saved = time.monotonic()
    if trainer.record.images > begun_images:
        checkpoint(trainer, progress, held_out)


def check_same_config(config: TrainConfig, run_dir: Path) -> None:
    """Make the run's folder; raise ConfigError where it holds a run of another configuration."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        begun = (run_dir / STATE).is_file() and (run_dir / CONFIG).is_file()
        if begun and (run_dir / CONFIG).read_text() != config.model_dump_json(indent=2):
            raise ConfigError(f"{run_dir}: holds a run of another configuration; use another --run-dir, and --init "
                              f"{run_dir / 'weights'} to go on from it")
        if (run_dir / "weights").exists() and not (run_dir / STATE).is_file():
            raise ConfigError(f"{run_dir}: holds weights but no run to go on with; use another --run-dir, and --init "
                              f"{run_dir / 'weights'} to begin from them")
    except OSError as error:
        raise OutputError(f"{run_dir}: cannot hold a run ({error.strerror}); choose another --run-dir") from None


def held_out_crops(paths: Sequence[Path], config: TrainConfig, quiet: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The fixed validation crops, without stain jitter; None where no image belongs to the validation split."""
    if not paths:
        return None
    data = config.data.model_copy(update={"stain_jitter": 0.0})
    corpus, rng = Corpus.of(read_tiles(paths, data, quiet), data), np.random.default_rng(0)
    pixels, spacings = zip(*(cut_crop(corpus, data, rng) for _ in range(HELD_OUT)), strict=True)
    return np.stack(pixels), np.array(spacings, np.float32)


def checkpoint(trainer: Trainer, progress: Progress, held_out: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Save; append a line to the log; draw held-out restorations.

    Raises:
        OutputError: the disk is full or the folder gone; the checkpoint before is whole.
    """
    row: dict[str, Any] = {
        "images": progress.images,
        "minutes": round(trainer.record.minutes, 2),
        "loss": round(progress.loss, 5),
        "rate": round(progress.rate, 4),
    }
    try:
        trainer.save()
        if held_out is not None:
            row |= {f"error_{level}": round(error, 4) for level, error in trainer.level_errors(held_out).items()}
            trainer.preview(held_out).save(trainer.run_dir / "preview.png")
        log = trainer.run_dir / LOG
        fresh = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{trainer.run_dir}: the checkpoint cannot be written ({error}); the one before is whole"
                          ) from None
