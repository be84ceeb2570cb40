"""`artifusion evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from artifusion.cli.options import PATH, SCALE, known_inks


def words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if value is not None else None


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        found = tuple(int(word) for word in words(ctx, param, value) or ())
    except ValueError:
        found = ()
    if value is not None and (not found or not all(1 <= number <= 1000 for number in found)):
        raise click.BadParameter(f"{value}: give numbers from 1 to 1000, with commas")
    return found or None


@click.command()
@click.option("--data", required=True, multiple=True, type=PATH, metavar="PATH",
              help="A clean slide, an image, or a folder of them; repeat for more.")
@click.option("-o", "--output", required=True, type=PATH, metavar="DIR", help="Where results go.")
@click.option("--weights", default="he-small", show_default=True, metavar="NAME|DIR|HUB_ID", help="The model.")
@click.option("--config", metavar="FILE|NAME", help="How paint and graft restore, as for restore.")
@click.option("--methods", callback=words, metavar="A,B", help="Any of mean, telea, navier-stokes, biharmonic, "
              "exemplar, refined, published, paint, graft, recover.  [default: all but recover]")
@click.option("--steps", callback=numbers, metavar="N,N", help="Also paint with these numbers of steps.")
@click.option("--tiles", type=click.IntRange(2, 100_000), default=40, show_default=True, help="Tiles of 256 px.")
@click.option("--published-tiles", type=click.IntRange(0), default=1, show_default=True,
              help="How many of them the published procedure paints: 2,410 evaluations each.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Other tiles, holes and noise.")
@click.option("--mpp", type=SCALE, help="um per pixel, where images do not tell.")
@click.option("--validation", is_flag=True, help="Only images that he-small's configuration keeps from training.")
@click.option("--ink", "inks", multiple=True, callback=known_inks, metavar="COLOUR:DENSITY[:STREAKS]",
              help="All artifacts are pen strokes of this ink, as for damage; repeat for more.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option("--docs", type=PATH, metavar="FILE.md",
              help="Also write the report, without pictures, here.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def evaluate(
    data: tuple[Path, ...], output: Path, weights: str, config: str | None, methods: tuple[str, ...] | None,
    steps: tuple[int, ...] | None, tiles: int, published_tiles: int, seed: int, mpp: float | None, validation: bool,
    inks: tuple[Any, ...], device: str, docs: Path | None, quiet: bool,
) -> None:
    """Measure how true painted tissue is, against other methods, on tiles whose truth is known.

    Tiles of clean slides or images are damaged in known places and filled by each method. DIR gets tiles.csv (a row per
    tile and method), report.md (tables with 95 % intervals), measures.png and contact sheets at full size. An
    interrupted evaluation goes on when the same command is given again. Needs pip install 'artifusion[evaluation]'.
    """
    from artifusion.evaluation.methods import USUAL
    from artifusion.evaluation.run import evaluate as run

    report = run(data, output, weights=weights, config=config, methods=USUAL if methods is None else methods,
                 steps=steps or (), tiles=tiles, published_tiles=published_tiles, seed=seed, mpp=mpp,
                 validation=validation, inks=inks, device=device, docs=docs, quiet=quiet, command=spoken(sys.argv[1:]))
    click.echo(report)


def spoken(arguments: list[str]) -> str:
    """The command as a page shows it: paths by their last part, for others lie elsewhere."""
    return " ".join(["artifusion", *(Path(word).name if "/" in word else word for word in arguments)])
