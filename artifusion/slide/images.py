"""Plain images, from their file to uint8 RGB pixels: PNG, JPEG, TIFF and what else Pillow opens."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from artifusion.errors import SlideError
from artifusion.geometry import STRIP_PX, strips
from artifusion.slide import tiff
from artifusion.slide.whole import check_image, check_whole, tifffile_messages

LOSSY_FORMATS = ("JPEG", "WEBP")
LOSSY_TIFF_COMPRESSIONS = (6, 7, 34712, 33003, 33004, 33005, 50001)      # JPEG, JPEG 2000, WebP
NAMES = {8: "deflate", 7: "JPEG", 32773: "PackBits", 34712: "JPEG 2000", 50001: "WebP", 50002: "JPEG XL"}
GRAY_OR_RGB = (1, 2, 6)                # TIFF photometric interpretations that tifffile turns into gray or RGB itself
OTHER_COLOURS = {b"GRAY", b"CMYK", b"CMY ", b"Lab ", b"Luv ", b"XYZ ", b"Yxy ", b"YCbr", b"HSV ", b"HLS ",
                 *(b"%XCLR" % colours for colours in range(2, 16))}      # colour spaces of ICC profiles
LYING_ON_A_SIDE = (5, 6, 7, 8)         # EXIF orientations that turn by a quarter
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}                                 # what EXIF and TIFF ask for
CHANNELS = {0: 1, 1: 1, 3: 1, 2: 3, 6: 3, 5: 4}        # of TIFF photometric interpretations, their opacity aside
PREMULTIPLIED, OPACITY = 1, 2          # the kinds of TIFF's extra sample; by the first colours are multiplied already
DEEP = {"JPEG2000": (b"\xff\x4f\xff\x51", 38, 0xF8), "AVIF": (b"av1C", 2, 0x40)}     # which bits say it, where behind
HEAD_BYTES = 1 << 20                   # of a file, in which that stands
SHOWN = (b"cHRM", b"gAMA", b"sRGB", b"cICP")           # chunks by which a PNG says how its numbers are to be shown
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PLAIN = (b"IHDR", b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT", b"sPLT", b"IDAT", b"acTL", b"fcTL", b"fdAT",
         b"pHYs", b"iCCP", b"eXIf", b"tIME", *TEXTS)    # its pixels, its age, and what Pillow is asked for
RAW = "Raw profile type"               # begins keywords of a PNG: metadata of other formats as hexadecimal numbers
READ_SEGMENTS = (b"JFIF", b"Exif\0\0", b"http://ns.adobe.com/x", b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0",
                 b"Adobe")               # of a JPEG: what Pillow is asked for
LONGEST_SHOWN = 32                     # bytes of such a chunk
LONGEST_COMMENT = 60_000               # bytes of text that a JPEG's comment, 65,533, holds beside a note
LARGEST_PROFILE = 255 * 65_519         # bytes of ICC, which is what a JPEG holds
PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_PROFILE        # Pillow's own, 1 MB, is less than profiles of scanners have


@dataclass(frozen=True)
class PlainImage:
    """A plain image in memory, with what its file says of it."""

    pixels: np.ndarray                 # uint8 (H, W, 3) RGB on white
    format: str                        # Pillow's name of the file format
    lossless: bool                     # stored without loss
    icc: bytes | None
    mpp: tuple[float, float] | None    # um per pixel along x and y, plausible or not
    text: Mapping[str, str] = field(default_factory=dict)     # what a PNG or JPEG says in words, by keyword
    pictures: int = 1                  # in a file that is no TIFF; the first is read
    colour: Mapping[bytes, bytes] = field(default_factory=dict)      # how to show a PNG's numbers, by chunk
    unkept: tuple[str, ...] = ()       # what else the file tells, by name; no output holds it


def read_image(path: Path) -> PlainImage:
    """Return a plain image's pixels and metadata.

    Raises:
        SlideError: over 8 bits per sample, a number of channels that no gray or colour image has, or cut short.
        Image.DecompressionBombError: more pixels than Pillow's limit, twice.
        Whatever Pillow and tifffile raise on a file that is no image or a broken one.
    """
    return _read_tiff_image(path) if tiff.is_tiff(path) else _read_other_image(path)


def both_axes(x: float, y: float) -> tuple[float, float] | None:
    """Return a scale along x and y. One that is 0, unknown, is that of the other axis; None where both are."""
    return (x or y, y or x) if x or y else None


def of_rgb(profile: bytes | None) -> bytes | None:
    """Return an ICC profile, or None where it is of other colours than RGB, to which all pixels are turned here."""
    return None if profile and profile[16:20] in OTHER_COLOURS else profile


def on_white(image: Image.Image, out: np.ndarray | None = None) -> np.ndarray:
    """Return any 8-bit Pillow image as uint8 (H, W, 3) RGB, transparent pixels over white.

    Memory: beside the result, `out` where given, a few strips of STRIP_PX.
    """
    if image.width * image.height <= STRIP_PX and out is None:
        return _strip_on_white(image, image.info)
    pixels = np.empty((image.height, image.width, 3), np.uint8) if out is None else out
    for rows, _ in strips(pixels.shape):
        pixels[rows] = _strip_on_white(image.crop((0, rows.start, image.width, rows.stop)), image.info)
    return pixels


def _strip_on_white(image: Image.Image, info: dict[Any, Any]) -> np.ndarray:
    """The rows of an image, uint8 (H, W, 3); `info` of the whole image tells whether one colour is transparent."""
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in info:
        return np.asarray(image.convert("RGB"))
    image.info = info
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _read_other_image(path: Path) -> PlainImage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                    # large, broken EXIF; Pillow's error at twice the size stays
        with Image.open(path) as image:
            if _is_deep(path, image):
                raise SlideError(f"{path}: has over 8 bits per sample; only 8-bit images can be restored, convert it "
                                 "to 8 bit")
            dpi, exif = [float(number) for number in image.info.get("dpi", (0, 0))], image.getexif()
            if image.format in ("JPEG", "MPO") and not image.info.get("jfif_unit") and exif.get(tiff.X_RESOLUTION):
                dpi[1] *= float(exif.get(tiff.Y_RESOLUTION) or exif[tiff.X_RESOLUTION]) / float(exif[tiff.X_RESOLUTION])
            if exif.get(tiff.ORIENTATION) in LYING_ON_A_SIDE:
                dpi.reverse()
            file_format, pictures = image.format or path.suffix.lstrip(".").upper(), getattr(image, "n_frames", 1)
            # Before Pillow decodes: memory that it frees above this goes back to the system.
            pixels = np.empty(3 * image.width * image.height, np.uint8)
            image.load()                                   # text may stand behind the pixels
            chunks = _chunks(path) if image.format == "PNG" else {}
            shown = {name: chunks[name][0] for name in SHOWN if chunks.get(name, [b""])[0]}
            unkept = (*_unkept_chunks(chunks, getattr(image, "text", {})), *_unkept(image, exif))
            ImageOps.exif_transpose(image, in_place=True)  # upright, as every viewer shows it and masks are drawn
            pixels = on_white(image, pixels.reshape(image.height, image.width, 3))
            return PlainImage(pixels, file_format, file_format not in LOSSY_FORMATS,
                              image.info.get("icc_profile"), both_axes(*(number and 25400 / number for number in dpi)),
                              _text(image), pictures, shown, unkept)


def check_channels(path: Path, page: tiff.Page) -> None:
    """Raise SlideError where a TIFF page has other channels than its colours and their opacity.

    Readers drop them, or take the first for opacity, whatever it is.
    """
    samples, colours = page.number(tiff.SAMPLES, 1), CHANNELS.get(page.number(tiff.PHOTOMETRIC, -1), 16)
    kind = page.number(tiff.EXTRA_SAMPLES)
    if samples > colours + (kind in (PREMULTIPLIED, OPACITY)):
        raise SlideError(f"{path}: has {samples} channels, of which {colours} {'is' if colours == 1 else 'are'} shown; "
                         "only gray and colour images can be restored, convert it to RGB")


def comment_of(text: Mapping[str, str]) -> bytes:
    """Return the texts of an image as one, as the comment of a JPEG holds them."""
    return "\n".join(value if key in ("Comment", "Description") else f"{key}: {value}"
                     for key, value in text.items()).encode()


def _chunks(path: Path) -> dict[bytes, list[bytes]]:
    """The chunks of a PNG by name; the content of each where that is short enough to say how numbers are shown."""
    chunks = dict[bytes, list[bytes]]()
    with path.open("rb") as file:
        file.seek(len(b"\x89PNG\r\n\x1a\n"))
        while len(head := file.read(8)) == 8 and head[4:].isalpha() and head[4:] != b"IEND":
            length, name = struct.unpack(">I4s", head)
            content = file.read(length) if length <= LONGEST_SHOWN else b""
            chunks.setdefault(name, []).append(content)
            file.seek(length - len(content) + 4, os.SEEK_CUR)                # the sum that checks it
    return chunks


def _unkept_chunks(chunks: Mapping[bytes, Sequence[bytes]], texts: Mapping[str, str]) -> list[str]:
    """What chunks of a PNG tell that no output holds; `texts` is what Pillow took of those with text."""
    named = [name.decode() for name in chunks if name not in (*SHOWN, *PLAIN)]
    profiles = any(key.startswith(RAW) and key != f"{RAW} exif" for key in texts)
    further = sum(len(chunks.get(name, ())) for name in TEXTS) > len(texts)  # of a keyword it takes the last
    return [*named, *(["raw profiles"] if profiles else []), *(["further texts"] if further else [])]


def _unkept(image: Image.Image, exif: Image.Exif) -> list[str]:
    """What an image tells beside its pixels, scale, profile and text. Its orientation is seen in the pixels."""
    kept = {tiff.ORIENTATION, tiff.X_RESOLUTION, tiff.Y_RESOLUTION, tiff.RESOLUTION_UNIT}
    metadata = (("EXIF", {*exif} - kept), ("XMP", image.info.get("xmp")),
                ("Photoshop's resources", image.info.get("photoshop")))
    others = {name for name, content in _segments(image) if name != "COM" and not content.startswith(READ_SEGMENTS)}
    return [name for name, values in metadata if values] + sorted(others)


def _segments(image: Image.Image) -> Sequence[tuple[str, bytes]]:
    """The comments and application segments of a JPEG, by name; none of other images."""
    return getattr(image, "applist", ())


def _is_deep(path: Path, image: Image.Image) -> bool:
    """Whether an open file has over 8 bits per sample, some of which Pillow would cut off."""
    if image.format in DEEP:
        marker, at, bits = DEEP[image.format]
        with path.open("rb") as file:
            behind = file.read(HEAD_BYTES).partition(marker)[2]
        return len(behind) <= at or bool(behind[at] & bits)
    return image.mode.startswith(("I", "F")) or any(
        ";16" in str(tile[3]) or (image.format == "PPM" and isinstance(tile[3], tuple) and tile[3][-1] > 255)
        for tile in getattr(image, "tile", ()))


def _text(image: Image.Image) -> dict[str, str]:
    """The texts of a PNG by keyword, without its copies of binary metadata; the comments of other images as one."""
    if image.format == "PNG":
        return {key: value for key, value in getattr(image, "text", {}).items() if not key.startswith((RAW, "XML:"))}
    comment = b"\n".join(content for name, content in _segments(image) if name == "COM") or image.info.get("comment")
    text = _decoded(comment).replace("\0", " ").strip() if isinstance(comment, bytes) else ""
    return {"Comment": text} if text else {}


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")                        # in which every byte is a letter


def _read_tiff_image(path: Path) -> PlainImage:
    check_whole(path)
    check_image(path)
    check_channels(path, tiff.read_tiff(path).pages[0])
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
        if page.samplesperpixel > 1 and page.planarconfig not in (1, 2):      # tifffile would invent pixels
            raise SlideError(f"{path}: does not tell how its samples lie, the file is damaged; get a whole copy of it")
        lossless = page.compression not in LOSSY_TIFF_COMPRESSIONS
        icc = bytes(page.tags[34675].value) if 34675 in page.tags else None
        orientation = page.tags.valueof(tiff.ORIENTATION, default=1)
        mpp = _tiff_mpp(page, orientation)
        messages.clear()
        pixels = page.asarray() if page.photometric in GRAY_OR_RGB else None
        if messages:
            raise SlideError(f"{path}: is incomplete ({messages[0]}); get a whole copy of it")
        if pixels is not None and pixels.ndim == 3 and page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        premultiplied = page.extrasamples[:1] == (PREMULTIPLIED,)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        with Image.open(path) as image:                    # palette, white-is-zero, 1 bit: Pillow knows them all
            return PlainImage(on_white(image), "TIFF", lossless, icc, mpp)             # Pillow turns it upright
    if pixels.ndim == 3 and pixels.shape[2] > 4:
        raise SlideError(f"{path}: holds a volume of {len(pixels)} planes; only flat images can be restored, save one "
                         "plane of it")
    pixels = _rgb_on_white(pixels, premultiplied)
    if orientation in UPRIGHT:
        pixels = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))
    return PlainImage(pixels, "TIFF", lossless, icc, mpp)


def _rgb_on_white(pixels: np.ndarray, premultiplied: bool) -> np.ndarray:
    """Return gray or colours, with or without opacity, uint8 (H, W) or (H, W, 1 to 4), as uint8 (H, W, 3) RGB on white.
    """
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if not premultiplied:
            return on_white(Image.fromarray(pixels))
        transparent = 255 - pixels[..., -1:]
        pixels = pixels[..., :-1] + np.minimum(transparent, 255 - pixels[..., :-1])
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels)


def _tiff_mpp(page: Any, orientation: Any) -> tuple[float, float] | None:
    try:
        resolution, unit = page.get_resolution("CENTIMETER"), page.resolutionunit
    except (ValueError, KeyError, ZeroDivisionError):
        return None
    if orientation in LYING_ON_A_SIDE:
        resolution = resolution[::-1]
    return both_axes(*(number and 1e4 / number for number in resolution)) if unit != 1 else None
