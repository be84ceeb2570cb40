"""What the network sees of a slide: maps at the coarse scale, a second look at each finding, and its probability."""

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

from artifusion.detection.findings import SMALLEST_UM2, UNIT, Finding, components
from artifusion.detection.network import ArtifactNet, network, probabilities
from artifusion.detection.signs import Look, density_above_glass, gray
from artifusion.detection.survey import SIGHTS, Survey
from artifusion.geometry import Box, Size
from artifusion.mask.mask import footprint

SECTION_UM = 4.0            # per pixel of the coarse scale, at least: whole sections
COARSEST_UM = 9.0           # per pixel that the network reads, at most
CLOSE_UM, FARTHEST_UM = 1.0, 5.0            # per pixel of the second look; a larger place gets none
CLOSE_PX = 512              # its longest side; a larger place is looked at from further away
AROUND_UM = 64.0
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
        return sight if survey.coarse_um / sight.times <= COARSEST_UM else None

    @property
    def times(self) -> int:
        """How many times as fine as the coarse scale the network reads the whole slide."""
        return 2 if self.survey.coarse_um / 2 >= 0.9 * self.survey.mpp else 1

    def far(self, window: Box) -> np.ndarray:
        """Probabilities of SIGHTS in a box of the coarse scale, float32 (6, H, W); 0 on bare glass."""
        n = self.times
        size = Size(*(n * side for side in self.survey.coarse))
        pixels = self.survey.read(Box(n * window.x, n * window.y, n * window.width, n * window.height), size)
        seen = probabilities(self.net, pixels, self.look)[1:]               # half as large as the pixels
        if n == 1:
            seen = seen.repeat(2, 1).repeat(2, 2)[:, : window.height, : window.width]
        density = gray(density_above_glass(pixels, self.look))
        return seen * (cv2.resize(density, (window.width, window.height), interpolation=cv2.INTER_AREA) > THINNEST_OD)

    def close(self, finding: Finding) -> np.ndarray | None:
        """Probabilities of SIGHTS at the pixels of a finding, (6, N), at CLOSE_UM or as its size allows; or None."""
        survey = self.survey
        at = footprint(finding.box, survey.coarse, survey.slide.size)
        around = at.expanded(round(AROUND_UM / survey.mpp))
        um = max(CLOSE_UM, survey.mpp, max(around.width, around.height) * survey.mpp / CLOSE_PX)
        if um > FARTHEST_UM:
            return None
        size = Size(*(max(2, round(side * survey.mpp / um)) for side in (around.width, around.height)))
        seen = probabilities(self.net, survey.slide.read_as(around, size), self.look)
        rows, columns = (((np.arange(count) + 0.5) * 2 * um / survey.mpp + first - start) * px / side
                         for count, first, start, side, px in (
                             (seen.shape[1], around.y, at.y, at.height, finding.box.height),
                             (seen.shape[2], around.x, at.x, at.width, finding.box.width)))
        inside = ((rows >= 0) & (rows < finding.box.height))[:, None] & ((columns >= 0) & (columns < finding.box.width))
        covered = inside & finding.covered[np.ix_(rows.clip(0, finding.box.height - 1).astype(int),
                                                  columns.clip(0, finding.box.width - 1).astype(int))]
        if not covered.any():
            covered = inside if inside.any() else np.ones_like(inside)
        return seen[1:, covered]


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


def features(finding: Finding, maps: Mapping[str, np.ndarray], sight: Sight) -> np.ndarray:
    """What a finding's probability is judged by, (len(FEATURES),)."""
    at = finding.box.slices()
    far = np.stack([maps[f"seen {kind}"][at][finding.covered] for kind in SIGHTS]) / UNIT      # (6, N)
    close = sight.close(finding)
    own = SIGHTS.index("dust" if finding.kind == "other" else finding.kind)
    numbers = []
    for seen in (far, far if close is None else close):
        some = seen.sum(axis=0) - seen[SIGHTS.index("blur")]
        numbers += [some.mean(), np.percentile(some, 95), seen[own].mean()]
    rule = 0.0 if finding.map_name == "seen" else bounded_logit(finding.score)
    area = math.log10(np.count_nonzero(finding.covered) * sight.survey.coarse_um**2) - 3
    name = f"{finding.kind}, seen" if finding.map_name == "seen" else finding.kind
    scale = math.log2(sight.survey.coarse_um)
    return np.array([*map(bounded_logit, numbers), rule, area, scale, *(float(name == each) for each in NAMES)])


NAMES = ("bubble", "pen", "dark", "dust", "other", "blur", *(f"{kind}, seen" for kind in SEEN))
FEATURES = ("far", "far, most", "far, own", "close", "close, most", "close, own", "rule", "area", "scale", *NAMES)


def bounded_logit(p: float | np.floating) -> float:
    return float(logit(min(1 - SURE, max(SURE, p))))


@cache
def calibration() -> np.ndarray:
    """The weights of FEATURES, and one more number to be added."""
    content = json.loads((files("artifusion") / "weights/artifacts/calibration.json").read_text())
    return np.array([*(content["weights"][name] for name in FEATURES), content["intercept"]])


def scored(findings: Iterable[Finding], maps: Mapping[str, np.ndarray], sight: Sight) -> Iterator[Finding]:
    """Findings with the probability that each is an artifact as score."""
    weights = calibration()
    for finding in findings:
        score = float(expit(features(finding, maps, sight) @ weights[:-1] + weights[-1]))
        yield replace(finding, score=score)


def apart(findings: Iterable[Finding], shape: tuple[int, int]) -> Iterator[Finding]:
    """Findings of a map of this shape without those that others cover by half: a rule's outline is the finer one."""
    taken = np.zeros(shape, bool)
    for finding in sorted(findings, key=lambda finding: (finding.map_name == "seen", -finding.score)):
        at = taken[finding.box.slices()]
        if np.count_nonzero(at & finding.covered) < np.count_nonzero(finding.covered) / 2:
            at |= finding.covered
            yield finding
