"""Regions: where to restore. Canvases: the pieces of slide the painter sees, in an order that leaves no seams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import shapely

from artifusion.errors import MaskError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import pixel_box

INSET = 0.25
KNOWN_SHARE = 0.05                   # of a canvas: enough tissue to take colours from
BATCH_CANVAS_PX = 512                # side of the canvases whose number a batch size counts


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


def find_regions(mask: Mask, merge_px: int) -> tuple[Region, ...]:
    """The regions of a mask, sorted by (y, x); polygons whose boxes, widened by merge_px, overlap share one."""
    if merge_px < 0:
        raise ValueError(f"merge_px must not be negative, got {merge_px}")
    members = [i for i, area in enumerate(mask.areas_px) if area]
    if not members:
        return ()
    boxes = [pixel_box(mask.polygons[i]).intersection(Box(0, 0, *mask.l0_size)) for i in members]
    merged = sorted(_merged(boxes, merge_px), key=lambda box: (box.y, box.x))
    centres = shapely.points([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])
    _, found = shapely.STRtree(_shapes(merged)).query(centres, predicate="within")
    areas: list[dict[str, int]] = [{} for _ in merged]
    for i, at in zip(members, found.tolist(), strict=True):
        areas[at][mask.classes[i]] = areas[at].get(mask.classes[i], 0) + mask.areas_px[i]
    return tuple(Region(number, box, sum(by_class.values()), max(by_class, key=by_class.__getitem__))
                 for number, (box, by_class) in enumerate(zip(merged, areas, strict=True), 1))


def without_regions(mask: Mask, regions: Sequence[Region]) -> Mask:
    """The mask without what lies in some of its regions."""
    if not regions:
        return mask
    boxes = [pixel_box(polygon) for polygon in mask.polygons]
    centres = shapely.points([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])
    away = set(shapely.STRtree(_shapes([region.l0_box for region in regions])).query(centres, predicate="within")[0])
    kept = [index for index in range(len(boxes)) if index not in away]
    return replace(mask, polygons=tuple(mask.polygons[i] for i in kept), classes=tuple(mask.classes[i] for i in kept))


def plan_canvases(regions: Iterable[Region], l0_size: Size, multiple: int = 64, context_px: int = 64,
                  max_px: int = 512, mask: Mask | None = None) -> tuple[Canvas, ...]:
    """The canvases that paint the regions, each masked pixel in exactly one target.

    A region that fits into max_px with its context is one canvas. A larger one is cut into cells, each a canvas of
    its own with context_px around it, painted inwards: first the cells that see known tissue, then those beside them,
    and so on. Cells that touch never share a wave. Cells in which `mask`, where given, selects nothing are
    left out. Sides are multiples of `multiple`, or the slide's own where it is smaller.

    Raises:
        MaskError: the mask leaves nothing to paint a region from.
    """
    largest = max_px - max_px % multiple
    reach = largest - 2 * context_px
    if context_px < 0 or reach < max(1, 2 * context_px):
        raise ValueError(f"max_px {max_px} leaves no room for cells beside a context of {context_px} px on each side")
    canvases: list[Canvas] = []
    for region in regions:
        box = region.l0_box
        columns, rows = -(-box.width // reach), -(-box.height // reach)
        cells: dict[tuple[int, int], tuple[Box, Box]] = {}
        known: dict[tuple[int, int], float] = {}
        for row, column in np.ndindex(rows, columns):
            target = Box.from_edges(
                box.x + box.width * column // columns, box.y + box.height * row // rows,
                box.x + box.width * (column + 1) // columns, box.y + box.height * (row + 1) // rows)
            if mask is not None and not mask.read(target).any():
                continue
            left, right = _span(target.x, target.width, l0_size.width, context_px, multiple)
            top, bottom = _span(target.y, target.height, l0_size.height, context_px, multiple)
            canvas = Box.from_edges(left, top, right, bottom)
            cells[row, column] = canvas, target
            known[row, column] = 1.0 if mask is None else 1 - float(mask.read(canvas).mean())
        enough = {at for at, share in known.items() if share >= KNOWN_SHARE}
        waves = _inwards(set(cells), enough or {at for at, share in known.items() if share})
        if len(waves) < len(cells):
            raise MaskError(f"nothing is left to paint from around ({box.x}, {box.y}): the mask covers "
                            f"{box.width} x {box.height} px without a gap; unmask what is clean")
        canvases += [Canvas(region.id, *cells[at], waves[at]) for at in cells]
    return tuple(canvases)


def batches(canvases: Iterable[Canvas], batch_size: int) -> tuple[tuple[Canvas, ...], ...]:
    """Canvases of one wave and size in groups of at most batch_size, of fewer where they are larger than 512 px, so
    that no batch has more pixels; the order follows from the plan alone."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    ordered = sorted(canvases, key=lambda canvas: (canvas.wave, canvas.size))
    found: list[tuple[Canvas, ...]] = []
    for _, alike in groupby(ordered, key=lambda canvas: (canvas.wave, canvas.size)):
        group = list(alike)
        count = min(batch_size, max(1, batch_size * BATCH_CANVAS_PX**2 // group[0].l0_box.area))
        found.extend(tuple(group[i : i + count]) for i in range(0, len(group), count))
    return tuple(found)


def _merged(boxes: list[Box], gap_px: int) -> list[Box]:
    """Disjoint boxes over the given ones; those that overlap when widened by gap_px are one."""
    while True:
        together = shapely.get_parts(shapely.union_all(_shapes([box.expanded(gap_px) for box in boxes])))
        merged = [Box.from_edges(round(left - INSET), round(top - INSET), round(right + INSET), round(bottom + INSET))
                  .expanded(-gap_px) for left, top, right, bottom in shapely.bounds(together).tolist()]
        if len(merged) == len(boxes):
            return merged
        boxes = merged


def _shapes(boxes: list[Box]) -> np.ndarray:
    """The boxes as polygons, a little smaller: boxes that only touch do not overlap."""
    edges = np.array([(box.x, box.y, box.right, box.bottom) for box in boxes], float)
    return shapely.box(*(edges + np.array([INSET, INSET, -INSET, -INSET])).T)


def _inwards(cells: set[tuple[int, int]], seeing: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The wave of every (row, column) that can be reached from the cells that see known tissue.

    Cells are reached layer after layer. The cells of one layer take turns in a 2x2 pattern, so that neighbours never
    share a wave.
    """
    waves: dict[tuple[int, int], int] = {}
    layer, depth = seeing, 0
    while layer:
        waves |= {(row, column): 4 * depth + row % 2 * 2 + column % 2 for row, column in layer}
        layer = {(row + y, column + x) for row, column in layer for y in (-1, 0, 1) for x in (-1, 0, 1)
                 if (row + y, column + x) in cells and (row + y, column + x) not in waves}
        depth += 1
    return waves


def _span(start: int, length: int, slide_length: int, context_px: int, multiple: int) -> tuple[int, int]:
    """Start and end of a canvas on one axis: context around the target, a multiple long or the whole slide."""
    side = -(-(length + 2 * context_px) // multiple) * multiple
    first = start - (side - length) // 2
    first = max(0, min(first, slide_length - side))
    return first, min(first + side, slide_length)
