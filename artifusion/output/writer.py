"""Writes the restored slide: copied segment by segment where the format allows, otherwise streamed into a pyramid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifusion.errors import OutputError
from artifusion.geometry import Point
from artifusion.mask.mask import Mask
from artifusion.output.codecs.segment_codecs import codec_of
from artifusion.output.container import THUMBNAIL, container_of, generic_pyramid, restored_pages, source_levels
from artifusion.output.description import WORD, description_with_note, tags_with_note, texts_with_note, without_uuids
from artifusion.output.history import notes_in
from artifusion.output.lookover import why_stale
from artifusion.output.patches import Patches
from artifusion.output.pyramid import write_generic
from artifusion.output.reencode import Metadata, encoding_name, pyramid_sizes, segment_count, write_image, write_pyramid
from artifusion.output.segments import Change, restored_segments
from artifusion.output.stored import StoredPage
from artifusion.output.tiffwriter import copy_tiff
from artifusion.slide import tiff
from artifusion.slide.images import LONGEST_COMMENT, comment_of
from artifusion.slide.pages import lasting_page
from artifusion.slide.reader import ImageSlide, Slide, open_slide

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LevelReport:
    """How one level, or the thumbnail, was written. Pixels outside the mask change in touched segments only."""

    name: str
    how: str                          # "copied", "built", "re-encoded" or "as it was"
    reason: str
    segments: int
    touched: int
    encoded_whole: int | None                 # touched segments that could not keep the blocks beside the mask
    outside_changed_share: float | None       # None: everything was re-encoded, and verification measures it
    outside_largest_change: int | None


@dataclass(frozen=True)
class WriteReport:
    """How a slide was written."""

    path: Path                        # the written file, in the work folder
    container: str                    # "copied", "pyramid" (level 0 copied), "re-encoded" or "image"
    reason: str
    lossless: bool                    # every pixel outside the mask is exact
    levels: tuple[LevelReport, ...]

    @property
    def bounds_offset(self) -> Point:
        """Level-0 Point at which QuPath starts counting in the written file, which may not be the source's."""
        with open_slide(self.path) as written:
            return written.bounds_offset

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, without the path."""
        return {key: value for key, value in asdict(self).items() if key != "path"} | {
            "levels": [asdict(level) for level in self.levels]}


def write_slide(patches: Patches, out: str | Path, *, note: str, work: str | Path, lossless: bool = False,
                same_size: bool = False, progress: Progress | None = None) -> WriteReport:
    """Write the patches' slide with them painted in to work/slide<suffix of out>; the caller moves it to `out`.

    Args:
        note: one line for ImageDescription, without "|".
        lossless: re-encoded levels get deflate instead of JPEG. Copied levels keep their codec.
        same_size: touched segments of copied JPEG 2000 keep about their size instead of being exact beside the mask.
        progress: called with (done, total): bytes where copied, level-0 pixels where re-encoded.

    Masked pixels that no canvas painted keep the source's values; `patches.remaining` says whether there are any.

    Raises:
        OutputError: a suffix that does not fit, or the file cannot be written.
        SlideError: the source is damaged.
        ValueError: a note that is not one line without "|".
    """
    if "|" in note or "\n" in note or "\r" in note:
        raise ValueError(f"a note must be one line without '|', got {note!r}")
    slide, mask = patches.slide, patches.mask
    out, work = Path(out), Path(work)
    container, reason = container_of(slide, out)
    path = work / f"slide{out.suffix.lower()}"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if container == "copied":
            report = _write_copy(slide, mask, patches, path, note, reason, same_size, progress)
        elif container == "pyramid":
            report = _write_generic(slide, mask, patches, path, note, reason, lossless, progress)
        elif container == "image":
            report = _write_image(slide, patches, path, note, reason)
        else:
            exact = lossless or (isinstance(slide, ImageSlide) and slide.lossless)
            report = _write_reencoded(slide, patches, path, note, reason, exact, progress)
        return report
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the space and the permissions "
                          "there and start again, finished canvases are kept") from None


@contextmanager
def sync_in_background(path: Path) -> Iterator[None]:
    """Write a file's cached bytes to the disk while the block runs, and wait for that at the end of the block.

    Verification reads from memory, so neither waits for the other.

    Raises:
        OSError: the disk is full or broken.
    """
    with ThreadPoolExecutor(1) as pool, path.open("rb+") as file:
        synced = pool.submit(os.fsync, file.fileno())
        yield
        synced.result()


def _write_copy(slide: Slide, mask: Mask, patches: Patches, path: Path, note: str, reason: str, same_size: bool,
                progress: Progress | None) -> WriteReport:
    levels = source_levels(slide)
    source, names = levels.file, restored_pages(slide, "copied")
    stale = {number: why for number, name in names.items()
             if name == THUMBNAIL and (why := why_stale(slide, source.pages[number], mask))}
    changes: dict[int, Change] = {}

    def replaced(number: int) -> Iterable[tuple[int, bytes]]:
        changes[number] = Change()
        if number not in names or number in stale:
            return ()
        stored = StoredPage(file, source.pages[number], names[number], same_size)
        return generators.enter_context(closing(restored_segments(stored, mask, patches, changes[number])))

    texts = tags_with_note(source.pages[0], note, slide.vendor, slide.path.name)
    with slide.path.open("rb") as file, ExitStack() as generators:    # closed: no thread reads on
        try:
            copy_tiff(source, path, replaced, texts, source.big, _counted(progress, slide.path.stat().st_size))
        except OverflowError:                                 # the restored classic TIFF grew over 4 GiB
            copy_tiff(source, path, replaced, texts, True, _counted(progress, slide.path.stat().st_size))
    reports = [_copied_level(name, source.pages[number], changes[number], same_size, stale.get(number, ""))
               for number, name in names.items()]
    exact = all(codec_of(source.pages[number], same_size).exact for number in levels.pages)
    return WriteReport(path, "copied", reason, exact, tuple(reports))


def _write_generic(slide: Slide, mask: Mask, patches: Patches, path: Path, note: str, reason: str, lossless: bool,
                   progress: Progress | None) -> WriteReport:
    source, plan = source_levels(slide).file, generic_pyramid(slide)
    exact = all(codec_of(source.pages[level.page]).exact for level in plan if level.page is not None)
    lossless = lossless or exact                             # what is built is as exact as what it is built from
    changes = {level.page: Change() for level in plan if level.page is not None}
    names = restored_pages(slide, "pyramid")

    def replaced(number: int) -> Iterable[tuple[int, bytes]]:
        stored = StoredPage(file, source.pages[number], names[number])
        return generators.enter_context(closing(restored_segments(stored, mask, patches, changes[number])))

    with slide.path.open("rb") as file, ExitStack() as generators:
        write_generic(path, source, plan, replaced, _generic_metadata(slide, note), lossless=lossless,
                      progress=_counted(progress, slide.path.stat().st_size))
    reports = []
    for number, level in enumerate(plan):
        if level.page is not None:
            reports.append(_copied_level(f"level {number}", source.pages[level.page], changes[level.page]))
        else:
            count = segment_count(level.size)
            reports.append(LevelReport(f"level {number}", "built", f"{level.reason}; {encoding_name(lossless)}", count,
                                       count, None, None, None))
    return WriteReport(path, "pyramid", reason, exact, tuple(reports))


def _generic_metadata(slide: Slide, note: str) -> Metadata:
    """Return a generic file's metadata, with the source's description where it still holds, or an image's texts."""
    kept = lasting_page(slide)
    description = without_uuids(kept.text(tiff.DESCRIPTION), slide.path.name)
    if slide.text:
        description = "\n".join(f"{key}: {text}" for key, text in slide.text.items())
    elif not description:                                    # what earlier passes declare lasts in any case
        description = "\n".join(f"artifusion: {earlier}" for earlier in notes_in(slide))
    texts = {code: text.decode(errors="surrogateescape")
             for code, text in texts_with_note(description, kept.text(tiff.SOFTWARE), note, "generic-tiff").items()}
    return Metadata(slide.size, slide.mpp_xy, slide.icc, texts.get(tiff.DESCRIPTION, description),
                    texts.get(tiff.SOFTWARE, WORD))


