"""The thickness of ink in detail, where its spectrum is known: sharp at a stroke's outline, streaks inside; and what
kind of tissue each pixel below it is."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg

from artifusion.evidence.colours import AT_ONCE, Colours, Places
from artifusion.evidence.ink_fit import EDGE, THICKEST, Fit, step_weight
from artifusion.evidence.ink_map import Cells, Sample

CELL_UM, CELL_PX = 1.0, 4
ROUGH, ROUGH_AT_OUTLINE = 3000.0, 30.0      # as in `ink_fit`, of a thin film; ink ends at the mask's outline
FILM, MOST_FILMS = 0.25, 5.5                # thickness of one; thicker ink is as uneven for its thickness
BARE = 100.0                                # pull to nothing of cells beside the mask
OUTLINE_CELLS = 5                           # wide is that outline; as much again leads over
ROUNDS, ALONE = 8, 3        # in the first each pixel stands alone, until the thickness is about right
LIKE_STEPS, LIKE = 1.0, 0.8 # blur under which a pixel is like its neighbours, and how much that counts beside its place


def refine(fit: Fit, thickness: np.ndarray, tint: np.ndarray, sample: Sample, colours: Colours, places: Places,
           mask: np.ndarray, cells: Cells) -> tuple[np.ndarray, Places]:
    """The thickness of each of some small cells (count,), and the shares of the Gaussians around each pixel.

    Expectation and maximisation (Dempster et al. 1977): with each pixel's shares of the Gaussians held, the thickness
    is a problem of least squares. What a pixel begins the next round with is what its neighbours are (Sanjay-Gopal and
    Hebert 1998): one alone is as likely thicker ink as a nucleus, and nuclei went into the thickness.

    thickness: float32 (H, W), the smooth one; tint: (3, P), of the sample's pixels; places: every pixel that the sample
    is taken from, masked or not, at the sample's step.
    """
    bare = cells.mean(mask.astype(np.float32)) == 0
    found = np.where(bare, 0, cells.mean(thickness))
    if not len(sample):                     # a speck between its pixels
        return found, places
    at, difference = cells.interpolation(sample.rows, sample.columns), cells.differences()
    weight = roughness(found, mask, cells, difference) * step_weight(difference, np.asarray(at.sum(axis=0)).ravel())
    local = places
    for n in range(ROUNDS):
        here = np.maximum(at @ found, 0).astype(np.float32)
        parts = [likelihood_of_more(fit, here[part], tint[:, part], sample.some(part), colours)
                 for part in (np.s_[first : first + AT_ONCE] for first in range(0, len(here), AT_ONCE))]
        pull, curve = np.concatenate([moves for moves, _ in parts], axis=1) / len(here)
        steps = sparse.diags(2 * weight / np.sqrt(1 + (difference @ found / EDGE) ** 2))
        system = at.T @ sparse.diags(curve) @ at + difference.T @ steps @ difference
        system = system + sparse.diags(np.where(bare, BARE, 1e-9))
        found, _ = cg(system, at.T @ (pull + curve * here), x0=found, rtol=1e-4, maxiter=100,
                      M=sparse.diags(1 / system.diagonal()))
        found = np.clip(found, 0, THICKEST)
        if n >= ALONE:
            local = like_neighbours(places, np.concatenate([shares for _, shares in parts], axis=1), sample)
            sample = replace(sample, log_shares=local.log_shares[:, sample.rows // local.step,
                                                                 sample.columns // local.step])
    return found, local


def like_neighbours(places: Places, shares: np.ndarray, sample: Sample) -> Places:
    """Places where a sample's pixels have these shares of the Gaussians (K, P), blurred."""
    at = sample.rows // places.step, sample.columns // places.step
    found = np.exp(places.log_shares)
    blurred = np.zeros(found.shape[1:], np.float32)
    blurred[at] = 1
    weight = cv2.GaussianBlur(blurred, (0, 0), LIKE_STEPS)
    for each, own in zip(found, shares, strict=True):
        blurred[:] = 0
        blurred[at] = own
        each *= (1 - LIKE) * weight + 1e-3
        each += LIKE * cv2.GaussianBlur(blurred, (0, 0), LIKE_STEPS)
    return Places(places.step, np.log(found / found.sum(axis=0), out=found))


def likelihood_of_more(fit: Fit, thickness: np.ndarray, tint: np.ndarray, sample: Sample, colours: Colours
                       ) -> tuple[np.ndarray, np.ndarray]:
    """How the log likelihood of each pixel of a sample changes with its thickness (P,), and minus how that changes, the
    pixel's shares of the Gaussians held: (2, P); and these shares (K, P)."""
    density, slope = fit.ink.density(thickness) + tint, fit.ink.slope(thickness)
    precision = colours.precision(fit.noise.variance(sample.light, thickness, density))
    _, shares, pulled = colours.compare(sample.density - density, precision, sample.log_shares)
    a, b, c, d, e, f = ((shares * each).sum(axis=0) for each in precision[0])
    x, y, z = slope
    return np.stack([((shares * pulled).sum(axis=1) * slope).sum(axis=0),
                     a * x * x + d * y * y + f * z * z + 2 * (b * x * y + c * x * z + e * y * z)]), shares


def roughness(thickness: np.ndarray, mask: np.ndarray, cells: Cells, difference: sparse.csr_matrix) -> np.ndarray:
    """What each step between cells of some thickness (count,) costs: little in thick ink and at the mask's outline."""
    rough = ROUGH / np.clip(thickness / FILM, 1, MOST_FILMS) ** 2
    if not mask.all():
        depth = cells.mean(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)) / cells.px
        at_outline = np.clip(2 - depth / OUTLINE_CELLS, 0, 1)
        rough = rough * np.minimum(1, ROUGH_AT_OUTLINE / rough) ** at_outline
    return abs(difference) @ rough / 2
