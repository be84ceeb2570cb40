"""Mask files: raster images and QuPath GeoJSON, turned into polygons in level-0 pixels."""

from __future__ import annotations

import json
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import tifffile
from PIL import Image
from scipy import ndimage
from shapely import Polygon
from shapely.errors import ShapelyError
from shapely.geometry import shape

from artifusion.errors import MaskError
from artifusion.geometry import Point, Size
from artifusion.slide.polygons import polygons_of, rectilinear
from artifusion.slide.reader import shortened

ASPECT_TOLERANCE = 0.01              # beside one mask pixel of rounding per side
MOST_LABELS = 15                     # a lossless image with values up to this is a label image: nonzero = restore
GRAY_SHARE = 0.05                    # more pixels than this neither black nor white: no mask
MOST_CORNERS = 1_000_000             # of an outline, or of all polygons of a file: noise has more
DEFAULT_CLASS = "artifact"


def read_raster(path: Path, l0_size: Size) -> list[Polygon]:
    """The white (nonzero) pixels of an image of the slide at any scale, as exact outlines in level-0 pixels.

    Level-0 pixel (x, y) belongs to mask pixel (floor((x + 0.5) * mask width / slide width), ...).

    Raises:
        MaskError: unreadable, not black and white, or of another aspect ratio than the slide.
    """
    values, lossless = _load(path)
    height, width = values.shape
    skew = abs(math.log(width * l0_size.height / (height * l0_size.width)))
    if skew > math.log(1 + ASPECT_TOLERANCE) + 1 / width + 1 / height:
        raise MaskError(f"{path}: {width}x{height} px is not the shape of the slide, {l0_size.width}x{l0_size.height} "
                        "px; a mask must be an image of the whole slide, at any scale")
    selected = _binary(path, values, lossless)
    _check_detail(path, selected)
    return rectilinear(selected, Fraction(l0_size.width, width), Fraction(l0_size.height, height))


def _load(path: Path) -> tuple[np.ndarray, bool]:
    """One number per pixel (the brightest colour channel, times opacity), and whether the file is lossless."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image: Image.Image = opened
                lossless = opened.format not in ("JPEG", "WEBP") and image.info.get("compression") != "jpeg"
                if image.mode in ("P", "PA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                elif image.mode == "1":                     # whose array is bool with bytes of 255
                    image = image.convert("L")
                elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                    image = image.convert("RGB")
                pixels = np.asarray(image)
    except Image.DecompressionBombError:
        raise MaskError(f"{path}: too many pixels for a raster mask; save it at a smaller scale, any scale will do, "
                        "or use GeoJSON") from None
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        try:
            pixels, lossless = tifffile.imread(path), True
        except (OSError, ValueError, RuntimeError, KeyError, IndexError, tifffile.TiffFileError):
            raise MaskError(f"{path}: not a mask image that can be read ({shortened(error)}); use PNG, TIFF, JPEG or "
                            "QuPath GeoJSON") from None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        opaque = pixels[..., -1:].astype(np.uint16)
        pixels = (pixels[..., :-1] * opaque // 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        pixels = pixels.max(axis=2)
    if pixels.dtype.kind == "c":
        raise MaskError(f"{path}: holds complex numbers; a mask has black and white pixels")
    if pixels.ndim != 2 or not pixels.size:
        raise MaskError(f"{path}: has shape {pixels.shape}; a mask is one image with black and white pixels")
    return pixels, lossless


def _binary(path: Path, values: np.ndarray, lossless: bool) -> np.ndarray:
    """bool (H, W), True = restore. Raises MaskError for an image of many gray values."""
    if values.dtype == np.bool_:
        return values
    low, high = float(values.min()), float(values.max())
    if low < 0 or not math.isfinite(low + high):
        raise MaskError(f"{path}: has values from {low:g} to {high:g}; a mask has 0 and 1, or 0 and 255")
    if values.dtype.kind == "f":
        white = 1.0 if high <= 1 else 255.0
    elif lossless and (high <= MOST_LABELS or np.isin(values, (0, values.max())).all()):
        return values > 0
    else:
        white = 255.0 if high <= 255 else 65535.0
    gray = np.mean((values > white / 8) & (values < white * 7 / 8))
    if gray > GRAY_SHARE:
        raise MaskError(f"{path}: {gray:.0%} of its pixels are neither black nor white; this looks like a picture, "
                        "not a mask: mark what to restore in white on black")
    return values >= white / 2


def _check_detail(path: Path, selected: np.ndarray) -> None:
    """Raise MaskError for an outline with more corners than any mask of artifacts has."""
    padded = np.pad(selected, 1).view(np.uint8)
    rows = padded[1:] + padded[:-1]
    around = rows[:, 1:] + rows[:, :-1]                     # masked pixels of the four around every corner of the grid
    diagonal = (around == 2) & (padded[1:, 1:] == padded[:-1, :-1])
    corners = np.count_nonzero((around & 1).astype(bool) | diagonal)
    if corners > MOST_CORNERS:
        _, specks = ndimage.label(selected)
        raise MaskError(f"{path}: has {specks:,} separate specks and an outline of {corners / 1e6:.1f} million "
                        "corners: no mask of artifacts; smooth it, or mark what to restore as areas")


def read_geojson(path: Path, bounds_offset: Point) -> tuple[list[Polygon], list[str]]:
    """The polygons of a QuPath GeoJSON file in level-0 pixels and the class name of each; rings are mended.

    A FeatureCollection, a Feature, a list of Features or a bare geometry. QuPath counts from `bounds_offset`.

    Raises:
        MaskError: no GeoJSON, no polygon, or geometry that has no area.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.count("[") > MOST_CORNERS:                  # one for every corner, before any work goes into them
            raise MaskError(f"{path}: holds more than {MOST_CORNERS:,} corners: no mask of artifacts; simplify the "
                            "polygons")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # also numbers with too many digits
        raise MaskError(f"{path}: no JSON that can be read ({shortened(error)}); export annotations from QuPath as "
                        "GeoJSON") from None
    return geojson_polygons(content, path, bounds_offset)


