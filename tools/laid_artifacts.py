"""Artifacts as real slides show them, laid on squares of clean tissue, with what shows of them: uint8 (S, S, 3).

Beside those of `artifusion damage` these are narrow folds, long bubbles under a cover slip's edge, and particles in and
out of focus; and grafts of other tissue, which are no artifact.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from artifusion.damage.shapes import Spine, smooth_noise, wave
from artifusion.damage.spots import paint
from artifusion.mask.classes import CLASSES
from artifusion.slide.tissue import optical_density, transmitted_light


def doubled(pixels: np.ndarray, um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with one fold, and what shows of it: mostly a narrow line, seldom a broad strip.

    One to three layers of the tissue beside are added, displaced and out of focus; one edge is crisp, one soft; glass
    may show in a torn gap beside it.
    """
    side = pixels.shape[0]
    width = math.exp(rng.uniform(math.log(7), math.log(30))) if rng.random() < 0.7 else math.exp(
        rng.uniform(math.log(30), math.log(160)))
    width = max(width / um, 1.6)
    length = min(max(3 * width, math.exp(rng.uniform(math.log(60), math.log(900))) / um), 1.6 * side)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    center = rng.uniform(0.2, 0.8, 2) * side
    line = Spine.random(rng, extent=max(8.0, length), bend=rng.choice([0.1, 0.3, 0.8]))
    gap = width * rng.uniform(0.3, 1.6) if rng.random() < 0.35 else 0.0
    s, d, _, normal = line.coordinates(x - center[1], y - center[0], within=width + gap + 12 / um + 3)
    taper = np.clip(np.sin(math.pi * s) * rng.uniform(1.2, 4), 0, 1) ** rng.uniform(0.3, 1.0)
    half = width / 2 * np.maximum(taper, 0.01) * (1 + rng.uniform(0, 0.35) * wave(rng, s, 8))
    soft = np.array([math.exp(rng.uniform(math.log(0.4), math.log(4))) / um for _ in range(2)]) + 0.35
    covered = np.clip((d + half) / soft[0] + 0.5, 0, 1) * np.clip((half - d) / soft[1] + 0.5, 0, 1) * (s > 0) * (s < 1)
    od = optical_density(pixels)
    layers = rng.uniform(0.5, 1.3) if rng.random() < 0.6 else rng.uniform(1.3, 2.6)
    added = np.zeros_like(od)
    for _ in range(2):
        shift = normal * rng.uniform(-2.5, 2.5) * width
        along = rng.uniform(-20, 20, 2) / um
        rows, columns = (y + shift[1] + along[0]), (x + shift[0] + along[1])
        layer = np.stack([ndimage.map_coordinates(od[..., c], [rows, columns], order=1, mode="mirror")
                          for c in range(3)], axis=2)
        defocus = math.exp(rng.uniform(math.log(0.5), math.log(6))) / um
        added += np.clip(ndimage.gaussian_filter(layer, (defocus, defocus, 0)) - 0.03, 0, None)
    wrinkle = 1 + rng.uniform(0, 0.35) * wave(rng, d / width + 0.1 * wave(rng, s, 3), 9)
    seam = rng.uniform(0, 0.8) * (np.exp(-0.5 * ((np.abs(d) - half) / (0.12 * width + 0.7)) ** 2))
    thick = layers / 2 * (wrinkle + seam) * covered
    grey = rng.uniform(0, 0.12) * np.array([1.15, 1.0, 0.9], np.float32)        # thick tissue scatters light
    new = od + thick[..., None] * (added + grey)
    limit = rng.uniform(1.3, 2.2)
    new = np.where(new > 0.7 * limit, 0.7 * limit + 0.3 * limit * np.tanh((new - 0.7 * limit) / (0.3 * limit)), new)
    if gap:
        edge = rng.choice([-1, 1]) * d
        ragged = gap * np.clip(taper * (1 + 0.6 * wave(rng, s, 12)) - rng.uniform(0, 0.4), 0, None)
        torn = np.clip(edge - half + 0.5, 0, 1) * np.clip(half + ragged - edge + 0.5, 0, 1) * (s > 0) * (s < 1)
        new = new + torn[..., None] * (rng.uniform(0.02, 0.05) - new)
    dense = np.clip(added.mean(axis=2) * layers / 2, 0, None)
    shows = (covered > 0.4) & (ndimage.gaussian_filter(dense, 3) > 0.04)
    return as_light(new), shows


def as_light(density: np.ndarray) -> np.ndarray:
    return transmitted_light(density).clip(0, 255).round().astype(np.uint8)


