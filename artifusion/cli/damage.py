"""`artifusion damage`: artifacts painted on a clean slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from artifusion.cli.options import PATH, SCALE, Number, known_inks, known_kinds, say_scale


@click.command()
@click.argument("source", type=PATH)
@click.argument("output", type=PATH)
@click.option("--kinds", default="fold,bubble,pen", show_default=True, callback=known_kinds,
              help="Any of fold, bubble, pen, blur, dark, dust, thread, with commas.")
@click.option("--strength", type=click.Choice(["mild", "strong"]), default="strong", show_default=True,
              help="How much of the tissue still shows.")
@click.option("--ink", callback=lambda *given: next(iter(known_inks(*given)), None), metavar="COLOUR:DENSITY[:STREAKS]",
              help="Of pen strokes: black, blue, green or red; optical density where it darkens most; 0 for "
                   "smooth to 1 for streaky.  [default: a random colour, as dense as --strength says, 1]")
@click.option("--share", type=Number(0.0001, 0.3), default=0.03, show_default=True,
              help="Damaged share of the slide's area, about.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def damage(
    source: Path, output: Path, kinds: tuple[str, ...], strength: Any, ink: Any, share: float, seed: int,
    mpp: float | None, overwrite: bool, quiet: bool,
) -> None:
    """Paint artifacts on a clean slide, for demonstrations, tests and evaluation.

    Writes OUTPUT, OUTPUT.mask.png (white = damaged) and OUTPUT.geojson (the same, with classes, for QuPath). The
    pictures are synthetic: they show what a restoration can do where the truth is known.
    """
    from artifusion.config import DEFAULT_SPACING_UM
    from artifusion.damage.slide import damage_slide
    from artifusion.slide.reader import open_slide

    with open_slide(source, mpp=mpp) as opened:
        if opened.mpp is None and not quiet:
            say_scale(opened, DEFAULT_SPACING_UM)
    spots = damage_slide(source, output, kinds=kinds, strength=strength, ink=ink, share=share, seed=seed,
                         mpp=mpp, overwrite=overwrite, quiet=quiet)
    click.echo(f"{output}: {len(spots)} artifacts painted ({', '.join(sorted({spot.kind for spot in spots}))})")
