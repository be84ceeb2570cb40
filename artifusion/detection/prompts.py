"""What a person points at on a slide: points, boxes and points on what is none, given one by one or drawn in QuPath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely

from artifusion.errors import MaskError
from artifusion.geometry import Box, Point, Size
from artifusion.mask.classes import class_of
from artifusion.mask.geojson import geometries, load_geojson
from artifusion.mask.mask import DEFAULT_CLASS
from artifusion.slide.reader import Slide
from artifusion.slide.tissue import GLASS_OD, optical_density

RECTANGLE = 0.99                    # least share of its bounds that a polygon fills
GLASS_UM = 64.0                     # side of the square around a point that must not be bare glass
NOT = ("not", "ignore*")            # classes of annotations on what belongs to no artifact; the second is QuPath's own


@dataclass(frozen=True)
class Prompts:
    """What a person pointed at, in level-0 pixels: artifacts by points and boxes, each with its class; what is none."""

    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    not_points: tuple[Point, ...] = ()
    kind: str = DEFAULT_CLASS

    @property
    def around(self) -> Box:
        """The smallest box over points and boxes."""
        frames = [*(Box(*point, 1, 1) for point in self.points), *self.boxes]
        around = frames[0]
        for frame in frames:
            around = around.union(frame)
        return around


def check_prompts(slide: Slide, mpp: float, asked: Sequence[Prompts]) -> None:
    """Raise MaskError for prompts that cannot mean an artifact of a slide."""
    size = f"{slide.size.width}x{slide.size.height} px"
    whole = Box(0, 0, *slide.size)
    if not any(one.points or one.boxes for one in asked):
        raise MaskError(f"{slide.path}: nothing points at an artifact; give a point on it or a box around it")
    for one in asked:
        for point in (*one.points, *one.not_points):
            if whole.intersection(Box(*point, 1, 1)).empty:
                raise MaskError(f"{slide.path}: {point.x},{point.y} lies outside the slide ({size}); points count its "
                                "level-0 pixels")
        for box in one.boxes:
            if box.empty or whole.intersection(box).empty:
                raise MaskError(f"{slide.path}: the box {','.join(map(str, box))} (x, y, width, height) holds nothing "
                                f"of the slide ({size})")
        for point in one.points:
            side = max(16, round(GLASS_UM / mpp))
            around = Box(point.x - side // 2, point.y - side // 2, side, side)
            density = optical_density(slide.read_as(around, Size(16, 16))).mean(axis=2)
            if density.max() < GLASS_OD:
                raise MaskError(f"{slide.path}: {point.x},{point.y} shows bare glass; point at the artifact")
            if point in [other for each in asked for other in each.not_points]:
                raise MaskError(f"{slide.path}: {point.x},{point.y} is said to be an artifact and to be none")


def read_prompts(path: Path, slide: Slide) -> list[Prompts]:
    """The prompts in QuPath's GeoJSON: points and rectangles, and what they are called.

    Points of class "not" or "Ignore*" lie on no artifact. Raises MaskError for anything else.
    """
    if not path.is_file():
        raise MaskError(f"{path}: no such file; export points and rectangles from QuPath as GeoJSON")
    start = slide.bounds_offset
    found: dict[str, Prompts] = {}
    for number, geometry, name in geometries(load_geojson(path), path):
        kind = class_of(name)
        before = found.get(kind, Prompts(kind=kind))
        points, boxes = prompts_of(path, number, geometry, start)
        if name.strip().lower() in NOT:
            if boxes:
                raise MaskError(f"{path}: entry {number} is a rectangle called {name}; mark what is no artifact by "
                                "points")
            found[kind] = replace(before, not_points=(*before.not_points, *points))
        else:
            found[kind] = replace(before, points=(*before.points, *points), boxes=(*before.boxes, *boxes))
    return list(found.values())


def prompts_of(path: Path, number: int, geometry: object, start: Point) -> tuple[list[Point], list[Box]]:
    """The points and the boxes of one annotation in level-0 pixels."""
    try:
        form = shapely.force_2d(shapely.geometry.shape(geometry))
        bounds = [int(np.floor(value)) + offset for value, offset in zip(form.bounds, (*start, *start), strict=True)]
    except (shapely.errors.ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        raise MaskError(f"{path}: entry {number} is no geometry; export points and rectangles from QuPath") from None
    if form.geom_type in ("Point", "MultiPoint"):
        return [Point(int(np.floor(part.x)) + start.x, int(np.floor(part.y)) + start.y)
                for part in getattr(form, "geoms", [form])], []
    if form.geom_type == "Polygon" and form.area >= RECTANGLE * form.envelope.area > 0:
        return [], [Box.from_edges(*bounds)]
    raise MaskError(f"{path}: entry {number} is a {form.geom_type}; prompts are points and rectangles, and outlines "
                    "need none: give them to restore as --mask")