def capsule(pixels: np.ndarray, um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A long bubble as under a cover slip's edge: a thin dark rim, inside more or less grey, and what it covers."""
    side = pixels.shape[0]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    half = math.exp(rng.uniform(math.log(15), math.log(180))) / 2 / um
    extent = max(8.0, half * rng.uniform(1, 12))
    at = rng.uniform(0, 1, 2) * side
    line = Spine.random(rng, extent=extent, bend=rng.uniform(0.05, 0.8))
    s, d, _, _ = line.coordinates(x - at[1], y - at[0], within=half + 20 / um)
    depth = half * (1 + 0.25 * wave(rng, s, 4)) - np.abs(d)
    rim = max(0.5, rng.uniform(0.6, 4) / um)
    inside = np.clip(depth + 0.5, 0, 1)[..., None]
    density = optical_density(pixels)
    sigma = rng.uniform(0.2, 8) / um
    dull = ndimage.gaussian_filter(density, (sigma, sigma, 0)) * rng.uniform(0.1, 1.0) + rng.uniform(0, 0.4)
    density = density + inside * (dull - density)
    dark = rng.uniform(0.3, 1.6) * np.exp(-0.5 * ((depth - rim) / rim) ** 2)
    bright = rng.uniform(0, 0.6) * np.exp(-0.5 * ((depth + 1.5 * rim) / rim) ** 2)[..., None]
    density = (density + dark[..., None]) * (1 - bright)
    return as_light(np.minimum(density, 2.2)), depth > -rim


def particle(pixels: np.ndarray, um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One to five dark particles or threads, in or out of focus, and what shows of them."""
    side = pixels.shape[0]
    density, shows = optical_density(pixels), np.zeros(pixels.shape[:2], bool)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    for _ in range(rng.integers(1, 6)):
        at = rng.uniform(0.05, 0.95, 2) * side
        size = max(1.2, math.exp(rng.uniform(math.log(5), math.log(120 if rng.random() < 0.4 else 30))) / um)
        if rng.random() < 0.3:
            line = Spine.random(rng, extent=max(8.0, rng.uniform(60, 400) / um), bend=rng.uniform(0.1, 2.5))
            half = max(0.6, rng.uniform(1.5, 14) / um)
            distance = np.abs(line.coordinates(x - at[1], y - at[0], within=6 * half + 6)[1])
            shape = np.clip(half - distance + 0.5, 0, 1)
        else:
            field = smooth_noise(rng, (side, side), max(1.0, size * rng.uniform(0.1, 0.4)))
            distance = np.hypot((x - at[1]) * rng.uniform(0.6, 1.6), y - at[0])
            shape = np.clip((0.5 * size * (1 + 0.5 * field) - distance) + 0.5, 0, 1)
        sharp = rng.random() < 0.55
        defocus = 0.4 / um if sharp else math.exp(rng.uniform(math.log(1), math.log(25))) / um
        shape = ndimage.gaussian_filter(shape, defocus)
        colour = np.array([1.0, 1.0, 1.0]) if rng.random() < 0.7 else np.array([0.8, 1.0, 1.15])
        dark = rng.uniform(0.3, 2.0) if sharp else math.exp(rng.uniform(math.log(0.12), math.log(1.5)))
        grain = 1 + 0.1 * smooth_noise(rng, shape.shape, 1)
        density = density + (dark * shape * grain)[..., None] * colour
        shows |= dark * shape > 0.08
    return as_light(np.minimum(density, 2.2)), shows


def grafted(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tissue with places or bands of other tissue, often denser, behind an uneven border: no artifact."""
    field = ndimage.gaussian_filter(rng.standard_normal(pixels.shape[:2]), rng.uniform(6, 50))
    field = -abs(field) if rng.random() < 0.5 else field
    share = (field > np.quantile(field, rng.uniform(0.5, 0.9))).astype(np.float32)
    share = ndimage.gaussian_filter(share, rng.uniform(0.3, 4))[..., None]
    od, other_od = optical_density(pixels), optical_density(other)
    other_od = other_od * (rng.uniform(0.8, 2.2) * od.mean() / max(0.05, other_od.mean()))
    return as_light((1 - share) * od + share * other_od)


SIZES_UM = {"fold": (90, 400), "bubble": (30, 700), "pen": (120, 900), "blur": (100, 800), "dark": (15, 140),
            "dust": (50, 200), "thread": (80, 400)}
ODDS = {"none": 3, "fold": 8, "strip": 2, "bubble": 3, "capsule": 3, "pen": 4, "blur": 2, "dark": 3, "particle": 4,
        "dust": 2, "thread": 1}
PAINTED = [name for name, times in ODDS.items() for _ in range(times)]
COUNTS_AS = {"strip": "fold", "particle": "dust", "thread": "dust", "capsule": "bubble"}


def composite(pixels: np.ndarray, um: float, other: np.ndarray | None, rng: np.random.Generator
              ) -> tuple[np.ndarray, np.ndarray, str]:
    """A square of tissue with one or two artifacts or none, its class ids, and the name of the last kind."""
    side, truth = pixels.shape[0], np.zeros(pixels.shape[:2], np.uint8)
    if other is not None and rng.random() < 0.3:
        pixels = grafted(pixels, other, rng)
    name = "none"
    for _ in range(2 if rng.random() < 0.35 else 1):
        name = str(PAINTED[rng.integers(len(PAINTED))])
        if name == "none":
            continue
        if name == "fold":
            pixels, shows = doubled(pixels, um, rng)
        elif name in ("particle", "capsule"):
            pixels, shows = (particle if name == "particle" else capsule)(pixels, um, rng)
        else:
            kind = "fold" if name == "strip" else name
            low, high = SIZES_UM[kind]
            size = max(24, round(min(math.exp(rng.uniform(math.log(low), math.log(high))) / um, 2.0 * side)))
            x, y = (int(v) for v in rng.integers(0, side, 2))
            pixels, mask = paint(kind, pixels, (x, y), size, rng, "strong" if rng.random() < 0.65 else "mild")
            shows = ndimage.binary_erosion(mask, iterations=2, border_value=1)
            if kind == "bubble" and rng.random() < 0.5:
                pixels = greyed(pixels, shows, um, rng)
        truth[shows] = CLASSES[COUNTS_AS.get(name, name)]
    return pixels, truth, name


def greyed(pixels: np.ndarray, shows: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """The inside of a bubble grey, and out of focus: the air does not lead light on."""
    inside = ndimage.gaussian_filter(shows.astype(np.float32), rng.uniform(0.5, 3))[..., None]
    density = optical_density(pixels)
    sigma = rng.uniform(0.3, 4) / um
    dull = ndimage.gaussian_filter(density, (sigma, sigma, 0)) * rng.uniform(0.3, 1) + rng.uniform(0, 0.35)
    return as_light(density + inside * (dull - density))
