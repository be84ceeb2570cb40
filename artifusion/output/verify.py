"""Checks on raw segments and on pixels that a restored slide differs from its source only where it says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from artifusion.errors import OutputError
from artifusion.files import sha256
from artifusion.geometry import Box
from artifusion.mask.geojson import features_of
from artifusion.mask.mask import Mask
from artifusion.output.compare import Comparison, compare_copied, compare_generic
from artifusion.output.description import only_noted, text_problems
from artifusion.output.history import declared_mask, pass_of, passes_of
from artifusion.output.patches import Patches
from artifusion.output.region_colours import colour_problems
from artifusion.output.segments import PixelChange
from artifusion.output.shown import shown_problems
from artifusion.output.verify_grafts import Around, Encoding, graft_problems
from artifusion.slide.images import SHOWN
from artifusion.slide.reader import Slide, associated_image, open_slide
from artifusion.slide.spacing import is_plausible

READ_PX = 1024                           # side of the boxes that are compared at once
CONTAINERS = ("copied", "pyramid", "re-encoded", "image")
NOTE_PROPERTIES = ("openslide.quickhash-1", "openslide.comment", "tiff.ImageDescription")


@dataclass
class VerifyReport:
    """What was compared and what is wrong; it is ok where nothing is wrong."""

    container: str
    compared: Comparison = field(default_factory=Comparison)
    grafted: PixelChange = field(default_factory=PixelChange)     # from the donors that are declared
    problems: tuple[str, ...] = ()
    output_sha256: str = ""
    passes: int = 1                      # that lie between the two slides

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"container": self.container, "passes": self.passes, **self.compared.to_dict(),
                "grafted": self.grafted.to_dict(), "ok": self.ok, "problems": list(self.problems)}

    def lines(self) -> list[str]:
        """Return the report for people, one statement a line."""
        lines, compared = list[str](), self.compared
        if self.passes > 1:
            lines.append(f"passes between the two: {self.passes}, each declared")
        copied = self.container in ("copied", "pyramid")
        if copied:
            lines.append(f"segments copied: {compared.segments}, touched by the declared regions: {compared.touched}, "
                         f"others byte-identical: {compared.identical} of {compared.segments - compared.touched}")
            lines.append("touched segments that kept all blocks beside the declared regions: "
                         f"{compared.touched - compared.whole} of {compared.touched}")
        where = "inside touched segments" if copied else "anywhere"
        outside = compared.outside.to_dict()
        lines.append(f"pixels outside the declared regions, {where}: {outside['changed_share']:.2%} changed, "
                     f"by at most {outside['largest']} and {outside['mean']:.2f} grey levels on average")
        if self.grafted.px:
            grafted = self.grafted.to_dict()
            lines.append(f"grafted pixels against their donors in the source: {grafted['px']:,} compared, "
                         f"{grafted['changed_share']:.2%} differ, by at most {grafted['largest']} and "
                         f"{grafted['mean']:.2f} grey levels on average")
        return lines + [f"PROBLEM: {problem}" for problem in self.problems] + (["ok"] if self.ok else [])


def verify_slide(source: str | Path | Slide, restored: str | Path,
                 sidecar: str | Path | Mapping[str, Any] | None = None,
                 geojson: str | Path | Mapping[str, Any] | None = None, *,
                 source_sha256: str | None = None, patches: Patches | None = None) -> VerifyReport:
    """Compare a restored slide with its source; everything outside the declared polygons must be the same.

    The source may be that of an earlier pass: what all passes from there on declare may then have changed.

    Args:
        source: its file, or the slide already opened.
        sidecar, geojson: files or their content; by default <restored>.json and <restored>.geojson. The content may
            be given before the files and the final name exist.
        source_sha256: the source's SHA-256 where it is known; by default it is computed.
        patches: what was painted, where it is at hand: the slide must show it.

    Raises:
        SlideError: one of the slides cannot be opened.
        OutputError: a sidecar is missing, or was not written by artifusion.
    """
    restored = Path(restored)
    sidecar_content, geojson_content = _content(restored, sidecar, ".json"), _content(restored, geojson, ".geojson")
    opened = nullcontext(source) if isinstance(source, Slide) else open_slide(source)
    with opened as before, open_slide(restored) as after, ThreadPoolExecutor(2) as pool:
        output_hash = pool.submit(sha256, restored)           # while the segments are compared
        source_hash = pool.submit(lambda: source_sha256 or sha256(before.path))
        links, first, problems = _links(sidecar_content, restored, source_hash)
        claims = [_claims(link, restored, whole=not isinstance(sidecar, Mapping)) for link in links]
        joined, last = _joined(claims), first + len(links) - 1
        report = VerifyReport(joined.container, Comparison(joined.by_block, joined.same_size, len(links)),
                              passes=len(links))
        features = features_of(geojson_content)

        def declared(begin: int, end: int) -> list[Any]:      # by these passes
            return [feature for feature in features if begin <= pass_of(feature, last) <= end]

        @cache
        def masked(begin: int, end: int) -> Mask:
            return declared_mask(declared(begin, end), restored, before.size, after.bounds_offset)

        mask = masked(first, last)
        for number, link in enumerate(links, first):
            problems += _area_problems(link, masked(number, number), restored)
        problems += _slide_problems(before, after, mask, joined, report.compared)
        if before.size == after.size:
            problems += colour_problems(sidecar_content.get("regions", ()), after.read, masked(last, last))
            for number, link in enumerate(links, first):
                others = [claim for at, claim in enumerate(claims, first) if at != number]
                around = Around(masked(1, number - 1), masked(number, number), masked(number + 1, last),
                                joined.lossless, len(links), all(claim.keeps_blocks for claim in others))
                problems += graft_problems(before, after, link, declared(number, number), around, report.grafted)
        if before.size == after.size and first == last:       # the rest is a matter of one pass
            problems += text_problems(before, after, joined.container == "copied")
            problems += shown_problems(before, after, mask, sidecar_content["written"], patches)
        report.output_sha256 = output_hash.result()
        if source_hash.result() != joined.source_sha256:
            problems.insert(0, f"{before.path.name} is not the file that was restored: its SHA-256 is another one")
    if joined.output_sha256 and report.output_sha256 != joined.output_sha256:
        problems.append(f"{restored.name} was changed after it was written: its SHA-256 is not the sidecar's")
    report.problems = tuple(problems)
    return report


@dataclass(frozen=True)
class Claims:
    """What a sidecar says of the restored slide, as far as it can be checked."""

    container: str
    lossless: bool
    source_sha256: str
    output_sha256: str | None
    painted_px: int
    given_mpp: tuple[float, float] | None     # um per level-0 pixel, as the caller of restore had it written; a copy
    #                                           keeps what its source tells
    same_size: bool
    by_block: bool                     # False for sidecars from before JPEG blocks were kept
    keeps_blocks: bool                 # no segment was encoded whole


def _claims(sidecar: Mapping[str, Any], restored: Path, whole: bool) -> Claims:
    """Return what a sidecar claims.

    Args:
        whole: the sidecar must hold the output's SHA-256 and regions.

    Raises:
        OutputError: artifusion did not write this sidecar.
    """
    try:
        written = sidecar["written"]
        levels = {level["name"]: (level["how"], "encoded_whole" in level) for level in written.get("levels", ())}
        claims = Claims(
            container=written["container"], lossless=written["lossless"],
            source_sha256=sidecar["source"]["sha256"], output_sha256=sidecar["output"].get("sha256"),
            painted_px=sum(int(region["area_px"]) for region in sidecar.get("regions", ())),
            given_mpp=(float(sidecar["mpp"]),) * 2 if (
                sidecar.get("mpp_from") == "argument" and written["container"] != "copied") else None,
            same_size=sidecar.get("same_size") is True,
            by_block=all(counted for _, counted in levels.values()),
            keeps_blocks=written["container"] in ("copied", "pyramid") and not any(
                level.get("encoded_whole") for level in written.get("levels", ())))
        incomplete = whole and not (claims.output_sha256 and claims.painted_px)
        if (claims.container not in CONTAINERS or not isinstance(claims.lossless, bool) or incomplete
                or not all(isinstance(text, str) for name, (how, _) in levels.items() for text in (name, how))):
            raise ValueError(claims.container)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise OutputError(f"{restored}: its sidecar is not one that artifusion wrote; restore the slide "
                          "again") from None
    return claims


def _links(sidecar: Mapping[str, Any], restored: Path, source_hash: Future[str]
           ) -> tuple[list[Mapping[str, Any]], int, list[str]]:
    """Return the passes that lie between a source and the slide of a sidecar, the number of the first, and problems.

    Raises:
        OutputError: artifusion did not write this history.
    """
    try:
        passes = passes_of(sidecar)
        if len(passes) == 1:                                  # nothing to choose: the source is read meanwhile
            return [*passes], 1, []
        begins = [entry.get("source", {}).get("sha256") for entry in passes]
        ends = [entry.get("output", {}).get("sha256") for entry in passes]
    except (AttributeError, ValueError):
        raise OutputError(f"{restored}: the history in its sidecar is not one that artifusion wrote; restore the slide "
                          "again") from None
    at = max((n for n, begin in enumerate(begins) if begin == source_hash.result()), default=len(passes) - 1)
    return [*passes[at:]], at + 1, [f"pass {n + 2} did not begin from what pass {n + 1} wrote: a pass between them is "
                                    "not declared" for n in range(at, len(passes) - 1) if ends[n] != begins[n + 1]]


def _area_problems(link: Mapping[str, Any], mask: Mask, restored: Path) -> list[str]:
    """Return that the annotations of a pass cover other pixels than its sidecar tells."""
    sidecar_px = _claims(link, restored, whole=False).painted_px
    if not link.get("regions") or mask.area_px == sidecar_px:
        return []
    return [f"the GeoJSON declares {mask.area_px} px but the sidecar {sidecar_px}; one was changed"]


def _joined(links: Sequence[Claims]) -> Claims:
    """Return what the passes of a chain claim together: each is allowed what it is alone."""
    return Claims(
        container=max((link.container for link in links), key=CONTAINERS.index),
        lossless=all(link.lossless for link in links),
        source_sha256=links[0].source_sha256, output_sha256=links[-1].output_sha256,
        painted_px=sum(link.painted_px for link in links),
        given_mpp=next((link.given_mpp for link in reversed(links) if link.given_mpp), None),
        same_size=any(link.same_size for link in links), by_block=all(link.by_block for link in links),
        keeps_blocks=all(link.keeps_blocks for link in links))


def _slide_problems(before: Slide, after: Slide, mask: Mask, claims: Claims, comparison: Comparison) -> list[str]:
    """Return the problems of the slide itself, as its container allows to check."""
    if before.size != after.size:
        return [f"size changed from {before.size} to {after.size}"]
    if claims.container == "copied":
        return _metadata_problems(before, after) + compare_copied(before, after, mask, comparison)
    if claims.container == "pyramid":
        problems = compare_generic(before, after, mask, comparison)
    else:
        problems = _pixel_problems(before, after, mask, claims.lossless, comparison.outside)
        if comparison.passes == 1 and after.path.suffix.lower() == ".png":
            problems += [f"chunk {name.decode()}, which says how the numbers are to be shown, changed"
                         for name in SHOWN if before.colour.get(name) != after.colour.get(name)]
    return problems + _scale_problems(before, after, claims.given_mpp or before.mpp_xy)


def _content(restored: Path, given: str | Path | Mapping[str, Any] | None, suffix: str) -> Mapping[str, Any]:
    """Return the content of a sidecar: as it is given, or of a file, by default the one beside the slide."""
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


def _metadata_problems(before: Slide, after: Slide) -> list[str]:
    """Return differences of what OpenSlide says of both slides, except the note and the thumbnail."""
    problems = []
    if (before.vendor, before.level_sizes) != (after.vendor, after.level_sizes):
        problems.append(f"vendor or levels changed: {before.vendor} {before.level_sizes} to {after.vendor} "
                        f"{after.level_sizes}")
    if before.icc != after.icc:
        problems.append("the ICC profile changed")
    for name in sorted(before.properties.keys() | after.properties.keys()):
        old, new = before.properties.get(name), after.properties.get(name)
        noted = name == "tiff.Software" and only_noted(old or "", new or "")
        if name not in NOTE_PROPERTIES and not name.startswith("aperio.artifusion") and old != new and not noted:
            problems.append(f"property {name} changed: {old!r} to {new!r}")
    if before.associated != after.associated:
        problems.append(f"associated images changed: {before.associated} to {after.associated}")
    for name in set(before.associated) & set(after.associated) - {"thumbnail"}:
        pixels = [associated_image(slide.path, name) for slide in (before, after)]
        if not (pixels[0] is pixels[1] is None or np.array_equal(np.asarray(pixels[0]), np.asarray(pixels[1]))):
            problems.append(f"associated image {name} changed")
    return problems


def _scale_problems(before: Slide, after: Slide, mpp_xy: tuple[float, float] | None) -> list[str]:
    """Return differences of the scale, which must be `mpp_xy` if that can be read, and of the ICC profile."""
    problems = []
    if mpp_xy and is_plausible(mpp_xy) and not np.allclose(after.mpp_xy or (0, 0), mpp_xy, rtol=0.0001, atol=0):
        problems.append(f"mpp is {after.mpp_xy} instead of {mpp_xy}")
    if before.icc != after.icc:
        problems.append("the ICC profile changed")
    return problems


def _pixel_problems(before: Slide, after: Slide, mask: Mask, lossless: bool, outside: PixelChange) -> list[str]:
    """Return the first difference of level-0 pixels outside the mask. Memory: boxes of READ_PX."""
    size, encoding, problem = before.size, Encoding(after, lossless), ""
    for y in range(0, size.height, READ_PX):
        for x in range(0, size.width, READ_PX):
            box = Box(x, y, READ_PX, READ_PX).intersection(Box(0, 0, *size))
            old, new, masked = before.read(box), after.read(box), mask.read(box)
            outside.add(old, new, ~masked)
            problem = problem or encoding.reason_anew(old, new, masked, box)
    return [f"{problem}; this format keeps every one" if lossless else problem] if problem else []
