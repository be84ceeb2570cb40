"""Training: clean tiles -> batches -> steps -> checkpoints, as a generator of progress."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from artifusion.checkpoint import Weights, load_weights
from artifusion.config import TrainConfig
from artifusion.errors import ConfigError, DataError, DeviceError, OutputError
from artifusion.files import remove_parts, whole_file
from artifusion.pretrained import FILES as WEIGHTS
from artifusion.training.batches import batches
from artifusion.training.corpus import Corpus, is_validation
from artifusion.training.curves import draw_curves, read_log
from artifusion.training.distributed import process_group
from artifusion.training.held_out import HeldOut, held_out_crops, level_errors, preview
from artifusion.training.interrupts import postponed
from artifusion.training.shards import read_tiles
from artifusion.training.state import CONFIG, STATE, Trainer
from artifusion.training.tiles import find_images

LOG, CURVES, PREVIEW, LOCK = "log.csv", "curves.png", "preview.png", "lock"


@dataclass(frozen=True)
class Progress:
    """After a step of a run."""

    crops: int                  # seen in all
    begun: int                  # seen before this call
    losses: dict[str, float]    # "loss" and its parts, means since the last checkpoint
    crops_per_second: float
    rate: float                 # learning rate over its peak

    @property
    def loss(self) -> float:
        return self.losses["loss"]


def learning_rate(crops: int, done: float, config: TrainConfig) -> float:
    """The learning rate over its peak: a rise over `warmup_crops`, then 1, then a fall over the last `cooldown`.

    `done` in [0, 1] is the finished share of the run.
    """
    fall = min(1.0, (1 - done) / config.cooldown) if config.cooldown else 1.0
    return max(0.0, min(1.0, crops / config.warmup_crops, fall))


def train(
    config: TrainConfig,
    data: Sequence[str | Path],
    run_dir: str | Path,
    *,
    init: str | Path | Weights | None = None,
    name: str = "",
    max_minutes: float | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Iterator[Progress]:
    """Train a denoiser; yields once per step. The same call again goes on where the last one stopped.

    The run ends after `config.crops` crops, or after `max_minutes` of this call, whichever is first; the learning
    rate falls to 0 towards that end, so that what is saved is worth using. `run_dir/weights` always holds the
    averaged weights of the last checkpoint. Without max_minutes, a run that was stopped and resumed equals one
    that was not, bit for bit, on one device. `init` names the weights to begin from, or is them. `name` is what the
    run's weights are called: by default as they were before, at first like `run_dir`.

    Under torchrun, each process learns from its slice of every batch; the first one alone writes. Ctrl-C and SIGTERM
    take effect between two steps and after a checkpoint, as KeyboardInterrupt; a second Ctrl-C at once.

    Raises:
        ValueError: `max_minutes` is not above 0.
        DataError: no images, or none fit to learn from.
        ConfigError: `run_dir` holds another run, or one that learned from other data; other weights have that name.
        WeightsError: `init` cannot be loaded.
        OutputError: `run_dir` cannot be written, or another process trains in it.
        DeviceError: no such device, or a batch does not fit into the GPU's memory.
    """
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"max_minutes must be above 0, got {max_minutes}")
    run_dir = Path(run_dir)
    with ExitStack() as stack:
        group = stack.enter_context(process_group(device))
        for size in map(config.crops_of, config.data.sides_px):
            if size % group.size:
                raise ConfigError(f"a batch of {size} crops cannot be shared by {group.size} processes; start a number "
                                  "of them that divides it")
        check_same_config(config, run_dir)
        if group.rank == 0:
            stack.enter_context(lock(run_dir))
            for file in (STATE, CONFIG, LOG, CURVES, PREVIEW, *(f"weights/{file}" for file in WEIGHTS)):
                remove_parts(run_dir / file)
        begun = load_weights(init) if isinstance(init, str | Path) else init
        trainer = Trainer(config, run_dir, group, begun, name)
        if (run_dir / LOG).is_file() and (run_dir / LOG).stat().st_size:
            read_log(run_dir / LOG)                             # a broken one is told before hours of work
        corpus, held_out = read_data(data, config, quiet or group.rank > 0)
        digest = corpus.digest()
        if trainer.record.data not in ("", digest):
            raise ConfigError(f"{run_dir}: this run learned from other images; give the same --data, or use another "
                              f"--run-dir with --init {run_dir / 'weights'}")
        trainer.record.data = digest
        try:
            yield from _loop(trainer, corpus, held_out, max_minutes)
        except torch.OutOfMemoryError:
            raise DeviceError(f"{group.device}: no memory for {config.batch_size // group.size} crops of "
                              f"{config.data.crop_px} px at once; lower batch_size, in another --run-dir") from None


def _loop(trainer: Trainer, corpus: Corpus, held_out: HeldOut | None, max_minutes: float | None) -> Iterator[Progress]:
    config, group, record = trainer.config, trainer.group, trainer.record
    started = saved = time.monotonic()
    begun_crops, begun_minutes = record.crops, record.minutes
    losses: dict[str, list[float]] = {}
    progress: Progress | None = None

    def done_share() -> float:
        share = record.crops / config.crops
        if max_minutes:
            share = group.agree(max(share, (time.monotonic() - started) / 60 / max_minutes))
        return min(1.0, share)

    with postponed() as interrupted:
        for batch in batches(corpus, config, begun_crops, group.rank, group.size):
            stop = group.any(interrupted.is_set())
            done = done_share()
            late = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if progress and losses and (stop or late or done >= 1):
                if group.rank == 0:
                    checkpoint(trainer, progress, held_out)
                saved, losses = time.monotonic(), {}
            if stop:
                raise KeyboardInterrupt
            if done >= 1:
                break
            rate = learning_rate(record.crops - (begun_crops if max_minutes else 0), done, config)
            for name, loss in trainer.step(batch, rate).items():
                losses.setdefault(name, []).append(loss)
            elapsed = time.monotonic() - started
            record.minutes = begun_minutes + elapsed / 60
            speed = (record.crops - begun_crops) / elapsed
            means = {name: fmean(values) for name, values in losses.items()}
            progress = Progress(record.crops, begun_crops, means, speed, rate)
            yield progress


def check_same_config(config: TrainConfig, run_dir: Path) -> None:
    """Make the run's folder; raise ConfigError where it holds a run of another configuration."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        begun, configured = (run_dir / STATE).is_file(), (run_dir / CONFIG).is_file()
        ours = configured and (run_dir / CONFIG).read_bytes() == config.model_dump_json(indent=2).encode()
        if begun and configured and not ours:
            raise ConfigError(f"{run_dir}: holds a run of another configuration; use another --run-dir, and --init "
                              f"{run_dir / 'weights'} to go on from it")
        if (run_dir / "weights").exists() and not begun and not ours:     # ours: killed within its first checkpoint
            raise ConfigError(f"{run_dir}: holds weights but no run to go on with; use another --run-dir, and --init "
                              f"{run_dir / 'weights'} to begin from them")
    except OSError as error:
        raise OutputError(f"{run_dir}: cannot hold a run ({error.strerror}); choose another --run-dir") from None


