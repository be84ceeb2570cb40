"""`artifusion detect`: a mask of the artifacts that a slide shows."""

from __future__ import annotations

from pathlib import Path

import click

from artifusion.cli.options import PATH, SCALE, Number

THRESHOLD = click.option("--threshold", type=Number(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
                         help="Least score of a region; higher leaves more alone.")
ANY_STAIN = click.option("--any-stain", is_flag=True, help="Look for artifacts on other stains than H&E, too.")


@click.command()
@click.argument("slide", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, metavar="MASK.png", help="The mask to write.")
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--overlay", type=PATH, help="Also draw the slide with what was found outlined into this .png or .jpg.")
@THRESHOLD
@ANY_STAIN
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def detect(
    slide: Path, output: Path, mpp: float | None, overlay: Path | None, threshold: float, any_stain: bool,
    overwrite: bool, quiet: bool,
) -> None:
    """Find folds, bubbles, pen, blur, dark spots and dust on SLIDE, an H&E slide or image.

    Writes MASK.png, whose pixels are class ids (0 = keep), and MASK.png.geojson with a score per region, for QuPath;
    `artifusion restore SLIDE --mask MASK.png` repaints them. Finding nothing is a success as well.
    """
    from artifusion.detection.detect import detect_slide

    found = detect_slide(slide, output, mpp=mpp, overlay=overlay, threshold=threshold, any_stain=any_stain,
                         overwrite=overwrite, quiet=quiet)
    share = found.mask.area_px / (found.mask.l0_size.width * found.mask.l0_size.height)
    click.echo(f"{output}: {found.mask.summary} ({share:.2%} of the slide)" if found.regions else
               f"{output}: no artifacts found")
