"""`artifusion detect`: a mask of the artifacts that a slide shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from artifusion.cli.options import PATH, SCALE, Number

THRESHOLD = click.option("--threshold", type=Number(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
                         help="Least score of a region; higher leaves more alone.")
ANY_STAIN = click.option("--any-stain", is_flag=True, help="Look for artifacts on other stains than H&E, too.")


class Pixels(click.ParamType):
    """Whole numbers with commas between them, such as X,Y."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.name.count(",") + 1:
            self.fail(f"{value} is not {self.name} in whole level-0 pixels", param, ctx)
        return numbers


@click.command()
@click.argument("slide", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="MASK.png", help="The mask to write.")
@click.option("--point", "points", multiple=True, type=Pixels("X,Y"), help="Find the artifact at this level-0 pixel "
              "instead of looking for all; several near each other mean one artifact.")
@click.option("--box", "boxes", multiple=True, type=Pixels("X,Y,W,H"), help="Find the artifact in this box.")
@click.option("--not", "not_points", multiple=True, type=Pixels("X,Y"), help="This pixel belongs to no artifact.")
@click.option("--prompts", type=PATH, help="Points and rectangles, with classes, as GeoJSON of QuPath; points of class "
              "Ignore* are as --not.")
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--overlay", type=PATH, help="Also draw the slide with what was found outlined into this .png or .jpg.")
@THRESHOLD
@ANY_STAIN
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def detect(
    ctx: click.Context, slide: Path, output: Path, points: tuple[Any, ...], boxes: tuple[Any, ...],
    not_points: tuple[Any, ...], prompts: Path | None, mpp: float | None, overlay: Path | None, threshold: float,
    any_stain: bool, overwrite: bool, quiet: bool,
) -> None:
    """Find folds, bubbles, pen, blur, dark spots and dust on SLIDE, an H&E slide or image.

    Writes MASK.png, whose pixels are class ids (0 = keep), and MASK.png.geojson with a score per region, for QuPath;
    `artifusion restore SLIDE --mask MASK.png` repaints them. Finding nothing is a success as well.

    With --point, --box or --prompts, what they point at is found instead, of whatever kind; MASK.png.geojson has it at
    full detail.
    """
    from artifusion.detection.detect import detect_slide

    common: dict[str, Any] = {"mpp": mpp, "overlay": overlay, "overwrite": overwrite, "quiet": quiet}
    if points or boxes or not_points or prompts:
        from artifusion.detection.pointing import detect_slide_at

        for name in ("threshold", "any_stain"):
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option} is for looking for all artifacts; leave it out, or the prompts")
        found = detect_slide_at(slide, output, points=points, boxes=boxes, not_points=not_points, prompts=prompts,
                                **common)
    else:
        found = detect_slide(slide, output, threshold=threshold, any_stain=any_stain, **common)
    share = found.mask.area_px / (found.mask.l0_size.width * found.mask.l0_size.height)
    click.echo(f"{output}: {found.mask.summary} ({share:.2%} of the slide)" if found.regions else
               f"{output}: no artifacts found")
