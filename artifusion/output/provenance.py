"""What was invented, by what, from what: the sidecar, the QuPath GeoJSON and the note, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import ORIGIN, Point
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import pixel_box
from artifusion.mask.regions import Region
from artifusion.mask.writer import annotation

WARNING = "invented pixels; not for diagnosis"
FORMAT = 1                             # raised when a reader of the sidecar must change


def note(
    *, regions: int, share: float, weights: str, weights_sha256: str, sampler: str, seed: int, version: str
) -> str:
    """Return the line for ImageDescription: no "|" and no line break, whatever the names hold."""
    text = (f"restored {regions} region{'' if regions == 1 else 's'} ({share:.2%} of the area), {weights} "
            f"sha256:{weights_sha256[:12]}, {sampler}, seed {seed}, artifusion {version}, {WARNING}")
    return " ".join(text.replace("|", "/").split())


def sidecar(job: Mapping[str, Any], regions: Sequence[Region], canvases: int, written: Mapping[str, Any],
            output: str, output_sha256: str, seconds: float, created: datetime | None = None) -> dict[str, Any]:
    """Return the content of <OUT>.json.

    Args:
        job: all that decides the result: version, source, mask, weights, sampler, scale, configuration.
        written: what the writer says of every level.
        seconds: from this session's start to the finished file; what an interrupted one took is not in it.
    """
    return {
        "format": FORMAT,
        "warning": WARNING,
        "tool": "artifusion",
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        **job,
        "output": {"name": output, "sha256": output_sha256},
        "regions": [{"id": region.id, "l0_box": list(region.l0_box), "area_px": region.area_px, "class": region.name}
                    for region in regions],
        "canvases": canvases,
        "written": dict(written),
    }


def geojson(mask: Mask, regions: Sequence[Region], source_sha256: str = "", bounds_offset: Point = ORIGIN
            ) -> dict[str, Any]:
    """Return the content of <OUT>.geojson: the mask itself, one QuPath annotation per region and class.

    Coordinates count from the slide's bounds, as QuPath does. Ids follow from the source and the region alone.
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
        region = regions[at]
        features.append(annotation(
            _joined([mask.polygons[i] for i in indices]), bounds_offset, f"{source_sha256}:{region.id}:{name}",
            f"restored {region.id}", name, {"Area px": sum(mask.areas_px[i] for i in indices)}, isLocked=True,
            metadata={"region": str(region.id), "warning": WARNING}))
    return {"type": "FeatureCollection", "features": features}


def _joined(parts: list[Polygon]) -> BaseGeometry:
    """One geometry of the parts. Parts that share an edge make no valid MultiPolygon and are fused."""
    together = MultiPolygon(parts)
    if len(parts) == 1:
        return parts[0]
    return together if together.is_valid else shapely.union_all(parts)
