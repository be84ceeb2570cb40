"""The reader of annotations: GeoJSON of QuPath, GrandQC and HistoQC as polygons in level-0 pixels, with classes."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from shapely import Polygon
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from artifusion.errors import MaskError, shortened
from artifusion.files import is_left_by_macos
from artifusion.geometry import ORIGIN, Point
from artifusion.mask.classes import NEUTRAL_WORDS, class_of, is_tissue, picked, words_of
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import MOST_CORNERS, polygons_of
from artifusion.slide.reader import Slide

GEOJSON_SUFFIXES = (".geojson", ".json", ".gz", ".zip")
MOST_BYTES = 1 << 28                 # of text, unpacked
DONOR_OF = "donor_of"                # in the metadata of our own annotations: the region that got its tissue here
LONGEST_NAME = 100                   # of a class
CLASS_WORDS = [word for key in ("classification", "type", "label", "class", "name", "category", "group", "title")
               for word in words_of(key)]      # in the keys of properties under which a class may stand: "className"
LARGEST_OUTSIDE = 0.5                # share of the area that may lie outside the slide
MOST_NAMED = 3                       # unknown classes that are named in the origin
NOT_READ = (OSError, EOFError, ValueError, RecursionError, RuntimeError, zlib.error, zipfile.BadZipFile)


class GeoJson:
    """A GeoJSON file: a FeatureCollection, a Feature, a list of Features or a bare geometry; plain, gzipped, or alone
    in a zip archive.
    """

    def __init__(self, path: Path) -> None:
        """Raises MaskError: no JSON, so much of it that it is no mask, or outlines of tissue and not of artifacts."""
        self.path = path
        self.content = load_geojson(path)
        self.tool = self._tool()
        self.class_of_unnamed = ""       # of annotations without a class, where the name of the file tells it

    @property
    def knows_classes(self) -> bool:
        return self.tool == "GrandQC"

    def _tool(self) -> str:
        properties = [feature["properties"] for feature in features_of(self.content)
                      if isinstance(feature, dict) and isinstance(feature.get("properties"), dict)]
        if any("tissue_id" in names for names in properties):
            raise MaskError(f"{self.path}: holds TRIDENT's contours, which outline the tissue and not its artifacts; "
                            "restoring them would repaint the slide: name a mask of artifacts")
        return "GrandQC" if any("class_id" in names for names in properties) else "QuPath"

    @property
    def class_names(self) -> set[str]:
        """The classes of the annotations, "" where one has none."""
        return {class_name(feature) for feature in features_of(self.content)}

    def read(self, slide: Slide, wanted: Collection[str] | None, to_avoid: bool = False) -> Mask:
        """The mask, of the wanted classes (None: all).

        Args:
            to_avoid: nothing will be repainted: points, lines and areas of nothing count nowhere.

        Raises:
            MaskError: no GeoJSON of artifacts, for the greater part outside the slide, without a wanted class, or,
                where all are wanted, with annotations of what a slide consists of, which nobody wants repainted.
        """
        path, origin = self.path, f"{self.tool} GeoJSON"
        found = [(number, geometry, name or self.class_of_unnamed)
                 for number, geometry, name in geometries(self.content, path)]
        tissue = sorted({" ".join(name.split()) for *_, name in found if is_tissue(name)})
        if tissue and wanted is None:
            raise MaskError(f"{path}: holds annotations of the class {tissue[0]}, which is no artifact; remove them, "
                            "or pick with --classes what to restore")
        # Before overlaps are settled: what is not wanted, tissue above all, must not take pixels from what is.
        artifacts = [entry for entry in found if not is_tissue(entry[2])]
        kept = picked([name for *_, name in artifacts], wanted, f"{path}: this {origin}")
        start = slide.bounds_offset if self.tool == "QuPath" else ORIGIN
        polygons, names = outlined([artifacts[i] for i in kept], path, start, _grandqc_half_px(self.content), to_avoid)
        mask = Mask.of(polygons, slide.size, [class_of(name) for name in names])
        check_place(mask, polygons, path)
        others = sorted({" ".join(name.split()) for name in names if class_of(name) == "other"} - {"", "other"})
        if others:
            more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
            origin += f" ({', '.join(others[:MOST_NAMED])}{more} as other)"
        return replace(mask, origin=origin)


def check_place(mask: Mask, polygons: Collection[Polygon], path: Path) -> None:
    """Raise MaskError where most of the area of polygons lies outside the slide; `mask`: what lies inside."""
    inside = sum(polygon.area for polygon in mask.polygons)
    outside = shapely.union_all(polygons).difference(shapely.box(0, 0, *mask.l0_size)).area
    if not inside or outside > LARGEST_OUTSIDE * (outside + inside):
        share = "all" if not inside else f"{outside / (outside + inside):.0%}"
        raise MaskError(f"{path}: {share} of its area lies outside the slide ({mask.l0_size.width}x"
                        f"{mask.l0_size.height} px); coordinates must be level-0 pixels of this slide")


def load_geojson(path: Path) -> Any:
    """The content of a GeoJSON file.

    Raises:
        MaskError: no JSON, or so much that it is no mask.
    """
    try:
        text = _unpacked(path).decode("utf-8-sig")
        # Before any work goes into them: a bracket for every corner, a brace for every annotation, commas for the rest.
        if text.count("[") + text.count("{") > MOST_CORNERS or text.count(",") > 8 * MOST_CORNERS:
            raise MaskError(f"{path}: holds more than {MOST_CORNERS:,} corners: no mask of artifacts; simplify the "
                            "polygons")
        return json.loads(text)
    except NOT_READ as error:                               # also numbers with too many digits, a zip with a password
        raise MaskError(f"{path}: no JSON that can be read ({shortened(error)}); export annotations from QuPath as "
                        "GeoJSON") from None


def _unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as packed:
            data = packed.read(MOST_BYTES + 1)
    elif start == b"PK\3\4":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist()
                     if name.lower().endswith(GEOJSON_SUFFIXES[:2])
                     and not name.startswith("__MACOSX") and not is_left_by_macos(name)]
            if len(names) != 1:
                raise MaskError(f"{path}: holds {len(names)} GeoJSON files; unpack it and name the one of this slide")
            with archive.open(names[0]) as entry:
                data = entry.read(MOST_BYTES + 1)
    else:
        with path.open("rb") as plain:
            data = plain.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise MaskError(f"{path}: holds more than {MOST_BYTES >> 20} MB of text: no mask of artifacts; simplify the "
                        "polygons")
    return data


def geojson_polygons(content: Any, path: Path, bounds_offset: Point) -> tuple[list[Polygon], list[str]]:
    """The polygons of QuPath's GeoJSON in level-0 pixels and the class name of each; invalid rings are mended.

    QuPath counts from `bounds_offset`; `path` is for messages.

    Raises:
        MaskError: no GeoJSON, no polygon, or geometry that has no area.
    """
    return outlined(geometries(content, path), path, bounds_offset)


def geometries(content: Any, path: Path) -> list[tuple[int, Any, str]]:
    """Number, geometry and class name of what GeoJSON annotates, without donors. Raises MaskError: no GeoJSON, none."""
    found = []
    for number, feature in enumerate(features_of(content), 1):
        if is_donor(feature):
            continue
        if not isinstance(feature, dict) or not isinstance(feature.get("type"), str):
            raise MaskError(f"{path}: entry {number} is no GeoJSON Feature; export annotations from QuPath as GeoJSON")
        geometry = feature.get("geometry") if feature.get("type") == "Feature" else feature
        found.append((number, geometry, class_name(feature)))
    if not found:
        raise MaskError(f"{path}: holds no polygon; draw what to restore as areas and export them as GeoJSON")
    return found


def outlined(found: Iterable[tuple[int, Any, str]], path: Path, start: Point, spread: float = 0,
             areas_alone: bool = False) -> tuple[list[Polygon], list[str]]:
    """The polygons of geometries that count from `start`, and the class name of each; invalid rings are mended.

    Args:
        spread: by how much outlines run inside of what they mean.
        areas_alone: pass over what has no area.

    Raises:
        MaskError: geometry that has no area.
    """
    polygons: list[Polygon] = []
    classes: list[str] = []
    for number, geometry, name in found:
        try:
            parts = _mended(path, number, geometry, spread)
        except MaskError:
            if not areas_alone:
                raise
            continue
        polygons += [shapely.affinity.translate(part, *start) if any(start) else part for part in parts]
        classes += [name] * len(parts)
    return polygons, classes


def features_of(content: Any) -> list[Any]:
    """The features of GeoJSON in any of its wrappings."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = content.get("features")
        return features if isinstance(features, list) else []
    return content if isinstance(content, list) else [content]


