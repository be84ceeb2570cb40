"""How an output will be written: which levels of the source can be copied, and why the others cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from artifusion.errors import ConfigError, OutputError, SlideError
from artifusion.geometry import Box, Size
from artifusion.output.codecs.segment_codecs import Jpeg2000Codec, codec_of
from artifusion.output.reencode import SMALLEST_PX, half_size
from artifusion.output.stored import StoredPage
from artifusion.slide import tiff
from artifusion.slide.images import LARGEST_PROFILE
from artifusion.slide.levels import level_pages
from artifusion.slide.pages import left_out
from artifusion.slide.reader import TIFF_VENDORS, ImageSlide, Slide

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST_STEP = 4.5                       # a level more than this many times smaller than the one before leaves a gap
MOST_JPEG_PX = 65_500                    # a side, as libjpeg writes them
THUMBNAIL = "thumbnail"
DECODERS_DIFFER = 4                      # grey levels by which two decoders of one codec may differ


@dataclass(frozen=True)
class SourceLevels:
    """The levels of a TIFF slide, level 0 first."""

    file: tiff.Tiff
    pages: tuple[int, ...]                   # the directory of each level
    reasons: tuple[str, ...]                 # why each level cannot be copied; empty where it can

    def page(self, level: int) -> tiff.Page:
        return self.file.pages[self.pages[level]]


@dataclass(frozen=True)
class PlannedLevel:
    """One level of a generic pyramid."""

    size: Size
    page: int | None                         # the directory it is copied from; None: built from the level above
    reason: str                              # why it is built; empty where it is copied


def source_levels(slide: Slide) -> SourceLevels:
    """Return the directories of a slide's levels, and why any of them cannot be copied.

    Raises:
        SlideError: no level can be copied; the message is the reason alone.
    """
    if slide.kind != "slide":
        raise SlideError("a plain image")
    if slide.vendor not in TIFF_VENDORS:
        raise SlideError(f"{slide.vendor} files cannot be copied segment by segment")
    source = tiff.read_tiff(slide.path)
    for page in source.pages:
        if len(page.offsets) != len(page.counts):
            raise SlideError(f"holds {len(page.offsets)} offsets of segments and {len(page.counts)} lengths")
        pointer = next((name for code, name in tiff.POINTERS.items() if code in page.tags), "")
        if pointer:
            raise SlideError(f"holds {pointer}")
        if any(tag.type in (tiff.IFD, tiff.IFD8) for tag in page.tags.values()):
            raise SlideError("holds nested directories")
    pages = level_pages(source, slide)
    if pages is None:
        raise SlideError("its tiled directories are not the levels OpenSlide shows")
    with slide.path.open("rb") as file:
        reasons = [segment_reason(file, source.pages[number], slide if not level else None)
                   for level, number in enumerate(pages)]
    return SourceLevels(source, tuple(pages), tuple(reasons))


def segment_reason(file: BinaryIO, page: tiff.Page, level0_of: Slide | None = None) -> str:
    """Return why the segments of a page cannot be written again; empty where they can. Looks at the largest ones.

    Args:
        file: the file of the page.
        level0_of: the slide whose level 0 the page is: OpenSlide must show the pixels that the codec decodes.
    """
    stored = StoredPage(file, page)
    try:
        codec, grid = stored.codec, stored.grid
        if len(page.offsets) != grid.columns * grid.rows:
            return f"{len(page.offsets)} segments where the size asks for another number"
        index, data = stored.pattern
        if not data:
            return ""
        samples = codec.decode(data)
        if samples.shape[:2] != (grid.box(index).height, grid.segment.width):
            return "its segments have another size than its tags tell"
        reason = codec.why_not(data)
        if level0_of is not None and not reason:
            inside = grid.box(index).intersection(Box(0, 0, *grid.size))
            decoded = codec.rgb(samples)[: inside.height, : inside.width]
            if np.abs(decoded.astype(np.int16) - level0_of.read(inside)).max() > DECODERS_DIFFER:
                return f"OpenSlide shows other pixels than its {codec.name} segments hold"
        return reason
    except SlideError as error:
        return str(error)


def restored_pages(slide: Slide, container: str) -> dict[int, str]:
    """Return the source's directories whose touched segments are written again, with their names.

    Raises:
        SlideError: the slide is not written into a "copied" container or a "pyramid".
    """
    if container == "pyramid":
        return {level.page: f"level {n}" for n, level in enumerate(generic_pyramid(slide)) if level.page is not None}
    levels = source_levels(slide)
    thumbnail = thumbnail_page(levels.file, slide)
    return {number: f"level {level}" for level, number in enumerate(levels.pages)} | (
        {} if thumbnail is None else {thumbnail: THUMBNAIL})


def thumbnail_page(source: tiff.Tiff, slide: Slide) -> int | None:
    """Return the page of an Aperio slide's thumbnail, the second one where it is in strips; None for no thumbnail."""
    if slide.vendor == "aperio" and len(source.pages) > 1 and not source.pages[1].tiled:
        return 1
    return None


def why_not_copied(slide: Slide) -> str:
    """Return why a slide's own container cannot be copied segment by segment; empty where it can."""
    try:
        reasons = source_levels(slide).reasons
    except SlideError as error:
        return str(error)
    return next((f"level {level}: {reason}" for level, reason in enumerate(reasons) if reason), "")


