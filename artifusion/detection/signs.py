"""What an artifact looks like at a few um/px, pixel by pixel, against the slide's own tissue.

Every map is in one unit: 1 is enough evidence on its own; an artifact extends as far as the map exceeds LOW. Lengths
are in um, so that the maps mean the same at every scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from artifusion.errors import SlideError
from artifusion.slide.tissue import DENSITIES, GLASS_OD, optical_density

KINDS = ("pen", "black", "blur")        # "black" becomes bubble, dark, dust, pen or other by its shape
LOW: Mapping[str, float] = {"pen": 0.45, "black": 0.4, "blur": 0.6}
FEWEST_PX = 400             # tissue pixels; with fewer, the look of a common H&E slide is taken
SMALLEST_SIGMA_PX = 0.5
BLUR_UM = 2.0               # per pixel; larger pixels never look sharp
DARK_SHARE, BROWN_SHARE, FOREIGN_SHARE = 0.5, 0.12, 0.8


@dataclass(frozen=True)
class Look:
    """The slide's own tissue: optical densities (R, G, B) above the glass, and how far clean tissue strays.

    Attributes:
        glass, density: of bare glass, and of median tissue above it.
        neutral, stray: the median neutral density, and how far above it the densest tenth lies.
        red, cyan: the most redness, and the most red over green, per density.
        blue: the least blue per red.
        detail: the median local contrast.
    """

    glass: tuple[float, float, float] = (0.0, 0.0, 0.0)
    density: tuple[float, float, float] = (0.17, 0.30, 0.16)
    neutral: float = 0.05
    stray: float = 0.05
    red: float = 0.0
    cyan: float = 0.0
    blue: float = 0.36
    detail: float = 0.1


def look_of(samples: Iterable[np.ndarray], mpp: float, any_stain: bool = False) -> Look:
    """The look of the tissue in pieces of a slide, uint8 (H, W, 3) at mpp um per pixel.

    It consists of medians and quantiles: artifacts on a quarter of the tissue do not change it much. Memory: 40 bytes a
    pixel.

    Raises:
        SlideError: not a bright-field H&E slide, unless any_stain.
    """
    pieces = [optical_density(piece) for piece in samples]
    whole = np.concatenate([piece.reshape(-1, 3) for piece in pieces])
    if not any_stain and (whole.mean(axis=1) > 1).mean() > DARK_SHARE:
        raise SlideError("more than half of it is dark: not a bright-field slide but fluorescence, say; detection "
                         "knows H&E only, pass --any-stain to try all the same, or draw a mask and give it as --mask")
    glass = np.clip(np.percentile(whole, 1, axis=0), 0, 0.12).astype(np.float32)
    smooth = [blurred(piece - glass, 3 / mpp) for piece in pieces]
    tissue = np.concatenate([od[gray(od) > GLASS_OD] for od in smooth])
    if len(tissue) < FEWEST_PX:
        return Look(glass=tuple(glass.tolist()))
    if not any_stain:
        check_stain(tissue)
    blacks = np.concatenate([neutral(blurred(piece - glass, 1 / mpp))[gray(od) > GLASS_OD]
                             for piece, od in zip(pieces, smooth, strict=True)])
    density = np.maximum(np.median(tissue, axis=0), 0.05)
    contrast = np.concatenate([detail(piece - glass, mpp)[gray(od) > 0.7 * density.mean()]
                               for piece, od in zip(pieces, smooth, strict=True)])
    reds = redness(tissue) / tissue.mean(axis=1)
    cyans = (tissue[:, 0] - 1.02 * tissue[:, 1]) / tissue.mean(axis=1)
    return Look(
        glass=tuple(glass.tolist()), density=tuple(density.tolist()), neutral=min(0.25, float(np.median(blacks))),
        stray=min(0.2, float(np.percentile(blacks, 90) - np.median(blacks))),
        red=float(max(0.0, np.percentile(reds, 85))),
        cyan=float(np.clip(np.percentile(cyans, 90) + 0.06, 0.0, 0.25)),
        blue=float(min(0.36, 0.85 * np.percentile(tissue[:, 2] / np.maximum(tissue[:, 0], 0.1), 10))),
        detail=float(np.median(contrast)) if len(contrast) else 0.1)


def check_stain(tissue: np.ndarray) -> None:
    """Raise SlideError where densities (N, 3) are not H&E's, which absorbs green most."""
    stained = tissue[tissue.mean(axis=1) > 0.12]
    if not len(stained):
        return
    red, green, blue = stained.T
    brown = (blue > 1.15 * green) & (blue > 1.4 * red)
    foreign = ((blue > 1.2 * green) | (red > 1.2 * green)) & (neutral(stained) < 0.3)
    if brown.mean() > BROWN_SHARE or foreign.mean() > FOREIGN_SHARE:
        share, what = (brown.mean(), "brown") if brown.mean() > BROWN_SHARE else (foreign.mean(), "no colour of H&E")
        raise SlideError(f"{share:.0%} of its tissue is {what}: not an H&E slide but IHC or another stain; detection "
                         "knows H&E only, pass --any-stain to try all the same, or draw a mask and give it as --mask")


