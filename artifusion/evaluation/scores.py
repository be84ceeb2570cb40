"""From tiles to figures: every measure is a function of the tiles that count, so that it can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.stats import wasserstein_distance

from artifusion.evaluation.features import OWN, NetworkSpace, colour_and_wavelets, hole_crops
from artifusion.evaluation.nuclei import stains
from artifusion.evaluation.probe import auc, detectability, kid, kid_spread, right_answers, tissue_classes
from artifusion.evaluation.records import Records
from artifusion.evaluation.trials import Trial

PIXEL_STEP = 67             # every so many-th hole pixel goes into the pooled stain distribution
RESAMPLES, FEW_RESAMPLES = 1000, 100


@dataclass
class Scores:
    """The results of one method, by tile."""

    tiles: np.ndarray                           # (N,) numbers of the trials that it painted
    columns: dict[str, np.ndarray]              # (N,) each, of tiles.csv
    stain: list[tuple[np.ndarray, np.ndarray]]  # densities in the hole, painted (n, 2) and true (n, 2)
    crops: list[np.ndarray]                     # the rows in the arrays below that belong to each tile
    features: tuple[np.ndarray, np.ndarray]     # (M, OWN) real, painted
    probes: dict[str, np.ndarray] = field(default_factory=dict)     # space -> (M, 2) scores of real and painted crops
    right: np.ndarray | None = None             # (N,) whether the tissue classifier gets the painted tile right
    right_clean: np.ndarray | None = None

    def sum(self, name: str, at: np.ndarray) -> float:
        return float(self.columns[name][at].sum())

    def mean(self, name: str, at: np.ndarray) -> float:
        values = self.columns[name][at]
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else np.nan

    def auc(self, space: str, at: np.ndarray) -> float:
        rows = np.concatenate([self.crops[n] for n in at]) if len(at) else np.empty(0, int)
        if space not in self.probes or not len(rows):
            return np.nan
        return auc(self.probes[space][rows])

    def kid(self, at: np.ndarray) -> float:
        rows = np.concatenate([self.crops[n] for n in at]) if len(at) else np.empty(0, int)
        return kid(self.features[0][rows], self.features[1][rows]) if len(rows) > 1 else np.nan

    def pooled_stain(self, at: np.ndarray) -> float:
        painted, true = (np.concatenate([self.stain[n][which] for n in at]) for which in (0, 1))
        return float(np.mean([wasserstein_distance(painted[:, n], true[:, n]) / true[:, n].std() for n in (0, 1)]))


Board = Mapping[str, Scores]


def score(trials: Sequence[Trial], records: Records, methods: Sequence[str], space: NetworkSpace) -> dict[str, Scores]:
    """The scores of every method on the tiles that it painted."""
    rows, board = records.rows(), {}
    crops = [hole_crops(trial.hole) for trial in trials]
    for method in methods:
        done = [trial for trial in trials if (method, trial.number) in rows]
        of_tile = [crops[trial.number] for trial in done]
        painted = [records.painted(method, trial.number) for trial in done]
        numbers = {name: np.array([float(rows[method, trial.number][name]) for trial in done])
                   for name in list(rows[method, done[0].number]) if name not in TEXT}
        painted_crops, true_crops = (
            [image[crop] for image, places in zip(images, of_tile, strict=True) for crop in places]
            for images in (painted, [trial.truth for trial in done]))
        ends = np.cumsum([0, *map(len, of_tile)])
        real, fake = space.vectors(true_crops), space.vectors(painted_crops)
        scores = board[method] = Scores(
            np.array([trial.number for trial in done]), numbers,
            [(stains(image)[trial.hole][::PIXEL_STEP], stains(trial.truth)[trial.hole][::PIXEL_STEP])
             for trial, image in zip(done, painted, strict=True)],
            [np.arange(*pair) for pair in pairwise(ends)], (real[:, -OWN:], fake[:, -OWN:]))
        groups = np.repeat([trial.group for trial in done], np.diff(ends))
        if len(np.unique(groups)) > 1:
            scores.probes["network"] = detectability(real, fake, groups)
            scores.probes["statistics"] = detectability(
                colour_and_wavelets(true_crops), colour_and_wavelets(painted_crops), groups)
    classify(trials, records, board, space)
    return board


def classify(trials: Sequence[Trial], records: Records, board: dict[str, Scores], space: NetworkSpace) -> None:
    """Judge the methods that painted all tiles by a tissue classifier, trained on clean tiles of other pairs."""
    complete = [method for method, scores in board.items() if len(scores.tiles) == len(trials)]
    labels = tissue_classes([t.organ for t in trials], [t.source for t in trials], [t.image for t in trials])
    groups = np.array([trial.group for trial in trials])
    if len(np.unique(labels)) < 2 or len(np.unique(groups)) < 2:
        return
    clean = space.vectors([trial.truth for trial in trials])
    others = [space.vectors([records.painted(method, trial.number) for trial in trials]) for method in complete]
    right_clean, *right = right_answers(clean, others, labels, groups)
    for method, answers in zip(complete, right, strict=True):
        board[method].right, board[method].right_clean = answers, right_clean


TEXT = ("image", "source", "organ", "artifact", "hole_size", "hole_width", "method")
Value = Callable[[Board, str, np.ndarray], float]


def ratio(above: str, below: str) -> Value:
    """Sums over the tiles, divided."""
    return lambda board, method, at: board[method].sum(above, at) / max(board[method].sum(below, at), 1e-9)


def average(name: str) -> Value:
    return lambda board, method, at: board[method].mean(name, at)


def stain(board: Board, method: str, at: np.ndarray) -> float:
    return float(np.mean([ratio(f"{name}_distance", f"true_{name}_spread")(board, method, at)
                          for name in ("haematoxylin", "eosin")]))


def error_of_sum(above: str, below: str) -> Value:
    """The error of the sum over all tiles, as a share of the true sum."""
    return lambda board, method, at: abs(ratio(above, below)(board, method, at) - 1)


def error_by_tile(above: str, below: str) -> Value:
    """The sum of the tiles' absolute errors, as a share of the true sum."""

    def value(board: Board, method: str, at: np.ndarray) -> float:
        columns = board[method].columns
        true = columns[below][at].sum()
        return float(np.abs(columns[above] - columns[below])[at].sum() / true) if true else np.nan

    return value


