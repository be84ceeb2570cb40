"""`artifusion tiles`: clean tiles packed, to train from."""

from __future__ import annotations

from pathlib import Path

import click

from artifusion.cli.options import PATH, Number


@click.command()
@click.option("--data", required=True, multiple=True, type=PATH, metavar="PATH",
              help="A slide, an image, or a folder of them; repeat for more.")
@click.option("-o", "--output", required=True, type=PATH, metavar="SHARD.tar", help="The file to write.")
@click.option("--mask", type=PATH, help="Artifacts of the one slide given: no tile holds a pixel of them.")
@click.option("--max-mb", type=Number(0, min_open=True), metavar="MB",
              help="Leave tiles of the largest folders out, evenly spread, to stay below this many million bytes.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def tiles(data: tuple[Path, ...], output: Path, mask: Path | None, max_mb: float | None, quiet: bool) -> None:
    """Collect clean tiles of slides and images in one file, for `artifusion train --data SHARD.tar`.

    The tiles are JPEG of quality 95 without chroma subsampling, at full resolution; glass, ink, bubbles and what is out
    of focus are left out. Each keeps the name of its folder and image and its scale, so that the configuration of a
    training run tells training from validation as it does with the files themselves.
    """
    from artifusion.training.shards import write_shard

    report = write_shard(data, output, mask=mask, max_mb=max_mb, quiet=quiet)
    left = f", {report.left_out} left out" if report.left_out else ""
    done = "is done already: " if report.done_before else ""
    click.echo(f"{output}: {done}{report.tiles} tiles, {report.size_bytes / 1e6:.1f} MB{left}")
