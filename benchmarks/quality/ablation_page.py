"""The page of the ablations: Markdown from the runs that are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, mean
from typing import Any

Run = dict[str, Any]

LEVELS = ("0.1", "0.3", "0.5", "0.7", "0.9", "1.0")
NO_ERROR = 100.0            # from here on it is none: noise prediction says nothing of the clean image at level 1

HEAD = """# Ablations: what the choices are worth

Runs of {minutes:g} min of processor time each, {threads} thread(s), one after the other:
`python -m benchmarks.quality.ablations TRAIN_FOLDER --minutes {minutes:g} --only {names}`; do not edit.

"Ours, reduced" is the design of `he-small` at a quarter of its parameters, trained on crops of 64 px in batches of 16;
every other row differs from it in one choice. Other crops come in batches of about as many pixels. GFLOP are for one
evaluation of 256 x 256 px, counted by torch; where a choice changes them by more than a tenth, widths were changed
until it did not.

Every cell is the mean of the seeds and, in brackets, each of them. **+** all seeds are better than all of ours, **-**
all are worse, no sign: they overlap. With two seeds each, a choice that changes nothing gets a sign one time in three.

- **error**: squared error of the clean image in held-out holes of 128 px crops over that of a mean fill, geometric mean
  over the noise levels 0.1 to 0.9; less is better
- **AUC**, **KID**: how well a linear probe tells what is painted into two artifact-shaped holes of each of 48 held-out
  crops from the truth (0.5: not at all), and their kernel distance, both after JPEG; 10 evaluations, nothing grafted
- **texture**: gradient energy in these holes over the truth's; 1 is best
- **stain**: Wasserstein distance of the densities of both stains in these holes, crop by crop, over the truth's spread;
  less is better
"""

TAIL = """
## What such short runs can and cannot tell

A run sees {crops} crops; `he-small` has seen many times as many and was still learning, and a finished model wants a
million. So these rows tell **how fast a design learns at first**, on a CPU. They can tell that a choice does
not work at all, that it costs more time per crop than it returns, or that it does in minutes what another needs an hour
for.

They cannot tell which is better in the end. What helps early (convolutions, small crops, an easy target) may be what
limits a long run; what attention gains from many crops and wide context, the case for Swin, is what minutes cannot
show. A choice may matter more, or less, in a larger network. At this age samples are soft or noisy in every row:
leftover noise counts as texture just as detail does, so a texture near 1 is no proof of tissue, and so few crops leave
what is measured on samples rough. Two seeds show the least that chance can do. Learning rate, loss weight and warm-up
are those found for ours and were not tuned again for the others, which favours ours. A denoising error does not choose
weights ([decisions.md](../decisions.md)): samples must, and those of such young models hardly can.

## The variants

- **Time token alone**: the level of the pixels is hidden from the stem, and that of the patches from every stage. The
  hole is still seen.
- **Adaptive layer norm**: the embedding of each window, of which ours makes a token, scales and shifts both norms of a
  block (no gates). The level per patch stays.
- **Noise**: on the same cosine schedule. At level 1 it says nothing of the clean image, so the error leaves that level
  out for all.
- **No pixel skip, no convolutions**: patches of 4 px in and out, no depthwise convolution in the MLP; wider.
- **Thin strokes and small blobs**: no bands between tissues, no large holes, no maps of levels.
- **Crops**: 64 px in ours. Larger ones show more context, and fewer of them fit into the time. 64 px are one window at
  the bottom of the U, so a Swin that learned from them meets shifted windows there only when it is judged, at 128 px:
  that speaks for larger crops, and against Swin beside the U-Net.
- **Convolutional U-Net**: residual blocks of two 3x3 convolutions where the Swin blocks are, in the same U with the
  same stem, head and level per patch; narrower. Muon learns their filters as it does the Swin's matrices.
- **Convolutions at 1/4, Swin below**: these residual blocks at a quarter of the canvas' side alone, Swin blocks with
  time tokens from an eighth on.
- **Shifted grid**: half of the channels of the MLPs' depthwise convolutions look elsewhere, each at its place of a grid
  over the whole map (global receptive convolution, Deng et al. 2023).
- **Deeper, wider**: twice the blocks of fewer channels; half the blocks of more.
"""


@dataclass(frozen=True)
class Column:
    """A figure of a run, and how far a value of it is from the best there is."""

    title: str
    value: Callable[[Run], float]
    digits: int = 3
    distance: Callable[[float], float] = float

    def cell(self, runs: Sequence[Run], ours: Sequence[Run]) -> str:
        """The mean, each seed, and a sign where all seeds lie on one side of all of ours."""
        values = [self.value(run) for run in runs]
        if max(values) > NO_ERROR:
            return "none"
        mine, theirs = ([self.distance(self.value(run)) for run in of] for of in (runs, ours))
        sign = ""
        if min(len(mine), len(theirs)) > 1:
            sign = " **+**" if max(mine) < min(theirs) else " **-**" if min(mine) > max(theirs) else ""
        return f"{mean(values):.{self.digits}f} ({', '.join(f'{value:.{self.digits}f}' for value in values)}){sign}"


def of_level(level: str) -> Column:
    return Column(level, lambda run: run["errors"][level], 4)


JUDGED = (
    Column("error", lambda run: geometric_mean(run["errors"][level] for level in LEVELS[:-1]), 4),
    Column("AUC", lambda run: run["auc"]),
    Column("KID", lambda run: run["kid"], 2),
    Column("texture", lambda run: run["texture"], 2, lambda texture: abs(math.log(max(texture, 1e-6)))),
    Column("stain", lambda run: run["stain"]),
)
COST: dict[str, Callable[[Run], str]] = {
    "crops seen": lambda run: f"{run['crops']:,}",
    "crops/s": lambda run: f"{run['crops_per_second']:.1f}",
    "parameters, M": lambda run: f"{run['parameters'] / 1e6:.2f}",
    "GFLOP": lambda run: f"{run['gflop']:.2f}",
}


def page(report: dict[str, Any]) -> str:
    """The page; `report` is what benchmarks/quality/ablations.py keeps, with any number of runs."""
    names = dict.fromkeys(run["variant"] for run in report["runs"])
    runs = {name: sorted((run for run in report["runs"] if run["variant"] == name), key=lambda run: run["seed"])
            for name in names}
    plain = "; ".join(f"{name}: AUC {of['auc']:.3f}, KID {of['kid']:.2f}, texture {of['texture']:.2f}, "
                      f"stain {of['stain']:.3f}" for name, of in report["references"].items())
    crops = [run["crops"] for run in report["runs"]]
    return "\n".join([
        HEAD.format(**report["conditions"], names=" ".join(names)), *table(runs, JUDGED, COST), "",
        f"The same holes without a model: {plain}.", "",
        "The error at each noise level (1: nothing but noise):", "",
        *table(runs, [of_level(level) for level in LEVELS], {}),
        TAIL.format(crops=f"{min(crops):,} to {max(crops):,}")])


def table(
    runs: dict[str, list[Run]], columns: Sequence[Column], cost: dict[str, Callable[[Run], str]]
) -> list[str]:
    """A row per variant; what it cost, where seeds differ, by seed."""
    rows = [["question", "variant", *(column.title for column in columns), *cost]]
    rows.append(["---"] * len(rows[0]))
    for of in runs.values():
        rows.append([of[0]["question"], of[0]["answer"], *(column.cell(of, runs.get("ours", [])) for column in columns),
                     *(", ".join(dict.fromkeys(map(show, of))) for show in cost.values())])
    return [f"| {' | '.join(cells)} |" for cells in rows]
