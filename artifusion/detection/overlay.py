"""A picture of a slide with the detected artifacts outlined in the colours of their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from artifusion.geometry import Box, fitted
from artifusion.mask.classes import CLASSES, COLORS, NOUNS
from artifusion.mask.mask import Mask
from artifusion.mask.writer import class_ids
from artifusion.slide.reader import Slide

PICTURE_PX = 2400           # longer side, at most
LINE_PX = 18                # of the legend
LINE_WIDTH_PX = 4


def draw_outlines(slide: Slide, mask: Mask, out: Path) -> None:
    """Write the slide, small where it is large, with the outlines of a mask and a legend below."""
    size = fitted(slide.size, PICTURE_PX)
    image = slide.read_as(Box(0, 0, *slide.size), size).copy()
    ids = class_ids(mask, size)
    names = [name for name, at in CLASSES.items() if (ids == at).any()]
    for name in names:
        image[outline(ids == CLASSES[name], LINE_WIDTH_PX)] = COLORS[name]
    height = LINE_PX * max(1, len(names)) + 8
    picture = Image.new("RGB", (max(size.width, 220), size.height + height), "white")
    picture.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(picture)
    for n, name in enumerate(names or ["nothing"]):
        y = size.height + 4 + n * LINE_PX
        if names:
            draw.rectangle((6, y + 2, 26, y + 14), fill=COLORS[name])
        draw.text((34, y + 2), f"{NOUNS[name]}s" if names else "nothing found", fill="black")
    picture.save(out)


def outline(covered: np.ndarray, width_px: int) -> np.ndarray:
    """The pixels at most width_px outside a shape: bool (H, W)."""
    return ndimage.binary_dilation(covered, iterations=width_px) & ~covered
