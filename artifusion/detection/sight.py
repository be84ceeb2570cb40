"""What the network sees of a slide: maps at the coarse scale, what is found in them, and its probability."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from scipy import ndimage
from scipy.special import expit, logit

from artifusion.detection.findings import SMALLEST_UM2, UNIT, Finding, components, dilated, whole_of
from artifusion.detection.network import MULTIPLE, ArtifactNet, network, probabilities
from artifusion.detection.signs import Look, density_above_glass, gray
from artifusion.detection.survey import FULL_OD, SIGHTS, Survey
from artifusion.geometry import Box, Size
from artifusion.mask.mask import footprint

SECTION_UM = 4.0            # per pixel of the coarse scale, at least: whole sections
COARSEST_UM = 9.0           # per pixel that the network reads, at most
READ_UM, LIKE = 1.0, 1.3    # per pixel that it reads where level 0 is as fine, about
READ_PX = 1024              # side of what it reads at once, without AROUND_UM
AROUND_UM = 80.0
BESIDE_UM = 24.0            # around a finding, within which it is compared with what lies beside
THINNEST_OD = 0.03          # less is bare glass, on which the network is not asked
LOW, HIGH = 0.2, 0.5        # probability: how far an artifact extends, and what it must reach
SEEN_UM2 = 400.0            # the least area; black dust that is smaller is found by rules
SEEN = tuple(kind for kind in SIGHTS if kind != "blur")
SURE = 0.002                # probabilities are kept from 0 and 1 by that much


@dataclass(frozen=True)
class Sight:
    """A slide as the network sees it."""

    survey: Survey
    look: Look
    net: ArtifactNet

    @classmethod
    def of(cls, survey: Survey, look: Look) -> Sight | None:
        """None where the slide is smaller than what the network is better at, or coarser than what it knows."""
        if survey.coarse_um < SECTION_UM:
            return None
        sight = cls(survey, look, network())
        return sight if sight.read_um <= COARSEST_UM else None

    @property
    def read_um(self) -> float:
        """um per pixel at which the network reads: a level about as fine as READ_UM, else that, or level 0."""
        spacings = [self.survey.mpp * downsample for downsample in self.survey.slide.level_downsamples]
        alike = [um for um in spacings if READ_UM / LIKE <= um <= READ_UM * LIKE]
        return min(alike, default=max(READ_UM, self.survey.mpp), key=lambda um: abs(math.log(um / READ_UM)))

    def at(self, box: Box) -> dict[str, np.ndarray]:
        """The probability of each of SIGHTS in a box of the coarse scale, float32 (H, W); 0 on bare glass."""
        seen = np.empty((len(SIGHTS), box.height, box.width), np.float32)
        side = max(1, int(READ_PX * self.read_um / self.survey.coarse_um))
        for y in range(box.y, box.bottom, side):
            for x in range(box.x, box.right, side):
                part = Box(x, y, side, side).intersection(box)
                seen[:, *part.slices(box)] = self.part(part)
        return dict(zip(SIGHTS, seen, strict=True))

    def part(self, part: Box) -> np.ndarray:
        """As `at`, of a box that is read at once, (6, H, W). The network's cells lie alike for all boxes."""
        survey = self.survey
        tissue = gray(density_above_glass(survey.read(part, survey.coarse), self.look)) > THINNEST_OD
        if not tissue.any():
            return np.zeros((len(SIGHTS), part.height, part.width), np.float32)
        step = MULTIPLE * self.read_um / survey.mpp                          # level-0 pixels
        inner = footprint(part, survey.coarse, survey.slide.size)
        outer = inner.expanded(round(AROUND_UM / survey.mpp))
        left, top = math.floor(outer.x / step), math.floor(outer.y / step)
        right, bottom = math.ceil(outer.right / step), math.ceil(outer.bottom / step)
        outer = Box.from_edges(*(round(edge * step) for edge in (left, top, right, bottom)))
        pixels = survey.slide.read_as(outer, Size((right - left) * MULTIPLE, (bottom - top) * MULTIPLE))
        seen = probabilities(self.net, pixels, self.look)[1:]
        rows = span(inner.y - outer.y, inner.height, outer.height, seen.shape[1])
        columns = span(inner.x - outer.x, inner.width, outer.width, seen.shape[2])
        size = part.width, part.height
        return np.stack([cv2.resize(map_[rows, columns], size, interpolation=cv2.INTER_AREA) for map_ in seen]) * tissue


def span(start: int, length: int, whole: int, px: int) -> slice:
    """The pixels, at least one, of px in all that show `length` from `start` on of a whole."""
    first = min(px - 1, round(start * px / whole))
    return slice(first, max(first + 1, round((start + length) * px / whole)))


