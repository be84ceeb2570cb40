"""A haematoxylin blob detector: where nuclei are, and what they cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

SPREAD_UM = 1.8             # of the blob filter; its response is strongest for nuclei of 2.5 um radius
GAP_UM = 2.5                # between two nuclei's centres
SMOOTH_UM = 0.5
SAME_UM = 3.0               # two centres no further apart are one nucleus


@dataclass(frozen=True)
class Nuclei:
    centres: np.ndarray     # (N, 2) row, column
    covered: np.ndarray     # bool (H, W)

    def inside(self, mask: np.ndarray) -> tuple[int, int]:
        """How many centres lie in a mask, and how many of its pixels are covered by nuclei."""
        rows, columns = self.centres.T
        return int(mask[rows, columns].sum()), int((self.covered & mask).sum())


def stains(image: np.ndarray) -> np.ndarray:
    """Haematoxylin and eosin densities by colour deconvolution  (Ruifrok & Johnston 2001): float (H, W, 2)."""
    from skimage.color import rgb2hed

    return rgb2hed(image)[..., :2]


def nuclear_threshold(haematoxylin: np.ndarray, visible: np.ndarray) -> float:
    """The density that separates nuclei from other visible tissue  (Otsu 1979)."""
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(haematoxylin[visible]))


def find_nuclei(haematoxylin: np.ndarray, threshold: float, spacing_um: float) -> Nuclei:
    """Blobs of nuclear size whose density, smoothed, is above the threshold."""
    from skimage.feature import peak_local_max

    smooth = ndimage.gaussian_filter(haematoxylin, SMOOTH_UM / spacing_um)
    covered = smooth > threshold
    sigma = max(1.0, SPREAD_UM / spacing_um)
    blobs = -(sigma**2) * ndimage.gaussian_laplace(haematoxylin, sigma)
    gap_px = max(1, round(GAP_UM / spacing_um))
    return Nuclei(peak_local_max(np.where(covered, blobs, 0), min_distance=gap_px, threshold_abs=1e-6,
                                 exclude_border=False), covered)


def count_matches(found: np.ndarray, true: np.ndarray, spacing_um: float) -> int:
    """How many centres (N, 2) have a true centre (M, 2) within SAME_UM; each is taken once, the closest pairs first."""
    if not len(found) or not len(true):
        return 0
    pairs = cKDTree(true).sparse_distance_matrix(cKDTree(found), SAME_UM / spacing_um, output_type="coo_matrix")
    order = np.argsort(pairs.data, kind="stable")
    rows, columns = set(), set()
    for row, column in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
    return len(rows)
