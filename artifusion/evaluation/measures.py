"""The measures of one painted tile. Every number is computed in float from 8-bit pixels, so that nothing wraps."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.ndimage import convolve1d
from scipy.stats import wasserstein_distance

from artifusion.evaluation.features import NetworkSpace, hole_crops
from artifusion.evaluation.nuclei import count_matches, find_nuclei, nuclear_threshold, stains
from artifusion.evaluation.operators import load_torchvision
from artifusion.evaluation.trials import Trial

WINDOW_PX = 5               # of the search for copies
MAX_WINDOWS = 16            # of one tile
MIN_CONTRAST = 5.0          # grey levels: a flat window is like any other flat place
JPEG_QUALITY = 80           # of most slides
TWIN = 0.99                 # explained variance from which two windows are one
BANDS = 3                   # of detail, the finest first

PICTURE = (
    "psnr", "ssim", "fsim", "perceptual", "haematoxylin_distance", "true_haematoxylin_spread", "eosin_distance",
    "true_eosin_spread", "nuclei", "true_nuclei", "nuclear_px", "true_nuclear_px", "matched", "detected",
    "true_detected", "band_1", "band_2", "band_3", "true_band_1", "true_band_2", "true_band_3", "jump", "true_jump",
)
STORED = "_jpeg"            # ends the name of what is measured after a slide's JPEG
MEASURED = (*PICTURE, *(name + STORED for name in PICTURE), "match", "copied", "outside")


def measure(trial: Trial, painted: np.ndarray, space: NetworkSpace, real: bool = False) -> dict[str, float]:
    """Every measure of one tile, by the names in MEASURED; nan where there is nothing to measure.

    Sums come with the truth's own beside them, so that tiles can be added up before they are divided. What ends in
    STORED is measured after a slide's JPEG of both.

    Args:
        painted: uint8 like the truth.
        real: the tile is another place, whose pixels outside the hole differ from the truth by design.
    """
    stored = measure_picture(replace(trial, truth=as_stored(trial.truth)), as_stored(painted), space)
    return {
        **measure_picture(trial, painted, space),
        **{name + STORED: value for name, value in stored.items()},
        **copying(painted, trial.truth, trial.hole),
        "outside": np.nan if real else outside_change(painted, trial.truth, trial.hole),
    }


def measure_picture(trial: Trial, painted: np.ndarray, space: NetworkSpace) -> dict[str, float]:
    """What compares a painted tile with the truth, by the names in PICTURE."""
    truth, hole = trial.truth, trial.hole
    crops = hole_crops(hole)
    painted_crops, true_crops = [painted[crop] for crop in crops], [truth[crop] for crop in crops]
    return {
        "psnr": psnr(painted, truth, hole),
        "ssim": ssim(painted, truth, hole),
        "fsim": fsim(painted_crops, true_crops),
        "perceptual": space.distance(painted_crops, true_crops) if crops else np.nan,
        **stain_distances(painted, truth, hole),
        **nucleus_numbers(trial, painted),
        **{f"band_{n}": energy for n, energy in enumerate(band_energies(painted, hole), 1)},
        **{f"true_band_{n}": energy for n, energy in enumerate(band_energies(truth, hole), 1)},
        "jump": edge_jump(painted, hole), "true_jump": edge_jump(truth, hole),
    }


def measure_left_out(trial: Trial) -> dict[str, float]:
    """What is measured of a tile whose hole is left out of every analysis: the nuclei outside it, else nan."""
    haematoxylin = stains(trial.damaged)[..., 0]
    threshold = nuclear_threshold(haematoxylin, ~trial.hole)
    found, true = (find_nuclei(stains(image)[..., 0], threshold, trial.spacing_um).centres
                   for image in (trial.damaged, trial.truth))
    kept = found[~trial.hole[tuple(found.T)]]
    return dict.fromkeys(MEASURED, np.nan) | {
        "matched": count_matches(kept, true, trial.spacing_um), "detected": len(kept), "true_detected": len(true)}


def as_stored(image: np.ndarray, quality: int = JPEG_QUALITY) -> np.ndarray:
    """The image after a slide's JPEG, as a user sees it: 4:2:0; uint8 (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file).convert("RGB"))


