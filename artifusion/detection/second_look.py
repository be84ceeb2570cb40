"""A second look at what was found: a larger network reads each finding and its surroundings at two scales.

What computer-aided detection calls false-positive reduction: the first network has to read a whole section, this one a
few places of it (weights/second_look/README.md; tools/train_second_look.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import cast

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

from artifusion.detection.findings import Finding
from artifusion.detection.network import for_use, load_embedded
from artifusion.detection.sight import bounded_logit
from artifusion.detection.survey import Survey
from artifusion.geometry import Box, Size
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import footprint
from artifusion.slide.reader import Slide

KINDS = ("normal", *CLASSES)
SIDE_PX = 224               # of a view
VIEWED_UM = (1.0, 3.0)      # per pixel
CELLS = SIDE_PX // 8        # on a side of a view, of the coarsest activations that are kept as they were
EVERY_UM, MOST = 200.0, 4   # a finding gets a view for so much of its length, and no more views than that
LEAST_SCORE = 0.3           # from which a finding is looked at again
COARSEST_UM = 1.5           # per pixel of a slide on which the network is asked
IN_CELL = 4                 # samples on a side of a cell
ON_IT = 0.25                # share of a cell


class SecondLook(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019) up to stride 16, asked what lies on a finding and what beside it.

    `stem` and its answer, (B, 2, 40, CELLS, CELLS), are as ImageNet made them; `tuned` has learned from sections.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ToHalf(3), convolution(3, 32, 3, 2), *blocks(32, STAGES[:3]))
        self.tuned = nn.Sequential(*blocks(STAGES[2].channels, STAGES[3:]))
        activations = len(VIEWED_UM) * 3 * (STAGES[2].channels + STAGES[-1].channels)
        self.norm = nn.BatchNorm1d(activations, affine=False)
        self.drop = nn.Dropout(0.4)
        self.out = nn.Linear(activations, len(KINDS))

    def forward(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Logits of KINDS (B, 8).

        pixels: uint8 (B, 2, 224, 224, 3), a place in each of VIEWED_UM; shares: (B, 2, CELLS, CELLS), the share of each
        cell that the finding covers.
        """
        return self.judge(self.stem_of(pixels), shares)

    def stem_of(self, pixels: Tensor) -> Tensor:
        """What the stem makes of views, (B, 2, 40, CELLS, CELLS)."""
        x = (pixels.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1).to(next(self.stem.parameters()).dtype)
        return cast(Tensor, self.stem(x.contiguous(memory_format=torch.channels_last))).unflatten(0, pixels.shape[:2])

    def judge(self, stem: Tensor, shares: Tensor) -> Tensor:
        early, on = stem.flatten(0, 1), shares.flatten(0, 1)[:, None].float()
        late = self.tuned(early)
        pooled = torch.cat([part for x in (early, late) for part in on_and_beside(x.float(), on)], 1)
        return cast(Tensor, self.out(self.drop(self.norm(pooled.unflatten(0, shares.shape[:2]).flatten(1)).float())))


@dataclass(frozen=True)
class Stage:
    """Blocks of one width: channels, how many, side of the filters, stride of the first, times wider inside."""

    channels: int
    count: int
    side: int
    stride: int
    wider: int


STAGES = (Stage(16, 1, 3, 1, 1), Stage(24, 2, 3, 2, 6), Stage(40, 2, 5, 2, 6), Stage(80, 3, 3, 2, 6),
          Stage(112, 3, 5, 1, 6))


def blocks(channels: int, stages: Sequence[Stage]) -> Iterator[nn.Module]:
    for stage in stages:
        for number in range(stage.count):
            yield InvertedResidual(channels, stage, stage.stride if number == 0 else 1)
            channels = stage.channels


class InvertedResidual(nn.Module):
    """Wider, filtered channel by channel, narrower; added to what went in where that is alike (Sandler et al. 2018)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.wider
        self.wider = convolution(inputs, inner, 1) if stage.wider > 1 else nn.Identity()
        self.pad = ToHalf(stage.side) if stride == 2 else nn.Identity()
        self.filter = convolution(inner, inner, stage.side, stride, groups=inner)
        self.narrower = convolution(inner, stage.channels, 1, act=False)
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        new = cast(Tensor, self.narrower(self.filter(self.pad(self.wider(x)))))
        return x + new if self.adds else new


class ToHalf(nn.ZeroPad2d):
    """The padding with which TensorFlow halves even sides."""

    def __init__(self, side: int) -> None:
        super().__init__((side // 2 - 1, side // 2) * 2)


def convolution(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1, act: bool = True
                ) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, 0 if stride == 2 else side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU6() if act else nn.Identity())


def on_and_beside(x: Tensor, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations (N, C, H, W) on a finding, in the cells beside it, and the highest on it, (N, C) each."""
    on = F.adaptive_avg_pool2d(on, x.shape[-1])
    beside = F.max_pool2d(on, 3, 1, 1) - on
    mean_on, mean_beside = ((x * share).sum((2, 3)) / (share.sum((2, 3)) + 1e-3) for share in (on, beside))
    return mean_on, mean_beside, (x * (on > ON_IT)).amax((2, 3))