def largest_outside(board: Board, method: str, at: np.ndarray) -> float:
    return float(board[method].columns["outside"][at].max())


def f1(board: Board, method: str, at: np.ndarray) -> float:
    scores = board[method]
    if method == "real":            # another place has other nuclei
        return np.nan
    return 2 * scores.sum("matched", at) / max(scores.sum("detected", at) + scores.sum("true_detected", at), 1e-9)


def accuracy(board: Board, method: str, at: np.ndarray) -> float:
    right = board[method].right
    return float(right[at].mean()) if right is not None else np.nan


def won_back(value: Value, clean: float | None) -> Value:
    """The share of the loss by damage that a method wins back: 1 = as good as clean, 0 = as damaged, negative = worse.

    nan where damage costs nothing. `clean` is the value of clean tiles; None: the classifier's accuracy on them.
    """

    def share(board: Board, method: str, at: np.ndarray) -> float:
        best = clean
        if best is None:
            right = board[method].right_clean
            best = float(right[at].mean()) if right is not None else np.nan
        damaged = value(board, "damaged", board_places(board, "damaged", board[method].tiles[at]))
        lost = abs(best - damaged)
        return (lost - abs(best - value(board, method, at))) / lost if lost > 1e-9 else np.nan

    return share


def kid_over_telea(board: Board, method: str, at: np.ndarray) -> float:
    if "telea" not in board:
        return np.nan
    return board[method].kid(at) / board["telea"].kid(board_places(board, "telea", board[method].tiles[at]))


def board_places(board: Board, method: str, numbers: np.ndarray) -> np.ndarray:
    """The places of these tiles in a method's arrays."""
    return np.searchsorted(board[method].tiles, numbers)


