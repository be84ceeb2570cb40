"""`artifusion restore`: the masked part of a slide repainted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifusion.cli.detect import ANY_STAIN
from artifusion.cli.options import (
    MASK_FORMAT,
    PATH,
    SCALE,
    Number,
    RestoreSetting,
    known_classes,
    known_recovered,
    say_scale,
    shown_as_usage,
)
from artifusion.mask.classes import named_counts
from artifusion.mask.selection import POLARITIES, MaskSelection

if TYPE_CHECKING:
    from artifusion.config import RestoreConfig
    from artifusion.restoration.plan import Plan
    from artifusion.slide.reader import Slide


@click.command()
@click.argument("slide", type=PATH)
@click.option("--mask", type=PATH,
              help="What to repaint: an image of the slide at any scale (white = restore), GeoJSON of QuPath, or what "
                   "GrandQC or HistoQC wrote.  [default: what `artifusion detect` finds]")
@click.option("--classes", callback=known_classes, metavar="A,B",
              help="Only these of fold, bubble, pen, blur, dark, dust, other.  [default: all of a --mask; none of "
                   "what is detected]")
@ANY_STAIN
@MASK_FORMAT
@click.option("-o", "--output", type=PATH, help="Default: NAME.restored.SUFFIX beside the slide.")
@click.option("--weights", default="he-small", show_default=True, metavar="NAME|DIR|HUB_ID", help="The model.")
@click.option("--config", metavar="FILE|NAME", help="Restoration settings as TOML.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:0,cuda:1",
              help="Where to paint; several GPUs share the canvases and paint the same.  [auto: every GPU]")
@click.option("--steps", cls=RestoreSetting, type=click.IntRange(1, 1000), help="Evaluations per canvas.")
@click.option("--graft", cls=RestoreSetting, type=click.Choice(["auto", "off"]),
              help="Fill large holes with tissue from elsewhere on the slide, or paint everything.")
@click.option("--doubtful", cls=RestoreSetting, type=click.Choice(["paint", "keep"]),
              help="Regions that grafts fill ill: restore them and say so, or leave them as scanned and say so.")
@click.option("--recover", callback=known_recovered, metavar="A,B|none",
              help="Classes under which tissue still shows: what can be measured through them is, and only the rest is "
                   "invented.  [default: pen where it was detected, none of a --mask]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other tissue.")
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--grow", "grow_um", type=Number(0, 10_000), default=0.0, metavar="UM", help="Widen the mask.")
@click.option("--mask-polarity", "polarity", type=click.Choice(POLARITIES),
              help="What white means; given explicitly, the mask may cover over half of the slide.")
@click.option("--lossless", is_flag=True, help="What must be encoded anew: without loss.")
@click.option("--same-size", is_flag=True,
              help="JPEG 2000 slides: touched tiles keep about their size instead of being exact beside the mask.")
@click.option("--batch-size", cls=RestoreSetting, type=click.IntRange(1), help="Canvases per evaluation.")
@click.option("--adapt", "adapt_minutes", type=Number(0, min_open=True), metavar="MINUTES",
              help="First train the weights about so long on the slide's own clean tissue, for this slide alone.")
@click.option("--adapt-crops", type=click.IntRange(1), metavar="N",
              help="The same for N crops: what OUTPUT.json of a run with --adapt names gives the same bytes.")
@click.option("--preview", type=PATH, help="Also draw before / mask / after into this .png or .jpg.")
@click.option("--undeclared", is_flag=True,
              help="Restore a restored slide although what declares its earlier passes is lost.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True,
              help="Print regions, canvases, evaluations and the bytes to be written; paint nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def restore(
    slide: Path, mask: Path | None, output: Path | None, classes: tuple[str, ...] | None, any_stain: bool,
    mask_format: Any, weights: str, config: str | None, device: str, steps: int | None, graft: str | None,
    doubtful: str | None, recover: tuple[str, ...] | None, seed: int, mpp: float | None, grow_um: float, polarity: Any,
    lossless: bool, same_size: bool, batch_size: int | None, adapt_minutes: float | None, adapt_crops: int | None,
    preview: Path | None, undeclared: bool, overwrite: bool, dry_run: bool, quiet: bool,
) -> None:
    """Restore the masked part of SLIDE: tissue from elsewhere on it, joined by what a diffusion model paints.

    Without --mask the artifacts are detected first and reported, and those that --classes names are repainted:
    OUTPUT.mask.png keeps what was found. Look before you name any, since most of what is found on clean slides is
    normal tissue. Only masked pixels change. SVS and tiled TIFF keep their container, what the mask does not touch is
    copied byte for byte; other formats become a pyramidal BigTIFF. Beside the output lie OUTPUT.json (what was done,
    with which weights) and OUTPUT.geojson (the invented regions, for QuPath). An interrupted run goes on when the same
    command is given again; a finished one is done. Of a slide that was restored before, both hold the earlier passes
    too, as the files beside SLIDE declare them.
    """
    from artifusion.config import RestoreConfig, load_config
    from artifusion.restoration.plan import check_length, foresee, plan_output

    if mask is None and dry_run:
        raise click.UsageError("a dry run needs a --mask; `artifusion detect SLIDE -o MASK.png` makes one")
    asked = {"steps": steps, "batch_size": batch_size, "graft": graft, "doubtful": doubtful}
    given = {key: value for key, value in asked.items() if value is not None}
    with shown_as_usage():
        selection = MaskSelection.of(mask, polarity, grow_um, classes, mask_format)
        if adapt_minutes or adapt_crops:
            check_length(adapt_minutes, adapt_crops)
        settings = load_config(RestoreConfig, "restore", None, **given)
    if config:
        settings = load_config(RestoreConfig, "restore", config, **given)

    from artifusion.slide.reader import open_slide

    with open_slide(slide, mpp=mpp) as opened:
        if opened.mpp is None and not quiet:
            say_scale(opened, settings.default_spacing_um)
        if mask is not None and dry_run:
            from artifusion.output.history import earlier_passes

            planned = plan_output(opened, output, mask, preview, overwrite=overwrite, same_size=same_size)
            earlier_passes(opened, undeclared)
            if adapt_minutes or adapt_crops:
                length = f"about {adapt_minutes:g} minutes" if adapt_minutes else f"{adapt_crops:,} crops"
                click.echo(f"first {weights} learns from this slide's clean tissue: {length}")
            plan = say_plan(opened, selection, settings, weights, quiet)
            click.echo(f"{planned.target.name}: {foresee(opened, plan, planned, lossless)}")
            return

    from artifusion.restoration.pipeline import restore_slide
    from artifusion.restorer import Restorer

    restorer = Restorer.from_pretrained(weights, device, settings)
    sidecar = restore_slide(
        slide, mask, output, restorer=restorer, seed=seed, mpp=mpp, polarity=polarity, grow_um=grow_um,
        classes=classes, mask_format=mask_format, recover=recover, lossless=lossless, same_size=same_size,
        preview=preview, any_stain=any_stain, adapt_minutes=adapt_minutes, adapt_crops=adapt_crops,
        undeclared=undeclared, overwrite=overwrite, quiet=quiet,
    )
    if sidecar is None:
        well = " that can be restored well" if settings.doubtful == "keep" else ""
        what = f"found nothing to restore{well}" if classes or mask else "--classes names nothing to restore"
        click.echo(f"{slide}: {what}; nothing written")
        return
    written = (output or slide).with_name(sidecar["output"]["name"])
    left = named_counts(sidecar["mask"].get("left", {}))
    done = "is done already: " if sidecar.get("done_before") else ""
    click.echo(f"{written}: {done}{counted_regions(sidecar['regions'])} repainted and verified in "
               f"{sidecar['seconds']:.0f} s"
               + "".join(f"; {what}: {which}" for what, which in (
                   ("of these", doubtful_counts(sidecar["regions"])),
                   ("kept as scanned", doubtful_counts(sidecar.get("kept", []))), ("left as they are", left)) if which))


def doubtful_counts(regions: Sequence[Mapping[str, Any]]) -> str:
    """How many regions are filled ill, by their verdicts, in words; empty where none is."""
    counts = Counter(region.get("verdict", "good") for region in regions)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("doubtful", "unrestorable") if counts[verdict])


def counted_regions(regions: Sequence[Any]) -> str:
    """How many regions there are, in words."""
    return f"{len(regions):,} region{'s' if len(regions) != 1 else ''}"


def say_plan(slide: Slide, selection: MaskSelection, settings: RestoreConfig, weights: str, quiet: bool) -> Plan:
    """Print what a restoration will paint, regions, canvases, evaluations, and return it."""
    from artifusion.mask.reading import read_to_restore
    from artifusion.pretrained import architecture_and_walk
    from artifusion.restoration.plan import plan_restoration

    architecture, walk = architecture_and_walk(weights)
    settings = settings.along(walk)
    plan = plan_restoration(slide, read_to_restore(selection, slide).mask, settings, architecture.multiple)
    if not quiet:
        click.echo(plan.mask.summary, err=True)
    share = 100 * plan.area_px / (slide.size.width * slide.size.height)
    click.echo(f"{counted_regions(plan.regions)}, {plan.area_px:,} px ({share:.2f} % of the slide)")
    click.echo(f"{len(plan.canvases)} canvases, {settings.evaluations:,} evaluations each"
               + ("; fewer where regions turn out doubtful and are kept" if settings.doubtful == "keep" else ""))
    return plan