def lock(run_dir: Path) -> FileLock:
    """The run's lock, held; its end is its release."""
    try:
        held = FileLock(run_dir / LOCK, timeout=0)
        held.acquire()
        return held
    except Timeout:
        raise OutputError(f"{run_dir}: another run is at work in it; wait for it or stop it, or use another --run-dir"
                          ) from None
    except OSError as error:
        raise OutputError(f"{run_dir}: cannot hold a run ({error.strerror}); choose another --run-dir") from None


def read_data(data: Sequence[str | Path], config: TrainConfig, quiet: bool) -> tuple[Corpus, HeldOut | None]:
    """What is learned from, and the fixed held-out crops (None without validation images)."""
    tiles = list(read_tiles(find_images(data), quiet))
    training = [tile for tile in tiles if not is_validation(tile.image, config.data)]
    if tiles and not training:
        raise DataError(f"all {len(tiles)} tiles belong to the validation split of {config.name}")
    held_out = [tile for tile in tiles if is_validation(tile.image, config.data)]
    return Corpus.of(training, config.data), held_out_crops(held_out, config)


def checkpoint(trainer: Trainer, progress: Progress, held_out: HeldOut | None) -> None:
    """Draw held-out restorations; add a line to the log; draw its curves; save, which makes all of it count.

    Raises:
        OutputError: the disk is full or the folder gone; the checkpoint before is whole.
    """
    run_dir = trainer.run_dir
    row: dict[str, Any] = {
        "crops": progress.crops,
        "minutes": round(trainer.record.minutes, 2),
        "loss": round(progress.loss, 5),
        "rate": round(progress.rate, 4),
    } | {f"loss_{name}": round(loss, 5) for name, loss in progress.losses.items() if name != "loss"}
    try:
        trainer.save_weights()
        if held_out is not None:
            errors = level_errors(trainer.outcome(), trainer.schedule, held_out)
            row |= {f"error_{level}": round(error, 4) for level, error in errors.items()}
            with whole_file(run_dir / PREVIEW) as part:
                preview(trainer, held_out).save(part, "PNG")
        add_line(run_dir / LOG, row)
        with whole_file(run_dir / CURVES) as part:
            draw_curves(run_dir / LOG, part)
        trainer.save_state()
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{run_dir}: the checkpoint cannot be written ({error}); the one before is whole"
                          ) from None


def add_line(log: Path, row: dict[str, Any]) -> None:
    """Add a checkpoint to the log, whole or not at all; lines of checkpoints that a kill undid go."""
    rows: list[dict[str, Any]] = []
    if log.is_file():
        with log.open(newline="") as file:
            rows = [line for line in csv.DictReader(file) if float(line["crops"]) < row["crops"]]
    with whole_file(log) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else row, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])
