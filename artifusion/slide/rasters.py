"""Mask images: the numbers in them, what counts as white, and their outlines in level-0 pixels."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage
from shapely import Polygon

from artifusion.errors import MaskError
from artifusion.geometry import Size
from artifusion.slide.classes import CLASSES, CLASSES_KEY
from artifusion.slide.polygons import rectilinear
from artifusion.slide.reader import shortened

ASPECT_TOLERANCE = 0.01              # beside one mask pixel of rounding per side
MOST_LABELS = 15                     # a lossless image with values up to this is a label image: nonzero = restore
GRAY_SHARE = 0.05                    # more pixels than this neither black nor white: no mask
FLAT_PX = 9                          # side of an even gray area, which is no edge that was smoothed
MOST_CORNERS = 1_000_000             # of an outline, or of all polygons of a file: noise has more


@dataclass(frozen=True)
class Raster:
    """A mask image: one number per pixel (the brightest colour channel, times opacity).

    Attributes:
        lossless: what the numbers are can be trusted.
        indices: of an image with a palette, the numbers behind the colours.
        vocabulary: name -> id, where the file tells that its numbers are class ids.
    """

    path: Path
    values: np.ndarray
    lossless: bool
    indices: np.ndarray | None = None
    vocabulary: dict[str, int] | None = None

    @property
    def numbers(self) -> np.ndarray:
        """What is stored per pixel."""
        return self.values if self.indices is None else self.indices


def read_raster(path: Path, l0_size: Size) -> Raster:
    """The pixels of an image of the whole slide, at any scale.

    Level-0 pixel (x, y) belongs to mask pixel (floor((x + 0.5) * mask width / slide width), ...): each axis has the
    scale that the sizes give it, whatever the file says about um.

    Raises:
        MaskError: unreadable, no image of numbers, or of another aspect ratio than the slide.
    """
    raster = _load(path)
    height, width = raster.values.shape
    skew = abs(math.log(width * l0_size.height / (height * l0_size.width)))
    if skew > math.log(1 + ASPECT_TOLERANCE) + 1 / width + 1 / height:
        raise MaskError(f"{path}: {width}x{height} px is not the shape of the slide, {l0_size.width}x{l0_size.height} "
                        "px; a mask must be an image of the whole slide, at any scale")
    return raster


def _load(path: Path) -> Raster:
    indices = vocabulary = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image: Image.Image = opened
                lossless = opened.format not in ("JPEG", "WEBP") and image.info.get("compression") != "jpeg"
                vocabulary = _vocabulary(opened)
                if image.mode == "P":
                    indices = np.asarray(image)
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
    return Raster(path, pixels, lossless, indices, vocabulary)


def _vocabulary(image: Image.Image) -> dict[str, int] | None:
    """What a class mask of ours tells beside its pixels."""
    described = getattr(image, "tag_v2", {}).get(270)       # a TIFF's ImageDescription
    try:
        content = json.loads(described)[CLASSES_KEY] if described else json.loads(image.info[CLASSES_KEY])
        names = {str(name): int(at) for name, at in content.items()}
        return names if all(0 < at < 256 for at in names.values()) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def white(raster: Raster) -> np.ndarray:
    """bool (H, W), True = restore: the white (in a label image the nonzero) pixels.

    Raises:
        MaskError: an image of gray values, which could mean anything.
    """
    path, values = raster.path, raster.values
    if values.dtype == np.bool_:
        return values
    low, high = float(values.min()), float(values.max())
    if low < 0 or not math.isfinite(low + high):
        raise MaskError(f"{path}: has values from {low:g} to {high:g}; a mask has 0 and 1, or 0 and 255")
    if values.dtype.kind == "f":
        full = 1.0 if high <= 1 else 255.0
    elif raster.lossless and (high <= MOST_LABELS or np.isin(values, (0, values.max())).all()):
        return values > 0
    else:
        full = 255.0 if high <= 255 else 65535.0
    gray = np.mean((values > full / 8) & (values < full * 7 / 8))
    if gray > GRAY_SHARE:
        raise MaskError(f"{path}: {gray:.0%} of its pixels are neither black nor white; this looks like a picture, "
                        "not a mask: mark what to restore in white on black")
    if gray and raster.lossless and values.dtype.kind == "u":
        _check_even_areas(raster, full)
    return values >= full / 2


def _check_even_areas(raster: Raster, full: float) -> None:
    """Raise MaskError for areas of one gray, which a threshold would keep or drop in silence."""
    values = raster.values
    same = ndimage.maximum_filter(values, FLAT_PX) == ndimage.minimum_filter(values, FLAT_PX)
    found = np.unique(values[same & (values > full / 16) & (values < full * 15 / 16)])
    if len(found):
        remedy = "" if raster.indices is None else ", or pass --mask-format classes if its palette numbers are our ids"
        raise MaskError(f"{raster.path}: has areas that are neither black nor white (brightness "
                        f"{', '.join(map(str, found[:5]))}); paint what to restore white{remedy}")


def outlined(path: Path, ids: np.ndarray, l0_size: Size) -> tuple[list[Polygon], list[str]]:
    """The exact outlines of an image of class ids (H, W) in level-0 pixels, and the class of each.

    Raises:
        MaskError: an outline with more corners than any mask of artifacts has.
    """
    scales = Fraction(l0_size.width, ids.shape[1]), Fraction(l0_size.height, ids.shape[0])
    polygons: list[Polygon] = []
    classes: list[str] = []
    for name, at in CLASSES.items():
        selected = ids == at
        if selected.any():
            _check_detail(path, selected)
            found = rectilinear(selected, *scales)
            polygons += found
            classes += [name] * len(found)
    return polygons, classes


def _check_detail(path: Path, selected: np.ndarray) -> None:
    padded = np.pad(selected, 1).view(np.uint8)
    rows = padded[1:] + padded[:-1]
    around = rows[:, 1:] + rows[:, :-1]                     # masked pixels of the four around every corner of the grid
    diagonal = (around == 2) & (padded[1:, 1:] == padded[:-1, :-1])
    corners = np.count_nonzero((around & 1).astype(bool) | diagonal)
    if corners > MOST_CORNERS:
        _, specks = ndimage.label(selected)
        raise MaskError(f"{path}: has {specks:,} separate specks and an outline of {corners / 1e6:.1f} million "
                        "corners: no mask of artifacts; smooth it, or mark what to restore as areas")
