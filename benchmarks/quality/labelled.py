"""Places on real slides that were read by eye: benchmarks/labels/*.geojson, one file per slide.

A file is a FeatureCollection whose member "slide" holds the slide's name, url, organ, use ("tune" or "judge"), size,
um per pixel, and "looked over": false where only places were read that an earlier network took for artifacts. A
feature is a place: an outline in pixels of that size, "first" and "second", the two readings, and "what" a reader saw
in normal tissue or, of an artifact, IN_PART: that the outline misses much of it or takes in much else. A reading is a
class of `CLASSES`, "normal" or "unsure".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import shapely
from shapely.affinity import scale
from shapely.geometry.base import BaseGeometry

from artifusion.geometry import Size
from artifusion.mask.classes import CLASSES

FOLDER = Path(__file__).parents[1] / "labels"
IN_PART = "outlined in part"


@dataclass(frozen=True)
class Place:
    """One place: its outline in level-0 pixels and its two readings."""

    outline: BaseGeometry
    first: str
    second: str
    what: str = ""

    @property
    def is_artifact(self) -> bool:
        """Whether both readers called it an artifact, of whatever class."""
        return self.first in CLASSES and self.second in CLASSES

    @property
    def kind(self) -> str:
        """What its outline shows: the first reader's class where both saw an artifact, "normal" where both saw none."""
        if self.what == IN_PART:
            return "unsure"
        return self.first if self.is_artifact or self.first == self.second else "unsure"


@dataclass(frozen=True)
class LabelledSlide:
    """The places of one slide, whose file is expected to be called `name` with the suffix .tiff.

    looked_over: whether what no place covers is normal; else nobody knows.
    """

    name: str
    organ: str
    use: str
    size: Size
    mpp: float
    places: tuple[Place, ...]
    looked_over: bool = True

    def outlines(self, kind: str | None, size: Size) -> list[BaseGeometry]:
        """The outlines of a kind of place, every "artifact" or all (None), in the pixels of a slide of another size."""
        chosen = [p for p in self.places if kind in (None, p.kind) or (kind == "artifact" and p.is_artifact)]
        factors = [wanted / own for wanted, own in zip(size, self.size, strict=True)]
        return [scale(place.outline, *factors, origin=(0, 0)) for place in chosen]


def labelled_slides(use: str | None = None, folder: Path = FOLDER) -> list[LabelledSlide]:
    """The labelled slides of one use, or all, in the order of their names."""
    found = []
    for path in sorted(folder.glob("*.geojson")):
        content = json.loads(path.read_text())
        about = content["slide"]
        places = tuple(Place(shapely.geometry.shape(f["geometry"]), f["properties"]["first"],
                             f["properties"]["second"], f["properties"].get("what", "")) for f in content["features"])
        found.append(LabelledSlide(path.stem, about["organ"], about["use"], Size(*about["size"]), about["mpp"], places,
                                   about.get("looked over", True)))
    return [slide for slide in found if use in (None, slide.use)]


def judging_cases() -> tuple[str, ...]:
    """The cases of the slides that judge: nothing of them may be learned from."""
    return tuple(sorted({labels.name.rsplit("-", 1)[0] for labels in labelled_slides("judge")}))


def agreement(places: Sequence[Place]) -> tuple[float, float]:
    """The share of places on which the readings agree, and Cohen's kappa."""
    same = sum(p.first == p.second for p in places) / len(places)
    first, second = (Counter(getattr(p, reading) for p in places) for reading in ("first", "second"))
    chance = sum(first[kind] * second[kind] for kind in first) / len(places) ** 2
    return same, (same - chance) / (1 - chance) if chance < 1 else 1.0
