"""Which pixels of a window belong to the artifact that a person points at: features relative to prompts, classified.

The classifier of pixels sees colour, contrast and how like a pixel is to what was clicked and to the rest of the
window, and how far away along a path of like pixels or without crossing an edge; a second one sees the answer of the
first around a pixel as well (auto-context, Tu 2008). Both are networks of two small layers, learned from artifacts
painted on clean tissue and simulated clicks (weights/prompts/README.md; tools/train_prompts.py). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image
from safetensors.numpy import load
from scipy import ndimage
from scipy.special import expit
from skimage.graph import MCP_Geometric

from artifusion.slide.tissue import GLASS_OD, optical_density

SMOOTHED_PX = (0.7, 2.0)            # scales at which colours are compared
PATHS_PX = 96                       # longest side at which paths are looked for
STEP = 0.02                         # what a pixel of a path costs at least
SURE, UNSURE = 0.7, 0.3             # of an earlier answer, which tells the artifact's colour and that of the rest
HALOS_PX = (5.0, 20.0)              # of a click
ROUND_PX = (1.0, 2.5, 6.0)          # around a pixel, within which the second classifier sees the answer of the first
THINNEST_OD = 0.05                  # of tissue
UNLIKE = 3.0                        # from what is not there


@dataclass(frozen=True)
class Pointed:
    """Prompts in a window's pixels: points and not-points (x, y) and boxes (left, top, right, bottom), floats.

    They may lie outside the window.
    """

    points: Sequence[tuple[float, float]] = ()
    not_points: Sequence[tuple[float, float]] = ()
    boxes: Sequence[tuple[float, float, float, float]] = ()


@cache
def layers() -> dict[str, np.ndarray]:
    """The embedded weights."""
    weights: dict[str, np.ndarray] = load((files("artifusion") / "weights/prompts/model.safetensors").read_bytes())
    return {name: value.astype(np.float32) for name, value in weights.items()}


def probability(rgb: np.ndarray, pointed: Pointed, before: np.ndarray | None = None) -> np.ndarray:
    """The probability that a pixel belongs to the artifact that is pointed at: uint8 (H, W, 3) -> float32 (H, W).

    Args:
        before: an earlier, coarser answer, float32 (H, W).

    Memory: 600 bytes a pixel.
    """
    seen = features(rgb, pointed, before)
    seeds = seeds_of(pointed.points, pointed.boxes, before, rgb.shape[:2])
    first = classified(seen, layers(), "first")
    return classified(np.concatenate([seen, context(first, seeds)], axis=2), layers(), "second")


def classified(seen: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Features (H, W, F) through the layers of a name: float32 (H, W), 0 to 1."""
    x = seen.reshape(-1, seen.shape[2])
    for number in range(3):
        x = x @ weights[f"{name}.{number}.weight"] + weights[f"{name}.{number}.bias"]
        x = np.maximum(x, 0) if number < 2 else expit(x)
    return x.reshape(seen.shape[:2])


def features(rgb: np.ndarray, pointed: Pointed, before: np.ndarray | None) -> np.ndarray:
    """What the first classifier sees: float32 (H, W, F)."""
    shape = rgb.shape[:2]
    od = relative_density(rgb)
    answer = np.zeros(shape, np.float32) if before is None else before.astype(np.float32)
    gray = od.mean(axis=2)
    mean = blurred(gray, 2)
    contrast = np.sqrt(np.maximum(blurred(gray * gray, 2) - mean * mean, 0))
    channels = [contrast, gray, answer, blurred(answer, 2), np.full(shape, before is not None, np.float32)]
    fine = np.zeros(shape, np.float32)
    for sigma in SMOOTHED_PX:
        smooth = blurred(od, sigma)
        own, rest, foreign = colours(smooth, pointed, before)
        to_own, to_foreign = (unlikeness(smooth, known) for known in (own, foreign))
        to_rest = np.abs(smooth - rest).mean(axis=2)
        darker = (smooth - rest).mean(axis=2)
        apart = (own - rest).mean(axis=1) if len(own) else np.zeros(1, np.float32)
        channels += [*np.moveaxis(smooth, 2, 0), to_own, to_rest, to_own / (to_own + to_rest + 0.05), to_foreign,
                     to_foreign / (to_own + to_foreign + 0.05), darker, darker * np.sign(apart.mean()),
                     np.full(shape, apart.mean())]
        fine = to_own if sigma == SMOOTHED_PX[0] else fine
    seeds = seeds_of(pointed.points, pointed.boxes, before, shape)
    not_seeds = seeds_of(pointed.not_points, (), None, shape)
    edges = ndimage.gaussian_gradient_magnitude(gray, 1.0)
    channels += [far_along(fine, seeds), far_along(edges, seeds), far_along(edges, not_seeds)]
    channels += [*halos(pointed.points, shape), *halos(pointed.not_points, shape), *boxed(pointed.boxes, shape)]
    return np.stack(channels, axis=2).astype(np.float32)


