"""The restored slide: copied segment by segment where the format allows, else streamed into a pyramid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box, Size
from artifusion.slide import jpeg, tiff
from artifusion.slide.masks import Mask
from artifusion.slide.patches import Patches
from artifusion.slide.reader import ImageSlide, Slide
from artifusion.slide.reencode import pyramid_sizes, write_image, write_pyramid
from artifusion.slide.segments import Change, Grid, restored_segments, shared_tables

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
COPIED_VENDORS = ("aperio", "generic-tiff")
JPEG = 7
CODECS = {JPEG: "JPEG"}               # compressions whose segments can be written again

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LevelReport:
    """What became of one level, or of the thumbnail. Changes outside the mask lie inside touched segments."""

    name: str
    how: str                          # "copied", "re-encoded" or "as it was"
    reason: str
    segments: int
    touched: int
    outside_changed_share: float | None       # None: everything was encoded anew; verification measures it
    outside_largest_change: int | None


@dataclass(frozen=True)
class WriteReport:
    path: Path                        # the written file, in the work folder
    container: str                    # "copied", "re-encoded" or "image"
    reason: str
    lossless: bool                    # kept pixels are exact, all of them
    levels: tuple[LevelReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON knows it, without the path."""
        return {key: value for key, value in asdict(self).items() if key != "path"} | {
            "levels": [asdict(level) for level in self.levels]}


def why_not_copied(slide: Slide) -> str:
    """Why a slide's container cannot be copied segment by segment; empty where it can."""
    if slide.kind != "slide":
        return "a plain image"
    if slide.vendor not in COPIED_VENDORS:
        return f"{slide.vendor} files cannot be copied segment by segment"
    try:
        source = tiff.read_tiff(slide.path)
    except SlideError as error:
        return str(error)
    for page in source.pages:
        found = next((name for code, name in tiff.POINTERS.items() if code in page.tags), "")
        if found:
            return f"holds {found}"
        if any(tag.type in (tiff.IFD, tiff.IFD8) for tag in page.tags.values()):
            return "holds nested directories"
    pages = level_pages(source, slide)
    if pages is None:
        return "its tiled directories are not the levels OpenSlide shows"
    with slide.path.open("rb") as file:
        for level, number in enumerate(pages):
            page = source.pages[number]
            reason = _page_reason(page)
            if not reason and len(page.offsets) != Grid.of(page).columns * Grid.of(page).rows:
                reason = f"{len(page.offsets)} segments where the size asks for another number"
            sample = next((i for i, count in enumerate(page.counts.tolist()) if count), None)
            if not reason and sample is not None:
                reason = jpeg.why_not(tiff.read_segment(file, page, sample), shared_tables(page),
                                      page.number(tiff.PHOTOMETRIC))
            if reason:
                return f"level {level}: {reason}"
    return ""


def level_pages(source: tiff.Tiff, slide: Slide) -> list[int] | None:
    """The page of each level, level 0 first; None where the tiled pages are not exactly OpenSlide's levels."""
    sizes = {number: Grid.of(page).size for number, page in enumerate(source.pages) if page.tiled}
    ordered = sorted(sizes, key=lambda number: (-sizes[number].width * sizes[number].height, number))
    return ordered if [sizes[number] for number in ordered] == list(slide.level_sizes) else None


def thumbnail_page(source: tiff.Tiff, slide: Slide) -> int | None:
    """The page that holds an Aperio slide's thumbnail: the second one, where it is stripped."""
    if slide.vendor == "aperio" and len(source.pages) > 1 and not source.pages[1].tiled:
        return 1
    return None