def seen_findings(maps: Mapping[str, np.ndarray], mpp: float) -> Iterator[Finding]:
    """The artifacts that the network sees in its maps, "seen KIND" in UNIT: connected places, named by most of them."""
    some = np.zeros_like(maps["seen fold"])
    for kind in SEEN:
        some += maps[f"seen {kind}"]                            # probabilities: together UNIT at most
    for box, covered in components(some, LOW, HIGH, SEEN_UM2 / mpp**2):
        at = box.slices()
        means = [float(maps[f"seen {kind}"][at][covered].mean()) for kind in SEEN]
        kind = SEEN[int(np.argmax(means))]
        if np.count_nonzero(covered) * mpp**2 >= SMALLEST_UM2[kind]:
            solid = ndimage.binary_fill_holes(covered) if kind == "bubble" else covered
            yield Finding(kind, "seen", min(0.999, sum(means) / UNIT), box, solid)


def features(finding: Finding, maps: Mapping[str, np.ndarray], mpp: float) -> np.ndarray:
    """What a finding's probability is judged by, (len(FEATURES),), at mpp um per pixel of the maps."""
    at = finding.box.slices()
    seen = {kind: maps[f"seen {kind}"][at][finding.covered] / UNIT for kind in SIGHTS}
    some = np.sum([seen[kind] for kind in SEEN], axis=0)
    own = seen["dust" if finding.kind == "other" else finding.kind]
    name = f"{finding.kind}, seen" if finding.map_name == "seen" else finding.kind
    depth = ndimage.distance_transform_edt(np.pad(finding.covered, 1)).max()
    times, glass = beside(finding, maps["density"], mpp)
    measured = np.array([
        bounded_logit(some.mean()), bounded_logit(np.percentile(some, 95)), bounded_logit(own.mean()),
        0.0 if finding.map_name == "seen" else bounded_logit(finding.score),
        math.log10(np.count_nonzero(finding.covered) * mpp**2) - 3, math.log2(2 * depth * mpp), math.log2(mpp),
        math.log(times), glass])
    return np.concatenate([measured, (name == "fold, seen") * measured, [float(name == each) for each in NAMES]])


def beside(finding: Finding, density: np.ndarray, mpp: float) -> tuple[float, float]:
    """How many times as dense a finding is as the tissue beside it, and the share of glass there."""
    around = finding.box.expanded(math.ceil(BESIDE_UM / mpp) + 1).intersection(whole_of(density))
    placed = np.zeros((around.height, around.width), bool)
    placed[finding.box.slices(around)] = finding.covered
    ring, density = dilated(placed, max(1.5, BESIDE_UM / mpp)) & ~placed, density[around.slices()]
    tissue = ring & (density > THINNEST_OD * 255 / FULL_OD)
    if not tissue.any():
        return 1.0, 1.0
    times = float((density[placed].mean() + 1) / (density[tissue].mean() + 1))
    return times, 1 - np.count_nonzero(tissue) / np.count_nonzero(ring)


NAMES = ("bubble", "pen", "dark", "dust", "other", "blur", *(f"{kind}, seen" for kind in SEEN))
MEASURED = ("seen", "seen most", "own", "rule", "area", "thickness", "scale", "denser", "glass beside")
FEATURES = (*MEASURED, *(f"{name}, fold" for name in MEASURED), *NAMES)       # folds have slopes of their own


def bounded_logit(p: float | np.floating) -> float:
    return float(logit(min(1 - SURE, max(SURE, p))))


@cache
def calibration() -> np.ndarray:
    """The weights of FEATURES, and one more number to be added."""
    content = json.loads((files("artifusion") / "weights/artifacts/calibration.json").read_text())
    return np.array([*(content["weights"][name] for name in FEATURES), content["intercept"]])


def probability(values: np.ndarray) -> float:
    """What the regression makes of FEATURES."""
    weights = calibration()
    return float(expit(values @ weights[:-1] + weights[-1]))


def scored(findings: Iterable[Finding], maps: Mapping[str, np.ndarray], mpp: float) -> Iterator[Finding]:
    """Findings with the probability that each is an artifact as score."""
    for finding in findings:
        yield replace(finding, score=probability(features(finding, maps, mpp)))


def apart(findings: Iterable[Finding], shape: tuple[int, int]) -> Iterator[Finding]:
    """Findings of a map of this shape without those that others cover by half: a rule's outline is the finer one."""
    taken = np.zeros(shape, bool)
    for finding in sorted(findings, key=lambda finding: (finding.map_name == "seen", -finding.score)):
        at = taken[finding.box.slices()]
        if np.count_nonzero(at & finding.covered) < np.count_nonzero(finding.covered) / 2:
            at |= finding.covered
            yield finding
