"""Mask images: the numbers in a file, and which of them count as white."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps
from scipy import ndimage

from artifusion.errors import BROKEN_FILE, MaskError, shortened
from artifusion.geometry import Size, strips
from artifusion.mask.classes import CLASSES_KEY
from artifusion.slide.whole import quiet_libraries, tifffile_messages

ASPECT_TOLERANCE = 0.003             # beside one mask pixel of rounding per side; more would misplace edges unnoticed
MOST_PROBABLE = 1.001                # floats below are probabilities, which resampling can lift over 1
MOST_CLASS_IDS = 7                   # the largest class id of any tool, ours included
MOST_LABELS = 15                     # a lossless image with values up to this holds labels: nonzero = restore
GRAY_SHARE = 0.05                    # more pixels than this neither black nor white: no mask
FLAT_PX = 9                          # side of an even gray area, which is no edge that was smoothed
MOST_PX = 500_000_000                # of a mask image at most; GrandQC writes 280 million for 100,000 x 100,000 px


@dataclass(frozen=True)
class Raster:
    """A mask image: one number per pixel (the brightest colour channel, times opacity).

    Attributes:
        lossless: the numbers are exactly those that were written.
        indices: the numbers behind the colours of an image with a palette.
        vocabulary: name -> id, where the file says that its numbers are class ids.
        counts: pixels per value, in order of the values.
        labels: the values, where they can be class ids of a tool: lossless, and none above 7; else none.
    """

    path: Path
    values: np.ndarray
    lossless: bool
    indices: np.ndarray | None = None
    vocabulary: dict[str, int] | None = None
    counts: dict[int, int] = field(init=False)
    labels: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", counted(self.values))
        labels = self.counts if self.holds_numbers and max(self.counts) <= MOST_CLASS_IDS else ()
        object.__setattr__(self, "labels", frozenset(labels))

    @property
    def holds_numbers(self) -> bool:
        """Whether the values can be labels: exact, and more than black and white."""
        return self.lossless and self.values.dtype != np.bool_

    @property
    def numbers(self) -> np.ndarray:
        """What is stored per pixel."""
        return self.values if self.indices is None else self.indices

    @property
    def many_labels(self) -> bool:
        """Whether it is a label image with more than two values."""
        return self.holds_numbers and max(self.counts) <= MOST_LABELS and len(self.counts) > 2

    def share(self, values: Collection[int]) -> str:
        """The share of the pixels that have one of these values, in words."""
        share = sum(self.counts[value] for value in values) / self.values.size
        return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.2%}"

    def mapped(self, ids: dict[int, int], whose: str) -> np.ndarray:
        """Our class ids, uint8 (H, W), of an image of those of a tool. Raises MaskError for a number not in `ids`."""
        held = self.counts if self.indices is None else counted(self.indices)
        unknown = [value for value in held if value not in ids]
        if unknown:
            raise MaskError(f"{self.path}: holds {', '.join(map(str, unknown[:5]))}, which are none of "
                            f"{whose} class ids ({', '.join(map(str, sorted(ids)))}); choose another --mask-format")
        table = np.zeros(256, np.uint8)
        table[list(ids)] = list(ids.values())
        mapped = np.empty(self.numbers.shape, np.uint8)
        for rows, _ in strips(mapped.shape):                  # an array as an index becomes int64
            mapped[rows] = table[self.numbers[rows].astype(np.uint8)]
        return mapped

    def white(self) -> np.ndarray:
        """bool (H, W), True = restore: the white (in a label image the nonzero) pixels.

        Raises:
            MaskError: an image of gray values, which could mean anything.
        """
        values, counts = self.values, self.counts
        if values.dtype == np.bool_:
            return values
        high = max(counts)
        if self.lossless and (high <= MOST_LABELS or set(counts) <= {0, high}):
            return values > 0
        full = 255 if high <= 255 else 65535
        gray = sum(pixels for value, pixels in counts.items() if full / 8 < value < full * 7 / 8) / values.size
        if gray > GRAY_SHARE:
            raise MaskError(f"{self.path}: {gray:.0%} of its pixels are neither black nor white; this looks like a "
                            "picture, not a mask: mark what to restore in white on black")
        if self.lossless:
            self._check_even_areas(full)
        return values >= full / 2

    def _check_even_areas(self, full: int) -> None:
        """Raise MaskError for areas of one gray, which a threshold would keep or drop unnoticed.

        Where there are few values in all, nearly black counts as gray too: such an image can hold numbers of classes,
        and 255 for the rest.
        """
        least = 0 if len(self.counts) <= MOST_LABELS else full / 16
        grays = [value for value in self.counts if least < value < full * 15 / 16]
        even: set[int] = set()
        for rows, wide in strips(self.values.shape, FLAT_PX // 2) if grays else ():
            strip = self.values[wide]
            same = ndimage.maximum_filter(strip, FLAT_PX) == ndimage.minimum_filter(strip, FLAT_PX)
            inner = slice(rows.start - wide.start, rows.stop - wide.start)
            even.update(np.unique(strip[inner][same[inner]]).tolist())
        shown = [str(value) for value in grays if value in even]
        if shown:
            remedy = "" if self.indices is None else (", or pass --mask-format classes if its palette numbers are our "
                                                      "ids")
            raise MaskError(f"{self.path}: has areas that are neither black nor white (brightness "
                            f"{', '.join(shown[:5])}); paint what to restore white{remedy}")


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


def counted(values: np.ndarray) -> dict[int, int]:
    """How many pixels of an image (H, W) of bool, uint8 or uint16 have each value, in order of the values."""
    total = np.zeros(1 << 16, np.int64)
    for rows, _ in strips(values.shape):
        total += np.bincount(values[rows].ravel(), minlength=len(total))
    return {value: int(total[value]) for value in np.flatnonzero(total).tolist()}


@quiet_libraries()
def _load(path: Path) -> Raster:
    try:
        with _pillow_limit(MOST_PX), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _from_pillow(path, image)
    except Image.DecompressionBombError:
        raise MaskError(f"{path}: too many pixels for a raster mask; save it at a smaller scale, any scale will do, "
                        "or use GeoJSON") from None
    except BROKEN_FILE as error:
        try:
            pixels = _from_tifffile(path)
        except BROKEN_FILE:
            raise MaskError(f"{path}: not a mask image that can be read ({shortened(error)}); use PNG, TIFF, JPEG or "
                            "QuPath GeoJSON") from None
    if pixels.dtype.kind == "c":
        raise MaskError(f"{path}: holds complex numbers; a mask has black and white pixels")
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        pixels = pixels.max(axis=2)
    if pixels.ndim != 2 or not pixels.size:
        raise MaskError(f"{path}: has shape {pixels.shape}; a mask is one image with black and white pixels")
    return Raster(path, _whole_numbers(path, pixels), lossless=_is_whole(pixels))


def _from_tifffile(path: Path) -> np.ndarray:
    with tifffile_messages() as messages, tifffile.TiffFile(path) as file:
        series = file.series[0]
        if series.size > MOST_PX:
            raise ValueError("too many pixels for a raster mask")
        messages.clear()
        pixels = series.asarray()
        if messages:                                        # tifffile leaves what it cannot read as it is in memory
            raise MaskError(f"{path}: is incomplete ({shortened(messages[0])}); get a whole copy of it")
        return pixels


def _from_pillow(path: Path, image: Image.Image) -> Raster:
    """The first image of an open file. Memory: Pillow's own, and one number per pixel (two with a palette)."""
    if _has_another(image):
        raise MaskError(f"{path}: holds several images of one size; save the mask alone, as one image")
    lossless = image.format not in ("JPEG", "WEBP") and image.info.get("compression") != "jpeg"
    vocabulary = _vocabulary(image)
    ImageOps.exif_transpose(image, in_place=True)           # upright, as slides are read and viewers show it
    image.load()
    first = brightness(image.crop((0, 0, 1, 1)))
    values = np.empty((image.height, image.width), first.dtype)
    indices = np.empty(values.shape, np.uint8) if image.mode == "P" else None
    for rows, _ in strips(values.shape):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        values[rows] = brightness(strip)
        if indices is not None:
            indices[rows] = np.asarray(strip)
    if values.dtype != np.uint8 and getattr(image, "tag_v2", {}).get(262) == 0:    # Pillow inverts it in 8 bits only
        raise MaskError(f"{path}: stores white as 0 in {values.dtype}; save it in 8 bits")
    lossless &= _is_whole(values)
    return Raster(path, _whole_numbers(path, values), lossless, indices, vocabulary)


