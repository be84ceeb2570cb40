"""The mask: which pixels of a slide are to be restored, whatever file it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import shapely
from shapely import Polygon

from artifusion.geometry import Box, Size
from artifusion.mask.classes import CLASSES, class_of, named_counts
from artifusion.mask.polygons import clipped, disjoint, draw, edge_table, pixel_counts, spans

DEFAULT_CLASS = "other"
DRAWN_PX = 2048                     # level-0 pixels, per side, that are drawn at a time


@dataclass(frozen=True)
class Mask:
    """Which level-0 pixels to restore: polygons with holes whose interiors do not overlap, each with a class name.

    `origin` says in words what it was read from.
    """

    polygons: tuple[Polygon, ...]
    l0_size: Size
    classes: tuple[str, ...] = ()
    origin: str = field(default="mask", compare=False)

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", (DEFAULT_CLASS,) * len(self.polygons))
        if len(self.classes) != len(self.polygons):
            raise ValueError(f"{len(self.polygons)} polygons but {len(self.classes)} class names")

    @classmethod
    def of(cls, polygons: Sequence[Polygon], l0_size: Size, classes: Sequence[str] = ()) -> Mask:
        """A mask from any valid polygons: clipped to the slide, overlaps given to the earlier one."""
        names = list(classes) or [DEFAULT_CLASS] * len(polygons)
        parts = [(part, name) for name, found in zip(names, clipped(polygons, l0_size), strict=True) for part in found]
        kept, kept_names = disjoint([part for part, _ in parts], [name for _, name in parts])
        return cls(tuple(kept), Size(*l0_size), tuple(kept_names))

    @cached_property
    def areas_px(self) -> tuple[int, ...]:
        """Masked level-0 pixels per polygon."""
        return tuple(pixel_counts(*self._edges).tolist())

    @property
    def area_px(self) -> int:
        """Masked level-0 pixels."""
        return sum(self.areas_px)

    @property
    def artifacts(self) -> str:
        """The classes that name an artifact, with commas: all of the vocabulary but "other"."""
        return ", ".join(name for name in CLASSES if name in self.classes and name != DEFAULT_CLASS)

    @property
    def summary(self) -> str:
        """What it is and holds, in one line: "GrandQC class mask: 3 folds, 1 bubble, 0.41 Mpx"."""
        counts = Counter(class_of(name) for name, area in zip(self.classes, self.areas_px, strict=True) if area)
        parts = [named_counts(counts)] if counts else []
        area = f"{self.area_px / 1e6:,.2f} Mpx" if self.area_px >= 1e4 else f"{self.area_px:,} px"
        return f"{self.origin}: {', '.join([*parts, area])}"

    def _polygons_at(self, l0_box: Box) -> list[int]:
        """Indices of the polygons whose bounding boxes meet a box, in order."""
        found = self._tree.query(shapely.box(l0_box.x, l0_box.y, l0_box.right, l0_box.bottom))
        return sorted(found.tolist())

    def read(self, l0_box: Box) -> np.ndarray:
        """Return bool (H, W), True = restore, by the pixel-centre rule; False outside the slide."""
        indices = [] if l0_box.empty else self._polygons_at(l0_box)
        if not indices:
            return np.zeros((max(0, l0_box.height), max(0, l0_box.width)), bool)
        edge_list, begins = self._edges                       # interiors do not overlap, so all can be drawn as one
        return draw(np.concatenate([edge_list[begins[i] : begins[i + 1]] for i in indices]), l0_box)

    def coverage(self, lv_size: Size, lv_box: Box) -> np.ndarray:
        """Which pixels of a level with size lv_size hold any masked level-0 pixel in their footprint: bool (H, W).

        A footprint spans the real ratio of the sizes, per axis; a level-0 pixel that it meets in part counts.
        Memory: the outlines in DRAWN_PX rows of level-0 pixels, however coarse the level.
        """
        touched = np.zeros((lv_box.height, lv_box.width), bool)
        inside = lv_box.intersection(Box(0, 0, *lv_size))
        if lv_size == self.l0_size:
            touched[inside.slices(lv_box)] = self.read(inside)
            return touched
        edge_list, begins = self._edges
        for index in [] if inside.empty else self._polygons_at(footprint(inside, lv_size, self.l0_size)):
            around = level_box(self.polygons[index].bounds, lv_size, self.l0_size).intersection(inside)
            for part in blocks(around, lv_size, self.l0_size, DRAWN_PX):
                runs = spans(edge_list[begins[index] : begins[index + 1]], footprint(part, lv_size, self.l0_size))
                touched[part.slices(lv_box)] |= touched_by(*runs, part, lv_size, self.l0_size)
        return touched

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.polygons)

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        return edge_table(self.polygons)


def footprint_edges(start: int, stop: int, lv_length: int, l0_length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last level-0 pixel that each level pixel start..stop-1 meets, exactly (integers)."""
    at = np.arange(start, stop, dtype=np.int64)
    return at * l0_length // lv_length, -(-(at + 1) * l0_length // lv_length)


def level_box(l0_bounds: tuple[float, float, float, float], lv_size: Size, l0_size: Size) -> Box:
    """A box of level pixels that holds all whose footprints meet level-0 bounds (left, top, right, bottom)."""
    x, y = lv_size.width / l0_size.width, lv_size.height / l0_size.height
    left, top, right, bottom = l0_bounds
    return Box.from_edges(int(left * x) - 1, int(top * y) - 1, int(right * x) + 2, int(bottom * y) + 2)


def footprint(lv_box: Box, lv_size: Size, l0_size: Size) -> Box:
    """The level-0 pixels that a box of level pixels meets."""
    (left, right), (top, bottom) = (footprint_edges(start, stop, lv, l0) for start, stop, lv, l0 in (
        (lv_box.x, lv_box.right, lv_size.width, l0_size.width),
        (lv_box.y, lv_box.bottom, lv_size.height, l0_size.height)))
    return Box.from_edges(int(left[0]), int(top[0]), int(right[-1]), int(bottom[-1]))


def blocks(lv_box: Box, lv_size: Size, l0_size: Size, block_px: int) -> Iterable[Box]:
    """Parts of a level box whose footprints are about block_px wide and high at most (one level pixel at least)."""
    step_x = max(1, block_px * lv_size.width // l0_size.width)
    step_y = max(1, block_px * lv_size.height // l0_size.height)
    return (lv_box.intersection(Box(x, y, step_x, step_y))
            for y in range(lv_box.y, lv_box.bottom, step_y) for x in range(lv_box.x, lv_box.right, step_x))


def touched_by(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, lv_box: Box, lv_size: Size, l0_size: Size
               ) -> np.ndarray:
    """Which pixels of lv_box have a footprint that holds a level-0 pixel of these runs: bool (H, W)."""
    left, right = footprint_edges(lv_box.x, lv_box.right, lv_size.width, l0_size.width)
    top, bottom = footprint_edges(lv_box.y, lv_box.bottom, lv_size.height, l0_size.height)
    first, after = np.searchsorted(right, starts, "right"), np.searchsorted(left, stops, "left")
    row, last = np.searchsorted(bottom, rows, "right"), np.searchsorted(top, rows, "right") - 1
    depths = np.zeros((lv_box.height, lv_box.width + 1), np.int32)
    while len(row):                                       # a level-0 row may lie in the footprints of several
        np.add.at(depths, (row, first), 1)
        np.add.at(depths, (row, after), -1)
        more = row < last
        row, last, first, after = row[more] + 1, last[more], first[more], after[more]
    return np.cumsum(depths[:, :-1], axis=1) > 0