def evidence(od: np.ndarray, mpp: float, look: Look, kinds: Collection[str] = KINDS) -> dict[str, np.ndarray]:
    """A float32 map (H, W) for each of these kinds, but of blur up to BLUR_UM only.

    od: `density_above_glass` of the pixels, at mpp um per pixel.
    """
    maps = {}
    if "pen" in kinds:
        maps["pen"] = ink(blurred(od, 2.5 / mpp), look)
    if "black" in kinds:
        maps["black"] = (neutral(blurred(od, 1.0 / mpp)) - look.neutral) / max(0.30, 3.5 * look.stray)
    if "blur" in kinds and mpp <= BLUR_UM:
        sharp = detail(od, mpp) / max(look.detail, 1e-3)
        covered = blurred((gray(od) > GLASS_OD).astype(np.float32), 12 / mpp)
        maps["blur"] = np.where(covered > 0.95, (1 - sharp) / 0.7, 0)
    return maps


def ink(od: np.ndarray, look: Look) -> np.ndarray:
    """The evidence of coloured ink: (H, W, 3) -> (H, W)."""
    red, green, blue = (od[..., c] for c in range(3))
    mean = gray(od)
    return np.maximum.reduce((
        (red - 1.02 * green - look.cyan * mean) / 0.09,                   # blue and green ink: red is absorbed most
        (look.blue * red - blue) / 0.09,                                  # blue ink lets more blue through than nuclei
        # Red ink: as eosin, but blue is absorbed too; red cells and pigment absorb more of it.
        (redness(od) - look.red * mean - 0.02) / 0.12 * (blue < 0.98 * green),
    ))


def density_above_glass(rgb: np.ndarray, look: Look) -> np.ndarray:
    """Optical densities above those of the glass, float32 (H, W, 3), of pixels uint8 (H, W, 3)."""
    return cv2.LUT(rgb, (DENSITIES[:, None] - np.array(look.glass, np.float32))[None])


def gray(od: np.ndarray) -> np.ndarray:
    """The mean over the colours: (H, W, 3) -> (H, W). Several times as fast as numpy's over the last axis."""
    return cv2.transform(od, np.full((1, 3), 1 / 3, np.float32))


def neutral(od: np.ndarray) -> np.ndarray:
    """How much of all colours is absorbed alike: (..., 3) -> (...). Stains let one colour through; black does not."""
    colours = [od[..., c] for c in range(3)]
    least, most = np.minimum.reduce(colours), np.maximum.reduce(colours)
    return least - 0.5 * (most - least)


def redness(od: np.ndarray) -> np.ndarray:
    """How much more blue than red is absorbed, less a share of the green: (..., 3) -> (...)."""
    return od[..., 2] - od[..., 0] - 0.2 * od[..., 1]


def detail(od: np.ndarray, mpp: float) -> np.ndarray:
    """Local contrast below 3 um, as a share of the density there: (H, W, 3) -> (H, W)."""
    mean = gray(od)
    fine = np.abs(blurred(mean, 0.5 / mpp) - blurred(mean, 2 / mpp))
    return blurred(fine, 10 / mpp) / (np.abs(blurred(mean, 10 / mpp)) + 0.05)


def blurred(values: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian smoothing of float32 (H, W) or (H, W, C) along its rows and columns; their ends are mirrored."""
    sigma = max(SMALLEST_SIGMA_PX, sigma_px)
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return cv2.sepFilter2D(values, -1, weights, weights, borderType=cv2.BORDER_REFLECT)
