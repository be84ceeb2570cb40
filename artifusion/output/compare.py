"""Copied segments of a restored slide against the source's: identical, or changed only under the mask."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from artifusion.errors import SlideError
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.blocks import cleared, grown, per_block
from artifusion.output.codecs.codecs import Jpeg2000Codec, JpegCodec, codec_of
from artifusion.output.container import generic_pyramid, level_pages, thumbnail_page
from artifusion.output.segments import Grid, PixelChange
from artifusion.slide import tiff
from artifusion.slide.reader import Slide

# Blocks away from the mask, in JPEG segments that were encoded whole: either as they were, or what decoding and
# encoding the source's own pixels gives, to the last bit on one machine. Another machine's libjpeg may round a few
# coefficients otherwise; in shares of the quantisation error (see jpeg_reason).
FAR_MEAN, FAR_PEAK = 0.1, 0.5
BLOCK_LIMIT, BLOCK_PX = 12.0, 64          # what another lossy encoding moves on average, in any block of that side
SPARE = 2.0                              # grey levels of rounding on top of these limits
CLIPPED = 6.0                            # brightness that clipping moves where colours bleed (saturated noise: 5.2)
COMPARED_BYTES = 1 << 18                 # at once: both pieces stay in the cache
SHOWN = 5                                # problems of one kind that are listed


@dataclass
class Comparison:
    """What was compared: copied segments, and pixels outside the mask (in touched ones, or everywhere).

    With `by_block`, JPEG blocks that the mask does not reach must have kept their coefficients; without, as in older
    sidecars, every touched segment may have been encoded whole. With `same_size`, JPEG 2000 was encoded with loss.
    """

    by_block: bool = True
    same_size: bool = False
    segments: int = 0
    touched: int = 0
    whole: int = 0                       # touched segments that changed beyond the blocks that the mask reaches
    identical: int = 0
    outside: PixelChange = field(default_factory=PixelChange)

    def to_dict(self) -> dict[str, Any]:
        return {"segments": self.segments, "touched": self.touched, "encoded_whole": self.whole,
                "identical": self.identical, "outside": self.outside.to_dict()}


def compare_copied(before: Slide, after: Slide, mask: Mask, found: Comparison) -> list[str]:
    """Differences of two files, directory by directory: tags and segments."""
    one, other = tiff.read_tiff(before.path), tiff.read_tiff(after.path)
    levels = level_pages(one, before)
    if levels is None or len(one.pages) != len(other.pages):
        return [f"directories changed: {len(one.pages)} to {len(other.pages)}"]
    shown = {*levels, thumbnail_page(one, before)}
    problems: list[str] = []
    with before.path.open("rb") as file, after.path.open("rb") as restored:
        for number, (page, fresh) in enumerate(zip(one.pages, other.pages, strict=True)):
            problems += _tags(number, page, fresh)
            touched = set(Grid.of(page).touched(mask)) if number in shown else set()
            problems += compare_segments(f"directory {number}", file, page, restored, fresh, touched, mask, found)
    return problems


def compare_generic(before: Slide, after: Slide, mask: Mask, found: Comparison) -> list[str]:
    """Differences of a generic pyramid's copied levels from the source's, and of its level sizes."""
    plan = generic_pyramid(before)
    if [level.size for level in plan] != list(after.level_sizes):
        return [f"levels are {after.level_sizes} instead of {tuple(level.size for level in plan)}"]
    one, other = tiff.read_tiff(before.path), tiff.read_tiff(after.path)
    pages = level_pages(other, after)
    if pages is None:
        return ["its tiled directories are not the levels OpenSlide shows"]
    problems: list[str] = []
    with before.path.open("rb") as file, after.path.open("rb") as restored:
        for number, level in enumerate(plan):
            if level.page is not None:
                page, fresh = one.pages[level.page], other.pages[pages[number]]
                try:
                    if codec_of(page) != codec_of(fresh):
                        problems.append(f"level {number}: its codec changed")
                except SlideError as error:
                    problems.append(f"level {number}: {error}")
                touched = set(Grid.of(page).touched(mask))
                problems += compare_segments(f"level {number}", file, page, restored, fresh, touched, mask, found)
    return problems


def compare_segments(name: str, file: io.BufferedReader, page: tiff.Page, restored: io.BufferedReader, fresh: tiff.Page,
                     touched: set[int], mask: Mask, found: Comparison) -> list[str]:
    """Differences of two directories' segments; touched ones are compared outside the mask, pixel by pixel."""
    if len(page.offsets) != len(fresh.offsets):
        return [f"{name}: {len(page.offsets)} segments became {len(fresh.offsets)}"]
    kept = np.setdiff1d(np.arange(len(page.offsets)), sorted(touched))
    wrong = dict.fromkeys(changed(file, page, restored, fresh, kept), "no declared region touches it, but it changed")
    found.segments += len(page.offsets)
    found.touched += len(touched)
    found.identical += len(kept) - len(wrong)
    grid = Grid.of(page)
    for index in sorted(touched):
        old, new = tiff.read_segment(file, page, index), tiff.read_segment(restored, fresh, index)
        reason = touched_reason(page, fresh, grid, index, old, new, mask, found)
        if reason:
            wrong[index] = reason
    listed = [f"{name}, segment {index} at {tuple(grid.box(index)[:2])}: {wrong[index]}" for index in sorted(wrong)]
    return listed[:SHOWN] + ([f"{name}: {len(listed) - SHOWN} more"] if listed[SHOWN:] else [])


