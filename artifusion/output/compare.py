"""Compares the copied segments of a restored slide with the source's: identical, or changed only under the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from artifusion.errors import SlideError
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.output.allowed_change import jpeg_reason, moved_reason, reencoded_reason
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.block_arrays import zeroed
from artifusion.output.codecs.segment_codecs import Jpeg2000Codec, JpegCodec
from artifusion.output.container import generic_pyramid, thumbnail_page
from artifusion.output.description import WORD, only_noted
from artifusion.output.segments import PixelChange
from artifusion.output.stored import StoredPage, masked_segments
from artifusion.slide import tiff
from artifusion.slide.levels import level_pages
from artifusion.slide.reader import Slide
from artifusion.slide.whole import lacking

COMPARED_BYTES = 1 << 18                 # read from each file at once: both pieces stay in the cache
LISTED = 5                               # problems of one directory that are listed one by one


@dataclass
class Comparison:
    """What is required of copied segments, and what was found in comparing them."""

    by_block: bool = True                # required: JPEG blocks that the mask does not reach keep their coefficients;
    #                                      False for older sidecars, whose touched segments were encoded whole
    same_size: bool = False              # JPEG 2000 was encoded with loss
    passes: int = 1                      # between the two slides: each may encode what it touches once more
    segments: int = 0
    touched: int = 0
    whole: int = 0                       # touched segments that changed beyond the blocks that the mask reaches
    identical: int = 0                   # untouched segments with the source's bytes
    outside: PixelChange = field(default_factory=PixelChange)     # outside the mask, in touched segments or everywhere

    def to_dict(self) -> dict[str, Any]:
        return {"segments": self.segments, "touched": self.touched, "encoded_whole": self.whole,
                "identical": self.identical, "outside": self.outside.to_dict()}


def compare_copied(before: Slide, after: Slide, mask: Mask, comparison: Comparison) -> list[str]:
    """Return the problems of a copied container, directory by directory: its tags and segments against the source's."""
    old_tiff, new_tiff = tiff.read_tiff(before.path), tiff.read_tiff(after.path)
    levels = level_pages(old_tiff, before)
    if levels is None or len(old_tiff.pages) != len(new_tiff.pages):
        return [f"directories changed: {len(old_tiff.pages)} to {len(new_tiff.pages)}"]
    restored_pages = {*levels, thumbnail_page(old_tiff, before)}
    problems: list[str] = []
    with before.path.open("rb") as old_file, after.path.open("rb") as new_file:
        for number, pages in enumerate(zip(old_tiff.pages, new_tiff.pages, strict=True)):
            old, new = StoredPage(old_file, pages[0]), StoredPage(new_file, pages[1])
            problems += _tag_problems(number, old.page, new.page)
            restored = number in restored_pages and not lacking(old.page)      # such a thumbnail stays as it was
            touched = masked_segments(old.grid, mask) if restored else []
            problems += compare_segments(f"directory {number}", old, new, touched, mask, comparison)
    return problems


def compare_generic(before: Slide, after: Slide, mask: Mask, comparison: Comparison) -> list[str]:
    """Return the problems of a generic pyramid: its level sizes, and its copied levels against the source's."""
    plan = generic_pyramid(before)
    if [level.size for level in plan] != list(after.level_sizes):
        return [f"levels are {after.level_sizes} instead of {tuple(level.size for level in plan)}"]
    old_tiff, new_tiff = tiff.read_tiff(before.path), tiff.read_tiff(after.path)
    new_pages = level_pages(new_tiff, after)
    if new_pages is None:
        return ["its tiled directories are not the levels OpenSlide shows"]
    problems: list[str] = []
    with before.path.open("rb") as old_file, after.path.open("rb") as new_file:
        for number, level in enumerate(plan):
            if level.page is None:
                continue
            old = StoredPage(old_file, old_tiff.pages[level.page])
            new = StoredPage(new_file, new_tiff.pages[new_pages[number]])
            try:
                if old.codec != new.codec:
                    problems.append(f"level {number}: its codec changed")
            except SlideError as error:
                problems.append(f"level {number}: {error}")
            problems += compare_segments(f"level {number}", old, new, masked_segments(old.grid, mask), mask, comparison)
    return problems


def compare_segments(name: str, old: StoredPage, new: StoredPage, touched: Sequence[int], mask: Mask,
                     comparison: Comparison) -> list[str]:
    """Return the problems of a directory's segments; the touched ones are compared outside the mask, pixel by pixel.

    Args:
        touched: indices of the segments that the mask touches, rising.
    """
    count = len(old.page.offsets)
    if count != len(new.page.offsets):
        return [f"{name}: {count} segments became {len(new.page.offsets)}"]
    untouched = np.setdiff1d(np.arange(count), touched)
    wrong = dict.fromkeys(changed_segments(old, new, untouched), "no declared region touches it, but it changed")
    comparison.segments += count
    comparison.touched += len(touched)
    comparison.identical += len(untouched) - len(wrong)
    for index in touched:
        reason = touched_reason(old, new, index, mask, comparison)
        if reason:
            wrong[index] = reason
    listed = [f"{name}, segment {index} at {tuple(old.grid.box(index)[:2])}: {wrong[index]}" for index in sorted(wrong)]
    return listed[:LISTED] + ([f"{name}: {len(listed) - LISTED} more"] if listed[LISTED:] else [])


