"""What each artifact looks like: one painter per kind, which draws on the pixels around the artifact's centre.

Two effects of light are modelled. Matter on or in the tissue absorbs, so optical densities add. Matter with another
refractive index than the mountant bends light, so it has dark rims with bright lines beside them.

Every painter has the same contract:

    painter(frame: ArtifactFrame, rng, strong: bool) -> (pixels float32 (S, S, 3) in 0..255, footprint bool (S, S))

The footprint depends on the frame's size, `rng` and `strong` alone, never on the tissue, and stays within
`frame.size_px / 2` of the centre. Lengths are shares of `size_px`, so an artifact and its footprint look the same at
every magnification. Everything is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from artifusion.damage.shapes import Spine, bell, fall, outline, smooth_noise, wave
from artifusion.slide.tissue import optical_density, transmitted_light

CONTEXT_SHARE = 0.15        # of size_px: tissue around the artifact that folds and blur need
CONTEXT_PX = 4              # more of it

MOUNTANT_OD = 0.03          # of bare glass with mountant
THICKEST_OD = 1.6           # limit that stacked tissue approaches: stray light keeps it from turning black

# Optical density per channel (R, G, B) of felt-tip inks on glass at full thickness.
INKS = {
    "black": (1.15, 1.20, 1.15),
    "blue": (1.30, 0.80, 0.22),
    "green": (1.15, 0.38, 0.72),
    "red": (0.12, 1.05, 0.85),
}

BANDWIDTH = 0.35            # by how much an ink's absorption differs within what one channel sees


@dataclass(frozen=True)
class PenInk:
    """Ink of a colour of INKS; density: optical density in its strongest channel at full thickness, where a stroke may
    be a little thicker; streaks: 0 for smooth strokes, 1 for a felt tip's."""

    colour: str
    density: float
    streaks: float = 1.0

    def __post_init__(self) -> None:
        if self.colour not in INKS:
            raise ValueError(f"no ink is {self.colour!r}; choose from {', '.join(sorted(INKS))}")
        if not 0 < self.density <= 4 or not 0 <= self.streaks <= 2:
            raise ValueError(f"ink has a density in (0, 4] and streaks in 0 to 2, not {self.density} and "
                             f"{self.streaks}")

    def __str__(self) -> str:
        return f"{self.colour} {self.density:g}{' streaky' if self.streaks >= 0.5 else ''}"

    def added(self, thickness: np.ndarray) -> np.ndarray:
        """Optical density (..., 3) of that much ink (...).

        A channel of a camera sees light that is absorbed more and light that is absorbed less; through thick ink
        comes the latter, so that the spectrum bends.
        """
        colour = np.array(INKS[self.colour], np.float32)
        even = self.density * thickness[..., None] * colour / colour.max()
        return even - np.log10((10 ** (-BANDWIDTH * even) + 10 ** (BANDWIDTH * even)) / 2)


# Optical density per channel of textile fibres: blue, grey, brown.
FIBRES = ((0.80, 0.60, 0.34), (0.70, 0.66, 0.60), (0.46, 0.56, 0.76))


@dataclass(frozen=True)
class ArtifactFrame:
    """The square of pixels that a painter works on; the artifact's centre is the middle pixel."""

    pixels: np.ndarray                                                      # float32 (S, S, 3), 0..255
    size_px: int

    @staticmethod
    def reach(size_px: int) -> int:
        """Return the pixels from the centre to the frame's edge; the frame has 2 * reach + 1 a side."""
        return math.ceil((0.5 + CONTEXT_SHARE) * size_px) + CONTEXT_PX

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of every pixel, counted from the centre: float32 (S, S) each."""
        reach = self.reach(self.size_px)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
        return x, y

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the pixels at positions counted from the centre, interpolated: (...) each -> float32 (..., 3).

        The frame is mirrored at its edge.
        """
        reach = self.reach(self.size_px)
        positions = [y + reach, x + reach]
        out = np.empty((*x.shape, 3), np.float32)
        for c in range(3):
            ndimage.map_coordinates(self.pixels[..., c], positions, output=out[..., c], order=1, mode="mirror")
        return out


