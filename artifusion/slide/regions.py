"""Regions: where to restore. Canvases: the pieces of slide the painter sees, in an order that leaves no seams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from artifusion.geometry import Box, Size
from artifusion.slide.masks import Mask
from artifusion.slide.polygons import pixel_box


@dataclass(frozen=True)
class Region:
    """A part of the mask: its box of whole level-0 pixels, its masked pixels and its (largest) class.

    Boxes of the regions of one mask are disjoint, so every masked pixel lies in exactly one.
    """

    id: int
    l0_box: Box
    area_px: int
    name: str


@dataclass(frozen=True)
class Canvas:
    """What the painter sees at once: its box, and the target, the pixels of it that this canvas paints.

    Canvases of wave n see what waves before n painted.
    """

    region: int
    l0_box: Box
    l0_target: Box
    wave: int

    @property
    def size(self) -> Size:
        return Size(self.l0_box.width, self.l0_box.height)


def find_regions(mask: Mask, merge_px: int = 64) -> tuple[Region, ...]:
    """The regions of a mask, sorted by (y, x); polygons whose boxes, widened by merge_px, overlap share one."""
    if merge_px < 0:
        raise ValueError(f"merge_px must not be negative, got {merge_px}")
    members = [i for i, area in enumerate(mask.areas_px) if area]
    boxes = [pixel_box(mask.polygons[i]).intersection(Box(0, 0, *mask.l0_size)) for i in members]
    labels = np.arange(len(boxes))
    groups = boxes
    while True:
        count, joined = _overlapping([box.expanded(merge_px) for box in groups])
        labels = joined[labels]
        if count == len(groups):
            break
        merged: list[Box | None] = [None] * count
        for label, box in zip(joined.tolist(), groups, strict=True):
            held = merged[label]
            merged[label] = box if held is None else held.union(box)
        groups = [box for box in merged if box is not None]
    boxes_of = dict(zip(joined.tolist(), groups, strict=True)) if groups else {}
    areas: dict[int, dict[str, int]] = {}
    for i, label in zip(members, labels.tolist(), strict=True):
        by_class = areas.setdefault(label, {})
        by_class[mask.classes[i]] = by_class.get(mask.classes[i], 0) + mask.areas_px[i]
    order = sorted(boxes_of, key=lambda label: (boxes_of[label].y, boxes_of[label].x))
    return tuple(Region(number, boxes_of[label], sum(areas[label].values()),
                        max(areas[label], key=areas[label].__getitem__))
                 for number, label in enumerate(order, 1))


def plan_canvases(regions: Iterable[Region], l0_size: Size, multiple: int = 64, context_px: int = 64,
                  max_px: int = 512, mask: Mask | None = None) -> tuple[Canvas, ...]:
    """The canvases that paint the regions, each masked pixel in exactly one target.

    A region that fits into max_px with its context is one canvas. A larger one is cut into cells, each a canvas of
    its own with context_px around it. A cell's wave is column + 2 * row: cells that see each other never share one,
    and each begins beside known tissue or the finished cells above and to its left, never in the middle of nowhere.
    Cells in which `mask`, where given, selects nothing are left out.
    Sides are multiples of `multiple`, or the slide's own where it is smaller.
    """
    largest = max_px - max_px % multiple
    reach = largest - 2 * context_px
    if context_px < 0 or reach < max(1, 2 * context_px):
        raise ValueError(f"max_px {max_px} leaves no room for cells beside a context of {context_px} px on each side")
    canvases = []
    for region in regions:
        box = region.l0_box
        columns, rows = -(-box.width // reach), -(-box.height // reach)
        for row in range(rows):
            for column in range(columns):
                target = Box.from_edges(
                    box.x + box.width * column // columns, box.y + box.height * row // rows,
                    box.x + box.width * (column + 1) // columns, box.y + box.height * (row + 1) // rows)
                if mask is not None and not mask.read(target).any():
                    continue
                left, right = _span(target.x, target.width, l0_size.width, context_px, multiple)
                top, bottom = _span(target.y, target.height, l0_size.height, context_px, multiple)
                canvas = Box.from_edges(left, top, right, bottom)
                canvases.append(Canvas(region.id, canvas, target, column + 2 * row))
    return tuple(canvases)


def batches(canvases: Iterable[Canvas], batch_size: int) -> tuple[tuple[Canvas, ...], ...]:
    """Canvases of one wave and size in groups of at most batch_size; the order follows from the plan alone."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    ordered = sorted(canvases, key=lambda canvas: (canvas.wave, canvas.size))
    found: list[tuple[Canvas, ...]] = []
    for _, alike in groupby(ordered, key=lambda canvas: (canvas.wave, canvas.size)):
        group = list(alike)
        found.extend(tuple(group[i : i + batch_size]) for i in range(0, len(group), batch_size))
    return tuple(found)


def _overlapping(boxes: list[Box]) -> tuple[int, np.ndarray]:
    """Groups of boxes that overlap, directly or through others: their number, and the group of each box."""
    if not boxes:
        return 0, np.zeros(0, np.int64)
    corners = np.array([(box.x, box.y, box.right, box.bottom) for box in boxes], float)
    corners += (0.25, 0.25, -0.25, -0.25)                       # boxes that only touch do not overlap
    shapes = shapely.box(*corners.T)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    count, labels = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(len(boxes),) * 2), False)
    return int(count), labels.astype(np.int64)


def _span(start: int, length: int, slide_length: int, context_px: int, multiple: int) -> tuple[int, int]:
    """Start and end of a canvas on one axis: context around the target, a multiple long or the whole slide."""
    side = -(-(length + 2 * context_px) // multiple) * multiple
    first = start - (side - length) // 2
    first = max(0, min(first, slide_length - side))
    return first, min(first + side, slide_length)
