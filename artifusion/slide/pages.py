"""The pages of a TIFF file that are no levels of the slide as it is read: what is refused, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifusion.errors import SlideError
from artifusion.geometry import Size
from artifusion.slide import tiff
from artifusion.slide.images import LYING_ON_A_SIDE

if TYPE_CHECKING:
    from artifusion.slide.reader import Slide

SIZED = ("aperio", "generic-tiff", "hamamatsu", "image")     # whose levels are pages of the same size
UNSIGNED = (1, 4)                                            # sample formats; 4 is "undefined"
UNKEPT_TAGS = {301: "TransferFunction", 318: "WhitePoint", 319: "PrimaryChromaticities", 700: "XMP", 33723: "IPTC",
               34377: "Photoshop's resources", 34665: "EXIF"}     # of level 0; only a copy holds them
FOCAL_PLANE = re.compile(r'<dimension\b[^>]*\bz="(\d+)"')    # in the XML of Leica


def check_levels(path: Path, vendor: str, l0_size: Size) -> None:
    """Raise SlideError where OpenSlide would show a TIFF slide as less than it is.

    That is one with other samples than whole numbers of 8 bits, which it cuts, or, where it takes the first page for
    level 0 unseen, with a larger one behind that.
    """
    for page in _pages(path):
        bits, size = int(page.numbers(tiff.BITS).max(initial=1)), _size(page)
        kind = "" if page.number(tiff.SAMPLE_FORMAT, 1) in UNSIGNED else " signed or floating"
        if page.tiled and (bits > 8 or kind):
            raise SlideError(f"{path}: has{kind} samples of {bits} bits; only slides of 8 bits (uint8) can be "
                             "restored, convert it to 8 bit")
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
    elif not planes:                                         # of an image that is no TIFF
        planes[slide.size] = slide.pictures
    parts = [f"{count} pages of {_named(size)}: only the first plane is kept" for size, count in planes.items()
             if count > slide.level_sizes.count(size)]
    parts += [f"{count} page{'s' if count > 1 else ''} of {_named(size)} left out" for size, count in others.items()]
    unkept = slide.unkept + tuple(name for code, name in UNKEPT_TAGS.items() if pages and code in pages[0].tags)
    unkept += tuple(chunk.decode() for chunk in slide.colour if suffix != ".png")
    return "; ".join(parts + [f"{', '.join(names)} left out" for names in (slide.associated, unkept) if names])


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
