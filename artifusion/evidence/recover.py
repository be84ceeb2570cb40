"""What is still there under ink: its colours, and how little is known of each.

Ink absorbs, so in optical density it adds (Beer-Lambert). From clean tissue come the colours that are natural; under
the ink's likeliest spectrum and thickness, each pixel's clean colour is the posterior mean. Its level is the error to
expect, by the posterior variance, contrast, and how far detail moved the thickness. No torch, no slides: pixels in,
pixels out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from artifusion.evidence import ink_refine
from artifusion.evidence.colours import AT_ONCE, Colours, Places, posterior
from artifusion.evidence.ink import LN10
from artifusion.evidence.ink_fit import SAMPLE, Fit, fit_ink
from artifusion.evidence.ink_map import Cells, Sample
from artifusion.evidence.ink_opaque import opaque
from artifusion.evidence.likeness import blurred
from artifusion.slide.spacing import check_spacing
from artifusion.slide.tissue import optical_density, transmitted_light

FAINT, PAINTED = 0.4, 0.6   # levels from which a pixel is faint, and from which it is as unknown as any hole's
KEPT_ID, RECOVERED_ID, FAINT_ID, PAINTED_ID = 0, 1, 2, 3
LEVEL_PX = 2.0              # blur of the levels, of contrast and of what moved
CONTRAST, MOVED = 0.075, 0.1            # powers of both in a squared error, fitted to ink painted over training images
SPREAD = 45.0               # of the grey levels of tissue: what errs by as much tells no more than their mean
TILE_PX, MARGIN_PX = 1024, 64
GLASS = 223                 # grey level of the darkest channel of glass
LEAST_CLEAN_PX = 2_000      # without so much clean tissue nothing is recovered
LEAST_INK = 0.02            # optical density of a place that counts as inked; below it more and more of the scan stays
MOST_ODD = 0.3              # share of colours that no clean tissue has, above which the fit failed
PATCH_PX = 256              # side of the clean piece on which noise is measured
LOOKED_AT = 200_000         # pixels of those around the ink
PLACE_PX = 4                # at least, of the squares by which colours of places are counted


@dataclass(frozen=True, eq=False)
class Recovery:
    """An image without the ink that was over it.

    Attributes:
        image: uint8 (H, W, 3), recovered where `classes` says so, else as it was.
        level: float32 (H, W), how little is known of each pixel: 0 outside the mask, 1 where nothing is.
        classes: uint8 (H, W): 0 kept, 1 recovered (level below 0.4), 2 faint (below 0.6), 3 to be painted.
        ink: what is told of the ink: "spectrum" (optical density of red, green and blue, the strongest 1; None where no
            ink is seen, and the scan stays), "thickness" (median and 99 % quantile of its density in that channel),
            "likelihood" of the colours below, "shares" of the classes, median "level", and "failed", why nothing was
            recovered, or None.
    """

    image: np.ndarray
    level: np.ndarray
    classes: np.ndarray
    ink: dict[str, Any]


def recover(image: np.ndarray, mask: np.ndarray, reference: np.ndarray | None = None, mpp: float = 0.5, *,
            known: np.ndarray | None = None) -> Recovery:
    """Recover the tissue under ink. Recovered colours are measured through the ink, and estimated; nothing is invented.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: bool (H, W), True = under ink.
        reference: uint8 (h, w, 3), more clean tissue of the same slide (default: none but the image's own).
        mpp: um per pixel.
        known: bool (H, W), what is clean (default: all outside the mask).

    Every pixel outside the mask equals the input. A function of the arguments: the number of threads changes nothing.
    Memory: about 20 bytes a pixel, and 150 MB for each thread.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    check_arguments(image, mask, reference, mpp, known)
    known = ~mask if known is None else known & ~mask
    clean, patch = image[known], clean_patch(image, known)
    if reference is not None:
        clean, patch = with_natural(clean, reference.reshape(-1, 3)), reference[:PATCH_PX, :PATCH_PX]
    if not mask.any() or (clean.min(axis=1) < GLASS).sum() < LEAST_CLEAN_PX:
        return unrecovered(image, mask, "too little clean tissue around it")
    colours = Colours.of(clean)
    places = Places.of(colours, image, known, max(PLACE_PX, round(1 / mpp)), mpp)
    sample = Sample.of(image, mask, places, max(1, int((mask.sum() / SAMPLE) ** 0.5)))
    fit = fit_ink(image, mask, sample, colours, patch, mpp)
    if fit.odd > MOST_ODD:
        return unrecovered(image, mask, f"{fit.odd:.0%} of the colours below the ink are those of no clean tissue", fit)
    recovered, level, thickness = image.copy(), np.zeros(mask.shape, np.float32), []
    work = partial(recover_tile, image, mask, colours, places, fit, mpp)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "recover") as threads:
        for tile, pixels, levels, some in threads.map(work, tiles(mask)):
            recovered[tile], level[tile] = pixels, levels
            thickness.append(some)
    level[opaque(image, mask, known, reference, fit, mpp)] = 1
    return recovery_of(image, recovered, mask, level, np.concatenate(thickness), fit)


