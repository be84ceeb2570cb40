"""The mean colour of what was painted in each region: declared in the sidecar, and looked for in the slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion

from artifusion.geometry import Box
from artifusion.mask.mask import Mask

EDGE_PX = 2                          # pixels at the edge of what is masked, into which colours bleed
FEWEST_PX = 16                       # pixels by which a place can be judged
BLOCK_PX = 1024
COLOUR_OFF, COLOUR_OFF_PX = 4.0, 32.0          # grey levels that encoding moves a mean: of many pixels, and of one more

Read = Callable[[Box], np.ndarray]


def inner(masked: np.ndarray, border: bool = True) -> np.ndarray:
    """Return masked pixels away from the mask's edge, bool (H, W); `border`: what lies around counts as masked."""
    return binary_erosion(masked, np.ones((3, 3), bool), EDGE_PX, border_value=border)


def mean_rgb(read: Read, mask: Mask, l0_box: Box) -> tuple[list[float], int]:
    """Return the mean colour of the masked pixels of a box, away from the mask's edge, and how many these are.

    Args:
        read: box -> uint8 (H, W, 3). Called for parts with such pixels only.
    """
    total, count = np.zeros(3, np.int64), 0
    l0_box = l0_box.intersection(Box(0, 0, *mask.l0_size))    # a sidecar may tell of any box
    for y in range(l0_box.y, l0_box.bottom, BLOCK_PX):
        for x in range(l0_box.x, l0_box.right, BLOCK_PX):
            block = Box(x, y, BLOCK_PX, BLOCK_PX).intersection(l0_box)
            masked = inner(mask.read(block.expanded(EDGE_PX)), False)[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
            if masked.any():
                total += read(block)[masked].sum(axis=0, dtype=np.int64)
                count += int(np.count_nonzero(masked))
    return [round(float(value) / max(1, count), 2) for value in total], count


def with_colours(regions: Sequence[Mapping[str, Any]], read: Read, mask: Mask) -> list[dict[str, Any]]:
    """Return the sidecar's regions with the mean colour of what was painted, where that can be told."""
    coloured = []
    for region in regions:
        mean, count = mean_rgb(read, mask, Box(*region["l0_box"]))
        coloured.append({**region, **({"mean_rgb": mean} if count >= FEWEST_PX else {})})
    return coloured


def colour_problems(regions: Sequence[Mapping[str, Any]], read: Read, mask: Mask) -> list[str]:
    """Return the regions that have another mean colour than the sidecar tells."""
    problems = []
    for region in regions:
        if "mean_rgb" not in region:
            continue
        try:
            declared, l0_box = np.array(region["mean_rgb"], np.float64).reshape(3), Box(*map(int, region["l0_box"]))
        except (TypeError, ValueError, KeyError):
            problems.append(f"region {region.get('id')} tells no colour, or no place")
            continue
        mean, count = mean_rgb(read, mask, l0_box)
        off = float(np.abs(mean - declared).max())
        if off > COLOUR_OFF + COLOUR_OFF_PX / max(1, count) ** 0.5:
            problems.append(f"region {region['id']} at {tuple(region['l0_box'][:2])} does not show what was painted: "
                            f"its mean colour is {off:.1f} grey levels off")
    return problems
