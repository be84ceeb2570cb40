"""Polygons and pixels: which pixel centres a polygon holds; polygons clipped, and cut where they overlap.

A pixel belongs to a polygon where its centre lies inside (even-odd over exterior and holes). A centre that lies on
a left or upper edge is inside, on a right or lower edge outside, so touching polygons never share a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import Box, Size

MOST_CORNERS = 1_000_000            # of all polygons of a mask file; noise has more
CROSSINGS = 1 << 20                 # of edges and rows, that `pixel_counts` holds at a time, about


def edge_table(polygons: Sequence[Polygon]) -> tuple[np.ndarray, np.ndarray]:
    """The edges of all polygons, and where those of each begin (with the end of the last, one more than polygons).

    Float64 (n, 4): x0, y0, x1, y1, without those that cross no row of pixel centres. Exteriors run one way round,
    holes the other.
    """
    if not polygons:
        return np.empty((0, 4)), np.zeros(1, np.int64)
    rings, owner = shapely.get_rings(np.asarray(polygons, dtype=object), return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    along = ring[1:] == ring[:-1]
    pairs, ring = np.concatenate([points[:-1], points[1:]], axis=1)[along], ring[1:][along]
    hole = np.append(False, owner[1:] == owner[:-1])                   # the first ring of a polygon is its exterior
    turned = (shapely.is_ccw(rings) == hole)[ring]
    pairs[turned] = pairs[turned][:, [2, 3, 0, 1]]
    crossing = np.ceil(pairs[:, 1] - 0.5) != np.ceil(pairs[:, 3] - 0.5)
    return pairs[crossing], np.searchsorted(owner[ring[crossing]], np.arange(len(polygons) + 1))


def crossings(edge_list: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross the centre lines of rows top..bottom-1: edges, rows, first columns right, directions +-1."""
    x0, y0, x1, y1 = edge_list.T
    first, last = np.ceil(np.minimum(y0, y1) - 0.5), np.ceil(np.maximum(y0, y1) - 0.5)
    first, last = np.clip(first, top, bottom).astype(np.int64), np.clip(last, top, bottom).astype(np.int64)
    counts = last - first
    which = np.repeat(np.arange(len(edge_list)), counts)
    rows = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + first[which]
    slope = (x1 - x0) / (y1 - y0)
    columns = np.ceil(x0[which] + (rows + 0.5 - y0[which]) * slope[which] - 0.5).astype(np.int64)
    return which, rows, columns, np.where(y1 > y0, 1, -1)[which]


def draw(edge_list: np.ndarray, box: Box) -> np.ndarray:
    """Which pixels of a box the polygon of these edges holds: bool (H, W). Work: edges + pixels."""
    drawn = np.zeros((box.height, box.width), bool)
    _, rows, columns, _ = crossings(edge_list, box.y, box.bottom)
    if not len(rows):
        return drawn
    top, bottom = int(rows.min()), int(rows.max()) + 1             # no other row holds anything
    toggles = np.zeros((bottom - top, box.width + 1), np.uint8)    # only their parity counts, so they may wrap
    np.add.at(toggles, (rows - top, np.clip(columns - box.x, 0, box.width)), 1)
    drawn[top - box.y : bottom - box.y] = np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1
    return drawn


def spans(edge_list: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that `draw` would set, as runs: rows, first columns, and columns behind the last. Work: edges + rows.

    A row's runs do not overlap and none is empty.
    """
    _, rows, columns, _ = crossings(edge_list, box.y, box.bottom)
    order = np.lexsort((columns, rows))
    rows, columns = rows[order][::2], np.clip(columns[order], box.x, box.right)
    starts, stops = columns[::2], columns[1::2]
    filled = starts < stops
    return rows[filled], starts[filled], stops[filled]


def pixel_counts(edge_list: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """How many pixels `draw` would set for each polygon of an edge table, without drawing them: int64 (polygons,)."""
    counts = np.zeros(len(begins), np.int64)
    owner = np.searchsorted(begins, np.arange(len(edge_list)), side="right") - 1
    crossed = np.cumsum(np.abs(np.diff(np.ceil(edge_list[:, 1::2] - 0.5), axis=1))[:, 0])
    for part in np.split(np.arange(len(edge_list)), np.flatnonzero(np.diff(crossed // CROSSINGS)) + 1):
        rows = edge_list[part, 1::2]
        top, bottom = math.floor(rows.min(initial=0)) - 1, math.ceil(rows.max(initial=0)) + 1
        which, _, columns, direction = crossings(edge_list[part], top, bottom)
        np.add.at(counts, owner[part][which], columns * direction)
    return np.abs(counts[:-1])


def pixel_box(polygon: BaseGeometry) -> Box:
    """The smallest whole-pixel box over a polygon."""
    left, top, right, bottom = polygon.bounds
    return Box.from_edges(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))


def polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons in any geometry; points, lines and empty parts are dropped."""
    if isinstance(geometry, Polygon):
        return [geometry] if geometry.area > 0 else []
    if isinstance(geometry, MultiPolygon) or hasattr(geometry, "geoms"):
        return [polygon for part in geometry.geoms for polygon in polygons_of(part)]
    return []


def clipped(polygons: Iterable[Polygon], size: Size) -> list[list[Polygon]]:
    """The parts of every polygon inside the slide; a polygon that lies wholly inside is returned unchanged."""
    frame = shapely.box(0, 0, *size)
    return [[polygon] if frame.covers(polygon) else polygons_of(polygon.intersection(frame)) for polygon in polygons]


def disjoint(polygons: Sequence[Polygon], classes: Sequence[str]) -> tuple[list[Polygon], list[str]]:
    """The same area as polygons whose interiors do not overlap: where two do, the earlier one keeps the overlap."""
    if not polygons:
        return [], []
    late, early = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    ordered = early < late
    late, early = late[ordered], early[ordered]
    array = np.asarray(polygons, dtype=object)
    overlap = shapely.relate_pattern(array[late], array[early], "T********")
    cut: dict[int, list[int]] = {}
    for i, j in zip(late[overlap].tolist(), early[overlap].tolist(), strict=True):
        cut.setdefault(i, []).append(j)
    kept: list[tuple[Polygon, str]] = []
    for i, (polygon, name) in enumerate(zip(polygons, classes, strict=True)):
        rest = polygon.difference(shapely.union_all(array[cut[i]])) if i in cut else polygon
        kept.extend((part, name) for part in polygons_of(rest))
    return [polygon for polygon, _ in kept], [name for _, name in kept]