def changed(file: io.BufferedReader, page: tiff.Page, restored: io.BufferedReader, fresh: tiff.Page,
            kept: np.ndarray) -> list[int]:
    """Which of these segments have other bytes. Such that lie in a row in both files are compared in one go."""
    same = page.counts[kept] == fresh.counts[kept]
    wrong, there = kept[~same].tolist(), kept[same & (page.counts[kept] > 0)]
    offsets, places, lengths = page.offsets[there], fresh.offsets[there], page.counts[there]
    for first, after in tiff.runs(lengths, offsets, places):
        file.seek(int(offsets[first]))
        restored.seek(int(places[first]))
        if not same_bytes(file, restored, int(lengths[first:after].sum())):
            wrong += [index for index in there[first:after].tolist()
                      if tiff.read_segment(file, page, index) != tiff.read_segment(restored, fresh, index)]
    return wrong


def same_bytes(file: io.BufferedReader, other: io.BufferedReader, length: int) -> bool:
    """Whether two files go on with the same bytes, where they stand."""
    one, two = bytearray(COMPARED_BYTES), bytearray(COMPARED_BYTES)
    while length:
        if length < len(one):
            one, two = bytearray(length), bytearray(length)
        count = file.readinto(one)
        if count != len(one) or other.readinto(two) != count or one != two:
            return False
        length -= count
    return True


def _tags(number: int, page: tiff.Page, fresh: tiff.Page) -> list[str]:
    placed = {*tiff.OFFSETS.values(), *tiff.COUNTS.values()}
    changed = [code for code in sorted(page.tags.keys() | fresh.tags.keys())
               if code not in placed and page.tags.get(code) != fresh.tags.get(code)
               and (number, code) != (0, tiff.DESCRIPTION)]
    problems = [f"directory {number}: tag {code} changed" for code in changed]
    text = page.text(tiff.DESCRIPTION).rstrip("\0 \r\n")
    if number == 0 and not fresh.text(tiff.DESCRIPTION).startswith(text):
        problems.append("the image description changed before its note")
    return problems


def touched_reason(page: tiff.Page, fresh: tiff.Page, grid: Grid, index: int, old: bytes, new: bytes, mask: Mask,
                   found: Comparison) -> str:
    """Why a touched segment is wrong outside the mask; empty where it is as its codec leaves it there."""
    if old == new or not (old and new):
        return "" if old == new else "it became sparse, or is no longer"
    inside = grid.box(index).intersection(Box(0, 0, *grid.size))
    touched, shown = mask.coverage(grid.size, inside), np.s_[: inside.height, : inside.width]
    try:
        codec, after = codec_of(page), codec_of(fresh)
        known, samples = codec.decode(old), after.decode(new)
        if known.shape != samples.shape:
            return f"its size changed from {known.shape} to {samples.shape}"
        shift = (samples.astype(np.int16) - known)[shown]
        found.outside.add(known[shown], samples[shown], ~touched)
        if found.same_size and isinstance(codec, Jpeg2000Codec):
            return _encoded_anew(shift, touched, inside)
        beyond = cleared(shift, codec.reach(touched, old))
        if not isinstance(codec, JpegCodec) or not isinstance(after, JpegCodec):
            return _moved(beyond, inside, f"{codec.name} keeps every pixel beside the regions, but one")
        from_again = shift
        if beyond.any():
            if found.by_block and not _encoded_whole(codec, known, old, touched):
                return _moved(beyond, inside, "blocks keep their coefficients beside the regions, but a pixel")
            found.whole += 1
            again = codec.decode(jpeg.encode(known, old, codec.tables, codec.photometric))
            from_again = (samples.astype(np.int16) - again)[shown]
        headers = jpeg.parse(old, codec.tables), jpeg.parse(new, after.tables)
        return jpeg_reason(headers, shift, from_again, touched, inside, codec.photometric)
    except SlideError as error:
        return str(error)