def fold(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """A curved band of doubled tissue: the density of a copy, mirrored at the crease, is added to its own."""
    size, (x, y) = frame.size_px, frame.grid
    width = size * rng.uniform(0.15, 0.20)
    shadow_px = 0.3 * width
    line = Spine.random(rng, extent=size - 2 * shadow_px, bend=rng.uniform(0.3, 0.8))
    s, d, _, normal = line.coordinates(x, y, within=width + shadow_px)
    taper = np.maximum(np.sin(math.pi * s), 0) ** 0.7 * (1 + 0.25 * wave(rng, s, 3))
    crease = width / 2 * taper * (1 + 0.10 * wave(rng, s, 5))               # the crisp edge, at d = +crease
    free = width / 2 * taper * (1 + 0.22 * wave(rng, s, 7) + 0.05 * wave(rng, s, 40))   # the torn edge, at d = -free
    inside = np.clip(crease - d + 0.5, 0, 1) * np.clip(d + free + 0.5, 0, 1) * (taper > 0.03)

    def layer(across: np.ndarray, along: float) -> np.ndarray:
        shift = across - d
        px = frame.at(x + shift * normal[0] - along * normal[1], y + shift * normal[1] + along * normal[0])
        od = optical_density(ndimage.gaussian_filter(px, (0.004 * size, 0.004 * size, 0)))
        return np.maximum(od - MOUNTANT_OD, 0)                              # two layers of glass are as clear as one

    mirrored = layer(2 * crease - d, 0.0)
    third = layer(d + 0.7 * width, 0.25 * width)
    wrinkles = 1 + 0.16 * wave(rng, d / width + 0.12 * wave(rng, s, 3), 9)
    seam = bell(d, crease, 0.032 * width) + 0.6 * bell(d, -free, 0.035 * width)
    haze = ndimage.gaussian_filter(mirrored, (0.05 * size, 0.05 * size, 0))  # fills gaps in the other sheets
    of_mirrored, of_third, of_haze = (0.70, 0.40, 0.55) if strong else (0.45, 0.10, 0.25)
    added = of_mirrored * mirrored + of_third * third + of_haze * haze
    added = added * wrinkles[..., None] + (0.45 if strong else 0.3) * seam[..., None] * haze
    shade = (0.30 if strong else 0.15) * np.square(fall(-d - free, shadow_px)) * (d < 0) * taper
    od = optical_density(frame.pixels)
    local = ndimage.gaussian_filter(od.mean(axis=2), 0.02 * size)
    shade = shade * np.clip(local / 0.3, 0.05, 1)                           # a shadow shows on tissue only
    strongest = added.max(axis=2, keepdims=True) + 1e-6
    room = np.maximum(THICKEST_OD - od.max(axis=2, keepdims=True), 0.3)     # one factor keeps the hue
    added = added * room * (1 - np.exp(-strongest / room)) / strongest
    od = od + inside[..., None] * added + ((1 - inside) * shade)[..., None]
    footprint = (inside > 0) | ((shade > 0) & (d > -free - shadow_px))
    return transmitted_light(od), footprint


def bubble(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """An air bubble: a dark rim, sharp outside and fading inwards, then a bright line, then dull blur."""
    size, (x, y) = frame.size_px, frame.grid
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    depth = 0.35 * size * (1 + outline(rng, angle, amplitude=0.08, harmonics=2)) - radius   # px inwards
    rim = size * (rng.uniform(0.028, 0.038) if strong else rng.uniform(0.020, 0.027))
    rim = rim * (1 + 0.3 * np.cos(angle - rng.uniform(0, math.tau)))
    inside = np.clip(depth + 0.5, 0, 1)[..., None]
    bent = frame.at(0.93 * x, 0.93 * y)                                     # the bubble is a weak lens
    defocus_px = size * (0.011 if strong else 0.005)
    dull = ndimage.gaussian_filter(bent, (defocus_px, defocus_px, 0))
    # Mountant is missing, so light scatters at both surfaces: less contrast, a little grey.
    veil = rgb(226, 222, 226)
    dull = (0.74 * dull + 0.26 * veil if strong else 0.86 * dull + 0.14 * veil) * (0.90 if strong else 0.96)
    px = frame.pixels + inside * (dull - frame.pixels)
    px += bell(depth, 2.9 * rim, 0.40 * rim)[..., None] * (0.55 if strong else 0.35) * (250 - px)
    px += bell(depth, -1.1 * rim, 0.45 * rim)[..., None] * (0.30 if strong else 0.18) * (250 - px)
    dark = np.where(depth < 0.5 * rim, bell(depth, 0.5 * rim, 0.42 * rim), bell(depth, 0.5 * rim, 0.95 * rim))
    tint = rgb(0.97, 1.0, 1.0) * (0.96 if strong else 0.72)
    px *= 1 - dark[..., None] * tint
    return px, depth > -1.1 * rim - 3 * 0.45 * rim


def pen(frame: ArtifactFrame, rng: np.random.Generator, strong: bool, ink: PenInk | None = None
        ) -> tuple[np.ndarray, np.ndarray]:
    """A felt-tip stroke on the cover slip: absorbing ink, streaked along the stroke, with edges out of focus.

    The ink, where none is given, has a random colour.
    """
    colour = str(rng.choice(sorted(INKS)))                                  # drawn also where it is given: same stroke
    ink = ink or PenInk(colour, (0.85 if strong else 0.40) * max(INKS[colour]))
    size, (x, y) = frame.size_px, frame.grid
    width = size * rng.uniform(0.30, 0.38)
    line = Spine.random(rng, extent=size - width, bend=rng.uniform(0.1, 0.4))
    s, d, across, _ = line.coordinates(x, y, within=width)
    half = width / 2 * (0.88 + 0.10 * wave(rng, s, 3))
    inset = half - np.abs(d)                                                # px inwards from the edge
    across = across / width + 0.06 * wave(rng, s, 2)
    # The tip is full of ink where it lands; where it lifts off, every streak ends at its own distance.
    to_end = (1 - s) * size - (0.10 + 0.10 * wave(rng, across, 16)) * size
    body = (1 - fall(inset, 0.12 * width)) * (1 - fall(to_end, 0.12 * size))
    pool = 0.18 * bell(inset, 0.16 * width, 0.06 * width)                   # ink dries thickest at its edges
    streaks = wave(rng, across, 22) * (0.6 + 0.4 * wave(rng, s, 4))
    mottle = smooth_noise(rng, x.shape, 0.02 * size)
    thickness = body * np.clip(0.82 + 0.55 * ink.streaks * streaks + 0.10 * mottle + pool, 0.05, None)
    return transmitted_light(optical_density(frame.pixels) + ink.added(thickness)), body > 0


def blur(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """A patch out of focus; the defocus grows smoothly from its edge."""
    size, (x, y) = frame.size_px, frame.grid
    depth = 0.39 * size * (1 + outline(rng, np.arctan2(y, x), amplitude=0.24)) - np.hypot(x, y)
    # 0 sharp .. 3 fully out of focus; the offset drops an edge so faint that nothing would show.
    focus = np.clip(3.1 * (1 - fall(depth, 0.30 * size)) - 0.1, 0, 3)
    widest = size * (0.030 if strong else 0.014)
    px = np.zeros_like(frame.pixels)
    for n in range(4):                                                      # a pixel mixes the two nearest blurs
        blurred = ndimage.gaussian_filter(frame.pixels, (widest * n / 3, widest * n / 3, 0))
        px += np.clip(1 - np.abs(focus - n), 0, 1)[..., None] * blurred
    return px, focus > 0


def dark(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """A dark particle far out of focus: a soft round shadow whose middle hides the tissue."""
    size, (x, y) = frame.size_px, frame.grid
    depth = 0.42 * size * (1 + outline(rng, np.arctan2(y, x), amplitude=0.12)) - np.hypot(x, y)
    shade = np.clip(1.02 * (1 - fall(depth, 0.36 * size)) ** 1.5 - 0.02, 0, 1)
    colour = rgb(1.0, 1.04, 1.02) * (1.25 if strong else 0.55)
    return transmitted_light(optical_density(frame.pixels) + shade[..., None] * colour), shade > 0


def dust(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """A cluster of small, sharp, nearly black specks and splinters, each with a thin bright edge."""
    size, (x, y) = frame.size_px, frame.grid
    od, bright = optical_density(frame.pixels), np.zeros_like(x)
    # A spawned generator: how many numbers the noise draws must not move the shapes.
    grain = smooth_noise(rng.spawn(1)[0], x.shape, 0.007 * size)
    speck, footprint = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    for _ in range(rng.integers(16, 26) if strong else rng.integers(8, 14)):
        radius = size * min(0.055, 0.014 * float(np.exp(0.65 * rng.normal())) + 0.006)
        distance, direction = 0.36 * size * rng.beta(1.4, 1.8), rng.uniform(0, math.tau)
        turn = rng.uniform(0, math.tau)
        dx, dy = x - distance * math.cos(direction), y - distance * math.sin(direction)
        stretch = rng.uniform(1.0, 1.7)
        u = (dx * math.cos(turn) + dy * math.sin(turn)) / stretch
        v = (dy * math.cos(turn) - dx * math.sin(turn)) * stretch
        depth = radius * (1 + outline(rng, np.arctan2(v, u), amplitude=0.42, harmonics=6)) - np.hypot(u, v)
        brown = rgb(0.85, 1.0, 1.1) if rng.random() < 0.4 else rgb(1, 1, 1)
        darkness = rng.uniform(1.1, 1.7) if strong else rng.uniform(0.5, 0.9)
        thick = darkness * np.clip(depth / 1.5 + 0.5, 0, 1)
        od = od + (thick * np.clip(0.8 + 0.2 * grain, 0.4, 1.2))[..., None] * brown
        bright = np.maximum(bright, bell(depth, -0.006 * size - 0.8, 0.003 * size + 0.4))
        speck |= thick > 0
        footprint |= depth > -0.015 * size - 2
    px, bright = transmitted_light(np.minimum(od, 2.0)), np.where(speck, 0, bright)
    return px + (bright * (0.4 if strong else 0.25))[..., None] * np.maximum(245 - px, 0), footprint


def thread(frame: ArtifactFrame, rng: np.random.Generator, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """A curly textile fibre: a bent cylinder with dark edges, a bright core and bright lines outside."""
    size, (x, y) = frame.size_px, frame.grid
    widest = max(2.0, size * rng.uniform(0.022, 0.032))
    line = Spine.random(rng, extent=size - 5 * widest, bend=rng.uniform(1.2, 2.8))
    s, d, _, normal = line.coordinates(x, y, within=3 * widest)
    half = widest * (0.74 + 0.26 * wave(rng, s, 13))                        # a ribbon, twisted
    u = d / half                                                            # -1 .. 1 across the fibre
    inside = np.clip(half - np.abs(d) + 0.5, 0, 1)
    shift = -1.6 * d * (inside > 0)                                         # a cylinder lens mirrors
    bent = optical_density(frame.at(x + shift * normal[0], y + shift * normal[1]))
    tint = rgb(*FIBRES[rng.integers(len(FIBRES))])
    grain = 1 + 0.5 * wave(rng, u / 2 + 0.4 * wave(rng, s, 8), 6)
    grain = grain + 0.25 * smooth_noise(rng, x.shape, 0.006 * size)
    wall = 0.75 * bell(np.abs(u), 0.86, 0.20) * (0.7 + 0.3 * wave(rng, s, 11)) + 0.42 * grain
    od = optical_density(frame.pixels)
    od = od + inside[..., None] * (0.5 * bent - 0.3 * od + (1.0 if strong else 0.5) * wall[..., None] * tint)
    px = transmitted_light(np.minimum(od, 1.9))
    glow = 0.30 * inside * bell(u, 0.15, 0.20) * (0.6 + 0.4 * wave(rng, s, 10)) + (
        0.30 * bell(np.abs(u), 1.35, 0.16) * (1 - inside))
    return px + glow[..., None] * np.maximum(245 - px, 0), np.abs(d) < 1.9 * half


def rgb(r: float, g: float, b: float) -> np.ndarray:
    """Return three channels as float32 (3,)."""
    return np.array([r, g, b], np.float32)


PAINTERS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "fold": fold, "bubble": bubble, "pen": pen, "blur": blur, "dark": dark, "dust": dust, "thread": thread,
}