def container_of(slide: Slide, out: Path) -> tuple[str, str]:
    """How `out` will be written, "copied", "re-encoded" or "image", and why.

    Raises:
        OutputError: the suffix does not fit the source; the message names those that do.
    """
    suffix, own = out.suffix.lower(), slide.path.suffix.lower()
    if slide.kind == "image":
        if suffix in IMAGE_SUFFIXES:
            return "image", "a plain image, written whole"
        if suffix in TIFF_SUFFIXES:
            return "re-encoded", "a plain image becomes a tiled pyramid"
        raise OutputError(f"{out}: a plain image is written as .png (exact), .jpg or .tiff; choose one of these")
    reason = why_not_copied(slide)
    if not reason and (suffix == own or {suffix, own} <= set(TIFF_SUFFIXES)):
        return "copied", "untouched segments are byte-identical"
    if suffix in TIFF_SUFFIXES:
        return "re-encoded", reason or f"the suffix {suffix} asks for a generic pyramid"
    if reason:
        raise OutputError(f"{out}: this slide must be re-encoded ({reason}); name the output .tiff or .tif")
    raise OutputError(f"{out}: this slide is written as {own} (same container, copied), or as .tiff or .tif "
                      "(generic pyramid); choose one of these")


def default_output(slide_path: str | Path, slide: Slide) -> Path:
    """<name>.restored<suffix> beside the slide: its own suffix where it can be copied, .tiff where it is re-encoded.

    A plain JPEG becomes .png, which keeps every kept pixel exactly.
    """
    path = Path(slide_path)
    if slide.kind == "image":
        suffix = ".tiff" if isinstance(slide, ImageSlide) and slide.format == "TIFF" else ".png"
    else:
        suffix = ".tiff" if why_not_copied(slide) else path.suffix
    return path.with_name(f"{path.stem}.restored{suffix}")


def write_slide(slide: Slide, mask: Mask, patches: Patches, out: str | Path, *, note: str, work: str | Path,
                lossless: bool = False, progress: Progress | None = None) -> WriteReport:
    """Write the restored slide to work/slide<suffix of out>, synced; the caller verifies and moves it to `out`.

    Args:
        note: one line for ImageDescription, without "|".
        lossless: re-encode with deflate instead of JPEG. Copied containers keep their codec.
        progress: called with (done, total), bytes where copied, level-0 pixels where re-encoded.

    Masked pixels that no canvas painted keep the source's values: ask `patches.remaining` first.

    Raises:
        OutputError: a suffix that does not fit, or the file cannot be written.
        SlideError: the source is damaged.
    """
    if "|" in note or "\n" in note or "\r" in note:
        raise ValueError(f"a note must be one line without '|', got {note!r}")
    out, work = Path(out), Path(work)
    container, reason = container_of(slide, out)
    path = work / f"slide{out.suffix.lower()}"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if container == "copied":
            report = _copy(slide, mask, patches, path, note, reason, progress)
        elif container == "image":
            report = _image(slide, patches, path, note, reason)
        else:
            exact = lossless or (isinstance(slide, ImageSlide) and slide.lossless)
            report = _reencode(slide, patches, path, note, reason, exact, progress)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the space and the permissions "
                          "there and start again, finished canvases are kept") from None
    return report


def described(text: str, note: str, vendor: str) -> str:
    """An ImageDescription with the note in the vendor's own form, never inside another value."""
    text = text.rstrip("\0 \r\n")
    if vendor == "aperio":
        earlier = text.count("|artifusion")                  # a slide may be restored twice
        return f"{text}|artifusion{f' {earlier + 1}' if earlier else ''} = {note}"
    if text.lstrip("\ufeff").startswith("<"):                # OME-XML and other XML must stay well-formed
        return f"{text}\n<!-- artifusion: {note.replace('--', '- -')} -->"
    return f"{text}\nartifusion: {note}".lstrip("\n")


def _page_reason(page: tiff.Page) -> str:
    """Why the segments of a page cannot be written again; empty where they can, as far as the tags tell."""
    compression = page.number(tiff.COMPRESSION, 1)
    if compression not in CODECS:
        return f"compression {compression} is not among those that can be copied ({', '.join(CODECS.values())})"
    if page.number(tiff.SAMPLES, 1) != 3 or set(page.numbers(tiff.BITS).tolist()) != {8}:
        return "not three 8-bit samples"
    if page.number(tiff.PLANAR, 1) != 1 or page.number(tiff.DEPTH, 1) != 1:
        return "samples in separate planes"
    if page.number(tiff.PHOTOMETRIC) not in (jpeg.RGB, jpeg.YCBCR):
        return f"photometric interpretation {page.number(tiff.PHOTOMETRIC)}"
    return ""