def generic_pyramid(slide: Slide) -> list[PlannedLevel]:
    """Return the levels of a generic tiled pyramid of a slide: those that can be copied, and the missing ones between.

    Levels of the source that cannot be copied are left out. Levels are missing where one is over LARGEST_STEP times
    smaller than the one before, and below the smallest one until that is at most SMALLEST_PX. A missing level has
    half the size of the one above it.

    Raises:
        SlideError: level 0 cannot be copied; the message is the reason alone.
    """
    levels = source_levels(slide)
    reasons = [reason or generic_reason(slide, levels.page(level)) for level, reason in enumerate(levels.reasons)]
    if reasons[0]:
        raise SlideError(f"level 0: {reasons[0]}")
    usable = [level for level, reason in enumerate(reasons) if not reason]
    unusable = [f"level {level} of the source: {reason}" for level, reason in enumerate(reasons) if reason]
    why = "; ".join(["the source has no such level", *unusable])
    pages = {slide.level_sizes[level]: levels.pages[level] for level in usable}
    return [PlannedLevel(size, pages.get(size), "" if size in pages else why)
            for size in without_gaps([slide.level_sizes[level] for level in usable])]


def without_gaps(sizes: Sequence[Size]) -> Iterator[Size]:
    """Yield the sizes of a pyramid's levels, the missing ones among them."""
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        yield size
        while size.width > LARGEST_STEP * following.width if following else max(size) > SMALLEST_PX:
            size = half_size(size)
            yield size


def generic_reason(slide: Slide, page: tiff.Page) -> str:
    """Return why a level that can be copied must not be part of a generic TIFF; empty where it may."""
    codec = codec_of(page)
    if not codec.generic:
        return f"OpenSlide reads {codec.name} in Aperio's own files only"
    if slide.vendor == "aperio" and not page.counts.all():
        return "has missing tiles, which OpenSlide fills in from other levels in Aperio's own files only"
    return ""


def container_of(slide: Slide, out: Path) -> tuple[str, str]:
    """Return how `out` will be written ("copied", "pyramid", "re-encoded" or "image"), why, and what is left out.

    Raises:
        OutputError: the suffix does not fit the source; the message names those that do.
    """
    container, reason = _container(slide, out)
    lost = "" if container == "copied" else left_out(slide, out.suffix.lower())
    return container, f"{reason}; {lost}" if lost else reason


def say_left_out(slide: Slide, out: Path) -> None:
    """Print one line on stderr where `out` will not hold all pages of the slide."""
    lost = "" if _container(slide, out)[0] == "copied" else left_out(slide, out.suffix.lower())
    if lost:
        print(f"{slide.path.name}: {lost}", file=sys.stderr)


def _container(slide: Slide, out: Path) -> tuple[str, str]:
    suffix, own = out.suffix.lower(), own_suffix(slide).lower()
    if slide.kind == "image":
        if suffix in IMAGE_SUFFIXES:
            _check_fits(slide, out)
            return "image", "a plain image, written whole"
        if suffix in TIFF_SUFFIXES:
            return "re-encoded", "a plain image becomes a tiled pyramid"
        raise OutputError(f"{out}: a plain image is written as .png (exact), .jpg or .tiff; choose one of these")
    reason = why_not_copied(slide)
    if not reason and (suffix == own or {suffix, own} <= set(TIFF_SUFFIXES)):
        complete = slide.vendor != "generic-tiff" or len(generic_pyramid(slide)) == len(slide.level_sizes)
        return ("copied", "untouched segments are byte-identical") if complete else (
            "pyramid", "level 0 copied, levels that were missing built")
    if suffix in TIFF_SUFFIXES:
        try:
            generic_pyramid(slide)
        except SlideError as error:
            return "re-encoded", str(error)
        return "pyramid", f"level 0 copied into the generic pyramid that {suffix} asks for"
    if reason:
        raise OutputError(f"{out}: this slide cannot be copied as it is ({reason}); name the output .tiff or .tif")
    raise OutputError(f"{out}: this slide is written as {own} (same container, copied), or as .tiff or .tif "
                      "(generic pyramid); choose one of these")


def _check_fits(slide: Slide, out: Path) -> None:
    """Raise OutputError where a PNG or JPEG cannot hold the slide."""
    if out.suffix.lower() != ".png" and max(slide.size) > MOST_JPEG_PX:
        raise OutputError(f"{out}: a JPEG holds at most {MOST_JPEG_PX:,} px a side; choose .png (exact) or .tiff")
    if len(slide.icc or b"") > LARGEST_PROFILE:
        raise OutputError(f"{out}: holds no ICC profile of {len(slide.icc or b''):,} bytes; choose .tiff")


def check_same_size(slide: Slide, out: Path) -> None:
    """Raise ConfigError unless writing `out` copies a slide whose level 0 is JPEG 2000."""
    container, _ = container_of(slide, out)
    if container != "copied" or not isinstance(codec_of(source_levels(slide).page(0)), Jpeg2000Codec):
        raise ConfigError(f"{slide.path}: same size is for slides that are copied as JPEG 2000, and to {out.name} this "
                          "one is not; leave --same-size away")


def own_suffix(slide: Slide) -> str:
    """Return the suffix of a slide's own container: that of its name, or the usual one where the name has none."""
    return slide.path.suffix or (".svs" if slide.vendor == "aperio" else ".tiff")


def default_output(slide_path: str | Path, slide: Slide) -> Path:
    """Return <name>.restored<suffix> beside the slide: its own suffix where it can be copied, otherwise .tiff.

    A plain JPEG becomes .png, which keeps all pixels outside the mask exactly.
    """
    path = Path(slide_path)
    if slide.kind == "image":
        suffix = ".tiff" if isinstance(slide, ImageSlide) and slide.format == "TIFF" else ".png"
    else:
        suffix = ".tiff" if why_not_copied(slide) else own_suffix(slide)
    return path.with_name(f"{path.stem}.restored{suffix}")
