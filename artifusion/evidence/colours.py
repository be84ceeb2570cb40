"""What colours clean tissue has: a mixture of Gaussians in optical density, for a slide and for a place on it.

Arrays of pixels are float32 with the pixels last: densities (3, P), what belongs to K Gaussians (K, P).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import cv2
import numpy as np

from artifusion.slide.tissue import optical_density

KINDS = 8                   # Gaussians
SAMPLE = 20_000             # pixels that they are fitted to
ITERATIONS = 60
FLOOR_OD = 0.011            # least spread of each
BROAD_SHARE = 0.02          # of a further, broad one, for colours that the sample lacks
PLACE_UM = 16.0             # blur under which the colours of a place are counted
SLIDE_SHARE = 0.15          # of the slide's colours among those of a place
SCAN_OD = 0.0045            # spread of a scanned pixel about its colour, where its Gaussian is asked for
AT_ONCE = 16_384            # pixels: arrays of all Gaussians that fit into the processor's cache
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

Precision = tuple[np.ndarray, np.ndarray]       # (6, K, P) inverse covariances by PAIRS, and (K, P) their constants


@dataclass(frozen=True, eq=False)
class Colours:
    """Shares (K,), means (K, 3) and covariances (K, 3, 3) of optical densities; the last Gaussian is the broad one."""

    shares: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def of(cls, clean: np.ndarray) -> Colours:
        """The colours of clean pixels, uint8 (N, 3). A function of the pixels alone."""
        from sklearn.mixture import GaussianMixture

        rng = np.random.default_rng(0)
        sample = optical_density(clean[rng.integers(len(clean), size=SAMPLE)]).astype(np.float64)
        ordered, covariance = sample[np.argsort(sample[:, 1])], np.cov(sample.T)
        precision = np.linalg.inv(covariance / 4 + FLOOR_OD**2 * np.eye(3))
        mixture = GaussianMixture(
            KINDS, reg_covar=FLOOR_OD**2, tol=1e-4, max_iter=ITERATIONS, init_params="random_from_data", random_state=0,
            weights_init=np.full(KINDS, 1 / KINDS), precisions_init=np.repeat(precision[None], KINDS, axis=0),
            means_init=ordered[np.linspace(0, SAMPLE - 1, 2 * KINDS + 1)[1::2].astype(int)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                     # it may stop before it converged
            mixture.fit(sample)
        return cls(np.append(mixture.weights_ * (1 - BROAD_SHARE), BROAD_SHARE).astype(np.float32),
                   np.append(mixture.means_, [sample.mean(axis=0)], axis=0).astype(np.float32),
                   np.append(mixture.covariances_, [2 * covariance + 0.01 * np.eye(3)], axis=0).astype(np.float32))

    @property
    def natural(self) -> Colours:
        """The same without the broad one."""
        return Colours(self.shares[:-1], self.means[:-1], self.covariances[:-1])

    def precision(self, noise: np.ndarray) -> Precision:
        """The inverse covariance of each Gaussian widened by noise variances (3, P)."""
        a, b, c, d, e, f = (self.covariances[:, i, j, None] + (noise[i] if i == j else 0) for i, j in PAIRS)
        aa, bb, cc = d * f - e * e, c * e - b * f, b * e - c * d
        determinant = a * aa + b * bb + c * cc
        inverse = np.stack([aa, bb, cc, a * f - c * c, b * c - a * e, a * d - b * b])
        return inverse / determinant, -0.5 * np.log(determinant)

    def shares_of(self, pixels: np.ndarray) -> np.ndarray:
        """The share of each Gaussian in scanned pixels, uint8 (P, 3): (K, P)."""
        density = np.ascontiguousarray(optical_density(pixels).T)
        found = np.empty((len(self.shares), len(pixels)), np.float32)
        for at in range(0, len(pixels), AT_ONCE):
            part = density[:, at : at + AT_ONCE]
            precision = self.precision(np.full_like(part, SCAN_OD**2))
            found[:, at : at + AT_ONCE] = self.compare(part, precision, np.log(self.shares)[:, None])[1]
        return found

    def oddness(self, pixels: np.ndarray) -> np.ndarray:
        """How likely each of some pixels, uint8 (P, 3), has a colour that clean tissue lacks: (P,) in 0 to 1."""
        return self.shares_of(pixels)[-1]

    def compare(self, density: np.ndarray, precision: Precision, log_shares: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log likelihood (P,), the share of each Gaussian in it (K, P), and its precision times the offset (3, K, P).

        log_shares: (K, P), those of each pixel's place. The likelihood lacks the constant of a normal density.
        """
        (a, b, c, d, e, f), constant = precision
        x, y, z = (density[n] - self.means[:, n, None] for n in range(3))
        pulled = np.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z])
        joint = log_shares + constant - 0.5 * (x * pulled[0] + y * pulled[1] + z * pulled[2])
        highest = joint.max(axis=0)
        shares = np.exp(joint - highest)
        total = shares.sum(axis=0)
        return highest + np.log(total), shares / total, pulled


