"""The command line. Heavy imports happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from artifusion import __version__
from artifusion.cli.detect import ANY_STAIN, detect
from artifusion.cli.evaluate import evaluate
from artifusion.cli.mask import mask_commands
from artifusion.cli.options import MASK_FORMAT, PATH, SCALE, Number, known_classes, known_kinds
from artifusion.errors import ArtifusionError


class OneLineErrors(click.Group):
    """Prints an `ArtifusionError` as one line and exits with 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArtifusionError as error:
            click.echo(f"artifusion: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("artifusion: interrupted; what was begun goes on when the same command is given again",
                       err=True)
            ctx.exit(130)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="artifusion")
def main() -> None:
    """Repair digitised pathology slides: a slide and a mask in, the same slide out, only the artifact repainted.

    Restored pixels are invented by a diffusion model. They are not evidence and not for diagnosis; every output says
    which pixels they are.

    \b
    A first try:
      artifusion damage slide.svs damaged.svs                       paint artifacts, with their mask
      artifusion restore damaged.svs --mask damaged.svs.geojson     repaint them
      artifusion verify damaged.svs damaged.restored.svs            prove that nothing else changed
    """


@main.command()
@click.argument("slide", type=PATH)
@click.option("--mask", type=PATH,
              help="What to repaint: an image of the slide at any scale (white = restore), GeoJSON of QuPath, or what "
                   "GrandQC or HistoQC wrote.  [default: what `artifusion detect` finds]")
@click.option("--classes", callback=known_classes, metavar="A,B",
              help="Only these of fold, bubble, pen, blur, dark, dust, other.  [default: all; of what is detected, all "
                   "but blur]")
@ANY_STAIN
@MASK_FORMAT
@click.option("-o", "--output", type=PATH, help="Default: NAME.restored.SUFFIX beside the slide.")
@click.option("--weights", default="he-small", show_default=True, metavar="NAME|DIR|HUB_ID", help="The model.")
@click.option("--config", metavar="FILE|NAME", help="Restoration settings as TOML.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:0,cuda:1",
              help="Where to paint; several GPUs share the canvases and paint the same.  [auto: every GPU]")
@click.option("--steps", type=click.IntRange(1, 1000), help="Evaluations per canvas.  [default: 10]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other tissue.")
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--grow", "grow_um", type=Number(0, 10_000), default=0.0, metavar="UM", help="Widen the mask.")
@click.option("--mask-polarity", "polarity", type=click.Choice(["restore", "keep"]),
              help="What white means; given explicitly, the mask may cover over half of the slide.")
@click.option("--lossless", is_flag=True, help="What must be encoded anew: without loss.")
@click.option("--same-size", is_flag=True,
              help="JPEG 2000 slides: touched tiles keep about their size instead of being exact beside the mask.")
@click.option("--batch-size", type=click.IntRange(1), help="Canvases per evaluation.  [default: 4]")
@click.option("--adapt", "adapt_minutes", type=Number(0, min_open=True), metavar="MINUTES",
              help="First train the weights about so long on the slide's own clean tissue, for this slide alone.")
@click.option("--adapt-crops", type=click.IntRange(1), metavar="N",
              help="The same for N crops: what OUTPUT.json of a run with --adapt names gives the same bytes.")
