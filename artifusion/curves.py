"""The picture of a run: loss and error per noise level against crops seen."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (760, 330)           # of a panel
MARGIN = (64, 96, 34, 44)   # left, right (names of the lines), top, bottom
FINE = 2                    # drawn this much larger, for smooth lines
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")     # Okabe and Ito
INK, FAINT = "#222222", "#dddddd"


def draw_curves(log: Path) -> Image.Image:
    """Two panels from a run's log.csv: the loss, and the held-out error over that of the mean fill (1 = no better).

    A log without held-out errors gives the first panel alone.
    """
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [float(row["images"]) for row in rows]
    errors = {name.removeprefix("error_"): [float(row[name]) for row in rows]
              for name in rows[0] if name.startswith("error_")}
    panels = [_panel("loss", images, {"": [float(row["loss"]) for row in rows]}, None)]
    if errors:
        panels.append(_panel("held-out error over that of the mean fill, by noise level", images, errors, 1.0))
    picture = Image.new("RGB", (SIZE[0], SIZE[1] * len(panels)))
    for n, panel in enumerate(panels):
        picture.paste(panel, (0, n * SIZE[1]))
    return picture


def _panel(title: str, images: Sequence[float], lines: Mapping[str, Sequence[float]], level: float | None
           ) -> Image.Image:
    """Lines over crops, with a logarithmic height; `level` is drawn as a dashed line."""
    left, right, top, bottom = (FINE * px for px in MARGIN)
    width, height = FINE * SIZE[0], FINE * SIZE[1]
    panel = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(FINE * 12)
    shown = [max(value, 1e-6) for values in lines.values() for value in values if math.isfinite(value)]
    shown += [level] if level else []
    low, high = 0.9 * min(shown, default=0.1), 1.1 * max(shown, default=1.0)
    last = max(images)

    def place(crops: float, value: float) -> tuple[float, float]:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return left + (width - left - right) * crops / last, height - bottom - (height - top - bottom) * share

    for value in _ticks(low, high):
        _, y = place(0, value)
        draw.line([(left, y), (width - right, y)], FAINT, FINE)
        draw.text((left - FINE * 6, y), f"{value:g}", INK, font, anchor="rm")
    for crops in (0, last / 2, last):
        x, y = place(crops, low)
        draw.line([(x, y), (x, y + FINE * 4)], INK, FINE)
        draw.text((x, y + FINE * 6), f"{crops:,.0f}", INK, font, anchor="mt")
    draw.text((left, FINE * 8), title, INK, font)
    draw.text((width - right + FINE * 36, height - bottom + FINE * 6), "crops", INK, font, anchor="lt")
    if level:
        for x in range(left, width - right, FINE * 12):
            draw.line([(x, place(0, level)[1]), (x + FINE * 6, place(0, level)[1])], INK, FINE)
    labels = []
    for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
        points = [place(*point) for point in zip(images, values, strict=True) if math.isfinite(point[1])]
        draw.line(points, colour, FINE * 2, joint="curve")
        for x, y in points if len(points) < 40 else points[-1:]:
            draw.ellipse([x - FINE * 2, y - FINE * 2, x + FINE * 2, y + FINE * 2], colour)
        if points:
            labels.append((points[-1][1], f"{name}  {values[-1]:.3g}".strip(), colour))
    floor = 0.0
    for y, label, colour in sorted(labels):
        floor = max(y, floor)
        draw.text((width - right + FINE * 8, floor), label, colour, font, anchor="lm")
        floor += FINE * 14
    draw.line([(left, top), (left, height - bottom), (width - right, height - bottom)], INK, FINE)
    return panel.resize(SIZE, Image.Resampling.LANCZOS)


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two, at most 8: 1-2-5 or finer where few of those fit."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + n / 10 for n in range(90))):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 8)] if ticks else []
