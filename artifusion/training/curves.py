"""The picture of a run: loss and error per noise level against crops seen."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter


def draw_curves(log: Path, picture: Path) -> None:
    """Draw a run's log.csv as a PNG: the loss, and the held-out error over that of the mean fill (1 = no better).

    A log without held-out errors gives the first panel alone; a line that lacks them, no point.
    """
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    crops = [float(row["crops"]) for row in rows]
    levels = [name for name in rows[0] if name.startswith("error_")]
    parts = [name for name in rows[0] if name.startswith("loss_")]
    panels = [("loss", ["loss", *parts])]
    if levels:
        panels.append(("held-out error / mean fill's, by noise level", levels))
    figure = Figure(figsize=(8, 3.5 * len(panels)), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name in names:
            values = [float(row[name] or "nan") for row in rows]
            label = name.removeprefix("error_").removeprefix("loss_")
            axes.plot(crops, values, ".-", label=f"{label}: {values[-1]:.3g}")
        if names == levels:
            axes.axhline(1.0, color="black", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="crops", yscale="log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(picture, dpi=110, format="png")