@click.option("--preview", type=PATH, help="Also draw before / mask / after into this .png or .jpg.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True,
              help="Print regions, canvases, evaluations and the bytes to be written; paint nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def restore(
    slide: Path, mask: Path | None, output: Path | None, classes: tuple[str, ...] | None, any_stain: bool,
    mask_format: Any, weights: str, config: str | None, device: str, steps: int | None, seed: int, mpp: float | None,
    grow_um: float, polarity: Any, lossless: bool, same_size: bool, batch_size: int | None, adapt_minutes: float | None,
    adapt_crops: int | None, preview: Path | None, overwrite: bool, dry_run: bool, quiet: bool,
) -> None:
    """Repaint the masked part of SLIDE with tissue that a diffusion model invents.

    Without --mask the artifacts are detected first, and OUTPUT.mask.png keeps what was found. Only masked pixels
    change. SVS and tiled TIFF keep their container, and what the mask does not touch is copied byte for byte; other
    formats become a pyramidal BigTIFF. Beside the output lie OUTPUT.json (what was done, with which weights) and
    OUTPUT.geojson (the invented regions, for QuPath). An interrupted run goes on when the same command is given again.
    """
    from artifusion.config import RestoreConfig, load_config

    if adapt_minutes and adapt_crops:
        raise click.UsageError("--adapt and --adapt-crops say the same thing twice; give one")
    given = {key: value for key, value in {"steps": steps, "batch_size": batch_size}.items() if value is not None}
    settings = load_config(RestoreConfig, "restore", config, **given) if config else RestoreConfig(**given)

    from artifusion.slide.reader import open_slide

    selection = {"polarity": polarity, "grow_um": grow_um, "classes": classes, "mask_format": mask_format}
    with open_slide(slide, mpp=mpp) as opened:
        if opened.mpp is None and not quiet:
            say_scale(opened, settings.default_spacing_um)
        if dry_run and mask is None:
            raise click.UsageError("a dry run needs a --mask; `artifusion detect SLIDE -o MASK.png` makes one")
        if dry_run and mask:
            if adapt_minutes or adapt_crops:
                length = f"about {adapt_minutes:g} minutes" if adapt_minutes else f"{adapt_crops:,} crops"
                click.echo(f"first {weights} learns from this slide's clean tissue: {length}")
            say_plan(opened, mask, output, settings, weights, lossless, same_size, selection, quiet)
            return

    from artifusion.restoration.pipeline import restore_slide
    from artifusion.restorer import Restorer

    restorer = Restorer.from_pretrained(weights, device, settings)
    content = restore_slide(
        slide, mask, output, restorer=restorer, seed=seed, mpp=mpp, lossless=lossless, same_size=same_size,
        preview=preview, any_stain=any_stain, adapt_minutes=adapt_minutes, adapt_crops=adapt_crops,
        overwrite=overwrite, quiet=quiet, **selection,
    )
    if content is None:
        click.echo(f"{slide}: no artifacts found; nothing to restore, nothing written")
        return
    written = (output or slide).with_name(content["output"]["name"])
    click.echo(f"{written}: {len(content['regions'])} regions repainted and verified in {content['seconds']:.0f} s")


def say_scale(slide: Any, assumed_um: float) -> None:
    """One line on stderr for a slide whose scale is unknown."""
    why = slide.mpp_doubt or "does not tell its scale"
    click.echo(f"{slide.path.name} {why}; taking {assumed_um} um/px (--mpp to say better)", err=True)


def say_plan(
    slide: Any, mask: Path, output: Path | None, settings: Any, weights: str, lossless: bool, same_size: bool,
    selection: dict[str, Any], quiet: bool,
) -> None:
    """What a restoration will do: regions, canvases, evaluations, and the file it will write."""
    from artifusion.output.container import check_same_size, default_output
    from artifusion.output.forecast import forecast
    from artifusion.pretrained import canvas_multiple
    from artifusion.restoration.pipeline import plan_restoration

    out = output or default_output(slide.path, slide)
    if same_size:
        check_same_size(slide, out)
    expected = forecast(slide, out, lossless)
    plan = plan_restoration(slide, mask, settings, canvas_multiple(weights), **selection)
    if not quiet:
        click.echo(plan.mask.summary, err=True)
    share = 100 * plan.area_px / (slide.size.width * slide.size.height)
    click.echo(f"{len(plan.regions)} regions, {plan.area_px:,} px ({share:.2f} % of the slide)")
    click.echo(f"{len(plan.canvases)} canvases, {settings.evaluations:,} evaluations each")
    click.echo(f"{out.name}: {expected}")


@main.command()
@click.argument("source", type=PATH)
@click.argument("output", type=PATH)
@click.option("--kinds", default="fold,bubble,pen", show_default=True, callback=known_kinds,
              help="Any of fold, bubble, pen, blur, dark, dust, thread, with commas.")
