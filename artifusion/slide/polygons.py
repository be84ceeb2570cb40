"""Polygons and pixels: which pixel centres a polygon holds, and the exact outline of a raster.

A pixel belongs to a polygon where its centre lies inside (even-odd over exterior and holes). A centre that lies on
a left or upper edge is inside, on a right or lower edge outside, so touching polygons never share a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import Box, Size

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
    _, rows, columns, _ = crossings(edge_list, box.y, box.bottom)
    toggles = np.zeros((box.height, box.width + 1), np.uint8)      # only their parity counts, so they may wrap
    np.add.at(toggles, (rows - box.y, np.clip(columns - box.x, 0, box.width)), 1)
    return (np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1).astype(bool)


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


def rectilinear(mask: np.ndarray, x_scale: float | Fraction = 1, y_scale: float | Fraction = 1) -> list[Polygon]:
    """The exact outline of a raster bool (H, W) as polygons with holes, in level-0 pixels.

    A level-0 pixel x lies inside where mask[.., floor((x + 0.5) / x_scale)] is set (and y likewise): corners lie on
    whole level-0 pixels, so `draw` gives exactly that raster back. Diagonal neighbours become separate polygons.
    Empty rows and columns between artifacts cost neither time nor memory.
    """
    mask = np.asarray(mask, bool)
    found: list[Polygon] = []
    for top, bottom in _stretches(np.asarray(mask.any(axis=1))):
        ys = _whole_edges(top, bottom, y_scale)
        for left, right in _stretches(np.asarray(mask[top:bottom].any(axis=0))):
            found += _outlines(mask[top:bottom, left:right], _whole_edges(left, right, x_scale), ys)
    return found


def _stretches(some: np.ndarray) -> list[tuple[int, int]]:
    """Where runs of set elements begin and end."""
    edges = np.flatnonzero(np.diff(some, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _outlines(mask: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> list[Polygon]:
    """The outline of a raster whose pixel (row, column) spans xs[column] to xs[column + 1], ys[row] to ys[row + 1]."""
    columns, rows = np.flatnonzero(np.diff(xs)), np.flatnonzero(np.diff(ys))
    mask = mask[np.ix_(rows, columns)]                          # mask pixels that no level-0 pixel falls into are gone
    xs, ys = np.append(xs[columns], xs[-1]), np.append(ys[rows], ys[-1])
    if not mask.any():
        return []
    padded = np.pad(mask, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]              # (h + 1, w): horizontal unit edges
    down = padded[1:-1, 1:] != padded[1:-1, :-1]                # (h, w + 1): vertical unit edges
    vertical = np.pad(down, ((1, 1), (0, 0)))
    corner = vertical[1:] | vertical[:-1]                       # (h + 1, w + 1): vertices with a vertical edge ...
    horizontal = np.pad(across, ((0, 0), (1, 1)))
    corner &= horizontal[:, 1:] | horizontal[:, :-1]            # ... and a horizontal one
    row, left, right = _runs(across, corner)
    column, top, bottom = _runs(down.T, corner.T)
    lines = np.concatenate([np.stack([left, row, right, row], axis=1), np.stack([column, top, column, bottom], axis=1)])
    faces = shapely.polygonize(list(shapely.linestrings(lines.reshape(-1, 2, 2)))).geoms
    return [_scaled(face, xs, ys) for face in faces if _holds(face, mask)]


def _whole_edges(start: int, stop: int, scale: float | Fraction) -> np.ndarray:
    """First level-0 pixel of mask pixels start..stop-1, and the end: ceil(j * scale - 1/2) in exact arithmetic."""
    ratio = Fraction(scale)
    if ratio == 1:
        return np.arange(start, stop + 1)
    over, under = ratio.numerator, ratio.denominator
    return np.array([-((under - 2 * over * j) // (2 * under)) for j in range(start, stop + 1)])


def _runs(unit: np.ndarray, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximal straight edges between corners: line, start, end. unit (n, m), corner (n, m + 1)."""
    before = np.pad(unit, ((0, 0), (1, 0)))[:, :-1]
    after = np.pad(unit, ((0, 0), (0, 1)))[:, 1:]
    line, start = np.nonzero(unit & (~before | corner[:, :-1]))
    _, end = np.nonzero(unit & (~after | corner[:, 1:]))
    return line, start, end + 1


def _holds(face: Polygon, mask: np.ndarray) -> bool:
    """Whether a face of the outline is mask: the pixel under the leftmost corner of its top edge tells."""
    points = np.asarray(face.exterior.coords)
    x, y = points[np.lexsort((points[:, 0], points[:, 1]))[0]].astype(int)
    return bool(mask[y, x])


def _scaled(face: Polygon, xs: np.ndarray, ys: np.ndarray) -> Polygon:
    def ring(points: np.ndarray) -> np.ndarray:
        whole = np.asarray(points)[:, :2].astype(int)
        return np.stack([xs[whole[:, 0]], ys[whole[:, 1]]], axis=1)
    return Polygon(ring(face.exterior.coords), [ring(hole.coords) for hole in face.interiors])
