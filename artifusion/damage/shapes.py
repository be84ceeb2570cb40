"""The geometry of artifacts: curves, uneven outlines, profiles and noise, all drawn from a random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Spine:
    """A smooth plane curve through the frame's centre region, as densely spaced points (N, 2)."""

    points: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, extent: float, bend: float) -> Spine:
        """Return a curve that turns by about `bend` radians to and fro, fitted into a circle `extent` px wide."""
        t = np.linspace(0, 1, max(64, int(2 * extent)))
        heading = rng.uniform(0, math.tau) + bend * (wave(rng, t, 3) + 0.4 * (t - 0.5) * rng.normal())
        points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
        points -= (points.min(axis=0) + points.max(axis=0)) / 2
        return cls(points * (extent / 2 / np.hypot(*points.T).max()))

    def coordinates(
        self, x: np.ndarray, y: np.ndarray, within: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return every pixel's coordinates along the curve: (s, d, across, normal).

        s: share of the curve's length, 0..1, float32 (...).
        d: signed distance to the curve in px, (...); beyond the curve's ends it is the distance to the end.
        across: the part of it along the curve's normal, (...); equal to d except beyond the ends.
        normal: the curve's unit normal at its nearest point, (2, ...).

        Pixels further than `within` px from the curve have s = 0, d = within, across = 0 and normal = 0.
        """
        distance, nearest = cKDTree(self.points).query(
            np.stack([x, y], axis=-1), distance_upper_bound=max(within, 1.0))
        found = np.isfinite(distance)
        nearest, distance = np.where(found, nearest, 0), np.where(found, distance, within).astype(np.float32)
        points = self.points.astype(np.float32)
        tangent = np.gradient(points, axis=0)
        tangent /= np.hypot(*tangent.T)[:, None]
        normal = np.stack([-tangent[nearest, 1], tangent[nearest, 0]]) * found
        across = normal[0] * (x - points[nearest, 0]) + normal[1] * (y - points[nearest, 1])
        s = nearest.astype(np.float32) / (len(points) - 1)
        return s, np.where(across < 0, -distance, distance), across, normal


def fall(v: np.ndarray, width: float) -> np.ndarray:
    """Return 1 at v <= 0, falling smoothly to exactly 0 at v >= width."""
    t = np.clip(v / width, 0, 1)
    return 1 - t * t * (3 - 2 * t)


def bell(v: np.ndarray, centre, sigma) -> np.ndarray:
    """Return a Gaussian bump of height 1, exactly 0 beyond three sigma."""
    t = (v - centre) / sigma
    return np.where(np.abs(t) < 3, np.exp(-0.5 * np.square(t)), np.float32(0))


def wave(rng: np.random.Generator, t: np.ndarray, harmonics: int) -> np.ndarray:
    """Return a smooth random function of t (0..1), about -1..1: a sum of sines of 1 to `harmonics` half periods."""
    k = np.arange(1, harmonics + 1)
    weight = rng.normal(size=harmonics) / np.sqrt(k)
    weight /= np.abs(weight).sum() * 0.6 + 1e-9
    phases = rng.uniform(0, math.tau, harmonics).tolist()
    total = np.zeros_like(t)
    for n, w, phase in zip(k.tolist(), weight.tolist(), phases, strict=True):
        total += w * np.sin(math.pi * n * t + phase)
    return total


def outline(rng: np.random.Generator, angle: np.ndarray, amplitude: float, harmonics: int = 4) -> np.ndarray:
    """Return by how much an uneven round shape deviates from its circle, relative to its radius: below `amplitude`."""
    k = np.arange(2, harmonics + 2)
    weight = rng.uniform(0.3, 1.0, harmonics) / k
    weight *= amplitude / weight.sum()
    phases = rng.uniform(0, math.tau, harmonics).tolist()
    total = np.zeros_like(angle)
    for n, w, phase in zip(k.tolist(), weight.tolist(), phases, strict=True):
        total += w * np.cos(n * angle + phase)
    return total


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> np.ndarray:
    """Return noise of unit variance, float32, without detail finer than sigma_px."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), max(sigma_px, 1.0), mode="wrap")
    return noise / noise.std()
