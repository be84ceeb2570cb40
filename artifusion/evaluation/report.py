"""The figures as Markdown: aims, methods, sources, holes, where it fails, and whether the measures measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifusion.evaluation.figures import (
    DOWNSTREAM,
    JUDGES,
    JUDGES_STORED,
    MEASURES,
    PROPERTIES,
    TEXTURE,
    Figures,
    formatted,
)
from artifusion.evaluation.methods import LEFT_OUT, REFERENCES
from artifusion.evaluation.scores import Scores
from artifusion.evaluation.trials import Trial

BY_PART = ("probe", "stain_pooled", "texture", "nuclei", "edge")
BY_INK = ("psnr", "ssim", "stain", "nuclei", "f1")
WORST = 6
FEW_TILES = 4               # below, a part has no row


@dataclass(frozen=True)
class Aim:
    measure: str
    low: float
    high: float
    words: str


AIMS = (
    Aim("probe", 0, 0.92, "at most 0.92"),
    Aim("kid_over_telea", -np.inf, 1 / 8, "at most 1/8"),
    Aim("stain_pooled", 0, 0.20, "at most 0.20"),
    Aim("stain", 0, 0.20, "at most 0.20"),
    Aim("texture", 0.85, 1.15, "0.85 to 1.15"),
    Aim("nuclei", 0, 0.20, "at most 0.20"),
    Aim("edge", 0.8, 1.3, "0.8 to 1.3"),
    Aim("f1_won", 0.5, np.inf, "at least 0.50"),
    Aim("count_won", 0.5, np.inf, "at least 0.50"),
    Aim("accuracy_won", 0.5, np.inf, "at least 0.50"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head),
            *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def report(figures: Figures, job: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The page of results."""
    trials, board = figures.trials, figures.board
    sources = ", ".join(sorted({trial.source for trial in trials}))
    lines = [
        "# Results", "",
        f"Version {job['version']}, weights {job['weights']}, {len(trials)} tiles of 256 px from "
        f"{len({trial.image for trial in trials})} images ({sources}), seed {job['seed']}, device {job['device']}. "
        f"Written by `{job['command']}`; do not edit. Intervals in brackets: 95 %, over pairs of tiles. "
        "What each figure means and what it cannot tell: docs/evaluation.md.", ""]
    if figures.ours:
        lines += ["## Aims", "", *aims(figures)]
    lines += ["## Methods", "", "*real* is another place of the same image, *damaged* the tile with its artifact, "
              "*discard* the tile without its hole. *JPEG*: after a slide's JPEG of painting and truth.", ""]
    passing = [key for key in (*JUDGES, *JUDGES_STORED) if figures.places(key)[1]]
    for title, keys in (
        ("Measures that pass their proof, below", [key for key in passing if key in JUDGES]),
        ("The same, JPEG", [key for key in passing if key in JUDGES_STORED]),
        ("Measures that fail it and judge nothing", [key for key in JUDGES if key not in passing]),
        ("The same, JPEG", [key for key in JUDGES_STORED if key not in passing]),
        ("Texture, energy over the truth's", [*TEXTURE]), ("Properties", [*PROPERTIES]), ("Downstream", [*DOWNSTREAM]),
    ):
        rows = [[method, *(figures.cell(key, method) for key in keys)] for method in board]
        lines += [f"### {title}", "", *table(["method", *(MEASURES[key].title for key in keys)],
                                             (row for row in rows if set(row[1:]) != {"-"}))] if keys else []
    lines += ["### Cost", "", *cost(board), *against_published(figures), *parts(figures)]
    if figures.ours:
        lines += ["## Where it fails", "", *failures(figures)]
    lines += ["## Do the measures measure?", "", *proof(figures)]
    lines += [line for picture in pictures for line in (f"![{picture}]({picture})", "")]
    return "\n".join(lines)


def aims(figures: Figures) -> list[str]:
    rows = []
    for aim in AIMS:
        value = figures.value(aim.measure, figures.ours or "")
        reached = "reached" if aim.low <= value <= aim.high else "**not reached**"
        verdict = "not measured" if np.isnan(value) else reached
        rows.append([MEASURES[aim.measure].title, aim.words, figures.cell(aim.measure, figures.ours or ""), verdict])
    return [f"Of *{figures.ours}*, for weights trained on CPUs.",
            "", *table(["what", "aim", "measured", ""], rows)]


def cost(board: Mapping[str, Scores]) -> list[str]:
    columns = (("evaluations", 0), ("gflop", 1), ("seconds", 2))
    rows = [[method, len(scores.tiles), *(f"{scores.columns[name].mean():.{digits}f}" for name, digits in columns)]
            for method, scores in board.items() if method not in REFERENCES]
    return table(["method", "tiles", "evaluations", "GFLOP", "seconds per tile"], rows)