def psnr(painted: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Peak signal-to-noise ratio inside the hole, dB of 255; infinite for equal pixels."""
    error = np.square(painted[hole].astype(float) - truth[hole]).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def ssim(painted: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian window), mean of its map inside the hole."""
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(truth, painted, channel_axis=2, data_range=255, gaussian_weights=True,
                                          use_sample_covariance=False, full=True)
    return float(similarity[hole].mean())


def fsim(painted: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Feature similarity (Zhang et al. 2011, with colour) of crops, mean."""
    if not painted:
        return np.nan
    load_torchvision()
    from piq import fsim as similarity
    from torch import from_numpy

    x, y = (from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() for crops in (painted, truth))
    return float(similarity(x, y, data_range=255.0))


def stain_distances(painted: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> dict[str, float]:
    """Wasserstein distance of the densities of each stain inside the hole, and the truth's spread."""
    found, true = stains(painted)[hole], stains(truth)[hole]
    values = {}
    for n, stain in enumerate(("haematoxylin", "eosin")):
        values[f"{stain}_distance"] = float(wasserstein_distance(found[:, n], true[:, n]))
        values[f"true_{stain}_spread"] = float(true[:, n].std())
    return values


def nucleus_numbers(trial: Trial, painted: np.ndarray) -> dict[str, float]:
    """Nuclei in the hole by number and area, and how well those of the whole tile agree with the truth's own."""
    densities = [stains(image)[..., 0] for image in (trial.truth, painted)]
    threshold = nuclear_threshold(densities[0], ~trial.hole)                # from pixels that every method sees
    true, found = (find_nuclei(density, threshold, trial.spacing_um) for density in densities)
    (true_count, true_area), (count, area) = true.inside(trial.hole), found.inside(trial.hole)
    matched = count_matches(found.centres, true.centres, trial.spacing_um)
    return {"nuclei": count, "true_nuclei": true_count, "nuclear_px": area, "true_nuclear_px": true_area,
            "matched": matched, "detected": len(found.centres), "true_detected": len(true.centres)}


def band_energies(image: np.ndarray, mask: np.ndarray) -> list[float]:
    """Energy of the grey values in a mask in the BANDS finest bands, the finest first: details of about 2, 4, 8 px.

    Each band is the difference of two B-spline blurs (Starck & Murtagh 1994, wavelets with holes). White noise has
    nearly all of its energy in the first, tissue about as much in each.
    """
    fine, energies = image.astype(float).mean(2), []
    for band in range(BANDS):
        kernel = np.zeros(4 * 2**band + 1)
        kernel[:: 2**band] = np.array([1, 4, 6, 4, 1]) / 16
        coarse = convolve1d(convolve1d(fine, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")
        energies.append(float(np.square((fine - coarse)[mask]).sum()))
        fine = coarse
    return energies


def edge_jump(image: np.ndarray, hole: np.ndarray) -> float:
    """Mean difference of neighbouring grey values of which one lies in the hole and one outside."""
    grey = image.astype(float).mean(2)
    across, down = hole[:, 1:] != hole[:, :-1], hole[1:] != hole[:-1]
    steps = np.concatenate([np.diff(grey, axis=1)[across], np.diff(grey, axis=0)[down]])
    return float(np.abs(steps).mean())


def outside_change(painted: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Largest difference of a value outside the hole, grey levels; a repair has 0."""
    return float(np.abs(painted[~hole].astype(int) - truth[~hole]).max())


def copying(painted: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> dict[str, float]:
    """How much of the hole is a copy of visible tissue.

    Each window in the hole with some contrast is compared with the visible window most like it, also turned and
    mirrored: which share of its variance does that explain (1 = they are equal)? `match` is the largest share of the
    tile, `copied` the share of windows that reach TWIN; nan where no window has contrast.
    """
    import cv2

    grey, visible_grey = (image.astype(np.float32).mean(2) for image in (painted, truth))
    in_hole, visible = (corners(mask) for mask in (hole, ~hole))
    places = np.argwhere(in_hole)
    places = places[:: max(1, len(places) // (8 * MAX_WINDOWS))]
    windows = [grey[y : y + WINDOW_PX, x : x + WINDOW_PX] for y, x in places]
    windows = [window for window in windows if window.std() >= MIN_CONTRAST]
    windows = windows[:: max(1, len(windows) // MAX_WINDOWS)][:MAX_WINDOWS]
    if not windows or not visible.any():
        return {"match": np.nan, "copied": np.nan}
    best = []
    for window in windows:
        turned = [np.ascontiguousarray(np.rot90(side, n)) for side in (window, window[:, ::-1]) for n in range(4)]
        least = min(cv2.matchTemplate(visible_grey, each, cv2.TM_SQDIFF)[visible].min() for each in turned)
        best.append(1 - float(least) / WINDOW_PX**2 / float(window.var()))
    return {"match": min(1.0, max(best)), "copied": float(np.mean(np.array(best) >= TWIN))}


def corners(mask: np.ndarray) -> np.ndarray:
    """Top left corners of the windows that lie wholly in a mask, bool."""
    import cv2

    whole = cv2.erode(mask.astype(np.uint8), np.ones((WINDOW_PX, WINDOW_PX), np.uint8), anchor=(0, 0),
                      borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return whole[: mask.shape[0] - WINDOW_PX + 1, : mask.shape[1] - WINDOW_PX + 1] > 0
