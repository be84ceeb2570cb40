"""Polygons and pixels: which pixel centres a polygon holds, and the exact outline of a raster.

A pixel belongs to a polygon where its centre lies inside (even-odd over exterior and holes). A centre that lies on
a left or upper edge is inside, on a right or lower edge outside, so touching polygons never share a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import Box, Size

CROSSINGS = 1 << 20                 # of edges and rows, that `pixel_counts` holds at a time, about
ONE = Fraction(1)
STRIP_PX = 1 << 22                  # of a raster, that are looked at in one go, about


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
    there = starts < stops
    return rows[there], starts[there], stops[there]


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
    """Per polygon its parts inside the slide; one that lies inside whole comes back unchanged."""
    frame = shapely.box(0, 0, *size)
    return [[polygon] if frame.covers(polygon) else polygons_of(polygon.intersection(frame)) for polygon in polygons]


def disjoint(polygons: Sequence[Polygon], classes: Sequence[str]) -> tuple[list[Polygon], list[str]]:
    """The same cover by polygons whose interiors do not overlap: where two do, the earlier one keeps the ground."""
    if not polygons:
        return [], []
    late, early = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    wanted = early < late
    late, early = late[wanted], early[wanted]
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


def rectilinear(mask: np.ndarray, x_scale: Fraction = ONE, y_scale: Fraction = ONE) -> list[Polygon]:
    """The exact outline of a raster bool (H, W) as polygons with holes, in level-0 pixels; see `outlines`."""
    return outlines(np.asarray(mask, bool).view(np.uint8), x_scale, y_scale)[0]


def outlines(ids: np.ndarray, x_scale: Fraction = ONE, y_scale: Fraction = ONE) -> tuple[list[Polygon], list[int]]:
    """The exact outlines of all areas but 0 of a raster uint8 (H, W), in level-0 pixels, and the number in each.

    A level-0 pixel x lies inside where ids[.., floor((x + 0.5) / x_scale)] has that number (and y likewise): corners
    lie on whole level-0 pixels, so `draw` gives exactly that raster back. Diagonal neighbours become separate polygons.
    Memory: a few strips of STRIP_PX pixels, and the outlines.
    """
    ys, xs = (whole_edges(count, scale) for count, scale in zip(ids.shape, (y_scale, x_scale), strict=True))
    rows, columns = np.flatnonzero(np.diff(ys)), np.flatnonzero(np.diff(xs))
    if (len(rows), len(columns)) != ids.shape:                  # mask pixels that no level-0 pixel falls into are gone
        ids = ids[np.ix_(rows, columns)]
        ys, xs = np.append(ys[rows], ys[-1]), np.append(xs[columns], xs[-1])
    across = np.concatenate([np.empty((0, 3), np.int64), *edge_runs(ids)])
    down = np.concatenate([np.empty((0, 3), np.int64), *edge_runs(ids.T)])
    lines = np.concatenate([across[:, [1, 0, 2, 0]], down[:, [0, 1, 0, 2]]])
    faces = shapely.polygonize(list(shapely.linestrings(lines.reshape(-1, 2, 2)))).geoms
    found = [(face, number) for face in faces if (number := _number_in(face, ids))]
    return [_scaled(face, xs, ys) for face, _ in found], [number for _, number in found]


def strips(shape: tuple[int, ...], around: int = 0) -> Iterator[tuple[slice, slice]]:
    """The rows of an array in strips of about STRIP_PX pixels, and each with up to `around` rows more on both sides."""
    step = max(1, STRIP_PX // max(1, shape[1]))
    for top in range(0, shape[0], step):
        bottom = min(shape[0], top + step)
        yield slice(top, bottom), slice(max(0, top - around), min(shape[0], bottom + around))


def edge_runs(ids: np.ndarray) -> Iterator[np.ndarray]:
    """The horizontal edges in a raster uint8 (H, W), strip by strip: int64 (n, 3) of row, first and last column.

    Every corner of an outline is an end of one of them.
    """
    height, width = ids.shape
    for edges, _ in strips((height + 1, width)):                # edge y lies between the rows y - 1 and y
        around = np.zeros((edges.stop - edges.start + 1, width + 2), np.uint16)
        inside = ids[max(0, edges.start - 1) : edges.stop]
        around[int(edges.start == 0) :][: len(inside), 1:-1] = inside
        above, below = around[:-1], around[1:]
        sides = np.where(above == below, np.uint16(0), above << 8 | below)
        row, end = np.nonzero(sides[:, 1:] != sides[:, :-1])
        starts, stops = sides[row, end + 1] > 0, sides[row, end] > 0
        yield np.stack([row[starts] + edges.start, end[starts], end[stops]], axis=1)


def whole_edges(count: int, scale: Fraction) -> np.ndarray:
    """First level-0 pixel of every mask pixel, and the end: ceil(j * scale - 1/2), exactly; int64 (count + 1,)."""
    over, under = scale.numerator, scale.denominator
    return -((under - 2 * over * np.arange(count + 1, dtype=np.int64)) // (2 * under))


def _number_in(face: Polygon, ids: np.ndarray) -> int:
    """The number in a face of the outlines: that of the pixel under the leftmost corner of its top edge."""
    points = np.asarray(face.exterior.coords)
    x, y = points[np.lexsort((points[:, 0], points[:, 1]))[0]].astype(int)
    return int(ids[y, x])


def _scaled(face: Polygon, xs: np.ndarray, ys: np.ndarray) -> Polygon:
    def ring(points: np.ndarray) -> np.ndarray:
        whole = np.asarray(points)[:, :2].astype(int)
        return np.stack([xs[whole[:, 0]], ys[whole[:, 1]]], axis=1)
    return Polygon(ring(face.exterior.coords), [ring(hole.coords) for hole in face.interiors])
