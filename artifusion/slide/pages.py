"""The pages of a TIFF file that are no levels of the slide as it is read: what is refused, and what is left out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tifffile

from artifusion.errors import SlideError
from artifusion.geometry import Size
from artifusion.slide import tiff
from artifusion.slide.images import LONGEST_COMMENT, LYING_ON_A_SIDE, check_channels, comment_of

if TYPE_CHECKING:
    from artifusion.slide.reader import Slide

TIFFS = (".tif", ".tiff")
SIZED = ("aperio", "generic-tiff", "hamamatsu", "image")     # whose levels are pages of the same size
UNSIGNED = (1, 4)                                            # sample formats; 4 is "undefined"
STORED = {254, 255, *range(256, 260), *range(262, 267), 273, 274, *range(277, 285), *range(290, 294), 296, 297, 317,
          320, *range(322, 326), 330, 332, 336, *range(338, 342), 347, *range(512, 522), *range(529, 533),
          *range(32995, 32999), 34675}       # tags that say how pixels are stored, their scale and their profile
PRIVATE_TAG = 65_000                                         # from here on anybody's, without a name
FOCAL_PLANE = re.compile(r'<dimension\b[^>]*\bz="(\d+)"')    # in the XML of Leica


def check_levels(path: Path, vendor: str, l0_size: Size) -> None:
    """Raise SlideError where OpenSlide would show a TIFF slide as less than it is.

    That is one with other samples than whole numbers of 8 bits, which it cuts, with further channels, or, where it
    takes the first page for level 0 unseen, with a larger one behind that.
    """
    for page in _pages(path):
        bits, size = int(page.numbers(tiff.BITS).max(initial=1)), _size(page)
        kind = "" if page.number(tiff.SAMPLE_FORMAT, 1) in UNSIGNED else " signed or floating"
        if page.tiled and (bits > 8 or kind):
            raise SlideError(f"{path}: has{kind} samples of {bits} bits; only slides of 8 bits (uint8) can be "
                             "restored, convert it to 8 bit")
        if page.tiled:
            check_channels(path, page)
        if vendor == "generic-tiff" and page.tiled and size.width * size.height > l0_size.width * l0_size.height:
            raise SlideError(f"{path}: holds a page of {_named(size)} behind a smaller first one, and so is shown as "
                             f"{_named(l0_size)}; save it with the largest page first, for example with vips tiffsave "
                             "--tile --pyramid")


def left_out(slide: Slide, suffix: str) -> str:
    """Return what of a slide's file an output that is no copy does not hold, in words; empty where that is nothing.

    Args:
        suffix: of the output, in lower case.
    """
    planes, others, pages = Counter[Size](), Counter[Size](), _pages(slide.path)
    for page in pages if slide.vendor in SIZED else ():
        turned = slide.vendor == "image" and page.number(tiff.ORIENTATION) in LYING_ON_A_SIDE
        size = Size(*_size(page)[::-1]) if turned else _size(page)
        if size in slide.level_sizes and (page.tiled or slide.vendor in ("image", "hamamatsu")):
            planes[size] += max(1, page.number(tiff.DEPTH, 1))
        elif slide.vendor in ("image", "generic-tiff") or (slide.vendor == "aperio" and page.tiled):
            others[size] += 1
    for size in map(_size, _pages(slide.path, sub=True) if slide.vendor in SIZED else ()):
        if size == slide.size:
            planes[size] += 1
        elif not _is_level(size, slide.size):                # levels are built anew
            others[size] += 1
    if slide.vendor == "leica" and pages:
        planes[slide.size] = 1 + max(map(int, FOCAL_PLANE.findall(pages[0].text(tiff.DESCRIPTION))), default=0)
    elif slide.vendor == "dicom":
        planes[slide.size] = _dicom_planes(slide)
    elif not planes:                                         # of an image that is no TIFF
        planes[slide.size] = slide.pictures
    parts = [f"{count} pages of {_named(size)}: only the first plane is kept" for size, count in planes.items()
             if count > slide.level_sizes.count(size)]
    parts += [f"{count} page{'s' if count > 1 else ''} of {_named(size)} left out" for size, count in others.items()]
    unkept = slide.unkept + _unkept_tags(slide, pages, suffix)
    unkept += tuple(chunk.decode() for chunk in slide.colour if suffix != ".png")
    if suffix in (".jpg", ".jpeg") and len(comment_of(slide.text)) > LONGEST_COMMENT:
        unkept += (f"text but for its last {LONGEST_COMMENT:,} bytes",)
    return "; ".join(parts + [f"{', '.join(names)} left out" for names in (slide.associated, unkept) if names])


def lasting_page(slide: Slide) -> tiff.Page:
    """Return the first directory of a slide where its texts also hold for a generic pyramid of it; else an empty one.

    They do not where the pixels become others (gray, planes, several images in one OME-XML), nor where readers would
    take the pyramid for Aperio's, or its levels for planes of ImageJ's.
    """
    nothing = tiff.Page({}, "<")
    if slide.vendor not in ("generic-tiff", "image") or not tiff.is_tiff(slide.path):
        return nothing
    pages = tiff.read_tiff(slide.path).pages
    first, text = pages[0], pages[0].text(tiff.DESCRIPTION)
    alone = sum(_size(page) == slide.size for page in pages) == 1
    colours = first.number(tiff.SAMPLES, 1) == 3 and first.number(tiff.PLANAR, 1) == 1
    other = text.startswith(("Aperio", "ImageJ=")) or text.count("Pixels ") > 1
    return first if alone and colours and not other else nothing


def _dicom_planes(slide: Slide) -> int:
    """How many planes the frames of a DICOM slide make: each plane covers level 0 once."""
    texts = (slide.properties.get(f"dicom.{name}", "").strip() for name in ("NumberOfFrames", "Columns", "Rows"))
    frames, *tile = (int(text) if text.isdecimal() else 0 for text in texts)
    return frames // math.prod(-(-side // max(1, px)) for side, px in zip(slide.size, tile, strict=True))


def _unkept_tags(slide: Slide, pages: Sequence[tiff.Page], suffix: str) -> tuple[str, ...]:
    """What the first page of a TIFF file tells, or any other slide's vendor, that a generic file does not hold."""
    if not pages:
        return (f"{slide.vendor}'s metadata",) if slide.kind == "slide" else ()
    kept = STORED | {tiff.DESCRIPTION, tiff.SOFTWARE} if suffix in TIFFS and lasting_page(slide).tags else STORED
    if slide.kind == "slide" and pages[0].number(tiff.ORIENTATION, 1) != 1:      # which OpenSlide shows as stored
        kept = kept - {tiff.ORIENTATION}
    others = [code for code in pages[0].tags if code not in kept]
    named = [f"another {name}" if code >= tiff.REPEATED else name for code in others
             if code % tiff.REPEATED < PRIVATE_TAG and (name := tifffile.TIFF.TAGS.get(code % tiff.REPEATED, ""))]
    nameless = len(others) - len(named)
    return (*named, *([f"{nameless} private tag{'s' if nameless > 1 else ''}"] if nameless else []))


def _pages(path: Path, sub: bool = False) -> Sequence[tiff.Page]:
    """The pages of a TIFF file, or those that they name as theirs; none of a file that is no TIFF, or whose directories
    only its vendor's reader knows.
    """
    try:
        file = tiff.read_tiff(path)
        return tiff.sub_pages(file) if sub else file.pages
    except SlideError:
        return ()


def _is_level(size: Size, l0_size: Size) -> bool:
    """Whether a page may be level 0, reduced: each side lies within a pixel of what the other one asks for."""
    height = size.width * l0_size.height / l0_size.width
    return size.width < l0_size.width and abs(size.height - height) <= 1 + l0_size.height / l0_size.width


def _size(page: tiff.Page) -> Size:
    return Size(page.number(tiff.WIDTH), page.number(tiff.HEIGHT))


def _named(size: Size) -> str:
    return f"{size.width} x {size.height} px"
