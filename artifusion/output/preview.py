"""Before / mask / after pictures of a restoration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from artifusion.errors import OutputError
from artifusion.geometry import Box, Size, fitted
from artifusion.mask.mask import Mask
from artifusion.output.provenance import SEEN
from artifusion.slide.reader import Slide

OVERVIEW_PX = 640           # longer side of the overview of the whole slide
CROP_PX = 384               # side of a full-size crop
ROWS = 6
SUFFIXES = (".png", ".jpg", ".jpeg")
GAP_PX = 8
LINE_PX = 2
GRAFTED, PAINTED = (255, 190, 0), (0, 200, 80)            # colours that no stain has
KINDS = {**SEEN, "grafted": GRAFTED, "painted": PAINTED}


def check_picture_name(path: Path) -> None:
    """Raise OutputError unless the suffix is that of a picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: a preview is written as {', '.join(SUFFIXES)}; choose one of these")


def draw_comparison(before: Slide, mask: Mask, parts: Mapping[str, Mask], after: Slide, l0_boxes: Sequence[Box],
                    out: Path) -> None:
    """Write a picture: the whole slide, then the largest regions at full size, each before / mask / after.

    In the middle the parts of the mask, by their names in KINDS, are outlined in colours that a legend names; what is
    left of it is painted.
    """
    largest = sorted(l0_boxes, key=lambda box: -box.area)[:ROWS]
    rows = [overview_row(before, mask, parts, after)]
    rows += [crop_row(before, mask, parts, after, around(box, before.size)) for box in largest]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    picture = Image.fromarray(np.concatenate(rows))
    draw = ImageDraw.Draw(picture)
    third = (rows[0].shape[1] + GAP_PX) // 3
    meaning = "recovered: measured; painted: invented" if "recovered" in parts else "invented where masked"
    for n, title in enumerate(("before", "mask", f"after ({meaning})")):
        draw.text((n * third + 4, 4), title, fill=(0, 0, 0), stroke_width=2, stroke_fill=(255, 255, 255))
    for n, (name, colour) in enumerate([(name, KINDS[name]) for name in KINDS if name in (*parts, "painted")], 1):
        draw.rectangle((third + 4, 4 + 14 * n, third + 13, 13 + 14 * n), colour, (0, 0, 0))
        draw.text((third + 18, 3 + 14 * n), name, fill=(0, 0, 0), stroke_width=2, stroke_fill=(255, 255, 255))
    picture.save(out)


def crop_row(before: Slide, mask: Mask, parts: Mapping[str, Mask], after: Slide, l0_box: Box) -> np.ndarray:
    """The three views of a box at full size, side by side: uint8 (H, 3 W + gaps, 3)."""
    image = before.seen_as(l0_box)[0]                         # a picture shows what is damaged elsewhere as white
    seen = {name: part.read(l0_box) for name, part in parts.items()}
    return side_by_side(image, outlined(image, mask.read(l0_box), seen), after.seen_as(l0_box)[0])


def overview_row(before: Slide, mask: Mask, parts: Mapping[str, Mask], after: Slide) -> np.ndarray:
    """The three views of the whole slide, small."""
    whole, size = Box(0, 0, *before.size), fitted(before.size, OVERVIEW_PX)
    image = before.seen_as(whole, size)[0]
    seen = {name: part.coverage(size, Box(0, 0, *size)) for name, part in parts.items()}
    masked = mask.coverage(size, Box(0, 0, *size))
    return side_by_side(image, outlined(image, masked, seen), after.seen_as(whole, size)[0])


def around(l0_box: Box, size: Size) -> Box:
    """A box of CROP_PX a side over the middle of another, shifted into the slide."""
    width, height = min(CROP_PX, size.width), min(CROP_PX, size.height)
    x = min(max(0, l0_box.x + (l0_box.width - width) // 2), size.width - width)
    y = min(max(0, l0_box.y + (l0_box.height - height) // 2), size.height - height)
    return Box(x, y, width, height)


def outlined(image: np.ndarray, masked: np.ndarray, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image with outlines, within the areas, of the parts of the mask and of what else of it is painted."""
    image = image.copy()
    painted = masked & ~np.any(list(parts.values()), axis=0) if parts else masked
    for name, area in {"painted": painted, **parts}.items():
        where, colour = masked & area, KINDS[name]
        padded = np.pad(where, LINE_PX)                                   # the picture's edge is an outline too
        image[where & ~binary_erosion(padded, iterations=LINE_PX)[LINE_PX:-LINE_PX, LINE_PX:-LINE_PX]] = colour
    return image


def side_by_side(*views: np.ndarray) -> np.ndarray:
    gap = np.full((views[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([views[0], gap, views[1], gap, views[2]], axis=1)