def check_arguments(image: np.ndarray, mask: np.ndarray, reference: np.ndarray | None, mpp: float,
                    known: np.ndarray | None) -> None:
    for name, pixels in (("an image", image), ("a reference", reference)):
        if pixels is not None and (pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3):
            raise ValueError(f"{name} must be uint8 (H, W, 3) RGB, got {pixels.dtype} {pixels.shape}")
        if pixels is not None and not pixels.size:
            raise ValueError(f"{name} needs a pixel, got {pixels.shape}")
    for name, where in (("a mask", mask), ("what is known", known)):
        if where is not None and (where.dtype != np.bool_ or where.shape != image.shape[:2]):
            raise ValueError(f"{name} must be bool {image.shape[:2]} like its image, got {where.dtype} {where.shape}")
    check_spacing(mpp)


def tiles(mask: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """The tiles of an image that hold masked pixels."""
    for y in range(0, mask.shape[0], TILE_PX):
        for x in range(0, mask.shape[1], TILE_PX):
            if mask[y : y + TILE_PX, x : x + TILE_PX].any():
                yield np.s_[y : min(y + TILE_PX, mask.shape[0]), x : min(x + TILE_PX, mask.shape[1])]


def recover_tile(image: np.ndarray, mask: np.ndarray, colours: Colours, places: Places, fit: Fit, mpp: float,
                 tile: tuple[slice, slice]) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
    """The tile, its recovered pixels uint8 (h, w, 3), its levels float32 (h, w), and some of its ink's densities."""
    wide = around(tile[0]), around(tile[1])
    pixels, masked = image[wide], mask[wide]
    rows, columns = np.nonzero(masked)
    smooth = [fit.cells.part(each, wide, masked.shape) for each in (fit.thickness, *fit.tint)]
    cells = Cells.over(masked.shape, max(ink_refine.CELL_PX, round(ink_refine.CELL_UM / mpp)))
    local = places.part(wide, masked.shape, max(1, cells.px // 2))
    sample = Sample.of(pixels, masked, local, local.step)
    tint = np.stack([each[sample.rows, sample.columns] for each in smooth[1:]])
    found, local = ink_refine.refine(fit, np.maximum(smooth[0], 0), tint, sample, colours, local, masked, cells)
    thickness = np.maximum(cells.full_size(found, masked.shape), 0)
    recovered, inked = pixels.copy(), np.zeros(masked.shape, np.float32)
    variance, moved = np.zeros_like(inked), np.zeros_like(inked)
    densities = []
    for n in range(0, len(rows), AT_ONCE):
        at = rows[n : n + AT_ONCE], columns[n : n + AT_ONCE]
        here = thickness[at]
        density = np.maximum(fit.ink.density(here) + np.stack([each[at] for each in smooth[1:]]), 0)
        light = np.ascontiguousarray(pixels[at].T)
        noise = fit.noise.variance(light.astype(np.float32), here, density)
        mean, left = posterior(colours.natural, optical_density(light) - density, noise, local.at(*at)[:-1])
        grey = transmitted_light(mean)
        inked[at] = np.minimum(1, density.max(axis=0) / LEAST_INK)
        recovered[at] = np.clip(np.rint(light + inked[at] * (grey - light)), 0, 255).T
        variance[at] = grey_variance(left, grey)
        change = fit.ink.slope(here) * (here - np.maximum(smooth[0][at], 0))
        moved[at] = grey_variance((left / noise * change) ** 2, grey)
        densities.append(density[:, ::64].max(axis=0))
    inner = tuple(slice(side.start - whole.start, side.stop - whole.start)
                  for side, whole in zip(tile, wide, strict=True))
    level = level_of(inked * squared_error(variance, moved, recovered, masked) / SPREAD**2, masked)
    return tile, recovered[inner], level[inner], np.concatenate(densities)


def grey_variance(variance: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The variance (P,) of grey levels (3, P), mean of the channels, by that of their optical densities (3, P)."""
    return (variance * (LN10 * (grey + 1)) ** 2).mean(axis=0)


def around(side: slice) -> slice:
    """A side of a tile with its margin; beyond the image's end it is cut by the image."""
    return slice(max(0, side.start - MARGIN_PX), side.stop + MARGIN_PX)


def squared_error(variance: np.ndarray, moved: np.ndarray, recovered: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The squared error of grey levels that is to be expected of each recovered pixel: float32 (H, W).

    variance: of the pixel's posterior, were the ink's thickness known. That is less sure where what was recovered,
    uint8 (H, W, 3), has contrast, and where it differs from the smooth thickness: `moved` (H, W) is the squared change
    of grey levels by that. On images that had no part in fitting the powers, errors of 11 to 41 grey levels came out
    as expected. Holds for translucent ink.
    """
    grey = recovered.astype(np.float32)
    mean = cv2.GaussianBlur(grey, (0, 0), LEVEL_PX)
    contrast = (cv2.GaussianBlur(grey**2, (0, 0), LEVEL_PX) - mean**2).mean(axis=2)
    return variance * (np.maximum(contrast, 0) + 0.1) ** CONTRAST * (blurred(moved, mask, LEVEL_PX) + 0.1) ** MOVED


def level_of(share: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The noise level at which a pixel enters, by the share of its variance that is not known: float32 (H, W).

    At level l a walk's noise has variance sin^2(pi l / 2) beside cos^2 of the picture's (Nichol & Dhariwal 2021).
    """
    unknown = np.clip(blurred(share, mask, LEVEL_PX), 0, 1)
    return np.where(mask, 2 / np.pi * np.arcsin(np.sqrt(unknown)), 0).astype(np.float32)


def with_natural(pixels: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Clean pixels (N, 3), and those of some others whose colours are among theirs: beside a mask lies ink at times."""
    some = pixels[:: max(1, len(pixels) // LOOKED_AT)]
    odd = Colours.of(clean).oddness(some)
    return np.concatenate([clean, some[odd < 0.5]])


def clean_patch(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The square of PATCH_PX with the most known pixels; those that are not are taken from others of it."""
    share = cv2.boxFilter(known.astype(np.float32), -1, (PATCH_PX, PATCH_PX), anchor=(0, 0),
                          borderType=cv2.BORDER_CONSTANT)
    height, width = (max(1, side - PATCH_PX) for side in known.shape)
    y, x = np.unravel_index(share[:height, :width].argmax(), (height, width))
    at = np.s_[y : y + PATCH_PX, x : x + PATCH_PX]
    patch, seen = image[at].copy(), known[at]
    if seen.any():
        patch[~seen] = np.resize(patch[seen], (int((~seen).sum()), 3))
    return patch


def unrecovered(image: np.ndarray, mask: np.ndarray, why: str, fit: Fit | None = None) -> Recovery:
    """Nothing was recovered: every masked pixel is to be painted."""
    level = mask.astype(np.float32)
    return recovery_of(image, image, mask, level, np.zeros(0, np.float32), fit, why)


def recovery_of(image: np.ndarray, recovered: np.ndarray, mask: np.ndarray, level: np.ndarray, thickness: np.ndarray,
                fit: Fit | None, failed: str | None = None) -> Recovery:
    """A recovery with the facts that the sidecar declares."""
    bounds = np.array([FAINT, PAINTED], np.float32)
    classes = np.where(mask, RECOVERED_ID + np.searchsorted(bounds, level, side="right"), KEPT_ID).astype(np.uint8)
    kept = (classes == KEPT_ID) | (classes == PAINTED_ID)
    masked = max(1, int(mask.sum()))
    counts = np.bincount(classes.ravel(), minlength=4)
    names = ("recovered", "faint", "painted")
    if failed is None and mask.any() and counts[PAINTED_ID] == masked:
        failed = "the ink is opaque"
    inked = np.zeros(0) if fit is None else fit.thickness[fit.thickness > LEAST_INK]
    spectrum = fit.ink.density(np.array([np.median(inked)])) if fit and len(inked) else None
    facts = {
        "spectrum": None if spectrum is None else (spectrum[:, 0] / spectrum.max()).round(3).tolist(),
        "thickness": np.quantile(thickness, [0.5, 0.99]).round(3).tolist() if len(thickness) else None,
        "likelihood": None if fit is None else round(fit.likelihood, 3),
        "shares": {name: round(int(count) / masked, 4) for name, count in zip(names, counts[1:], strict=True)},
        "level": round(float(np.median(level[mask])), 3) if mask.any() else None,
        "failed": failed,
    }
    return Recovery(np.where(kept[..., None], image, recovered), level, classes, facts)
