"""Plain images, from their file to uint8 RGB pixels: PNG, JPEG, TIFF and what else Pillow opens."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

from artifusion.errors import SlideError
from artifusion.slide.tiff import is_tiff
from artifusion.slide.whole import check_image, check_whole, tifffile_messages

LOSSY_FORMATS = ("JPEG", "WEBP")
LOSSY_TIFF_COMPRESSIONS = (6, 7, 34712, 33003, 33004, 33005, 50001)      # JPEG, JPEG 2000, WebP
NAMES = {8: "deflate", 7: "JPEG", 32773: "PackBits", 34712: "JPEG 2000", 50001: "WebP", 50002: "JPEG XL"}
GRAY_OR_RGB = (1, 2, 6)                # TIFF photometric interpretations that tifffile turns into gray or RGB itself


@dataclass(frozen=True)
class PlainImage:
    """A plain image in memory, with what its file says of it."""

    pixels: np.ndarray                 # uint8 (H, W, 3) RGB on white
    format: str                        # Pillow's name of the file format
    lossless: bool                     # stored without loss
    icc: bytes | None
    mpp: float | None                  # um per pixel, plausible or not


def read_image(path: Path) -> PlainImage:
    """Return a plain image's pixels and metadata.

    Raises:
        SlideError: over 8 bits per sample, a number of channels that no gray or colour image has, or cut short.
        Image.DecompressionBombError: more pixels than Pillow's limit, twice.
        Whatever Pillow and tifffile raise on a file that is no image or a broken one.
    """
    return _read_tiff_image(path) if is_tiff(path) else _read_other_image(path)


def on_white(image: Image.Image) -> np.ndarray:
    """Return any 8-bit Pillow image as uint8 (H, W, 3) RGB, transparent pixels over white."""
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return np.asarray(image.convert("RGB"))
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _read_other_image(path: Path) -> PlainImage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                    # large, broken EXIF; Pillow's error at twice the size stays
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in image.tile):
                raise SlideError(f"{path}: has over 8 bits per sample; only 8-bit images can be restored, convert it "
                                 "to 8 bit")
            dpi = image.info.get("dpi", (0, 0))[0]
            file_format = image.format or path.suffix.lstrip(".").upper()
            ImageOps.exif_transpose(image, in_place=True)  # upright, as every viewer shows it and masks are drawn
            return PlainImage(on_white(image), file_format, file_format not in LOSSY_FORMATS,
                              image.info.get("icc_profile"), 25400 / float(dpi) if dpi else None)


def _read_tiff_image(path: Path) -> PlainImage:
    check_whole(path)
    check_image(path)
    with tifffile_messages() as messages, tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if page.dtype is None or page.dtype.itemsize * 8 > 8 or page.dtype.kind not in "ub":
            raise SlideError(f"{path}: has {page.dtype} samples; only images of 8 bits (uint8) can be restored, "
                             "convert it to 8 bit")
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or 1 << 62):
            if page.is_tiled:
                name = NAMES.get(page.compression, getattr(page.compression, "name", page.compression))
                raise SlideError(f"{path}: is a tiled TIFF of a kind that OpenSlide does not read (compression {name}"
                                 f"{', separate planes' if page.planarconfig == 2 else ''}); convert it, for example "
                                 "with vips tiffsave --tile --pyramid --compression jpeg")
            raise Image.DecompressionBombError
        lossless = page.compression not in LOSSY_TIFF_COMPRESSIONS
        icc = bytes(page.tags[34675].value) if 34675 in page.tags else None
        mpp = _tiff_mpp(page)
        messages.clear()
        pixels = page.asarray() if page.photometric in GRAY_OR_RGB else None
        if messages:
            raise SlideError(f"{path}: is incomplete ({messages[0]}); get a whole copy of it")
        if pixels is not None and pixels.ndim == 3 and page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        with Image.open(path) as image:                    # palette, white-is-zero, 1 bit: Pillow knows them all
            pixels = on_white(image)
    elif pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    elif pixels.shape[2] == 3:
        pixels = np.ascontiguousarray(pixels)
    elif pixels.shape[2] > 4:
        raise SlideError(f"{path}: has {pixels.shape[2]} channels; only gray and colour images can be restored, "
                         "convert it to RGB")
    else:
        pixels = on_white(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    return PlainImage(pixels, "TIFF", lossless, icc, mpp)


def _tiff_mpp(page: Any) -> float | None:
    try:
        resolution, unit = page.get_resolution("CENTIMETER"), page.resolutionunit
    except (ValueError, KeyError, ZeroDivisionError):
        return None
    return 1e4 / resolution[0] if unit != 1 and resolution[0] else None
