"""Holes of the shapes that artifacts have: what is repainted once the model is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(x, y of every pixel (S, S), shares of the side from -0.5 to 0.5; rng) -> bool (S, S)."""

AREA = (0.05, 0.70)         # share of a square that its hole covers
LARGE_AREA = (0.12, 0.70)   # that a large one covers


def artifact_hole(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """A hole like a fold, bubbles, pen strokes, dust, threads, or the unknown part of a large region.

    Returns bool (side, side), True inside; it covers a share of the square within AREA. All of one kind, as many
    pieces as that takes. Widths and lengths are shares of the side.
    """
    return hole_of(KINDS, AREA, side_px, rng)


def large_hole(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """As `artifact_hole`, but never thin or small, and within LARGE_AREA."""
    return hole_of(LARGE_KINDS, LARGE_AREA, side_px, rng)


def hole_of(
    kinds: Sequence[Shape], area: tuple[float, float], side_px: int, rng: np.random.Generator
) -> np.ndarray:
    """Shapes of one of the kinds, as many as cover a share of the square within `area`: bool (side, side)."""
    kind = kinds[int(rng.integers(len(kinds)))]
    x, y = square(side_px)
    hole = np.zeros((side_px, side_px), bool)
    while hole.mean() < area[0]:
        more = hole | kind(x, y, rng)
        if more.mean() <= area[1]:
            hole = more
    return hole


def square(side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel of a square, float32 (side, side), from -0.5 to 0.5 of its side."""
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32) / side_px - 0.5
    return x, y


def fold(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A long, gently curved band that tapers."""
    return stroke(x, y, rng, width=(0.06, 0.47), length=(0.7, 2.0), bend=0.12)


def pen(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three wide curved strokes."""
    hole = np.zeros(x.shape, bool)
    for _ in range(rng.integers(1, 4)):
        hole |= stroke(x, y, rng, width=(0.12, 0.35), length=(0.6, 2.0), bend=0.35)
    return hole


def thread(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A thin, long, curly line."""
    return stroke(x, y, rng, width=(0.02, 0.06), length=(0.8, 2.0), bend=0.5)


def bubble(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An uneven ellipse, whole or only its rim."""
    depth = ellipse(x, y, rng, radius=(0.08, 0.65), stretch=1.5)
    return (depth > 0) & (depth < rng.uniform(0.15, 0.5)) if rng.random() < 0.35 else depth > 0


def dust(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three to eight specks."""
    hole = np.zeros(x.shape, bool)
    for _ in range(rng.integers(3, 9)):
        hole |= ellipse(x, y, rng, radius=(0.02, 0.09), stretch=2.0) > 0
    return hole


def side(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All that lies beyond one edge or two: a canvas inside a large region knows tissue on some sides only."""
    hole = x < rng.uniform(-0.4, 0.2)
    if rng.random() < 0.5:
        hole = hole | (y < rng.uniform(-0.4, 0.2))
    return np.rot90(hole, int(rng.integers(4)))


def box(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A large rectangle."""
    (left, top), (width, height) = rng.uniform(-0.5, 0.1, 2), rng.uniform(0.35, 0.9, 2)
    return (x > left) & (x < left + width) & (y > top) & (y < top + height)


KINDS = (fold, pen, thread, bubble, dust, side, box)
LARGE_KINDS = (fold, pen, bubble, side, box)


def stroke(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, width: tuple[float, float], length: tuple[float, float],
    bend: float,
) -> np.ndarray:
    """A band along the curve v = f(u) in axes (u, v) at a random place and angle; its width varies and tapers."""
    u, v = turned(x, y, rng)
    half, reach = rng.uniform(*width) / 2, rng.uniform(*length) / 2
    f, slope = np.zeros_like(u), np.zeros_like(u)
    for waves in (0.5, 1, 2):
        size, phase, turns = bend * rng.normal() / (2 * waves + 1), rng.uniform(0, math.tau), math.tau * waves
        f += size * np.sin(turns * u + phase)
        slope += size * turns * np.cos(turns * u + phase)
    distance = np.abs(v - f) / np.sqrt(1 + slope * slope)
    uneven = 1 + 0.12 * np.sin(rng.uniform(6, 20) * u + rng.uniform(0, math.tau))
    return distance < half * uneven * np.sqrt(np.clip((reach - np.abs(u)) / (0.3 * reach), 0, 1))


def ellipse(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, radius: tuple[float, float], stretch: float
) -> np.ndarray:
    """How deep every place lies in an uneven ellipse: 1 at its centre, 0 at its edge, below 0 outside."""
    u, v = turned(x, y, rng)
    longer = math.sqrt(rng.uniform(1, stretch))
    u, v = u / longer, v * longer
    angle = np.arctan2(v, u)
    edge = 1 + 0.08 * np.cos(2 * angle + rng.uniform(0, math.tau)) + 0.06 * np.cos(3 * angle + rng.uniform(0, math.tau))
    return 1 - np.hypot(u, v) / (math.exp(rng.uniform(*np.log(radius))) * edge)


def turned(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in axes of a random angle around a random place of the square."""
    angle = rng.uniform(0, math.tau)
    x, y = x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
