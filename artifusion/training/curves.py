"""The picture of a run: loss and error per noise level against crops seen."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from artifusion.errors import BROKEN_FILE, OutputError, shortened


def draw_curves(log: Path, picture: Path) -> None:
    """Draw a run's log.csv as a PNG: the loss, and the held-out error over that of the mean fill (1 = no better).

    A log without held-out errors gives the first panel alone; a line that lacks them, no point.

    Raises:
        OutputError: the log is no table of numbers.
    """
    table = read_log(log)
    crops = table["crops"]
    levels = [name for name in table if name.startswith("error_")]
    parts = [name for name in table if name.startswith("loss_")]
    panels = [("loss", ["loss", *parts])]
    if levels:
        panels.append(("held-out error / mean fill's, by noise level", levels))
    figure = Figure(figsize=(8, 3.5 * len(panels)), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name in names:
            values = table[name]
            label = name.removeprefix("error_").removeprefix("loss_")
            axes.plot(crops, values, ".-", label=f"{label}: {values[-1]:.3g}")
        if names == levels:
            axes.axhline(1.0, color="black", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="crops", yscale="log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(picture, dpi=110, format="png")


def read_log(log: Path) -> dict[str, list[float]]:
    """The columns of a run's log.csv; nan where a line lacks a number.

    Raises:
        OutputError: it is no table of numbers.
    """
    try:
        with log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name] or "nan") for row in rows] for name in {"crops": 0, "loss": 0} | rows[0]}
    except (*BROKEN_FILE, csv.Error) as error:
        raise OutputError(f"{log}: is no log of a run ({shortened(error)}); move it away and give the same command "
                          "again") from None