def _encoded_whole(codec: JpegCodec, known: np.ndarray, old: bytes, touched: np.ndarray) -> bool:
    """Whether the writer had to encode a segment whole, since it cannot be taken apart into blocks."""
    touched = np.pad(touched, [(0, stored - shown) for stored, shown in zip(known.shape, touched.shape, strict=False)])
    try:
        jpeg.encode(known, old, codec.tables, codec.photometric, touched)
    except SlideError:
        return True
    return False


def _encoded_anew(shift: np.ndarray, touched: np.ndarray, inside: Box) -> str:
    """Where a second lossy encoding does not explain the change beside the mask, if anywhere."""
    worst, at = worst_block(shift, touched, inside)
    if worst <= BLOCK_LIMIT:
        return ""
    return (f"pixels beside the regions moved by {worst:.1f} grey levels on average in the {BLOCK_PX}-px block "
            f"at {at}; encoding explains {BLOCK_LIMIT}")


def worst_block(shift: np.ndarray, touched: np.ndarray, inside: Box) -> tuple[float, tuple[int, int]]:
    """Grey levels by which the BLOCK_PX block that moved most did on average, and its corner.

    Args:
        shift: int16 (H, W, 3), of the pixels of the box `inside`; those under `touched`, bool (H, W), do not count.
    """
    moved = np.abs(cleared(shift, touched)).sum(axis=2)
    means = per_block(np.add, moved, BLOCK_PX, BLOCK_PX) / (3 * BLOCK_PX * BLOCK_PX)
    row, column = np.unravel_index(int(means.argmax()), means.shape)
    return float(means.max()), (inside.x + int(column) * BLOCK_PX, inside.y + int(row) * BLOCK_PX)


def _moved(shift: np.ndarray, inside: Box, what: str) -> str:
    """Where pixels moved most, if they did."""
    moved = brightest(np.abs(shift))
    if not moved.any():
        return ""
    y, x = np.unravel_index(int(moved.argmax()), moved.shape)
    return f"{what} changed, by {moved.max()} grey levels at {(inside.x + int(x), inside.y + int(y))}"


def jpeg_reason(headers: tuple[jpeg.Header, jpeg.Header], shift: np.ndarray, reencoded: np.ndarray,
                touched: np.ndarray, inside: Box, photometric: int) -> str:
    """Why a touched JPEG segment is wrong; empty where a re-encode explains what changed outside the mask.

    Args:
        shift: by how much the segment differs from the source's, int16 (H, W, 3).
        reencoded: by how much it differs from the source's own pixels encoded again, or `shift` once more.

    Quantising a coefficient moves it by at most half a step, so (Parseval) a block's brightness moves by at most the
    root of the summed squares of all half steps, divided by 8, root mean square: the quantisation error. That is the
    limit for blocks the mask touches and their neighbours, into which chroma bleeds. All others can be told exactly:
    they hold what they held or, in a segment that was encoded whole, what that gives for the source's own (FAR_*).
    """
    previous, header = headers
    if (header.quantisation, header.sampling) != (previous.quantisation, previous.sampling):
        return "its quantisation tables or sampling changed"
    shift = cleared(shift, touched)
    width, height = (8 * factor for factor in header.sampling)
    near = grown(per_block(np.logical_or, touched, width, height), across=True, down=True)
    noise = max(float(np.sqrt(np.square(table).sum())) for table in map(np.array, header.quantisation)) / 2 / 8
    least = np.minimum(brightest(np.abs(reencoded)), brightest(np.abs(shift)))
    light = shift @ (np.array([0.299, 0.587, 0.114]) if photometric == jpeg.YCBCR else np.full(3, 1 / 3))
    peak = np.where(near, 0, per_block(np.maximum, least, width, height))
    mean = np.where(near, 0, per_block(np.add, least, width, height) / (width * height))
    brightness = np.sqrt(per_block(np.add, np.square(light), width, height) / (width * height))
    for what, moved, limit in (
        ("a pixel changed away from the regions", peak, FAR_PEAK * noise + SPARE),
        ("a block changed away from the regions", mean, FAR_MEAN * noise + SPARE),
        ("a block changed beside a region", brightness, noise + CLIPPED),
    ):
        if moved.max(initial=0) > limit:
            row, column = np.unravel_index(int(moved.argmax()), moved.shape)
            at = (inside.x + int(column) * width, inside.y + int(row) * height)
            return f"{what}, by {moved.max():.1f} grey levels at {at}; encoding explains {limit:.1f}"
    return ""


def brightest(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W): the largest of the channels."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