def is_donor(feature: Any) -> bool:
    """Whether an annotation shows where a graft of ours comes from: nothing was restored there."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    metadata = properties.get("metadata") if isinstance(properties, dict) else None
    return isinstance(metadata, dict) and DONOR_OF in metadata


def _grandqc_half_px(content: Any) -> float:
    """Half a mask pixel of GrandQC in level-0 pixels, 0 for everybody else.

    Its outlines run through the centres of the outermost pixels (OpenCV's do), from where half a pixel is missing on
    every side, and count the first pixel as 0.
    """
    metadata = content.get("metadata") if isinstance(content, dict) else None
    scale = metadata.get("scale_factor") if isinstance(metadata, dict) and "class_mapping" in metadata else None
    return scale / 2 if isinstance(scale, int | float) and 0 < scale < 10_000 else 0.0


@np.errstate(all="ignore")                                   # shapely warns of what is refused here
def _mended(path: Path, number: int, geometry: Any, spread: float) -> list[Polygon]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise MaskError(f"{path}: entry {number} is a {kind or 'thing without geometry'}; only Polygon and "
                        "MultiPolygon have an area to restore, remove it or draw it as an area")
    try:
        form = shapely.force_2d(shape(geometry))
        if _has_text(geometry["coordinates"]):
            raise TypeError("a coordinate is text")
        if not np.isfinite(shapely.get_coordinates(form)).all():
            raise ValueError("a coordinate is no number")
        # "structure" keeps what a hand-drawn outline runs around twice; even-odd would leave it out as a hole. It makes
        # an area of a hole that lies beside its shell, too: nothing counts but what a shell runs around.
        shells = [Polygon(part.exterior) for part in shapely.get_parts(form)]
        valid = form
        if not form.is_valid:
            within = shapely.union_all(shapely.make_valid(shells, method="structure"))
            valid = shapely.make_valid(form, method="structure").intersection(within)
        mended = polygons_of(_spread(shells, valid, spread) if spread else valid)
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise MaskError(f"{path}: entry {number} is no valid polygon ({shortened(error)}); redraw it") from None
    if not mended:
        raise MaskError(f"{path}: entry {number} has no area; redraw or remove it")
    return mended


def _has_text(coordinates: Any) -> bool:
    """Whether nested lists hold a text, which shapely would take for the number that it spells, and QuPath would not.
    """
    if isinstance(coordinates, list | tuple):
        return any(map(_has_text, coordinates))
    return isinstance(coordinates, str)


def _spread(shells: Collection[Polygon], valid: BaseGeometry, px: float) -> BaseGeometry:
    """The outline around the pixels through whose centres shells run; a line becomes a row of pixels."""
    whole = shapely.union_all([valid, *(shell.exterior for shell in shells)])
    # Right angles stay right (their mitre is 1.41 px long), and no tip grows by more than a mask pixel.
    wide = whole.buffer(px, cap_style="square", join_style="mitre", mitre_limit=1.5)
    return shapely.affinity.translate(wide, px, px)


def class_name(feature: Any) -> str:
    """The name of an annotation's class, fit to be printed; "" where it has none.

    What stands under another key than "classification" is a class where it names an artifact or tissue and the
    classification names nothing: the cells of QuPath are "Positive" and of the object type "cell".
    """
    properties = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(properties, dict):
        return ""
    ranked = sorted(((CLASS_WORDS.index(word), _printable(found)) for key, found in properties.items()
                     for word in words_of(key) if word in CLASS_WORDS), key=itemgetter(0))
    classified = next((name for rank, name in ranked if name and not rank), "")
    named = (name for _, name in ranked if class_of(name) != "other" or is_tissue(name))
    return classified if words_of(classified) - NEUTRAL_WORDS else next(named, classified)


def _printable(found: Any) -> str:
    """A class as text: all parts of a derived one."""
    name = (found.get("name") or found.get("names")) if isinstance(found, dict) else found
    if isinstance(name, list):
        name = ": ".join(part for part in name if isinstance(part, str))
    if not isinstance(name, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in name[:LONGEST_NAME]).strip()
