"""Ink on a slide: what light it takes, and how well a colour under it can be measured."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from artifusion.slide.tissue import optical_density, transmitted_light

KNOTS = np.array([0, 0.17, 0.35, 0.52, 0.78, 1.13, 1.56], np.float32)   # thicknesses between which a spectrum is one
TOTAL = 2.0                 # optical density, of all channels together, of ink of thickness 1
GLARE = 3.0                 # grey levels of light that never went through the ink
MODEL_ERROR = 0.06          # of the ink's density, from pixel to pixel
BLACK = 4.0                 # optical density, of a channel without light: how wrong it may be
JPEG_QUALITY = 80           # of most slides
MEASURED_AT = np.array([0, 0.15, 0.3, 0.6, 1.0, 1.6, 2.4], np.float32)
LN10 = np.float32(np.log(10))


@dataclass(frozen=True, eq=False)
class Ink:
    """The spectrum of an ink, which bends where it is thick.

    slopes: float32 (len(KNOTS), 3), the optical density that thickness adds from each of KNOTS on. Those of all
    channels add up to TOTAL, so that thickness means the same for every ink.
    """

    slopes: np.ndarray

    @classmethod
    def even(cls, spectrum: np.ndarray) -> Ink:
        """Ink whose spectrum (3,) is the same at every thickness."""
        return cls(np.repeat(TOTAL * spectrum[None] / spectrum.sum(), len(KNOTS), axis=0).astype(np.float32))

    def density(self, thickness: np.ndarray) -> np.ndarray:
        """Optical density (3, P) of ink of some thickness (P,)."""
        return self.slopes.T @ layers(thickness)

    def slope(self, thickness: np.ndarray) -> np.ndarray:
        """The density (3, P) that more thickness (P,) would add."""
        return self.slopes.T[:, np.maximum(np.searchsorted(KNOTS, thickness, side="right") - 1, 0)]


def layers(thickness: np.ndarray) -> np.ndarray:
    """How much of a thickness (P,) lies between each two KNOTS: float32 (len(KNOTS), P)."""
    widths = np.append(np.diff(KNOTS), np.float32(np.inf))
    return np.clip(thickness[None].astype(np.float32) - KNOTS[:, None], 0, widths[:, None])


class Noise:
    """The noise of a stored scan under ink: what a slide's JPEG does to clean tissue under so much of that ink.

    clean: uint8 (H, W, 3).
    """

    def __init__(self, clean: np.ndarray, ink: Ink) -> None:
        density = optical_density(clean)
        sigmas = []
        for added in ink.density(MEASURED_AT).T:
            seen = np.clip(np.rint(transmitted_light(density + added)), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(seen).save(file, "JPEG", quality=JPEG_QUALITY)
            change = np.asarray(Image.open(file)).astype(np.float32) - seen
            sigmas.append(np.sqrt(change.reshape(-1, 3).var(axis=0) + 1))               # and 1 of the sensor
        self.sigmas = np.stack(sigmas, axis=1)                                          # (3, len(MEASURED_AT))

    def variance(self, light: np.ndarray, thickness: np.ndarray, density: np.ndarray) -> np.ndarray:
        """Variance (3, P) of what is left of a pixel's optical density without the ink's.

        light: the pixel's grey levels (3, P); thickness (P,) and density (3, P) are the ink's.
        """
        sigma = np.stack([np.interp(thickness, MEASURED_AT, each) for each in self.sigmas]).astype(np.float32)
        spread = np.sqrt(sigma**2 + (GLARE * (1 - np.exp(-LN10 * density))) ** 2)
        relative = spread / (light + 1)
        relative = np.where(light < 2 * spread, np.maximum(relative, BLACK), relative)
        return (relative / LN10) ** 2 + (MODEL_ERROR * density) ** 2