def _has_another(image: Image.Image) -> bool:
    """Whether a second image of the same size follows in the file, which is no level of a pyramid."""
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    another = image.size == size
    image.seek(0)
    return another


def _is_whole(values: np.ndarray) -> bool:
    """Whether an image (H, W) holds no fractions; floats up to 1 are probabilities, whatever they are."""
    if values.dtype.kind != "f":
        return True
    return bool(values.max() > 1) and all((values[rows] == np.rint(values[rows])).all()
                                          for rows, _ in strips(values.shape))


def _whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """An image (H, W) of any numbers as bool, uint8 or uint16. Floats up to 1 become 0 to 255, others as they are."""
    if values.dtype in (np.bool_, np.uint8, np.uint16):
        return values
    if values.dtype.kind == "f" and 1 < values.max() < MOST_PROBABLE:
        values = np.minimum(values, 1)
    low, high = float(values.min()), float(values.max())
    two = not low and not ((values != 0) & (values != high)).any()
    if low < 0 or not math.isfinite(low + high) or (high > 65535 and not two):
        raise MaskError(f"{path}: has values from {low:g} to {high:g}; a mask has 0 and 1, or 0 and 255")
    if high <= 65535 and _is_whole(values):
        return values.astype(np.uint16)
    if two:
        return (values > 0) * np.uint8(255)
    whole = np.empty(values.shape, np.uint8)
    for rows, _ in strips(values.shape):
        whole[rows] = np.rint(np.minimum(values[rows] * (255 if high <= 1 else 1), 255))
    return whole


def brightness(image: Image.Image) -> np.ndarray:
    """One number per pixel of a Pillow image: the brightest colour channel, times opacity."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "1":                                 # whose array is bool with bytes of 255
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        opaque = pixels[..., -1].astype(np.uint16)
        return (pixels[..., :-1].max(axis=2) * opaque // 255).astype(np.uint8)
    return pixels.max(axis=2) if pixels.ndim == 3 else pixels


@contextmanager
def _pillow_limit(px: int) -> Iterator[None]:
    """Let Pillow open images of that many pixels."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = px // 2                        # Pillow refuses twice as many
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _vocabulary(image: Image.Image) -> dict[str, int] | None:
    """The vocabulary that a class mask of ours carries, name -> id; None where the file has none."""
    description = getattr(image, "tag_v2", {}).get(270)     # of a TIFF
    try:
        content = json.loads(description)[CLASSES_KEY] if description else json.loads(image.info[CLASSES_KEY])
        names = {str(name): int(at) for name, at in content.items()}
        return names if all(0 < at < 256 for at in names.values()) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
