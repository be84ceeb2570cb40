"""`artifusion info`: what a slide or weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
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
    from artifusion.slide.spacing import per_axis

    with open_slide(path) as slide:
        out = default_output(path, slide)
        container, reason = container_of(slide, out)
        doubt = f": the file {slide.mpp_doubt}" if slide.mpp_doubt else ""
        um_per_px = per_axis(slide.mpp_xy) if slide.mpp_xy and slide.mpp not in slide.mpp_xy else slide.mpp
        return {
            "file": path.name,
            "kind": slide.kind,
            "vendor": slide.vendor,
            "size": f"{slide.size.width} x {slide.size.height} px",
            **{f"level_{n}": f"{w} x {h} px, {container}: {reason}" for n, (w, h) in enumerate(slide.level_sizes)},
            "um_per_px": um_per_px if um_per_px is not None else f"unknown (give --mpp){doubt}",
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
        "began_from": f"{weights.parent['name']}, sha256 {weights.parent['sha256']}" if weights.parent else "nothing",
        "canvas_multiple_px": weights.denoiser.multiple,
        "walk": f"{weights.walk.sampler}, {weights.walk.steps} steps",
        **{f"training_{key}": value for key, value in weights.training.items()},
    }