def view(slide: Slide, mpp: float, covered: np.ndarray, box: Box, middle: Sequence[float], zoom: float = 1.0
         ) -> tuple[np.ndarray, np.ndarray]:
    """A place in each of VIEWED_UM: pixels uint8 (2, 224, 224, 3), and shares float32 (2, CELLS, CELLS).

    covered: bool (H, W), what of a box of level 0 is meant; middle: x, y in level 0; zoom: more shows more.
    """
    pixels, shares = [], []
    for um in VIEWED_UM:
        span = round(SIDE_PX * um * zoom / mpp)
        seen = Box(round(middle[0]) - span // 2, round(middle[1]) - span // 2, span, span)
        pixels.append(slide.read_as(seen, Size(SIDE_PX, SIDE_PX)))
        steps = (np.arange(CELLS * IN_CELL) + 0.5) * span / (CELLS * IN_CELL)
        rows = ((seen.y + steps - box.y) * covered.shape[0] / box.height).astype(int)
        columns = ((seen.x + steps - box.x) * covered.shape[1] / box.width).astype(int)
        inside = ((seen.y + steps >= box.y) & (rows < covered.shape[0]))[:, None] & (
            (seen.x + steps >= box.x) & (columns < covered.shape[1]))
        at = np.ix_(rows.clip(0, covered.shape[0] - 1), columns.clip(0, covered.shape[1] - 1))
        shares.append((covered[at] & inside).reshape(CELLS, IN_CELL, CELLS, IN_CELL).mean((1, 3), dtype=np.float32))
    return np.stack(pixels), np.stack(shares)


def middles(covered: np.ndarray, box: Box, mpp: float) -> list[tuple[float, float]]:
    """Where a finding is looked at: x, y in level 0, the first next to its middle, each far from those before."""
    points = np.argwhere(covered) + 0.5
    ratio = np.array([box.height / covered.shape[0], box.width / covered.shape[1]])
    wanted = round(float(np.clip(max(box.width, box.height) * mpp / EVERY_UM, 1, MOST)))
    chosen = [points[np.square(points - points.mean(0)).sum(1).argmin()]]
    while len(chosen) < wanted:
        chosen.append(points[np.min([np.square(points - one).sum(1) for one in chosen], axis=0).argmax()])
    return [(box.x + column, box.y + row) for row, column in (one * ratio for one in chosen)]


@cache
def second_look() -> SecondLook:
    """The embedded network."""
    return ready(load_embedded(SecondLook(), "second_look"))


def ready(net: SecondLook) -> SecondLook:
    """The network in the form in which it answers."""
    net.stem, net.tuned = for_use(net.stem), for_use(net.tuned)
    return net.eval()


@torch.inference_mode()
def evidence(net: SecondLook, slide: Slide, mpp: float, covered: np.ndarray, box: Box) -> float:
    """Log-odds that what is covered of a box of level 0 is an artifact, the mean of its views'; not yet calibrated."""
    views = [view(slide, mpp, covered, box, middle) for middle in middles(covered, box, mpp)]
    pixels, shares = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    logits = net(pixels, shares)
    return float((torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]).mean())


@cache
def calibration() -> dict[str, float]:
    """The "slope" and "intercept" that make a probability of `both_looks` (Platt 1999)."""
    return cast(dict[str, float], json.loads(
        (files("artifusion") / "weights/second_look/calibration.json").read_text()))


def both_looks(net: SecondLook, finding: Finding, survey: Survey) -> float:
    """The evidence of both looks, for a finding that has its first score; only of folds the first one knows much."""
    box = footprint(finding.box, survey.coarse, survey.slide.size)
    second = evidence(net, survey.slide, survey.mpp, finding.covered, box)
    return second + bounded_logit(finding.score) * (finding.kind == "fold")


def looked_at_again(
    findings: Iterable[Finding], survey: Survey, progress: Callable[[list[Finding]], Iterable[Finding]] = iter,
) -> Iterator[Finding]:
    """Findings scored anew; those below LEAST_SCORE, blur and what is on coarser slides stay as they are."""
    if survey.mpp > COARSEST_UM:
        yield from findings
        return
    line, net = calibration(), second_look()
    for finding in progress(list(findings)):
        if finding.score >= LEAST_SCORE and finding.kind != "blur":
            both = both_looks(net, finding, survey)
            finding = replace(finding, score=float(expit(line["slope"] * both + line["intercept"])))
        yield finding
