"""Contact sheets at full size, and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from artifusion.evaluation.figures import MEASURES, Figures
from artifusion.evaluation.methods import LEFT_OUT
from artifusion.evaluation.records import Records
from artifusion.evaluation.trials import SIDE_PX, Trial

SHEET_TILES, GAP_PX, HEAD_PX = 20, 4, 24
PITCH_PX = SIDE_PX + GAP_PX
PLOTTED = ("probe", "kid", "stain_pooled", "texture", "nuclei", "edge")


def draw_sheets(trials: Sequence[Trial], records: Records, methods: Mapping[str, set[int]], folder: Path) -> list[str]:
    """Write the contact sheets (truth, hole, every method) as JPEG of SHEET_TILES rows each; returns their names.

    A tile that a method did not paint stays white. One sheet is in memory at a time.
    """
    columns = ["truth", "hole", *methods]
    names = []
    for first in range(0, len(trials), SHEET_TILES):
        shown = trials[first : first + SHEET_TILES]
        sheet = Image.new("RGB", (len(columns) * PITCH_PX, HEAD_PX + len(shown) * PITCH_PX), "white")
        pen = ImageDraw.Draw(sheet)
        for column, name in enumerate(columns):
            pen.text((column * PITCH_PX + 4, 6), name, fill="black")
        for row, trial in enumerate(shown):
            painted = (records.painted(method, trial.number) if trial.number in done else np.full_like(trial.truth, 255)
                       for method, done in methods.items())
            sheet.paste(side_by_side(trial, painted), (0, HEAD_PX + row * PITCH_PX))
        names.append(f"sheet-{first // SHEET_TILES + 1:02d}.jpg")
        sheet.save(folder / names[-1], quality=90, subsampling=0)
    return names


def side_by_side(trial: Trial, painted: Iterable[np.ndarray]) -> Image.Image:
    """A tile's truth, the truth with its hole in white, and what methods painted, GAP_PX of white after each."""
    images = [trial.truth, np.where(trial.hole[..., None], np.uint8(255), trial.truth), *painted]
    row = Image.new("RGB", (len(images) * PITCH_PX, SIDE_PX), "white")
    for column, image in enumerate(images):
        row.paste(Image.fromarray(image), (column * PITCH_PX, 0))
    return row


def draw_plots(figures: Figures, folder: Path) -> list[str]:
    """Write measures.png: a panel per measure, every method with its interval, the ideal dashed; returns the names."""
    methods = [method for method in figures.board if method not in ("damaged", LEFT_OUT)]
    figure = Figure(figsize=(4 * len(PLOTTED) / 2, 0.35 * len(methods) * 2 + 2), layout="constrained")
    for axes, key in zip(figure.subplots(2, len(PLOTTED) // 2).ravel(), PLOTTED, strict=True):
        for place, method in enumerate(reversed(methods)):
            value, low, high = figures.interval(key, method)
            axes.plot([low, high], [place, place], color="tab:blue", linewidth=2)
            axes.plot([value], [place], "o", color="tab:blue", markersize=4)
        axes.axvline(MEASURES[key].ideal, color="black", linestyle="--", linewidth=1)
        axes.set(title=MEASURES[key].title, yticks=range(len(methods)), yticklabels=list(reversed(methods)))
        axes.grid(True, axis="x", alpha=0.3)
    figure.savefig(folder / "measures.png", dpi=110)
    return ["measures.png"]
