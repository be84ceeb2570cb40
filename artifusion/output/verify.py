"""Does a restored slide differ from its source only where it says so? Checked on raw segments and on pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.output.compare import BLOCK_LIMIT, BLOCK_PX, Comparison, compare_copied, compare_generic, worst_block
from artifusion.output.segments import PixelChange
from artifusion.slide.reader import Slide, open_slide, sha256

# A re-encoded slide went through another JPEG: on average (noise, sharp ink); BLOCK_LIMIT is that of any block.
MEAN_LIMIT = 3.0
READ_PX = 1024
CONTAINERS = ("copied", "pyramid", "re-encoded", "image")
NOTE_PROPERTIES = ("openslide.quickhash-1", "openslide.comment", "tiff.ImageDescription")


@dataclass
class VerifyReport:
    """What was compared and what is wrong; `ok` where nothing is."""

    container: str
    compared: Comparison = field(default_factory=Comparison)
    problems: tuple[str, ...] = ()
    output_sha256: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"container": self.container, **self.compared.to_dict(), "ok": self.ok, "problems": list(self.problems)}

    def lines(self) -> list[str]:
        """The report for people, one statement a line."""
        lines, found = [], self.compared
        copied = self.container in ("copied", "pyramid")
        if copied:
            lines.append(f"segments copied: {found.segments}, touched by the declared regions: {found.touched}, "
                         f"others byte-identical: {found.identical} of {found.segments - found.touched}")
            lines.append("touched segments that kept all blocks beside the declared regions: "
                         f"{found.touched - found.whole} of {found.touched}")
        where = "inside touched segments" if copied else "anywhere"
        outside = found.outside.to_dict()
        lines.append(f"pixels outside the declared regions, {where}: {outside['changed_share']:.2%} changed, "
                     f"by at most {outside['largest']} and {outside['mean']:.2f} grey levels on average")
        return lines + [f"PROBLEM: {problem}" for problem in self.problems] + (["ok"] if self.ok else [])


def verify_slide(source: str | Path, restored: str | Path, sidecar: str | Path | Mapping[str, Any] | None = None,
                 geojson: str | Path | Mapping[str, Any] | None = None, *, source_sha256: str | None = None
                 ) -> VerifyReport:
    """Compare a restored slide with its source; everything outside the declared polygons must be the same.

    Args:
        sidecar, geojson: files or their content; by default <restored>.json and <restored>.geojson. The content may
            be given before the files and the final name exist.
        source_sha256: what the source's SHA-256 is known to be; by default it is taken.

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
        same_size = facts.get("same_size") is True
        by_block = all("encoded_whole" in level for level in facts["written"].get("levels", ()))
        if container not in CONTAINERS or not isinstance(lossless, bool) or not told:
            raise ValueError(container)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise OutputError(f"{restored}: its sidecar is not one that artifusion wrote; restore the slide "
                          "again") from None
    report, problems = VerifyReport(container, Comparison(by_block, same_size)), list[str]()
    with open_slide(source) as before, open_slide(restored) as after, ThreadPoolExecutor(2) as pool:
        output_found = pool.submit(sha256, restored)          # while the segments are compared
        source_found = None if source_sha256 else pool.submit(sha256, source)
        polygons, classes = geojson_polygons(declared, restored.parent / f"{restored.name}.geojson",
                                             before.bounds_offset)
        mask = Mask.of(polygons, before.size, classes)        # whatever a foreign file declares, inside the slide
        if facts.get("regions") and mask.area_px != painted_px:
            problems.append(f"the GeoJSON declares {mask.area_px} px but the sidecar {painted_px}; one was changed")
        if before.size != after.size:
            problems.append(f"size changed from {before.size} to {after.size}")
        elif container == "copied":
            problems += _metadata(before, after) + compare_copied(before, after, mask, report.compared)
        elif container == "pyramid":
            problems += compare_generic(before, after, mask, report.compared)
            problems += _scale_and_colour(before, after, given_mpp or before.mpp)
        else:
            problems += _pixels(before, after, mask, lossless, report.compared.outside)
            problems += _scale_and_colour(before, after, given_mpp or before.mpp)
    report.output_sha256 = output_found.result()
    if (source_found.result() if source_found else source_sha256) != source_sha:
        problems.insert(0, f"{source.name} is not the file that was restored: its SHA-256 is another one")
    if output_sha and report.output_sha256 != output_sha:
        problems.append(f"{restored.name} was changed after it was written: its SHA-256 is not the sidecar's")
    report.problems = tuple(problems)
    return report


def _content(restored: Path, given: str | Path | Mapping[str, Any] | None, suffix: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    path = Path(given) if given is not None else restored.parent / f"{restored.name}{suffix}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError(f"{path}: missing; verify needs the sidecars that restore wrote beside the slide") from None
    except (OSError, ValueError, RecursionError) as error:
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


def _scale_and_colour(before: Slide, after: Slide, mpp: float | None) -> list[str]:
    """Differences of the scale, which is to be `mpp`, and of the ICC profile."""
    problems = []
    if mpp is not None and (after.mpp is None or abs(after.mpp / mpp - 1) > 0.001):
        problems.append(f"mpp is {after.mpp} instead of {mpp}")
    if before.icc != after.icc:
        problems.append("the ICC profile changed")
    return problems


def _pixels(before: Slide, after: Slide, mask: Mask, lossless: bool, outside: PixelChange) -> list[str]:
    """Differences of level-0 pixels outside the mask, streamed."""
    size, problems = before.size, []
    worst, place = 0.0, (0, 0)
    for y in range(0, size.height, READ_PX):
        for x in range(0, size.width, READ_PX):
            box = Box(x, y, READ_PX, READ_PX).intersection(Box(0, 0, *size))
            old, new, masked = before.read(box), after.read(box), mask.read(box)
            outside.add(old, new, ~masked)
            moved, corner = worst_block(old.astype(np.int16) - new, masked, box)
            if moved > worst:
                worst, place = moved, corner
    found = outside.to_dict()
    if lossless and outside.changed_px:
        problems.append(f"{outside.changed_px} pixels outside the declared regions changed, near {place}; this "
                        "format keeps every one")
    elif not lossless and found["mean"] > MEAN_LIMIT:
        problems.append(f"pixels outside the declared regions moved by {found['mean']:.2f} grey levels on average; "
                        f"encoding explains {MEAN_LIMIT}")
    elif not lossless and worst > BLOCK_LIMIT:
        problems.append(f"pixels outside the declared regions moved by {worst:.1f} grey levels on average in the "
                        f"{BLOCK_PX}-px block at {place}; encoding explains {BLOCK_LIMIT}")
    return problems