def _copied_level(name: str, page: tiff.Page, change: Change, same_size: bool = False, stale: str = "") -> LevelReport:
    """Return the report of a copied page.

    Args:
        stale: why the page was copied as it was although the mask touches it.
    """
    if stale:
        how, reason = "as it was", f"{stale}: may still show the artifact"
    else:
        how, reason = "copied", codec_of(page, same_size).how
        if change.whole:
            reason += f"; {change.whole} could not be written in place and were encoded whole"
    return LevelReport(name, how, reason, len(page.offsets), change.touched, change.whole, change.outside.share,
                       change.outside.largest)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a callback that turns counts into progress(done, total)."""
    done = 0

    def count_in(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(min(done, total), total)

    return count_in


def _changes_of_reencoding(exact: bool) -> tuple[int | None, float | None, int | None]:
    """Return the last three values of a re-encoded level's report: no change where exact, otherwise not known yet."""
    return (0, 0.0, 0) if exact else (None, None, None)


def _write_reencoded(slide: Slide, patches: Patches, path: Path, note: str, reason: str, lossless: bool,
                     progress: Progress | None) -> WriteReport:
    write_pyramid(path, patches.read, _generic_metadata(slide, note), work=path.parent, lossless=lossless,
                  progress=_counted(progress, slide.size.width * slide.size.height))
    levels = []
    for level, size in enumerate(pyramid_sizes(slide.size)):
        count = segment_count(size)
        levels.append(LevelReport(f"level {level}", "re-encoded", f"{reason}; {encoding_name(lossless)}", count, count,
                                  *_changes_of_reencoding(lossless)))
    return WriteReport(path, "re-encoded", reason, lossless, tuple(levels))


def _write_image(slide: Slide, patches: Patches, path: Path, note: str, reason: str) -> WriteReport:
    exact = path.suffix == ".png"
    text, comment = dict(slide.text), comment_of(slide.text)
    if not exact and len(comment) > LONGEST_COMMENT:
        text = {"Comment": comment[-LONGEST_COMMENT:].decode(errors="ignore")}
    description = text.pop("Description", "")
    text["Description"] = (description_with_note(description, note, slide.vendor)             # comes last
                           or f"{description}\n{WORD}: {note}")
    write_image(path, patches.read, slide.size, mpp_xy=slide.mpp_xy, icc=slide.icc, text=text,
                colour=slide.colour)
    how = "PNG, exact" if exact else "JPEG quality 95, 4:4:4: kept pixels change a little; choose .png to keep them"
    level = LevelReport("level 0", "re-encoded", how, 1, 1, *_changes_of_reencoding(exact))
    return WriteReport(path, "image", reason, exact, (level,))