@dataclass(frozen=True)
class Measure:
    title: str
    value: Value
    ideal: float            # of a perfect repair, or of real tissue
    digits: int = 2
    resamples: int = RESAMPLES
    scale: str = "plain"    # "ratio": 0.5 and 2 are as far from 1

    def distance(self, value: float) -> float:
        """How far a value is from the ideal."""
        if self.scale == "ratio":
            return abs(float(np.log(max(value, 1e-6) / self.ideal)))
        if self.ideal == np.inf:
            return -value
        return abs(value - self.ideal)


MEASURES: dict[str, Measure] = {
    "probe": Measure("probe AUC", lambda b, m, at: b[m].auc("network", at), 0.5, resamples=200),
    "probe2": Measure("probe AUC, colours and wavelets", lambda b, m, at: b[m].auc("statistics", at), 0.5,
                      resamples=200),
    "kid": Measure("KID", lambda b, m, at: b[m].kid(at), 0, resamples=0),
    "kid_over_telea": Measure("KID over Telea's", kid_over_telea, 0, 3, 0),
    "stain_pooled": Measure("stain, pooled", lambda b, m, at: b[m].pooled_stain(at), 0, 3, FEW_RESAMPLES),
    "texture": Measure("texture", ratio("energy", "true_energy"), 1, scale="ratio"),
    "nuclei": Measure("nuclei, count error", error_of_sum("nuclei", "true_nuclei"), 0, 3),
    "nuclear_area": Measure("nuclei, area error", error_of_sum("nuclear_px", "true_nuclear_px"), 0, 3),
    "edge": Measure("edge jump over real", ratio("jump", "true_jump"), 1, scale="ratio"),
    "stain": Measure("stain, tile by tile", stain, 0, 3),
    "nuclei_by_tile": Measure("nuclei, count error tile by tile", error_by_tile("nuclei", "true_nuclei"), 0, 3),
    "perceptual": Measure("perceptual distance", average("perceptual"), 0, 3),
    "psnr": Measure("PSNR, dB", average("psnr"), np.inf),
    "ssim": Measure("SSIM", average("ssim"), 1, 3),
    "fsim": Measure("FSIM", average("fsim"), 1, 3),
    "match": Measure("largest match", average("match"), 0, 3),
    "copied": Measure("copied windows", average("copied"), 0, 3),
    "outside": Measure("change outside", largest_outside, 0, 0),
    "f1": Measure("nuclei found, F1", f1, 1, 3),
    "f1_won": Measure("F1 won back", won_back(f1, 1.0), 1),
    "count_won": Measure("nuclei count won back", won_back(error_by_tile("detected", "true_detected"), 0.0), 1),
    "accuracy": Measure("tissue classifier, right", accuracy, 1, 3),
    "accuracy_won": Measure("classifier's loss won back", won_back(accuracy, None), 1),
}


def interval(
    key: str, board: Board, method: str, groups: np.ndarray, at: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """A figure and its 95 % interval, over all tiles of a method or those `at` these places.

    Pairs of tiles are drawn with replacement (bootstrap percentiles); KID gets 1.96 standard errors of random halves;
    nan below four pairs.
    """
    measure, rng = MEASURES[key], np.random.default_rng(seed)
    scores = board[method]
    at = np.arange(len(scores.tiles)) if at is None else at
    with np.errstate(invalid="ignore", divide="ignore"):
        value = measure.value(board, method, at)
        pairs = groups[scores.tiles[at]]
        names = np.unique(pairs)
        if len(names) < 4 or np.isnan(value):
            return value, np.nan, np.nan
        if key == "kid":
            rows = np.concatenate([scores.crops[n] for n in at])
            of_rows = np.repeat(pairs, [len(scores.crops[n]) for n in at])
            error = 1.96 * kid_spread(scores.features[0][rows], scores.features[1][rows], of_rows, rng)
            return value, value - error, value + error
        members = [at[pairs == name] for name in names]
        values = [measure.value(board, method, np.concatenate([members[n] for n in draw]))
                  for draw in rng.integers(len(names), size=(min(measure.resamples, RESAMPLES), len(names)))]
        values = [v for v in values if not np.isnan(v)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) > 1 else (np.nan, np.nan)
    return value, float(low), float(high)
