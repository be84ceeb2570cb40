"""The ink over a stroke, fitted blindly: under which spectrum and thickness are the colours below it likeliest?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import minimize

from artifusion.evidence.colours import Colours
from artifusion.evidence.ink import KNOTS, TOTAL, Ink, Noise, layers
from artifusion.evidence.ink_map import Cells, Sample
from artifusion.slide.tissue import optical_density

SAMPLE = 20_000             # pixels that are looked at
CELL_UM, CELL_PX = 8.0, 8   # side of the cells of thickness, and the least in pixels
RIM_UM = 10.0               # beside the outline ink ends within a cell: not fitted, but for half of the pixels at most
THICKEST = 2.6
ROUGH = 530.0               # cost of the thickness' steps from cell to cell, beside the mean log likelihood
EDGE = 0.043                # a larger step costs by its size, not by its square
BEND = 0.1                  # cost of a bent spectrum
TINT, TINT_COST = 0.1, 3.0  # share of the ink's density by which a place may differ from the spectrum, and its cost
ROUNDS, ITERATIONS = 2, 60  # the noise is that of the thickness in the round before
WINDOW_PX = 48              # of the places from which first spectra are guessed
LIGHTEST = 0.05             # quantile of densities there
FIRST_SAMPLE, FIRST_THICKNESSES, WORST = 8_000, 27, -12.0
PER_BEND, PER_TINT = 0.1, 0.1           # units of these unknowns beside those of thickness, for the optimiser


@dataclass(frozen=True, eq=False)
class Fit:
    """Ink, and its thickness (count,) and tint (3, count) in cells.

    likelihood: mean log likelihood of a pixel's clean density; odd: share of pixels whose colour no tissue has.
    """

    ink: Ink
    cells: Cells
    thickness: np.ndarray
    tint: np.ndarray
    noise: Noise
    likelihood: float
    odd: float


class Objective:
    """Minus the mean log likelihood of the colours below the ink, and how rough thickness and spectrum are.

    The unknowns are the thickness of each cell, the spectrum (log shares of the channels at each of KNOTS) and the tint
    of each cell, by which the density of each channel differs from the spectrum's.
    """

    def __init__(self, colours: Colours, sample: Sample, cells: Cells, noise: Noise, first: np.ndarray) -> None:
        self.colours, self.sample, self.cells, self.noise = colours, sample, cells, noise
        self.at, self.difference = cells.interpolation(sample.rows, sample.columns), cells.differences()
        self.pixels = np.maximum(np.asarray(self.at.sum(axis=0)).ravel(), 1e-3)          # that each cell has
        self.weight = step_weight(self.difference, self.pixels)
        self.first = np.log(np.repeat(first[None] / first.sum(), len(KNOTS), axis=0))

    def begin(self, thickness: np.ndarray) -> np.ndarray:
        return np.concatenate([thickness, self.first.ravel() / PER_BEND, np.zeros(3 * self.cells.count)])

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Thickness (count,), log shares (len(KNOTS), 3) and tint (3, count) of the unknowns."""
        count, bends = self.cells.count, 3 * len(KNOTS)
        return (x[:count], x[count : count + bends].reshape(len(KNOTS), 3) * PER_BEND,
                x[count + bends :].reshape(3, count) * PER_TINT)

    def minimise(self, x: np.ndarray) -> np.ndarray:
        """The unknowns after one round of so many steps."""
        thickness, shares, _ = self.split(x)
        here = np.maximum(self.at @ thickness, 0)
        density = spectrum(shares).density(here)
        self.precision = self.colours.precision(self.noise.variance(self.sample.light, here, density))
        self.spread = TINT * np.stack([self.at.T @ each / self.pixels for each in density]) + 0.004      # (3, count)
        bounds = [(0, THICKEST)] * self.cells.count + [(-50, 50)] * (len(x) - self.cells.count)
        found = minimize(self, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
        self(found.x)
        return found.x

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient."""
        thickness, shares, tint = self.split(x)
        ink, here = spectrum(shares), self.at @ thickness
        layered = layers(here)
        density = ink.slopes.T @ layered + (self.at @ tint.T).T.astype(np.float32)
        likelihood, parts, pulled = self.colours.compare(self.sample.density - density, self.precision,
                                                         self.sample.log_shares)
        pull = (parts * pulled).sum(axis=1) / len(here)                      # (3, P), of the mean log likelihood
        self.likelihood, self.odd = float(likelihood.mean()), float(parts[-1].mean())
        of_slopes = -(layered @ pull.T)
        of_shares = ink.slopes * (of_slopes - (of_slopes * ink.slopes).sum(axis=1, keepdims=True) / TOTAL)
        bend, away = np.diff(shares, axis=0), shares - self.first
        of_shares += 2 * BEND * (np.pad(bend, ((1, 0), (0, 0))) - np.pad(bend, ((0, 1), (0, 0))) + 0.1 * away)
        steps = self.difference @ thickness
        root = np.sqrt(1 + (steps / EDGE) ** 2)
        of_thickness = self.difference.T @ (ROUGH * self.weight * 2 * steps / root) - self.at.T @ (
            ink.slope(here) * pull).sum(axis=0)
        tinted = tint / self.spread
        tint_steps = self.difference @ tinted.T                              # (steps, 3)
        of_tint = 2 * TINT_COST / self.spread * ((self.difference.T @ (self.weight[:, None] * tint_steps)).T
                                                 + 0.05 * tinted / self.cells.count) - (self.at.T @ pull.T).T
        value = (-self.likelihood + BEND * ((bend**2).sum() + 0.1 * (away**2).sum())
                 + ROUGH * (self.weight * 2 * EDGE**2 * (root - 1)).sum()
                 + TINT_COST * ((self.weight[:, None] * tint_steps**2).sum() + 0.05 * (tinted**2).mean() * 3))
        gradient = [of_thickness, of_shares.ravel() * PER_BEND, of_tint.ravel() * PER_TINT]
        return float(value), np.concatenate(gradient)


def fit_ink(image: np.ndarray, mask: np.ndarray, sample: Sample, colours: Colours, clean: np.ndarray, mpp: float
            ) -> Fit:
    """The ink over the masked pixels of an image, of which there is a sample. A function of the arguments.

    image: uint8 (H, W, 3); mask: bool (H, W); clean: uint8 (h, w, 3), a piece of clean tissue.
    """
    cells = Cells.over(mask.shape, max(CELL_PX, round(CELL_UM / mpp)))
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)[sample.rows, sample.columns]
    depth = np.minimum(depth, max(mask.shape))              # without an outline it is beyond all bounds
    sample = sample.some(depth >= min(RIM_UM / mpp, np.median(depth)))
    first, thickness = first_guess(sample, first_spectra(image, mask, colours), colours, clean, cells)
    aim = Objective(colours, sample, cells, Noise(clean, Ink.even(first)), first)
    x = aim.begin(thickness)
    for _ in range(ROUNDS):
        x = aim.minimise(x)
    thickness, shares, tint = aim.split(x)
    return Fit(spectrum(shares), cells, thickness, tint, aim.noise, aim.likelihood, aim.odd)


def spectrum(log_shares: np.ndarray) -> Ink:
    """The ink in whose density the channels have these shares, by their logarithms (len(KNOTS), 3)."""
    shares = np.exp(log_shares)
    return Ink((TOTAL * shares / shares.sum(axis=1, keepdims=True)).astype(np.float32))


def step_weight(difference, pixels: np.ndarray) -> np.ndarray:
    """What each step between neighbouring cells counts, by the pixels that cells have; all together 2, about."""
    inked = (pixels > 0.01).astype(float)
    return ((abs(difference) @ inked == 2) + 0.01) / max(1.0, inked.sum())


def first_spectra(image: np.ndarray, mask: np.ndarray, colours: Colours) -> list[np.ndarray]:
    """Guesses of an ink's spectrum (3,): how the lightest densities of places differ from clean ones, how they move
    together, and the mean of both."""
    lightest = []
    for y in range(0, max(1, mask.shape[0] - WINDOW_PX + 1), WINDOW_PX // 2):
        for x in range(0, max(1, mask.shape[1] - WINDOW_PX + 1), WINDOW_PX // 2):
            at = np.s_[y : y + WINDOW_PX, x : x + WINDOW_PX]
            if mask[at].mean() > 0.5:
                lightest.append(np.quantile(optical_density(image[at][mask[at]]), LIGHTEST, axis=0))
    if len(lightest) < 3:
        inked = optical_density(image[mask])
        lightest = [np.quantile(inked, share, axis=0) for share in (0.02, 0.05, 0.1)]
    found = np.array(lightest)
    clear = found[(found < 1.3).all(axis=1)]
    found = clear if len(clear) > 10 else found
    natural = colours.natural
    base = natural.means[natural.means.sum(axis=1).argmin()]
    away = np.maximum((found - base).mean(axis=0), 1e-3)
    moves = np.linalg.svd(found - found.mean(axis=0), full_matrices=False)[2][0]
    moves = moves * np.sign(moves.sum())
    moves = np.maximum(moves, 0) if (moves > -0.2).all() else away
    guesses = [moves / moves.max(), away / away.max()]
    return [np.maximum(guess, 0.02) for guess in (*guesses, (guesses[0] + guesses[1]) / 2)]


def first_guess(sample: Sample, spectra: list[np.ndarray], colours: Colours, clean: np.ndarray, cells: Cells
                ) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest of some spectra, and with it the likeliest thickness of each cell (count,)."""
    few = sample.some(np.s_[:: max(1, len(sample) // FIRST_SAMPLE)])
    cell = few.rows // cells.px * cells.columns + few.columns // cells.px
    best = None
    for guess in spectra:
        ink = Ink.even(guess)
        noise = Noise(clean, ink)
        thicknesses = np.linspace(0, THICKEST, FIRST_THICKNESSES)
        sums = []
        for each in thicknesses:
            thickness = np.full(len(few), each)
            density = ink.density(thickness)
            precision = colours.precision(noise.variance(few.light, thickness, density))
            likelihood = colours.compare(few.density - density, precision, few.log_shares)[0]
            total = np.bincount(cell, np.maximum(likelihood, WORST), cells.count).reshape(cells.rows, cells.columns)
            sums.append(cv2.GaussianBlur(total, (5, 5), 0.8, borderType=cv2.BORDER_CONSTANT).ravel())
        score = np.max(sums, axis=0).sum()
        if best is None or score > best[0]:
            best = score, guess, thicknesses[np.argmax(sums, axis=0)]
    assert best is not None
    return best[1], best[2]
