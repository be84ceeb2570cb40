"""`artifusion mask`: masks from one form into another."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from artifusion.cli.options import MASK_FORMAT, PATH, SCALE, Number, known_classes
from artifusion.mask.selection import POLARITIES, MaskSelection


@click.group("mask")
def mask_commands() -> None:
    """Convert the masks of HistoQC, GrandQC, QuPath and our own from one form into another.

    \b
    A first try:
      artifusion mask convert histoqc/slide.svs mask.geojson --slide slide.svs     look at it in QuPath
    """


@mask_commands.command()
@click.argument("source", metavar="IN", type=PATH)
@click.argument("output", metavar="OUT", type=PATH)
@click.option("--slide", "slide_path", required=True, type=PATH, help="The slide that the mask belongs to.")
@click.option("--binary", is_flag=True, help="PNG and TIFF: white = restore instead of class ids.")
@click.option("--downsample", type=Number(1, 1000),
              help="Level-0 pixels per mask pixel.  [default: such that the longer side has at most 8192 px]")
@click.option("--mpp", type=SCALE, help="um per mask pixel; instead of --downsample.")
@click.option("--classes", callback=known_classes, metavar="A,B",
              help="Only these of fold, bubble, pen, blur, dark, dust, other.")
@MASK_FORMAT
@click.option("--mask-polarity", "polarity", type=click.Choice(POLARITIES),
              help="What white means in IN; given explicitly, the mask may cover over half of the slide.")
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say what IN is.")
def convert(
    source: Path, output: Path, slide_path: Path, binary: bool, downsample: float | None, mpp: float | None,
    classes: tuple[str, ...] | None, mask_format: Any, polarity: Any, overwrite: bool, quiet: bool,
) -> None:
    """Write the mask IN of a slide as OUT, whose suffix decides the form.

    \b
    .png             class ids: 0 = keep, 1 fold, 2 bubble, 3 pen, 4 blur, 5 dark, 6 dust, 7 other
    .tif, .tiff      the same as a pyramid that viewers open, in colours
    .geojson, .json  QuPath annotations with their classes

    IN is anything that `restore --mask` takes. No edge moves by more than a pixel of OUT, and nothing is lost that is
    smaller than one.
    """
    if downsample is not None and mpp is not None:
        raise click.UsageError("--downsample and --mpp say the same thing; give one")
    if output.suffix.lower() in (".geojson", ".json") and (binary or downsample or mpp):
        raise click.UsageError("GeoJSON has neither pixels nor a scale; leave out --binary, --downsample and --mpp")

    from artifusion.files import again
    from artifusion.mask.reading import read_selection
    from artifusion.mask.writer import check_mask_name, write_mask
    from artifusion.output.output import check_outputs
    from artifusion.slide.reader import open_slide

    selection = MaskSelection(source, polarity, classes=classes, format=mask_format)
    with open_slide(slide_path) as slide:
        existed = output.is_file() and not overwrite
        check_outputs([source, slide_path], [output], overwrite or existed)
        check_mask_name(output)
        mask = read_selection(selection, slide)
        if not quiet:
            click.echo(mask.summary, err=True)
        with again(output, "choose another name or pass --overwrite") if existed else nullcontext(output) as target:
            size = write_mask(mask, target, slide, binary=binary, downsample=downsample, mpp=mpp)
    what = f"{size.width} x {size.height} px" if size else f"{len(mask.polygons)} annotations"
    click.echo(f"{output}: {'is done already: ' if existed else ''}{what}")