def against_published(figures: Figures) -> list[str]:
    """Ours against the published procedure with the same weights, on the tiles that both painted."""
    if "published" not in figures.board or not figures.ours:
        return []
    board, number = figures.board, len(figures.board["published"].tiles)
    keys = ("stain_pooled", "stain", "texture", "nuclei", "edge", "perceptual", "psnr")
    at = np.flatnonzero(np.isin(board[figures.ours].tiles, board["published"].tiles))
    calls = [board[method].columns["evaluations"].mean() for method in ("published", figures.ours)]
    rows = []
    for key in keys:
        measure = MEASURES[key]
        published, ours = figures.value(key, "published"), measure.value(board, figures.ours, at)
        rows.append([measure.title, formatted(key, published), formatted(key, ours),
                     "yes" if measure.distance(ours) <= measure.distance(published) else "**no**"])
    tiles = "tile" if number == 1 else "tiles"
    few = " Too few for a probe or KID." if number < 20 else ""
    return ["## Against the published procedure, same weights", "",
            f"On {number} {tiles} that both painted; {calls[0]:.0f} evaluations each against {calls[1]:.0f}.{few}", "",
             *table(["what", "published", figures.ours, "better or equal"], rows)]


def parts(figures: Figures) -> list[str]:
    """The same figures by source, organ, size and width of the hole, and artifact."""
    methods = [method for method in ("real", "telea", figures.ours) if method and method in figures.board]
    kinds: dict[str, Callable[[Trial], str]] = {
        "source": lambda t: t.source, "organ": lambda t: t.organ, "hole, % of the tile": lambda t: t.size,
        "hole": lambda t: t.width, "artifact": lambda t: t.artifact}
    lines = ["## Across data sets and holes", "",
             "Organs are those of TCGA's tissue source sites, read from file names (TCGA-AY-...); other images have "
             f"none. The probe is that of all tiles, asked about these. Parts of under {FEW_TILES} tiles are out.", ""]
    for kind, of in kinds.items():
        names = sorted({of(trial) for trial in figures.trials} - {""})
        rows = []
        for name in names:
            members = [trial for trial in figures.trials if of(trial) == name]
            if len(members) >= FEW_TILES:
                rows += [[name, len(members), method, *(figures.part(key, method, members) for key in BY_PART)]
                         for method in methods]
        if rows:
            lines += table([kind, "tiles", "method", *(MEASURES[key].title for key in BY_PART)], rows)
    return lines + inks(figures)


def inks(figures: Figures) -> list[str]:
    """The figures of all methods by ink, where inks were asked for."""
    rows = []
    for name in sorted({trial.ink for trial in figures.trials} - {""}):
        members = [trial for trial in figures.trials if trial.ink == name]
        rows += [[name, len(members), method, *(figures.part(key, method, members) for key in BY_INK)]
                 for method in figures.board if method != LEFT_OUT]
    head = ["ink", "tiles", "method", *(MEASURES[key].title for key in BY_INK)]
    words = "Colour, and optical density in the channel that it darkens most."
    return ["## By ink", "", words, "", *table(head, rows)] if rows else []


def failures(figures: Figures) -> list[str]:
    """The worst tiles of ours, by what each measure says of single tiles."""
    assert figures.ours is not None
    scores, lines = figures.board[figures.ours], []
    missed = [MEASURES[aim.measure].title for aim in AIMS
              if not np.isnan(figures.value(aim.measure, figures.ours))
              and not aim.low <= figures.value(aim.measure, figures.ours) <= aim.high]
    lines += [f"Aims missed: {', '.join(missed) or 'none'}.", ""]
    for key in ("stain", "texture", "nuclei_by_tile", "edge"):
        measure = MEASURES[key]
        values = np.array([measure.value(figures.board, figures.ours, np.array([n])) for n in range(len(scores.tiles))])
        order = np.argsort([-measure.distance(value) if np.isfinite(value) else np.inf for value in values])[:WORST]
        rows = []
        for n in order:
            trial = figures.trials[scores.tiles[n]]
            hole = f"{trial.artifact}, {trial.width}, {100 * trial.hole.mean():.0f} %"
            rows.append([f"{trial.number:04d}", trial.image.split("/")[-1], trial.organ or trial.source, hole,
                         formatted(key, values[n])])
        lines += [f"Worst tiles by {measure.title}:", "",
                  *table(["tile", "image", "tissue", "hole", measure.title], rows)]
    return lines


def proof(figures: Figures) -> list[str]:
    """Where each measure ranks real tissue, mean fill, Telea and pasted patches among all methods."""
    rows = []
    for key in (*JUDGES, *JUDGES_STORED):
        places, passes = figures.places(key)
        four = (places.get(method, "-") for method in ("real", "exemplar", "telea", "mean"))
        rows.append([MEASURES[key].title, len(places), *four, "yes" if passes else "no"])
    lines = ["Place of each among all methods. A measure passes when real tissue comes first, or ties with the first "
             "within its interval, and Telea and the mean fill come in the lower half.", "",
             *table(["measure", "of", "real", "exemplar", "Telea", "mean fill", "passes"], rows)]
    shown = [f"{figures.cell('copied', method)} of *{method}*" for method in ("exemplar", "graft", "real")
             if method in figures.board]
    lines += ["Pasted patches and grafts are real tissue and pass for it in many of these. Share of copied windows: "
              f"{', '.join(shown)}.", ""]
    return lines
