"""Slide -> painted artifacts -> damaged slide with its mask, through the same writer as a restoration."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shapely.affinity import translate
from tqdm import tqdm

from artifusion import __version__
from artifusion.config import DEFAULT_SPACING_UM
from artifusion.damage.artifacts import PenInk
from artifusion.damage.spots import Spot, Strength, damage_spot, plan_damage
from artifusion.errors import ArtifusionError
from artifusion.files import sha256, write_json
from artifusion.geometry import Box, fitted
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.reading import scanned
from artifusion.mask.regions import Canvas, find_regions
from artifusion.output.container import container_of, say_left_out
from artifusion.output.history import earlier_passes
from artifusion.output.lookover import look_over
from artifusion.output.output import Output, beside, digest
from artifusion.output.patches import Patches
from artifusion.output.progress_bar import byte_bar
from artifusion.output.provenance import geojson, sidecar_of
from artifusion.output.writer import write_slide
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import tissue_mask

OVERVIEW_PX = 1024          # longer side of the picture in which tissue is found, at most
MASK_PX = 8192              # longer side of the mask image at most


def damage_slide(
    source: str | Path,
    out: str | Path,
    *,
    kinds: Sequence[str] = ("fold", "bubble", "pen"),
    share: float = 0.03,
    seed: int = 0,
    strength: Strength = "strong",
    ink: PenInk | None = None,
    mpp: float | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> tuple[Spot, ...]:
    """Paint artifacts on a clean slide; returns what was painted. A function of the slide and the seed.

    Writes OUT, OUT.mask.png (white = damaged, at full size up to 8192 px), OUT.geojson (exact, with classes) and
    OUT.json. One artifact is in memory at a time. `ink`: of every pen stroke.

    Raises:
        SlideError, OutputError; ArtifusionError where no tissue can be found.
    """
    started = time.monotonic()
    with open_slide(source, mpp=mpp) as slide:
        output = Output(Path(out), [slide.path], suffixes=(".json", ".geojson", ".mask.png"), overwrite=overwrite)
        output.check()
        container_of(slide, output.target)
        earlier = earlier_passes(slide, undeclared=True)
        if not quiet:
            say_left_out(slide, output.target)
        spacing_um = slide.mpp or DEFAULT_SPACING_UM
        spots = plan_damage(slide.size, tissue_mask(overview(slide)), kinds, share, spacing_um, seed, strength)
        spots = tuple(replace(spot, ink=ink) if spot.kind == "pen" else spot for spot in spots)
        if not spots:
            raise ArtifusionError(f"{source}: no tissue found on which artifacts would fit")
        job: dict[str, Any] = {
            "version": __version__,
            "source": {"name": slide.path.name, "sha256": sha256(slide.path)},
            "painted": {"kinds": list(kinds), "share": share, "seed": seed, "strength": strength,
                        **({"ink": asdict(ink)} if ink else {})},
            "mpp": spacing_um,
            "mpp_from": slide.mpp_origin,
            "mpp_doubt": slide.mpp_doubt,
        }
        if earlier.passes:
            job["history"] = list(earlier.passes)
        output.check(job)
        with output.work_on(job) as work:
            if work is None:                                          # an earlier run had published everything
                return spots
            line = tqdm(spots, desc="damaging", unit="artifact", disable=quiet or None)
            mask = scanned(paint_spots(line, slide, work / "patches"), slide)
            look_over(slide, mask, output.target)
            report = write_slide(Patches(work / "patches", slide, mask), output.target,
                                 note=f"{len(spots)} synthetic artifacts painted", work=work,
                                 progress=byte_bar("writing", quiet))
            regions = find_regions(mask, 0)
            sidecar = sidecar_of(job | {"canvases": len(spots), "job_sha256": digest(job)}, regions, report.to_dict(),
                                 {"name": output.target.name, "sha256": sha256(report.path)},
                                 time.monotonic() - started)
            polygons = earlier.joined(geojson(mask, regions, job["source"]["sha256"], report.bounds_offset))
            mask_image(mask).save(work / "mask.png")
            output.publish({
                beside(output.target, ".json"): write_json(work / "sidecar.json", sidecar),
                beside(output.target, ".geojson"): write_json(work / "polygons.json", polygons),
                beside(output.target, ".mask.png"): work / "mask.png",
                output.target: report.path,
            })
    return spots


def paint_spots(spots: Iterable[Spot], slide: Slide, folder: Path) -> Mask:
    """Paint artifacts into a folder of patches; returns their exact mask, with their kinds as classes."""
    patches = Patches(folder, slide, Mask((), slide.size))
    polygons, classes = [], []
    for spot in spots:
        l0_box, pixels, mask = damage_spot(spot, slide.read)
        patches.add(Canvas(0, l0_box, l0_box, 0), pixels)
        for polygon in rectilinear(mask):
            polygons.append(translate(polygon, l0_box.x, l0_box.y))
            classes.append(spot.kind)
    return Mask(tuple(polygons), slide.size, tuple(classes))


def overview(slide: Slide) -> np.ndarray:
    """The slide, small: uint8 (h, w, 3)."""
    return slide.read_as(Box(0, 0, *slide.size), fitted(slide.size, OVERVIEW_PX))


def mask_image(mask: Mask) -> Image.Image:
    """The mask as a picture, white = masked; where it must be reduced, any masked pixel makes its pixel white."""
    size = fitted(mask.l0_size, MASK_PX)
    return Image.fromarray(mask.coverage(size, Box(0, 0, *size)).astype(np.uint8) * 255)