def geojson_polygons(content: Any, path: Path, bounds_offset: Point) -> tuple[list[Polygon], list[str]]:
    """What `read_geojson` returns, from content that is read already; `path` is for messages."""
    polygons: list[Polygon] = []
    classes: list[str] = []
    for number, feature in enumerate(_features(content), 1):
        if not isinstance(feature, dict):
            raise MaskError(f"{path}: entry {number} is no GeoJSON Feature; export annotations from QuPath as GeoJSON")
        geometry = feature.get("geometry") if feature.get("type") == "Feature" else feature
        for polygon in _mended(path, number, geometry):
            polygons.append(shapely.affinity.translate(polygon, *bounds_offset) if any(bounds_offset) else polygon)
            classes.append(_class_name(feature))
    if not polygons:
        raise MaskError(f"{path}: holds no polygon; draw what to restore as areas and export them as GeoJSON")
    return polygons, classes


def _features(content: Any) -> list[Any]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = content.get("features")
        return features if isinstance(features, list) else []
    return content if isinstance(content, list) else [content]


def _mended(path: Path, number: int, geometry: Any) -> list[Polygon]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise MaskError(f"{path}: entry {number} is a {kind or 'thing without geometry'}; only Polygon and "
                        "MultiPolygon have an area to restore, remove it or draw it as an area")
    try:
        with np.errstate(invalid="ignore"):
            form = shapely.force_2d(shape(geometry))
        if not np.isfinite(shapely.get_coordinates(form)).all():
            raise ValueError("a coordinate is no number")
        # "structure" keeps what a hand-drawn outline runs around twice; even-odd would leave it out as a hole.
        mended = polygons_of(form if form.is_valid else shapely.make_valid(form, method="structure"))
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise MaskError(f"{path}: entry {number} is no valid polygon ({shortened(error)}); redraw it") from None
    if not mended:
        raise MaskError(f"{path}: entry {number} has no area; redraw or remove it")
    return mended


def _class_name(feature: dict[str, Any]) -> str:
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    name = found.get("name") if isinstance(found, dict) else found
    text = name.encode(errors="replace").decode() if isinstance(name, str) else ""     # half a surrogate pair
    return text or DEFAULT_CLASS