def posterior(colours: Colours, density: np.ndarray, noise: np.ndarray, log_shares: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (3, P) of the true densities, given densities (3, P) with noise variances (3, P)."""
    inverse, _ = precision = colours.precision(noise)
    _, shares, pulled = colours.compare(density, precision, log_shares)
    a, b, c, d, e, f = inverse
    mean, variance = np.empty_like(density), np.empty_like(density)
    for n in range(3):
        x, y, z = (colours.covariances[:, n, m, None] for m in range(3))
        each = colours.means[:, n, None] + x * pulled[0] + y * pulled[1] + z * pulled[2]             # (K, P)
        left = colours.covariances[:, n, n, None] - (
            x * x * a + y * y * d + z * z * f + 2 * (x * y * b + x * z * c + y * z * e))
        mean[n] = (shares * each).sum(axis=0)
        variance[n] = (shares * (left + (each - mean[n]) ** 2)).sum(axis=0)
    return mean, variance


@dataclass(frozen=True, eq=False)
class Places:
    """The log shares of the Gaussians around every place, float32 (K, h, w), one for each square of `step` pixels."""

    step: int
    log_shares: np.ndarray

    @classmethod
    def of(cls, colours: Colours, pixels: np.ndarray, known: np.ndarray, step: int, mpp: float) -> Places:
        """Those by the known pixels around, and by the slide's own. Memory: 36 bytes for each square.

        pixels: uint8 (H, W, 3); known: bool (H, W).
        """
        seen = known[::step, ::step]
        found = colours.shares_of(pixels[::step, ::step][seen])
        found[-1] = 0                                       # what no tissue looks like tells nothing of a place
        sigma = PLACE_UM / (step * mpp)
        weight = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), sigma)
        base = SLIDE_SHARE * np.maximum(weight, 0.02)
        log_shares = np.zeros((len(colours.shares), *seen.shape), np.float32)
        for share, own, each in zip(log_shares, colours.shares, found, strict=True):
            share[seen] = each
            share[:] = (cv2.GaussianBlur(share, (0, 0), sigma) + base * own) / (weight + base) + 1e-4
        return cls(step, np.log(log_shares / log_shares.sum(axis=0), out=log_shares))

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The log shares at pixels (P,): (K, P)."""
        found = np.empty((len(self.log_shares), len(rows)), np.float32)
        for n in range(0, len(rows), AT_ONCE):
            part = np.s_[n : n + AT_ONCE]
            x, y = (((axis[part] + 0.5) / self.step - 0.5).astype(np.float32)[None] for axis in (columns, rows))
            for own, share in zip(found, self.log_shares, strict=True):
                own[part] = cv2.remap(share, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        return found

    def part(self, at: tuple[slice, slice], shape: tuple[int, int], step: int) -> Places:
        """Those of a part of the pixels, of that shape, that begins at `at`, at another step."""
        rows, columns = (side.start + np.arange(0, length, step) for side, length in zip(at, shape, strict=True))
        found = self.at(np.repeat(rows, len(columns)), np.tile(columns, len(rows)))
        return Places(step, found.reshape(-1, len(rows), len(columns)))