def changed_segments(old: StoredPage, new: StoredPage, indices: np.ndarray) -> list[int]:
    """Return which of these segments have other bytes. Segments contiguous in both files are compared in one read."""
    same_length = old.page.counts[indices] == new.page.counts[indices]
    changed, stored = indices[~same_length].tolist(), indices[same_length & (old.page.counts[indices] > 0)]
    old_offsets, new_offsets, lengths = old.page.offsets[stored], new.page.offsets[stored], old.page.counts[stored]
    for first, stop in tiff.contiguous_runs(lengths, old_offsets, new_offsets):
        old.file.seek(int(old_offsets[first]))
        new.file.seek(int(new_offsets[first]))
        if not same_bytes(old.file, new.file, int(lengths[first:stop].sum())):
            changed += [index for index in stored[first:stop].tolist() if old.segment(index) != new.segment(index)]
    return changed


def same_bytes(file: BinaryIO, other: BinaryIO, length: int) -> bool:
    """Return whether the next `length` bytes of two files are the same; moves both."""
    piece, other_piece = bytearray(COMPARED_BYTES), bytearray(COMPARED_BYTES)
    while length:
        if length < len(piece):
            piece, other_piece = bytearray(length), bytearray(length)
        count = file.readinto(piece)                          # type: ignore[attr-defined]
        if count != len(piece) or other.readinto(other_piece) != count or piece != other_piece:   # type: ignore
            return False
        length -= count
    return True


def _tag_problems(number: int, old: tiff.Page, new: tiff.Page) -> list[str]:
    """Return the tags of a directory that changed, except where segments lie and the note in the first one's texts."""
    free = {*tiff.OFFSETS.values(), *tiff.COUNTS.values()}
    texts = [code for code in {*old.tags, *new.tags} if number == 0 and code % tiff.REPEATED in (
        tiff.DESCRIPTION, tiff.SOFTWARE)]
    free |= {code for code in texts if only_noted(old.text(code), new.text(code))}
    changed = [code for code in sorted(old.tags.keys() | new.tags.keys())
               if code not in free and old.tags.get(code) != new.tags.get(code)]
    problems = [f"directory {number}: tag {code % tiff.REPEATED} changed" for code in changed]
    if number == 0 and not any(new.text(code).count(WORD) > old.text(code).count(WORD) for code in texts):
        problems.append("no text of the first directory tells what was restored")
    return problems


def touched_reason(old: StoredPage, new: StoredPage, index: int, mask: Mask, comparison: Comparison) -> str:
    """Return why a touched segment is wrong outside the mask; empty where it is as its codec leaves it there."""
    old_data, new_data = old.segment(index), new.segment(index)
    if old_data == new_data or not new_data:
        return "" if old_data == new_data else "it became sparse"
    if not old_data:                                         # built from level 0 where the mask touches it
        comparison.whole += 1
        return "it is no longer sparse" if old.grid.size == mask.l0_size else ""
    lv_box = old.grid.box(index).intersection(Box(0, 0, *old.grid.size))
    touched, shown = mask.coverage(old.grid.size, lv_box), np.s_[: lv_box.height, : lv_box.width]
    try:
        codec, new_codec = old.codec, new.codec
        old_samples, new_samples = codec.decode(old_data), new_codec.decode(new_data)
        if old_samples.shape != new_samples.shape:
            return f"its size changed from {old_samples.shape} to {new_samples.shape}"
        shift = (new_samples.astype(np.int16) - old_samples)[shown]
        comparison.outside.add(old_samples[shown], new_samples[shown], ~touched)
        anew = bool(codec.why_not(old_data))                   # not written in its own form
        if comparison.same_size and isinstance(codec, Jpeg2000Codec):
            return reencoded_reason(shift, touched, lv_box)
        if not isinstance(codec, JpegCodec) or not isinstance(new_codec, JpegCodec):
            return moved_reason(zeroed(shift, codec.reach(touched, old_data)), lv_box,
                                f"{codec.name} keeps every pixel beside the regions, but one")
        header = jpeg.parse(new_data, new_codec.tables)
        headers, whole = (header if anew else jpeg.parse(old_data, codec.tables), header), anew
        if not anew and (beyond := zeroed(shift, codec.reach(touched, old_data))).any():
            if comparison.by_block and not _must_be_encoded_whole(codec, old_samples, old_data, touched):
                return moved_reason(beyond, lv_box, "blocks keep their coefficients beside the regions, but a pixel")
            whole = True
        comparison.whole += whole
        reencoded = jpeg.encoded(old_samples, headers[0], codec.photometric) if whole else old_samples
        reencoded_shift = (new_samples.astype(np.int16) - reencoded)[shown]
        return jpeg_reason(headers, shift, reencoded_shift, touched, lv_box, codec.photometric, comparison.passes)
    except SlideError as error:
        return str(error)


def _must_be_encoded_whole(codec: JpegCodec, samples: np.ndarray, data: bytes, touched: np.ndarray) -> bool:
    """Return whether a segment cannot be taken apart into blocks, so that the writer had to encode it whole."""
    missing = np.subtract(samples.shape[:2], touched.shape)
    touched = np.pad(touched, [(0, rows_or_columns) for rows_or_columns in missing])
    return not codec.spliced(samples, data, touched)
