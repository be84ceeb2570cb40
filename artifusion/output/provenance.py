"""What was invented, by what, from what: the sidecar, the QuPath GeoJSON and the note, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from artifusion import __version__
from artifusion.geometry import ORIGIN, Box, Point
from artifusion.mask.geojson import DONOR_OF
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import edge_table, pixel_box, pixel_counts, polygons_of
from artifusion.mask.regions import Region
from artifusion.mask.writer import annotation
from artifusion.slide.placed import Tone, origin_of

WARNING = "invented pixels; not for diagnosis"
SEEN = {"recovered": (0, 150, 255), "faint": (150, 100, 255)}      # what was measured through ink, and its colour
ESTIMATED = "measured through ink, colours estimated; not for diagnosis"
LEGEND = "recovered: measured through ink, colours estimated; painted: invented"
GRAFT = "graft"                        # in the metadata of annotations: which of its region's grafts it shows
FORMAT = 1                             # raised when a reader of the sidecar must change


@dataclass(frozen=True)
class Grafted:
    """What fills a part of a region: real tissue from elsewhere on the slide.

    kept: level-0 polygons of the pixels that stay the donor's own; l0_box: what they are a part of; donor: the box
    that lies there; orientation: by how many quarters it was turned, and mirrored from 4 on; tone: how its colours
    were moved; score: how well it fits, 0 to 1.
    """

    kept: tuple[Polygon, ...]
    l0_box: Box
    donor: Box
    orientation: int
    tone: Tone | None
    score: float

    def to_dict(self) -> dict[str, Any]:
        """What the sidecar says of it; `from_dict` needs the polygons as well."""
        return {"l0_box": list(self.l0_box), "donor": list(self.donor), "orientation": self.orientation,
                "tone": None if self.tone is None else self.tone.to_dict(), "score": self.score}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any], kept: Sequence[Polygon]) -> Grafted:
        """The inverse of `to_dict`. Raises KeyError, TypeError, ValueError or zlib.error for anything else."""
        tone = None if held["tone"] is None else Tone.from_dict(held["tone"])
        return cls(tuple(kept), Box(*held["l0_box"]), Box(*held["donor"]), held["orientation"], tone, held["score"])


@dataclass(frozen=True)
class Recovered:
    """What of a region was seen through ink.

    areas: level-0 polygons of what is "recovered" and of what is "faint"; px: how many pixels each has; inks: what is
    told of the ink over each piece of the region.
    """

    areas: Mapping[str, tuple[Polygon, ...]]
    px: Mapping[str, int]
    inks: tuple[Mapping[str, Any], ...]

    @classmethod
    def together(cls, parts: Sequence[Recovered]) -> Recovered:
        """That of a region from that of its pieces."""
        return cls({name: tuple(polygon for part in parts for polygon in part.areas[name]) for name in SEEN},
                   {name: sum(part.px[name] for part in parts) for name in SEEN},
                   tuple(ink for part in parts for ink in part.inks))

    def to_dict(self) -> dict[str, Any]:
        """What the sidecar says of it."""
        return {"recovered_px": self.px["recovered"], "faint_px": self.px["faint"], "inks": list(self.inks)}


@dataclass(frozen=True)
class Filled:
    """How a region was restored: what was recovered, what was grafted, how many pixels of it are the donors' own, and
    how well it fits."""

    grafts: tuple[Grafted, ...] = ()
    grafted_px: int = 0
    score: float | None = None
    verdict: str = "good"
    recovered: Recovered | None = None

    def to_dict(self) -> dict[str, Any]:
        """What the sidecar says of it."""
        seen = self.recovered.to_dict() if self.recovered else {}
        return {**seen, "verdict": self.verdict, "score": self.score, "grafted_px": self.grafted_px,
                "grafts": [graft.to_dict() for graft in self.grafts]}


def note(
    *, regions: int, share: float, grafted: float, weights: str, weights_sha256: str, sampler: str, seed: int,
    recovered: float = 0.0,
) -> str:
    """Return the line for ImageDescription: no "|" and no line break, whatever the names hold.

    share, grafted, recovered: of the slide's area, what was restored, and what of it are pixels of other places, and
    what was measured through ink.
    """
    seen = f"{recovered:.2%} recovered (measured through ink, colours estimated), " if recovered else ""
    text = (f"restored {regions} region{'' if regions == 1 else 's'} ({share:.2%} of the area: {seen}"
            f"{grafted:.2%} grafted, {share - grafted - recovered:.2%} painted), {weights} "
            f"sha256:{weights_sha256[:12]}, {sampler}, seed {seed}, "
            f"artifusion {__version__}, {WARNING}")
    return " ".join(text.replace("|", "/").split())


def sidecar_of(job: Mapping[str, Any], regions: Sequence[Region], written: Mapping[str, Any], output: Mapping[str, str],
               seconds: float, filled: Mapping[int, Filled] | None = None, created: datetime | None = None
               ) -> dict[str, Any]:
    """Return the sidecar, <OUT>.json.

    Args:
        job: all that decides the result: version, source, mask, weights, sampler, scale, configuration.
        written: what the writer says of every level.
        output: its "name" and, where it is known by now, its "sha256".
        seconds: from this session's start to the finished file; what an interrupted one took is not in it.
        filled: how each region was restored, by its id; nothing where all was painted without looking for donors.
    """
    return {
        "format": FORMAT,
        "warning": WARNING,
        **({"legend": LEGEND} if any(how.recovered for how in (filled or {}).values()) else {}),
        "tool": "artifusion",
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        **job,
        "output": dict(output),
        "regions": declared(regions, filled),
        "written": dict(written),
    }


def declared(regions: Sequence[Region], filled: Mapping[int, Filled] | None) -> list[dict[str, Any]]:
    """What the sidecar says of regions, and of how each was filled."""
    return [{"id": region.id, "l0_box": list(region.l0_box), "area_px": region.area_px, "class": region.name,
             **(filled[region.id].to_dict() if filled else {})} for region in regions]


def geojson(mask: Mask, regions: Sequence[Region], source_sha256: str = "", bounds_offset: Point = ORIGIN,
            filled: Mapping[int, Filled] | None = None) -> dict[str, Any]:
    """Return the content of <OUT>.geojson: the mask as QuPath annotations, by how its pixels were restored.

    One annotation per region, class and graft, one for what is painted of it, one each for what was recovered and what
    is faint, with classes and colours of their own, and one, of the class Donor, of the pixels of each graft.
    Coordinates count from the output's bounds, as QuPath does. Ids follow from the source and the region alone.
    """
    homes = shapely.STRtree([shapely.box(r.l0_box.x, r.l0_box.y, r.l0_box.right, r.l0_box.bottom) for r in regions])
    members = [index for index, area in enumerate(mask.areas_px) if area]
    boxes = [pixel_box(mask.polygons[index]) for index in members]
    centres = shapely.points([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])
    groups: dict[tuple[int, str], list[int]] = {}
    for index, at in zip(members, homes.query(centres, predicate="within")[1].tolist(), strict=True):
        groups.setdefault((at, mask.classes[index]), []).append(index)
    features = []
    for (at, name), indices in sorted(groups.items()):
        region, whole = regions[at], _joined([mask.polygons[i] for i in indices])
        grafts = filled[region.id].grafts if filled else ()
        key = f"{source_sha256}:{region.id}:{name}"
        parts = [(f"{key}:{n}", f"restored {region.id}: grafted", _common(whole, graft.kept), _donor_facts(graft),
                  {GRAFT: str(n)}) for n, graft in enumerate(grafts, 1)]
        if filled and (seen := filled[region.id].recovered):
            parts += [(f"{key}:{kind}", f"restored {region.id}: {kind}", _common(whole, areas), {}, {})
                      for kind, areas in seen.areas.items() if areas]
        rest = whole.difference(shapely.union_all([part for _, _, part, *_ in parts])) if parts else whole
        parts.append((key, f"restored {region.id}{': painted' if parts else ''}", rest, {}, {}))
        features += [_restored(part, bounds_offset, key, title, name, facts, {"region": str(region.id)} | number)
                     for key, title, part, facts, number in parts if not part.is_empty]
    features += [_donor(graft, bounds_offset, f"{source_sha256}:donor:{region}:{n}", region)
                 for region, how in sorted((filled or {}).items()) for n, graft in enumerate(how.grafts, 1)]
    return {"type": "FeatureCollection", "features": features}


def _restored(part: BaseGeometry, bounds_offset: Point, key: str, title: str, name: str, facts: Mapping[str, float],
              metadata: Mapping[str, str]) -> dict[str, Any]:
    """The annotation of a restored part of a region."""
    area = int(pixel_counts(*edge_table(polygons_of(part))).sum())
    kind = title.rpartition(": ")[2]
    own = {}
    if kind in SEEN:
        own = {"classification": {"name": f"{kind.capitalize()}: {name}", "color": list(SEEN[kind])}}
    return annotation(part, bounds_offset, key, title, name, {"Area px": area, **facts}, isLocked=True, **own,
                      metadata={**metadata, "warning": ESTIMATED if own else WARNING})


def _donor(graft: Grafted, bounds_offset: Point, key: str, region: int) -> dict[str, Any]:
    """The annotation of where a graft comes from."""
    outline = origin_of(_joined(list(graft.kept)), graft.l0_box, graft.donor, graft.orientation)
    return annotation(outline, bounds_offset, key, f"donor of restored {region}", "Donor", {"Score": graft.score},
                      isLocked=True, metadata={DONOR_OF: str(region)})


def _donor_facts(graft: Grafted) -> dict[str, float]:
    """Where a graft comes from, as QuPath shows it beside an annotation."""
    return {"Score": graft.score, "Donor x": graft.donor.x, "Donor y": graft.donor.y,
            "Donor orientation": graft.orientation}


def _common(whole: BaseGeometry, kept: Sequence[Polygon]) -> BaseGeometry:
    """What of a region's polygons a graft covers: polygons alone."""
    return _joined(polygons_of(whole.intersection(shapely.union_all(kept))))


def _joined(parts: list[Polygon]) -> BaseGeometry:
    """One geometry of the parts. Parts that share an edge make no valid MultiPolygon and are fused."""
    if not parts:
        return MultiPolygon()
    together = MultiPolygon(parts)
    if len(parts) == 1:
        return parts[0]
    return together if together.is_valid else shapely.union_all(parts)
