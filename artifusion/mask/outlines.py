"""The exact outlines of a raster as polygons in level-0 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import shapely
from shapely import Polygon

from artifusion.errors import MaskError
from artifusion.geometry import Size, strips
from artifusion.mask.classes import CLASSES
from artifusion.mask.polygons import MOST_CORNERS

ONE = Fraction(1)


def class_outlines(path: Path, ids: np.ndarray, l0_size: Size) -> tuple[list[Polygon], list[str]]:
    """The exact outlines of an image of class ids (H, W) in level-0 pixels, and the class of each.

    Raises:
        MaskError: outlines with more corners than any mask of artifacts has.
    """
    corners = 0
    for runs in edge_runs(ids):
        corners += 2 * len(runs)
        if corners > MOST_CORNERS:
            raise MaskError(f"{path}: its outlines have over {MOST_CORNERS / 1e6:g} million corners, as noise has: no "
                            "mask of artifacts; smooth it, or mark what to restore as areas")
    height, width = ids.shape
    polygons, numbers = outlines(ids, Fraction(l0_size.width, width), Fraction(l0_size.height, height))
    names = {at: name for name, at in CLASSES.items()}
    order = sorted(range(len(polygons)), key=lambda index: numbers[index])
    return [polygons[index] for index in order], [names[numbers[index]] for index in order]


def rectilinear(mask: np.ndarray, x_scale: Fraction = ONE, y_scale: Fraction = ONE) -> list[Polygon]:
    """The exact outline of a raster bool (H, W) as polygons with holes, in level-0 pixels; see `outlines`."""
    return outlines(np.asarray(mask, bool).view(np.uint8), x_scale, y_scale)[0] if mask.any() else []


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