def _thumbnail_reason(slide: Slide, page: tiff.Page) -> str:
    size = Grid.of(page).size
    if abs(size.width * slide.size.height / (size.height * slide.size.width) - 1) > 0.02:
        return "shows another area than level 0"
    reason = _page_reason(page)
    if not reason and len(page.counts):
        with slide.path.open("rb") as file:
            reason = jpeg.why_not(tiff.read_segment(file, page, 0), shared_tables(page), page.number(tiff.PHOTOMETRIC))
    return reason


def _copy(slide: Slide, mask: Mask, patches: Patches, path: Path, note: str, reason: str, progress: Progress | None
          ) -> WriteReport:
    source = tiff.read_tiff(slide.path)
    levels = level_pages(source, slide)
    assert levels is not None                                 # container_of looked already
    names = {number: f"level {level}" for level, number in enumerate(levels)}
    thumbnail, stale = thumbnail_page(source, slide), ""
    if thumbnail is not None:
        stale = _thumbnail_reason(slide, source.pages[thumbnail])
        names[thumbnail] = "thumbnail"
    total, done = slide.path.stat().st_size, 0
    changes: dict[int, Change] = {}

    def copied(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(min(done, total), total)

    def replaced(number: int) -> Iterable[tuple[int, bytes]]:
        changes[number] = Change()
        if number not in names or (number == thumbnail and stale):
            return ()
        return restored_segments(file, source.pages[number], mask, patches, changes[number])

    description = described(source.pages[0].text(tiff.DESCRIPTION), note, slide.vendor).encode(
        errors="surrogateescape")
    with slide.path.open("rb") as file:
        try:
            tiff.write_tiff(source, path, replaced, {0: description}, source.big, copied)
        except OverflowError:                                 # the restored classic TIFF grew over 4 GiB
            done = 0
            tiff.write_tiff(source, path, replaced, {0: description}, True, copied)
    reports = []
    for number, name in names.items():
        change, asis = changes[number], number == thumbnail and stale
        reports.append(LevelReport(
            name, "as it was" if asis else "copied",
            f"{stale}: may still show the artifact" if asis else "touched segments written with their own tables",
            len(source.pages[number].offsets), change.touched, change.outside.share, change.outside.largest))
    return WriteReport(path, "copied", reason, False, tuple(reports))


def unchanged(exact: bool) -> tuple[float | None, int | None]:
    """What a level encoded anew says of its kept pixels: none changed, or nothing yet."""
    return (0.0, 0) if exact else (None, None)


def _reencode(slide: Slide, patches: Patches, path: Path, note: str, reason: str, lossless: bool,
              progress: Progress | None) -> WriteReport:
    done, total = 0, slide.size.width * slide.size.height

    def written(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    # The source's own description stays out: a generic file that calls itself Aperio would be opened as one.
    write_pyramid(path, slide.size, patches.read, mpp=slide.mpp, icc=slide.icc, work=path.parent, lossless=lossless,
                  description=described("", note, "generic-tiff"), progress=written)
    how = "deflate, exact" if lossless else "JPEG quality 90, 4:4:4: kept pixels change a little"
    levels = []
    for level, size in enumerate(pyramid_sizes(slide.size)):
        tiles = Grid(Size(*size), Size(256, 256), True)
        levels.append(LevelReport(f"level {level}", "re-encoded", f"{reason}; {how}", tiles.columns * tiles.rows,
                                  tiles.columns * tiles.rows, *unchanged(lossless)))
    return WriteReport(path, "re-encoded", reason, lossless, tuple(levels))


def _image(slide: Slide, patches: Patches, path: Path, note: str, reason: str) -> WriteReport:
    exact = path.suffix == ".png"
    write_image(path, patches.read(Box(0, 0, *slide.size)), mpp=slide.mpp, icc=slide.icc, note=note)
    how = "PNG, exact" if exact else "JPEG quality 95, 4:4:4: kept pixels change a little; choose .png to keep them"
    level = LevelReport("level 0", "re-encoded", how, 1, 1, *unchanged(exact))
    return WriteReport(path, "image", reason, exact, (level,))
