"""`artifusion train`: a denoiser trained on clean tissue."""

from __future__ import annotations

from pathlib import Path

import click

from artifusion.cli.options import PATH, Number


@click.command()
@click.argument("config")
@click.option("--data", required=True, multiple=True, type=PATH, metavar="PATH",
              help="A slide, an image, a shard of `artifusion tiles`, or a folder of them; repeat for more.")
@click.option("--run-dir", required=True, type=PATH, help="Where the run lives; the same command again resumes it.")
@click.option("--init", metavar="NAME|DIR", help="Begin from these weights.")
@click.option("--name", default="", metavar="NAME",
              help="What the weights are called, in slides that they paint too.  [default: the name of --run-dir]")
@click.option("--max-minutes", type=Number(0, min_open=True), help="End, cooled down, after this long.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(
    config: str, data: tuple[Path, ...], run_dir: Path, init: str | None, name: str, max_minutes: float | None,
    device: str, quiet: bool,
) -> None:
    """Train a denoiser on clean tissue, by CONFIG (a TOML file, or a shipped name such as he-small).

    RUN_DIR/weights always holds the averaged weights of the last checkpoint, ready for `restore --weights`;
    RUN_DIR/log.csv the loss and the error per noise level over that of a mean fill, RUN_DIR/curves.png draws them;
    RUN_DIR/preview.png shows held-out restorations. Ctrl-C saves before it ends. Several GPUs or machines:
    torchrun --nproc-per-node N -m artifusion train ...
    """
    from tqdm import tqdm

    from artifusion.config import TrainConfig, load_config

    settings = load_config(TrainConfig, "train", config)

    from artifusion.training.distributed import rank
    from artifusion.training.run import train as training

    quiet = quiet or rank() > 0
    progress = None
    run = training(settings, data, run_dir, init=init, name=name, max_minutes=max_minutes, device=device, quiet=quiet)
    with tqdm(desc="training", unit="crop", total=settings.crops, disable=quiet or None, smoothing=0.05) as line:
        for progress in run:
            if not line.n:                                   # what earlier calls saw does not count for the speed
                line.initial = line.n = progress.begun
            line.set_postfix(loss=f"{progress.loss:.4f}", rate=f"{progress.rate:.2f}", refresh=False)
            line.update(progress.crops - line.n)
    if rank() > 0:
        return
    if progress is None:
        click.echo(f"{run_dir}: this run is complete; nothing to do")
    else:
        seen, speed = progress.crops, progress.crops_per_second
        click.echo(f"{run_dir / 'weights'}: {seen:,} crops seen, {speed:.1f} per second")
