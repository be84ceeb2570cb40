"""What earlier passes over a slide declared: read beside the source, handed on, followed by `verify`.

A pass is one run that wrote the slide. The sidecar of an output holds those before it, oldest first, as `history`; the
GeoJSON is the union of all, and each annotation names its pass, counted from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifusion.errors import BROKEN_FILE, MaskError, SlideError
from artifusion.files import sha256
from artifusion.geometry import Point, Size
from artifusion.mask.geojson import features_of, geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.output.output import beside
from artifusion.output.provenance import WARNING
from artifusion.slide.reader import Slide

PASS = "pass"                            # in the metadata of an annotation: the number of the pass that made it
NOTE = re.compile(rf"restored [\d,]+ regions? \([^|\n]*?, artifusion [^,|\n]+, {re.escape(WARNING)}")


@dataclass(frozen=True)
class Earlier:
    """The passes that made a source what it is, oldest first, with their annotations; none for a scan."""

    passes: tuple[Mapping[str, Any], ...] = ()
    features: tuple[dict[str, Any], ...] = ()

    def mask(self, slide: Slide) -> Mask:
        """Where pixels of the source are no scan."""
        return declared_mask(self.features, slide.path, slide.size, slide.bounds_offset)

    def with_mask(self, mask: Mask, slide: Slide) -> Mask:
        """A mask and where pixels of the source are no scan."""
        return Mask.of([*mask.polygons, *self.mask(slide).polygons], slide.size) if self.passes else mask

    def joined(self, polygons: Mapping[str, Any]) -> dict[str, Any]:
        """The GeoJSON of one more pass, with the annotations of the earlier ones before its own."""
        new = [labelled(feature, len(self.passes) + 1) for feature in polygons["features"]]
        return {**polygons, "features": [*self.features, *new]}


def notes_in(slide: Slide) -> list[str]:
    """The notes of earlier restorations in a slide's description, oldest first."""
    texts = [*slide.properties.values(), *slide.text.values()]
    return max(map(NOTE.findall, texts), key=len, default=[])


def earlier_passes(slide: Slide, undeclared: bool = False) -> Earlier:
    """What the files beside a source declare of earlier passes.

    Args:
        undeclared: take a restored source without its sidecar; the history then holds the notes alone.

    Raises:
        SlideError: the description says that the slide was restored, and its sidecar or GeoJSON is missing or of
            another file.
    """
    notes, path = notes_in(slide), beside(slide.path, ".json")
    try:
        return read_sidecar(slide, path)
    except (*BROKEN_FILE, MaskError) as error:
        if not notes:
            return Earlier()
        if undeclared:
            return Earlier(tuple({"note": note, "undeclared": True} for note in notes))
        why = "is missing" if isinstance(error, FileNotFoundError) else "is not of this file"
        raise SlideError(f"{slide.path}: was restored before, and what declares it ({path.name}, "
                         f"{beside(slide.path, '.geojson').name}) {why}; put both beside it, restore from the "
                         "original, or pass --undeclared to lose track of what was invented") from None


def read_sidecar(slide: Slide, path: Path) -> Earlier:
    """The passes that the sidecar of this very file and its GeoJSON declare. Raises where they are not of it."""
    sidecar, polygons = (json.loads(file.read_text(encoding="utf-8"))
                         for file in (path, beside(slide.path, ".geojson")))
    json.dumps([sidecar, polygons], allow_nan=False)         # what is no number could not be handed on
    if sidecar["tool"] != "artifusion" or sidecar["output"]["sha256"] != sha256(slide.path):
        raise ValueError(path)
    passes = passes_of(sidecar)
    features = [labelled(feature, len(passes)) for feature in features_of(polygons)]
    area_px = sum(region["area_px"] for region in sidecar["regions"])
    last = [feature for feature in features if pass_of(feature) == len(passes)]
    if declared_mask(last, slide.path, slide.size, slide.bounds_offset).area_px != area_px:
        raise ValueError(path)
    return Earlier(passes, tuple(features))


def passes_of(sidecar: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Every pass that a sidecar declares, oldest first, its own last. Raises ValueError for a history that is none."""
    earlier = sidecar.get("history", [])
    if not isinstance(earlier, list) or not all(isinstance(entry, dict) for entry in earlier):
        raise ValueError("history")
    return *earlier, {key: value for key, value in sidecar.items() if key != "history"}


def pass_of(feature: Any, unnamed: int = 0) -> int:
    """The number of the pass that an annotation names; `unnamed` where it names none."""
    try:
        return int(feature["properties"]["metadata"][PASS])
    except (KeyError, TypeError, ValueError, OverflowError):
        return unnamed


def labelled(feature: dict[str, Any], number: int) -> dict[str, Any]:
    """An annotation that names its pass; one that does already stays."""
    if pass_of(feature):
        return feature
    properties = feature["properties"]
    return {**feature, "properties": {**properties, "metadata": {**properties.get("metadata", {}), PASS: str(number)}}}


def declared_mask(features: Sequence[Any], slide: Path, l0_size: Size, bounds_offset: Point) -> Mask:
    """The mask of what annotations of a slide declare, cut to its size. Raises MaskError where one is no area."""
    if not features:
        return Mask.of([], l0_size)
    polygons, classes = geojson_polygons(list(features), beside(slide, ".geojson"), bounds_offset)
    return Mask.of(polygons, l0_size, classes)
