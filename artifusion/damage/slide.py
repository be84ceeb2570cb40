"""Slide -> painted artifacts -> damaged slide with its mask, through the same writer as a restoration."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shapely.affinity import translate
from tqdm import tqdm

from artifusion import __version__
from artifusion.config import DEFAULT_SPACING_UM
from artifusion.damage.spots import Spot, Strength, damage_spot, plan_damage
from artifusion.errors import ArtifusionError
from artifusion.geometry import Box, fitted
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.regions import Canvas, find_regions
from artifusion.output.patches import Patches
from artifusion.output.provenance import geojson, sidecar
from artifusion.output.workspace import (
    bar,
    beside,
    check_outputs,
    finished,
    publish,
    published,
    sweep,
    workspace,
    write_json,
)
from artifusion.output.writer import container_of, write_slide
from artifusion.slide.reader import Slide, open_slide, sha256
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
    mpp: float | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> tuple[Spot, ...]:
    """Paint artifacts on a clean slide; returns what was painted. A function of the slide and the seed.

    Writes OUT, OUT.mask.png (white = damaged, at full size up to 8192 px), OUT.geojson (exact, with classes) and
    OUT.json. One artifact is in memory at a time.

    Raises:
        SlideError, OutputError; ArtifusionError where no tissue can be found.
    """
    started = time.monotonic()
    target = Path(out)
    with open_slide(source, mpp=mpp) as slide:
        declaration, polygons, picture = beside(target, ".json", ".geojson", ".mask.png")
        outputs = [target, declaration, polygons, picture]
        sweep(target)
        check_outputs([Path(source)], outputs, overwrite, published(target))
        container_of(slide, target)
        spacing = slide.mpp or DEFAULT_SPACING_UM
        spots = plan_damage(slide.size, tissue_mask(overview(slide)), kinds, share, spacing, seed, strength)
        if not spots:
            raise ArtifusionError(f"{source}: no tissue found on which artifacts would fit")
        job: dict[str, Any] = {
            "version": __version__,
            "source": {"name": Path(source).name, "sha256": sha256(source)},
            "painted": {"kinds": list(kinds), "share": share, "seed": seed, "strength": strength},
            "mpp": spacing,
            "mpp_from": slide.mpp_origin,
            "mpp_doubt": slide.mpp_doubt,
        }
        check_outputs([Path(source)], outputs, overwrite, published(target, job))
        done = finished(target, job)
        with workspace(target, job) as work:
            if done:
                return spots
            line = tqdm(spots, desc="damaging", unit="artifact", disable=quiet or None)
            mask = paint_spots(line, slide, work / "patches")
            patches = Patches(work / "patches", slide, mask)
            report = write_slide(slide, mask, patches, target, note=f"{len(spots)} synthetic artifacts painted",
                                 work=work, progress=bar("writing", quiet))
            regions = find_regions(mask, 0)
            content = sidecar(job, regions, len(spots), report.to_dict(), target.name, sha256(report.path),
                              time.monotonic() - started)
            declared = geojson(mask, regions, job["source"]["sha256"], slide.bounds_offset)
            mask_image(mask).save(work / "mask.png")
            publish(work, job, {
                declaration: write_json(work / "declaration.json", content),
                polygons: write_json(work / "polygons.json", declared),
                picture: work / "mask.png",
                target: report.path,
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
