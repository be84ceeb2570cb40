"""Slides and plain images behind one interface: sizes, scale, colour profile and pixels on white."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np
import openslide
from PIL import Image, UnidentifiedImageError

from artifusion.errors import BROKEN_FILE, SlideError, shortened
from artifusion.geometry import Box, Point, Size
from artifusion.slide.dicom import check_frames
from artifusion.slide.images import PlainImage, both_axes, of_rgb, on_white, read_image
from artifusion.slide.pages import check_levels
from artifusion.slide.spacing import PLAUSIBLE_MPP, check_spacing, is_plausible, per_axis
from artifusion.slide.whole import check_tiles, check_whole, quiet_libraries

UNSEEN_PX = 64               # side of the squares that are given up where a file is damaged
CHUNK_PX = 4096              # OpenSlide reads squares of this side: 64 MB of RGBA at a time
TIFF_VENDORS = ("aperio", "generic-tiff")    # their files hold true segment offsets; those of NDPI wrap at 4 GiB
FORMATS = "SVS, TIFF, NDPI, MRXS, SCN, BIF, DICOM, or a PNG, JPEG or TIFF image"


class Slide:
    """A slide (kind "slide") or a plain image (kind "image", one level), open for reading.

    Attributes:
        path, kind, size: the file, what it is, and its level-0 Size.
        level_sizes, level_downsamples: per level, level 0 first.
        mpp: um per level-0 pixel, the mean of both axes; None where the file states none, or one outside 0.1 to 4.
        mpp_xy: the same along x and along y; None where mpp is.
        mpp_origin: "argument", "file" or "unknown".
        mpp_doubt: why the scale that the file states counts as unknown, to follow the path; empty where it counts.
        icc: the ICC profile's bytes, or None, also where it is of other colours than the RGB that is read.
        colour: the chunks of a PNG, by name, that say how its numbers are to be shown.
        unkept: what else the file tells, by name, that no output holds unless it copies the file.
        vendor: OpenSlide's name of the format; "image" for a plain image.
        properties: the file's own metadata, name -> text.
        associated: names of the label, macro and thumbnail images.
        pictures: how many a file that is no TIFF holds, as animations do; the first is read.
        text: what a plain image that is no TIFF says in words, by keyword.
        bounds_offset: level-0 Point at which QuPath starts counting (openslide.bounds-x, -y).

    Threads may share a slide; all of them must end before it is closed.
    """

    kind = "slide"
    path: Path
    level_sizes: tuple[Size, ...]
    level_downsamples: tuple[float, ...]
    mpp: float | None
    mpp_xy: tuple[float, float] | None
    mpp_origin: str
    mpp_doubt: str = ""
    icc: bytes | None
    colour: Mapping[bytes, bytes] = MappingProxyType({})
    unkept: tuple[str, ...] = ()
    vendor: str
    properties: dict[str, str]
    associated: tuple[str, ...] = ()
    pictures: int = 1
    text: Mapping[str, str] = MappingProxyType({})
    bounds_offset = Point(0, 0)

    @property
    def size(self) -> Size:
        return self.level_sizes[0]

    def read(self, l0_box: Box, mpp: float | None = None) -> np.ndarray:
        """Return a region as uint8 (H, W, 3) RGB on white; pixels outside the slide are white.

        Args:
            mpp: um per pixel of the result, whose sides are rounded and at least 1; None: level-0 pixels.

        Raises:
            SlideError: the file is damaged there, or `mpp` is given and the slide's own scale is unknown.
        """
        if mpp is None:
            return self.read_level(0, l0_box)
        if self.mpp is None:
            raise SlideError(f"{self.path}: {self.mpp_doubt or 'does not tell its um per pixel'}; pass --mpp")
        width, height = (max(1, round(length * self.mpp / mpp)) for length in (l0_box.width, l0_box.height))
        return self.read_as(l0_box, Size(width, height))

    def read_as(self, l0_box: Box, size: Size) -> np.ndarray:
        """Return a region reduced to a size, as uint8 (height, width, 3) RGB on white.

        Every pixel is the mean of the pixels under it on the coarsest level that has the detail. The level is read
        in pieces: memory is the result and one piece.
        """
        ratio = max(1.0, min(l0_box.width / size.width, l0_box.height / size.height))
        level = max(n for n, downsample in enumerate(self.level_downsamples) if n == 0 or downsample <= 1.01 * ratio)
        scale = [lv / l0 for lv, l0 in zip(self.level_sizes[level], self.size, strict=True)]
        steps = [l0 / px * lv_per_l0 for l0, px, lv_per_l0 in
                 zip((l0_box.width, l0_box.height), size, scale, strict=True)]
        block = Size(*(max(1, int(CHUNK_PX / 2 / step)) for step in steps))
        pixels = np.empty((size.height, size.width, 3), np.uint8)
        for y in range(0, size.height, block.height):
            for x in range(0, size.width, block.width):
                part = Box(x, y, *block).intersection(Box(0, 0, *size))
                left, right = (l0_box.x * scale[0] + x_px * steps[0] for x_px in (part.x, part.right))
                top, bottom = (l0_box.y * scale[1] + y_px * steps[1] for y_px in (part.y, part.bottom))
                lv_box = Box.from_edges(*map(math.floor, (left, top)), *map(math.ceil, (right, bottom)))
                footprint = (left - lv_box.x, top - lv_box.y, right - lv_box.x, bottom - lv_box.y)
                image = Image.fromarray(self.read_level(level, lv_box))
                image = image.resize((part.width, part.height), Image.Resampling.BOX, footprint)
                pixels[part.slices()] = np.asarray(image)
        return pixels

    def seen_as(self, l0_box: Box, size: Size | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what `read_as` does (default: level-0 pixels), and which pixels could be read, bool (height, width).

        Where the file is damaged, squares of at most UNSEEN_PX a side are white and count as not read.
        """
        width, height = size or l0_box[2:]
        try:
            pixels = self.read_as(l0_box, size) if size else self.read(l0_box)
            return pixels, np.ones((height, width), bool)
        except SlideError:
            if max(width, height) <= UNSEEN_PX:
                return np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), bool)
        x, y, tall = l0_box.x, l0_box.y, height > width      # halves of the longer side
        if tall:
            middle = y + round(l0_box.height * (height // 2) / height)
            boxes = Box.from_edges(x, y, l0_box.right, middle), Box.from_edges(x, middle, l0_box.right, l0_box.bottom)
            sizes = Size(width, height // 2), Size(width, height - height // 2)
        else:
            middle = x + round(l0_box.width * (width // 2) / width)
            boxes = Box.from_edges(x, y, middle, l0_box.bottom), Box.from_edges(middle, y, l0_box.right, l0_box.bottom)
            sizes = Size(width // 2, height), Size(width - width // 2, height)
        halves = [self.seen_as(box, part if size else None) for box, part in zip(boxes, sizes, strict=True)]
        pixels, seen = (np.concatenate(parts, axis=0 if tall else 1) for parts in zip(*halves, strict=True))
        return pixels, seen

    def read_level(self, level: int, lv_box: Box) -> np.ndarray:
        """Return a region of a level, in that level's pixels, as uint8 (H, W, 3) RGB on white.

        OpenSlide interpolates where the level's downsample is no integer; raw segments hold the exact pixels.
        """
        pixels = np.full((lv_box.height, lv_box.width, 3), 255, np.uint8)
        inside = lv_box.intersection(Box(0, 0, *self.level_sizes[level]))
        for y in range(inside.y, inside.bottom, CHUNK_PX):
            for x in range(inside.x, inside.right, CHUNK_PX):
                part = inside.intersection(Box(x, y, CHUNK_PX, CHUNK_PX))
                pixels[part.slices(lv_box)] = self._pixels(level, part)
        return pixels

    def is_missing(self, l0_box: Box) -> bool:
        """Return whether the file holds no pixel of a box inside the slide: nothing was scanned there."""
        return False

    def read_associated(self, name: str) -> np.ndarray:
        """Return an associated image as uint8 (H, W, 3) RGB on white. Raises KeyError for a name it does not have."""
        raise KeyError(name)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {self.size.width}x{self.size.height}>"

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        raise NotImplementedError

    def _set_icc(self, icc: bytes | None) -> None:
        self.icc = of_rgb(icc)
        if icc and not self.icc:
            self.unkept += (f"ICC profile of {icc[16:20].decode().strip()} colours",)

    def _set_mpp(self, override: float | None, own: tuple[float, float] | None) -> None:
        self.mpp_xy, self.mpp_origin = None, "unknown"
        if override is not None:
            self.mpp_xy, self.mpp_origin = (float(override), float(override)), "argument"
        elif own is not None and is_plausible(own):
            self.mpp_xy, self.mpp_origin = own, "file"
        elif own is not None:
            finest, coarsest = PLAUSIBLE_MPP
            self.mpp_doubt = (f"tells {per_axis(own)} um per pixel, which is implausible ({finest:g} to {coarsest:g}) "
                              "and counts as unknown")
        self.mpp = sum(self.mpp_xy) / 2 if self.mpp_xy else None


class OpenSlideSlide(Slide):
    """A file that OpenSlide opens."""

    def __init__(self, path: Path, handle: openslide.OpenSlide, icc: bytes | None, mpp: float | None) -> None:
        self.path, self._handle = path, handle
        self.level_sizes = tuple(Size(*size) for size in handle.level_dimensions)
        self.level_downsamples = tuple(handle.level_downsamples)
        self.properties = dict(handle.properties)
        self.vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.associated = tuple(sorted(handle.associated_images))
        self.bounds_offset = Point(*(int(self.properties.get(name, 0)) for name in
                                     (openslide.PROPERTY_NAME_BOUNDS_X, openslide.PROPERTY_NAME_BOUNDS_Y)))
        self._set_icc(icc)
        scales = [self.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
        self._set_mpp(mpp, both_axes(*(float(scale or 0) for scale in scales)))

    def close(self) -> None:
        self._handle.close()

    def read_associated(self, name: str) -> np.ndarray:
        return on_white(self._handle.associated_images[name])

    def is_missing(self, l0_box: Box) -> bool:
        try:
            return self._region(0, l0_box).getchannel("A").getextrema() == (0, 0)
        except SlideError:                                   # damaged, but scanned
            return False

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        return on_white(self._region(level, lv_box))

    def _region(self, level: int, lv_box: Box) -> Image.Image:
        l0_x, l0_y = (round(lv * self.level_downsamples[level]) for lv in (lv_box.x, lv_box.y))
        asked = (l0_x, l0_y), level, (lv_box.width, lv_box.height)
        try:
            return self._handle.read_region(*asked)
        except openslide.OpenSlideError:                     # there, or in another place before: that spoils the handle
            pass
        try:
            with quiet_libraries():
                fresh = openslide.OpenSlide(self.path)
                image = fresh.read_region(*asked)
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self.path}: cannot read level {level} at ({lv_box.x}, {lv_box.y}), the file is damaged "
                             f"there: {shortened(error)}; get a whole copy of it") from None
        self._handle = fresh                                 # the other one is closed when the last thread leaves it
        return image


class ImageSlide(Slide):
    """A plain image, held in memory: one level, no associated images.

    Attributes:
        format: Pillow's name of the file format.
        lossless: whether the file stores its pixels without loss.
    """

    kind = "image"
    vendor = "image"

    def __init__(self, path: Path, image: PlainImage, mpp: float | None) -> None:
        self.path, self._image, self.text, self.pictures = path, image.pixels, image.text, image.pictures
        self.format, self.lossless = image.format, image.lossless
        self.unkept = image.unkept
        self._set_icc(image.icc)
        self.colour = {name: chunk for name, chunk in image.colour.items()
                       if name != b"sRGB" or not self.icc}               # a PNG has one or the other
        self.level_sizes = (Size(image.pixels.shape[1], image.pixels.shape[0]),)
        self.level_downsamples = (1.0,)
        self.properties = {"image.format": image.format}
        self._set_mpp(mpp, image.mpp)

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        if level:
            raise ValueError(f"a plain image has level 0 only, not {level}")
        return self._image[lv_box.slices()]


def in_memory(pixels: np.ndarray, mpp: float | None = None) -> ImageSlide:
    """An image, uint8 (H, W, 3) RGB, as a slide of one level. Raises ValueError for anything else."""
    check_spacing(mpp)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"an image must be uint8 (H, W, 3) RGB of a pixel at least, got {pixels.dtype} {pixels.shape}")
    return ImageSlide(Path("image"), PlainImage(pixels, "array", True, None, None), mpp)


@quiet_libraries()
def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Return a slide or plain image, open for reading; mpp overrides the file's own scale (um per pixel).

    Raises:
        SlideError: no such file, not a slide or image, or broken; the message says which.
        ValueError: mpp does not lie in 0.01 to 100.
    """
    path = Path(path)
    check_spacing(mpp)
    if not path.exists():
        raise SlideError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise SlideError(f"{path}: is a folder; name the slide file itself ({FORMATS})")
    if not path.is_file():
        raise SlideError(f"{path}: is a pipe or a device, no file; save the slide first and name the file")
    check_tiles(path)
    check_frames(path)
    reason = "OpenSlide does not know the format"
    handle = None
    try:
        handle = openslide.OpenSlide(path)
        check_levels(path, handle.properties.get(openslide.PROPERTY_NAME_VENDOR, ""), Size(*handle.dimensions))
        first = handle.read_region((0, 0), 0, (1, 1))    # a broken file fails here, not in the middle of the work
        if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) in TIFF_VENDORS:
            check_whole(path)
        return OpenSlideSlide(path, handle, first.info.get("icc_profile"), mpp)
    except openslide.OpenSlideUnsupportedFormatError:
        pass
    except openslide.OpenSlideError as error:
        reason = shortened(error)
        if handle is not None:
            handle.close()
            raise SlideError(f"{path}: opens, but its pixels cannot be read, the file is damaged: {reason}; "
                             "get a whole copy of it") from None
    try:
        return ImageSlide(path, read_image(path), mpp)
    except Image.DecompressionBombError:
        raise SlideError(f"{path}: too many pixels for a plain image; convert it to a tiled pyramidal TIFF, "
                         "for example with vips tiffsave --tile --pyramid") from None
    except PermissionError:
        raise SlideError(f"{path}: no permission to read it") from None
    except UnidentifiedImageError:
        raise SlideError(f"{path}: neither a slide nor an image that can be read ({reason}); it must be "
                         f"{FORMATS}") from None
    except BROKEN_FILE as error:
        raise SlideError(f"{path}: neither a slide nor an image that can be read ({reason}; as an image: "
                         f"{shortened(error)}); it must be {FORMATS}") from None


@quiet_libraries()
def associated_image(path: Path, name: str) -> np.ndarray | None:
    """Return an associated image, uint8 (H, W, 3); None where it cannot be read, which spoils OpenSlide's handle."""
    with open_slide(path) as slide:
        try:
            return slide.read_associated(name)
        except openslide.OpenSlideError:
            return None