def context(first: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What the second classifier sees of the answer of the first: float32 (H, W, 6)."""
    around = [blurred(first, sigma) for sigma in ROUND_PX]
    reached = first[seeds].mean() if seeds.any() else 0.0
    return np.stack([first, *around, far_along(1 - first, seeds), np.full(first.shape, reached)], axis=2,
                    dtype=np.float32)


def relative_density(rgb: np.ndarray) -> np.ndarray:
    """Optical density over that of the window's median tissue, 0 for its glass: float32 (H, W, 3)."""
    od = optical_density(rgb)
    od = od - np.clip(np.percentile(od[::4, ::4], 1, axis=(0, 1)), 0, 0.12).astype(np.float32)
    gray = od[::2, ::2].mean(axis=2)
    tissue = gray[gray > GLASS_OD]
    return od / np.float32(max(THINNEST_OD, float(np.median(tissue)) if len(tissue) else 1.0))


def colours(smooth: np.ndarray, pointed: Pointed, before: np.ndarray | None
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours of the artifact (N, 3), of the rest of the window (3,), and at not-points (M, 3)."""
    own, beside = at_points(smooth, pointed.points), np.ones(smooth.shape[:2], bool)
    if pointed.boxes:
        beside = boxed(pointed.boxes, (smooth.shape[0], smooth.shape[1]))[1] < 0
    if before is not None:
        beside = before < UNSURE
    rest = np.median(smooth[beside] if beside.any() else smooth[::2, ::2].reshape(-1, 3), axis=0)
    sure = np.zeros_like(beside) if before is None else before > SURE
    if before is None and not len(own) and not beside.all():         # of a box: what in it is least like the rest
        unlike = np.where(beside, 0, np.abs(smooth - rest).mean(axis=2))
        sure = unlike >= np.percentile(unlike[~beside], 75)
    if sure.any():
        own = np.concatenate([own, smooth[sure].mean(axis=0)[None]])
    return own, rest, at_points(smooth, pointed.not_points)


def at_points(smooth: np.ndarray, points: Sequence[tuple[float, float]]) -> np.ndarray:
    height, width = smooth.shape[:2]
    inside = [smooth[int(y), int(x)] for x, y in points if 0 <= x < width and 0 <= y < height]
    return np.array(inside, np.float32).reshape(-1, 3)


def unlikeness(smooth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The difference of every pixel's colour (H, W, 3) to the most alike of known ones (N, 3): (H, W)."""
    if not len(known):
        return np.full(smooth.shape[:2], UNLIKE, np.float32)
    return np.minimum.reduce([np.abs(smooth - colour).mean(axis=2) for colour in known])


def seeds_of(points: Sequence[tuple[float, float]], boxes: Sequence[tuple[float, float, float, float]],
             before: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Where paths begin: at points, in what is sure already, else in the middle of boxes: bool (H, W)."""
    seeds = np.zeros(shape, bool) if before is None else before > SURE
    middles = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in boxes]
    for x, y in points or ([] if seeds.any() else middles):
        if 0 <= x < shape[1] and 0 <= y < shape[0]:
            seeds[int(y), int(x)] = True
    return seeds


def far_along(cost: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The logarithm of the cost of the cheapest path from a seed to every pixel: float32 (H, W)."""
    if not seeds.any():
        return np.full(cost.shape, UNLIKE, np.float32)
    height, width = cost.shape
    every = max(1.0, max(height, width) / PATHS_PX)
    size = max(1, round(width / every)), max(1, round(height / every))
    small = np.asarray(Image.fromarray(cost.astype(np.float32)).resize(size, Image.Resampling.BOX))
    rows, columns = np.nonzero(seeds)
    starts = np.unique(np.stack([rows * size[1] // height, columns * size[0] // width], axis=1), axis=0)
    lengths, _ = MCP_Geometric(small.astype(np.float64) + STEP).find_costs(starts.tolist())
    far = Image.fromarray((lengths * every).astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.log1p(np.asarray(far))


def halos(points: Sequence[tuple[float, float]], shape: tuple[int, int]) -> list[np.ndarray]:
    """How near a point is, on two scales: 0 to 1, (H, W) each."""
    y, x = (np.arange(length, dtype=np.float32) + 0.5 for length in shape)
    nearest = np.full(shape, np.inf, np.float32)
    for at_x, at_y in points:
        nearest = np.minimum(nearest, np.hypot(x[None] - at_x, y[:, None] - at_y))
    return [np.exp(-nearest / px) for px in HALOS_PX]


def boxed(boxes: Sequence[tuple[float, float, float, float]], shape: tuple[int, int]) -> list[np.ndarray]:
    """Whether there is a box, and how deep a pixel lies in one, -1 to 1 (its middle): (H, W) each."""
    depth = np.full(shape, -1 if boxes else 0, np.float32)
    y, x = (np.arange(length, dtype=np.float32) + 0.5 for length in shape)
    for left, top, right, bottom in boxes:
        across = 1 - np.abs(2 * x - left - right) / max(1.0, right - left)
        down = 1 - np.abs(2 * y - top - bottom) / max(1.0, bottom - top)
        depth = np.maximum(depth, np.minimum(across[None], down[:, None]))
    return [np.full(shape, bool(boxes), np.float32), depth]


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], truncate=3)
