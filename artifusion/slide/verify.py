"""Does a restored slide differ from its source only where it says so? Checked on raw segments and on pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box
from artifusion.slide import jpeg, tiff
from artifusion.slide.maskfiles import geojson_polygons
from artifusion.slide.masks import Mask
from artifusion.slide.reader import Slide, open_slide, sha256
from artifusion.slide.segments import Grid, PixelChange, shared_tables
from artifusion.slide.writer import level_pages, thumbnail_page

# Blocks away from the mask: either as they were, or what decoding and encoding the source's own pixels gives, to the
# last bit on one machine. Another machine's libjpeg may round a few coefficients otherwise; in shares of the
# quantisation error (see _touched_segment).
FAR_MEAN, FAR_PEAK = 0.1, 0.5
SPARE = 2.0                              # grey levels of rounding on top of these limits
CLIPPED = 6.0                            # brightness that clipping moves where colours bleed (saturated noise: 5.2)
# A re-encoded slide went through another JPEG: on average, and in any 64-px block (noise, sharp ink).
MEAN_LIMIT, BLOCK_LIMIT, BLOCK_PX = 3.0, 12.0, 64
READ_PX = 1024
CONTAINERS = ("copied", "re-encoded", "image")
SHOWN = 5                                # problems of one kind that are listed
NOTE_PROPERTIES = ("openslide.quickhash-1", "openslide.comment", "tiff.ImageDescription")


@dataclass
class VerifyReport:
    """What was compared and what is wrong; `ok` where nothing is."""

    container: str
    segments: int = 0
    touched: int = 0
    identical: int = 0
    outside: PixelChange = field(default_factory=PixelChange)
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "outside": self.outside.to_dict(), "ok": self.ok, "problems": list(self.problems)}

    def lines(self) -> list[str]:
        """The report for people, one statement a line."""
        lines = []
        if self.container == "copied":
            lines.append(f"segments: {self.segments}, touched by the declared regions: {self.touched}, "
                         f"others byte-identical: {self.identical} of {self.segments - self.touched}")
        where = "inside touched segments" if self.container == "copied" else "anywhere"
        found = self.outside.to_dict()
        lines.append(f"pixels outside the declared regions, {where}: {found['changed_share']:.2%} changed, "
                     f"by at most {found['largest']} and {found['mean']:.2f} grey levels on average")
        return lines + [f"PROBLEM: {problem}" for problem in self.problems] + (["ok"] if self.ok else [])


def verify_slide(source: str | Path, restored: str | Path, sidecar: str | Path | Mapping[str, Any] | None = None,
                 geojson: str | Path | Mapping[str, Any] | None = None) -> VerifyReport:
    """Compare a restored slide with its source; everything outside the declared polygons must be the same.

    Args:
        sidecar, geojson: files or their content; by default <restored>.json and <restored>.geojson. The content may
            be given before the files and the final name exist.

    Raises:
        SlideError: one of the slides cannot be opened.
        OutputError: a sidecar is missing or no sidecar.
    """
    source, restored = Path(source), Path(restored)
    facts = _content(restored, sidecar, ".json")
    declared = _content(restored, geojson, ".geojson")
    try:
        container, lossless = facts["written"]["container"], facts["written"]["lossless"]
        source_sha, output_sha = facts["source"]["sha256"], facts["output"].get("sha256")
        painted_px = sum(int(region["area_px"]) for region in facts.get("regions", ()))
        given_mpp = float(facts["mpp"]) if facts.get("mpp_from") == "argument" else None
        told = isinstance(sidecar, Mapping) or (output_sha and painted_px)
        if container not in CONTAINERS or not isinstance(lossless, bool) or not told:
            raise ValueError(container)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise OutputError(f"{restored}: its sidecar is not one that artifusion wrote; restore the slide "
                          "again") from None
    report, problems = VerifyReport(container), []
    with open_slide(source) as before, open_slide(restored) as after:
        if sha256(source) != source_sha:
            problems.append(f"{source.name} is not the file that was restored: its SHA-256 is another one")
        if output_sha and sha256(restored) != output_sha:
            problems.append(f"{restored.name} was changed after it was written: its SHA-256 is not the sidecar's")
        polygons, classes = geojson_polygons(declared, restored.with_name(f"{restored.name}.geojson"),
                                             before.bounds_offset)
        mask = Mask(tuple(polygons), before.size, tuple(classes))
        if facts.get("regions") and mask.area_px != painted_px:
            problems.append(f"the GeoJSON declares {mask.area_px} px but the sidecar {painted_px}; one was changed")
        if before.size != after.size:
            problems.append(f"size changed from {before.size} to {after.size}")
        elif container == "copied":
            problems += _metadata(before, after) + _segments(before, after, mask, report)
        else:
            problems += _pixels(before, after, mask, lossless, given_mpp or before.mpp, report)
    report.problems = tuple(problems)
    return report


def _content(restored: Path, given: str | Path | Mapping[str, Any] | None, suffix: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    path = Path(given) if given is not None else restored.with_name(restored.name + suffix)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError(f"{path}: missing; verify needs the sidecars that restore wrote beside the slide") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); restore the slide again") from None
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is no sidecar; restore the slide again")
    return content


def _metadata(before: Slide, after: Slide) -> list[str]:
    """Differences of what OpenSlide tells, but the note and the thumbnail."""
    problems = []
    if (before.vendor, before.level_sizes) != (after.vendor, after.level_sizes):
        problems.append(f"vendor or levels changed: {before.vendor} {before.level_sizes} to {after.vendor} "
                        f"{after.level_sizes}")
    if before.icc != after.icc:
        problems.append("the ICC profile changed")
    for name in sorted(before.properties.keys() | after.properties.keys()):
        old, new = before.properties.get(name), after.properties.get(name)
        if name not in NOTE_PROPERTIES and not name.startswith("aperio.artifusion") and old != new:
            problems.append(f"property {name} changed: {old!r} to {new!r}")
    if before.associated != after.associated:
        problems.append(f"associated images changed: {before.associated} to {after.associated}")
    for name in set(before.associated) & set(after.associated) - {"thumbnail"}:
        try:
            same = np.array_equal(before.read_associated(name), after.read_associated(name))
        except openslide.OpenSlideError:
            same = False
        if not same:
            problems.append(f"associated image {name} changed")
    return problems


def _segments(before: Slide, after: Slide, mask: Mask, report: VerifyReport) -> list[str]:
    """Differences of tags and raw segments; touched ones are compared outside the mask, pixel by pixel."""
    one, other = tiff.read_tiff(before.path), tiff.read_tiff(after.path)
    levels = level_pages(one, before)
    if levels is None or len(one.pages) != len(other.pages):
        return [f"directories changed: {len(one.pages)} to {len(other.pages)}"]
    shown = {*levels, thumbnail_page(one, before)}
    problems: list[str] = []
    with before.path.open("rb") as file, after.path.open("rb") as restored:
        for number, (page, fresh) in enumerate(zip(one.pages, other.pages, strict=True)):
            problems += _tags(number, page, fresh)
            if len(page.offsets) != len(fresh.offsets):
                problems.append(f"directory {number}: {len(page.offsets)} segments became {len(fresh.offsets)}")
                continue
            grid = Grid.of(page)
            touched = set(grid.touched(mask)) if number in shown else set()
            wrong = []
            for index in range(len(page.offsets)):
                old, new = tiff.read_segment(file, page, index), tiff.read_segment(restored, fresh, index)
                report.segments += 1
                report.touched += index in touched
                if index not in touched:
                    report.identical += old == new
                    reason = "" if old == new else "no declared region touches it, but it changed"
                else:
                    reason = _touched_segment(page, fresh, grid, index, old, new, mask, report.outside)
                if reason:
                    wrong.append(f"directory {number}, segment {index} at {tuple(grid.box(index)[:2])}: {reason}")
            problems += wrong[:SHOWN] + ([f"directory {number}: {len(wrong) - SHOWN} more"] if wrong[SHOWN:] else [])
    return problems


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


def _touched_segment(page: tiff.Page, fresh: tiff.Page, grid: Grid, index: int, old: bytes, new: bytes, mask: Mask,
                     outside: PixelChange) -> str:
    """Why a touched segment is wrong outside the mask; empty where a re-encode explains what changed there.

    Quantising a coefficient moves it by at most half a step, so (Parseval) a block's brightness moves by at most the
    root of the summed squares of all half steps, divided by 8, root mean square: the quantisation error. That is the
    limit for blocks the mask touches and their neighbours, into which chroma bleeds. All others can be told exactly:
    they hold what they held, or what a re-encode of the source's own segment gives there (FAR_*).
    """
    if old == new or not (old and new):
        return "" if old == new else "it became sparse, or is no longer"
    photometric = page.number(tiff.PHOTOMETRIC)
    try:
        pixels = jpeg.decode(new, shared_tables(fresh), photometric)
        known = jpeg.decode(old, shared_tables(page), photometric)
        again = jpeg.decode(jpeg.encode(known, old, shared_tables(page), photometric), shared_tables(page), photometric)
        header, previous = jpeg.parse(new, shared_tables(fresh)), jpeg.parse(old, shared_tables(page))
    except SlideError as error:
        return str(error)
    if (pixels.shape, header.quantisation, header.sampling) != (known.shape, previous.quantisation, previous.sampling):
        return "its size, quantisation tables or sampling changed"
    inside = grid.box(index).intersection(Box(0, 0, *grid.size))
    touched = mask.coverage(grid.size, inside)
    shift = pixels[: inside.height, : inside.width].astype(np.int16) - known[: inside.height, : inside.width]
    shift[touched] = 0
    difference = np.abs(shift)
    outside.add(difference[~touched])

    width, height = (8 * factor for factor in header.sampling)
    near = _blocks(touched, width, height).any(axis=(1, 3))
    padded = np.pad(near, 1)
    near = np.any([padded[y : y + near.shape[0], x : x + near.shape[1]] for y in range(3) for x in range(3)], axis=0)
    noise = max(float(np.sqrt(np.square(table).sum())) for table in map(np.array, header.quantisation)) / 2 / 8
    reencoded = np.abs(pixels.astype(np.int16) - again)[: inside.height, : inside.width].max(axis=2)
    largest = _blocks(np.minimum(reencoded, difference.max(axis=2)), width, height)
    light = shift @ (np.array([0.299, 0.587, 0.114]) if photometric == jpeg.YCBCR else np.full(3, 1 / 3))
    peak, mean = (np.where(near, 0, values) for values in (largest.max(axis=(1, 3)), largest.mean(axis=(1, 3))))
    brightness = np.sqrt(np.square(_blocks(light, width, height)).mean(axis=(1, 3)))
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


def _blocks(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) -> (rows, height, columns, width), padded with zeros."""
    rows, columns = -(-values.shape[0] // height), -(-values.shape[1] // width)
    padded = np.pad(values, ((0, rows * height - values.shape[0]), (0, columns * width - values.shape[1])))
    return padded.reshape(rows, height, columns, width)


def _pixels(before: Slide, after: Slide, mask: Mask, lossless: bool, mpp: float | None, report: VerifyReport
            ) -> list[str]:
    """Differences of level-0 pixels outside the mask, streamed, and of the scale, which is to be `mpp`."""
    size, problems = before.size, []
    worst, place = 0.0, (0, 0)
    for y in range(0, size.height, READ_PX):
        for x in range(0, size.width, READ_PX):
            box = Box(x, y, READ_PX, READ_PX).intersection(Box(0, 0, *size))
            difference = np.abs(before.read(box).astype(np.int16) - after.read(box))
            masked = mask.read(box)
            report.outside.add(difference[~masked])
            difference[masked] = 0
            means = _blocks(difference.mean(axis=2), BLOCK_PX, BLOCK_PX).mean(axis=(1, 3))
            if means.max() > worst:
                row, column = np.unravel_index(int(means.argmax()), means.shape)
                worst, place = float(means.max()), (x + int(column) * BLOCK_PX, y + int(row) * BLOCK_PX)
    found = report.outside.to_dict()
    if lossless and report.outside.changed_px:
        problems.append(f"{report.outside.changed_px} pixels outside the declared regions changed, near {place}; this "
                        "format keeps every one")
    elif not lossless and found["mean"] > MEAN_LIMIT:
        problems.append(f"pixels outside the declared regions moved by {found['mean']:.2f} grey levels on average; "
                        f"encoding explains {MEAN_LIMIT}")
    elif not lossless and worst > BLOCK_LIMIT:
        problems.append(f"pixels outside the declared regions moved by {worst:.1f} grey levels on average in the "
                        f"{BLOCK_PX}-px block at {place}; encoding explains {BLOCK_LIMIT}")
    if mpp is not None and after.mpp is not None and abs(after.mpp / mpp - 1) > 0.001:
        problems.append(f"mpp is {after.mpp} instead of {mpp}")
    if before.icc != after.icc:
        problems.append("the ICC profile changed")
    return problems