@click.option("--strength", type=click.Choice(["mild", "strong"]), default="strong", show_default=True,
              help="How much of the tissue still shows.")
@click.option("--share", type=Number(0.0001, 0.3), default=0.03, show_default=True,
              help="Damaged share of the slide's area, about.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--mpp", type=SCALE, help="um per pixel, where the slide does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def damage(
    source: Path, output: Path, kinds: tuple[str, ...], strength: Any, share: float, seed: int, mpp: float | None,
    overwrite: bool, quiet: bool,
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
    spots = damage_slide(source, output, kinds=kinds, strength=strength, share=share, seed=seed, mpp=mpp,
                         overwrite=overwrite, quiet=quiet)
    click.echo(f"{output}: {len(spots)} artifacts painted ({', '.join(sorted({spot.kind for spot in spots}))})")


@main.command()
@click.argument("source", type=PATH)
@click.argument("restored", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(source: Path, restored: Path, as_json: bool) -> None:
    """Compare RESTORED with its SOURCE; exit 1 if anything outside the declared regions differs.

    Reads the declaration beside RESTORED (RESTORED.json, RESTORED.geojson).
    """
    from artifusion.output.verify import verify_slide

    report = verify_slide(source, restored)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else "\n".join(report.lines()))
    sys.exit(0 if report.ok else 1)


@main.command()
@click.argument("config")
@click.option("--data", required=True, multiple=True, type=PATH, metavar="PATH",
              help="A slide, an image, a shard of `artifusion tiles`, or a folder of them; repeat for more.")
@click.option("--run-dir", required=True, type=PATH, help="Where the run lives; the same command again resumes it.")
@click.option("--init", metavar="NAME|DIR", help="Begin from these weights.")
@click.option("--max-minutes", type=Number(0, min_open=True), help="End, cooled down, after this long.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(
    config: str, data: tuple[Path, ...], run_dir: Path, init: str | None, max_minutes: float | None, device: str,
    quiet: bool,
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
    run = training(settings, data, run_dir, init=init, max_minutes=max_minutes, device=device, quiet=quiet)
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


@main.command()
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
    click.echo(f"{output}: {report.tiles} tiles, {report.size_bytes / 1e6:.1f} MB{left}")


@main.command()
@click.argument("thing")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(thing: str, as_json: bool) -> None:
    """Describe a SLIDE (size, levels, scale, whether it can be copied) or WEIGHTS (name, size, training)."""
    path = Path(thing)
    facts = slide_facts(path) if path.is_file() else weights_facts(thing)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        click.echo(f"{key:<{width}}  {value}")


def slide_facts(path: Path) -> dict[str, Any]:
    from artifusion.output.container import container_of, default_output
    from artifusion.slide.reader import open_slide

    with open_slide(path) as slide:
        out = default_output(path, slide)
        container, reason = container_of(slide, out)
        doubt = f": the file {slide.mpp_doubt}" if slide.mpp_doubt else ""
        return {
            "file": path.name,
            "kind": slide.kind,
            "vendor": slide.vendor,
            "size": f"{slide.size.width} x {slide.size.height} px",
            **{f"level_{n}": f"{w} x {h} px, {container}: {reason}" for n, (w, h) in enumerate(slide.level_sizes)},
            "um_per_px": slide.mpp if slide.mpp is not None else f"unknown (give --mpp){doubt}",
            "icc_profile": f"{len(slide.icc)} bytes" if slide.icc else "none",
            "associated_images": ", ".join(slide.associated) or "none",
            "restored_as": out.name,
        }


def weights_facts(name: str) -> dict[str, Any]:
    from artifusion.checkpoint import load_weights

    weights = load_weights(name)
    return {
        "weights": weights.name,
        "parameters": f"{sum(p.numel() for p in weights.denoiser.parameters()):,}",
        "sha256": weights.sha256,
        "canvas_multiple_px": weights.denoiser.multiple,
        **{f"training_{key}": value for key, value in weights.training.items()},
    }


main.add_command(mask_commands)
main.add_command(detect)
main.add_command(evaluate)
