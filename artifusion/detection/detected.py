"""What was found on a slide: regions with classes and scores, and the mask files that hold them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.detection.overlay import draw_outlines
from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.writer import mask_geojson, write_class_png, write_geojson
from artifusion.output.output import beside, check_outputs
from artifusion.output.preview import check_picture_name
from artifusion.slide.reader import Slide, in_memory, open_slide


@dataclass(frozen=True)
class DetectedRegion:
    """One artifact: its class, a score from 0 to 1 and its box in level-0 pixels."""

    kind: str
    score: float
    l0_box: Box


@dataclass(frozen=True)
class Detection:
    """What was found on a slide.

    ids: class ids (0 = keep) at mpp um per pixel, uint8 (H, W), an image of the whole slide; mask: the same as
    polygons in level-0 pixels; regions: one for each of its polygons, in their order.
    """

    ids: np.ndarray
    mpp: float
    mask: Mask
    regions: tuple[DetectedRegion, ...]

    def counts(self, classes: Collection[str]) -> dict[str, int]:
        """How many regions there are of each of these classes, without those of which there is none."""
        counts = Counter(region.kind for region in self.regions)
        return {name: counts[name] for name in CLASSES if name in classes and counts[name]}


def opened(source: str | Path | np.ndarray, mpp: float | None) -> Slide:
    """A path or the pixels uint8 (H, W, 3) of an image as a slide, to be closed; mpp as for `open_slide`."""
    return open_slide(source, mpp) if isinstance(source, str | Path) else in_memory(source, mpp)


def write_found(
    source: str | Path, out: str | Path, find: Callable[[Slide], Detection], *, mpp: float | None,
    overlay: str | Path | None, overwrite: bool, quiet: bool,
) -> Detection:
    """Write what `find` makes of a slide: a PNG of class ids, its GeoJSON with a score per region, and an overlay."""
    target = Path(out)
    pictures = [Path(overlay)] if overlay else []
    annotations = beside(target, ".geojson")
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: the mask is written as PNG; give it a name that ends in .png")
    for picture in pictures:
        check_picture_name(picture)
    check_outputs([Path(source)], [target, annotations, *pictures], overwrite)
    with open_slide(source, mpp=mpp) as slide:
        if slide.mpp is None and not quiet:
            why = slide.mpp_doubt or "does not tell its scale"
            print(f"{slide.path.name} {why}; taking {DEFAULT_SPACING_UM} um/px (--mpp to say better)", file=sys.stderr)
        found = find(slide)
        for picture in pictures:
            draw_outlines(slide, found.mask, picture)
        scores = [region.score for region in found.regions]
        write_geojson(annotations, mask_geojson(found.mask, slide.bounds_offset, scores))
        write_class_png(target, found.ids)
    return found
