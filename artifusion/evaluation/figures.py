"""From scores to figures: every measure is a function of the tiles that count, so that it can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from artifusion.evaluation.measures import BANDS, STORED
from artifusion.evaluation.probe import kid_spread
from artifusion.evaluation.scores import Board
from artifusion.evaluation.trials import Trial

RESAMPLES, FEW_RESAMPLES = 1000, 100

Value = Callable[[Board, str, np.ndarray], float]


def ratio(above: str, below: str) -> Value:
    """Sums over the tiles, divided."""
    return lambda board, method, at: board[method].sum(above, at) / max(board[method].sum(below, at), 1e-9)


def average(name: str) -> Value:
    return lambda board, method, at: board[method].mean(name, at)


def stain(stored: str) -> Value:
    both = [ratio(f"{name}_distance{stored}", f"true_{name}_spread{stored}") for name in ("haematoxylin", "eosin")]
    return lambda board, method, at: float(np.mean([value(board, method, at) for value in both]))


def texture(stored: str) -> Value:
    """The energy over the truth's in the band in which it is furthest from 1."""
    bands = [ratio(f"band_{n}{stored}", f"true_band_{n}{stored}") for n in range(1, BANDS + 1)]

    def value(board: Board, method: str, at: np.ndarray) -> float:
        return max((band(board, method, at) for band in bands), key=lambda ratio: abs(np.log(max(ratio, 1e-6))))

    return value


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
    return board[method].kid("", at) / board["telea"].kid("", board_places(board, "telea", board[method].tiles[at]))


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


def judges(stored: str, words: str) -> dict[str, Measure]:
    """The measures of a painted picture, as painted or as stored in JPEG."""
    found = {
        "probe": Measure("probe AUC", lambda b, m, at: b[m].auc("network" + stored, at), 0.5, resamples=200),
        "probe2": Measure("probe AUC, colours and wavelets", lambda b, m, at: b[m].auc("statistics" + stored, at), 0.5,
                          resamples=200),
        "kid": Measure("KID", lambda b, m, at: b[m].kid(stored, at), 0, resamples=0),
        "stain_pooled": Measure("stain, pooled", lambda b, m, at: b[m].pooled_stain(stored, at), 0, 3, FEW_RESAMPLES),
        "texture": Measure("texture, worst band", texture(stored), 1, scale="ratio"),
        "nuclei": Measure("nuclei, count error", error_of_sum("nuclei" + stored, "true_nuclei" + stored), 0, 3),
        "nuclear_area": Measure("nuclei, area error", error_of_sum("nuclear_px" + stored, "true_nuclear_px" + stored),
                                0, 3),
        "edge": Measure("edge jump over real", ratio("jump" + stored, "true_jump" + stored), 1, scale="ratio"),
        "stain": Measure("stain, tile by tile", stain(stored), 0, 3),
        "nuclei_by_tile": Measure("nuclei, count error tile by tile",
                                  error_by_tile("nuclei" + stored, "true_nuclei" + stored), 0, 3),
        "perceptual": Measure("perceptual distance", average("perceptual" + stored), 0, 3),
        "psnr": Measure("PSNR, dB", average("psnr" + stored), np.inf),
        "ssim": Measure("SSIM", average("ssim" + stored), 1, 3),
        "fsim": Measure("FSIM", average("fsim" + stored), 1, 3),
    }
    return {name + stored: replace(measure, title=measure.title + words) for name, measure in found.items()}


JUDGES = judges("", "")
JUDGES_STORED = judges(STORED, ", JPEG")
TEXTURE = {f"band_{n}{stored}": Measure(f"band of {2**n} px{words}",
                                        ratio(f"band_{n}{stored}", f"true_band_{n}{stored}"), 1, scale="ratio")
           for stored, words in (("", ""), (STORED, ", JPEG")) for n in range(1, BANDS + 1)}
PROPERTIES = {
    "match": Measure("largest match", average("match"), 0, 3),
    "copied": Measure("copied windows", average("copied"), 0, 3),
    "outside": Measure("change outside", largest_outside, 0, 0),
}
DOWNSTREAM = {
    "f1": Measure("nuclei found, F1", f1, 1, 3),
    "f1_won": Measure("F1 won back", won_back(f1, 1.0), 1),
    "count_won": Measure("nuclei count won back", won_back(error_by_tile("detected", "true_detected"), 0.0), 1),
    "accuracy": Measure("tissue classifier, right", accuracy, 1, 3),
    "accuracy_won": Measure("classifier's loss won back", won_back(accuracy, None), 1),
}
MEASURES: dict[str, Measure] = {
    **JUDGES, **JUDGES_STORED, **TEXTURE, **PROPERTIES, **DOWNSTREAM,
    "kid_over_telea": Measure("KID over Telea's", kid_over_telea, 0, 3, 0),
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
        if key in ("kid", "kid" + STORED):
            features = scores.features[key.removeprefix("kid")]
            rows = np.concatenate([scores.crops[n] for n in at])
            of_rows = np.repeat(pairs, [len(scores.crops[n]) for n in at])
            error = 1.96 * kid_spread(features[0][rows], features[1][rows], of_rows, rng)
            return value, value - error, value + error
        members = [at[pairs == name] for name in names]
        values = [measure.value(board, method, np.concatenate([members[n] for n in draw]))
                  for draw in rng.integers(len(names), size=(min(measure.resamples, RESAMPLES), len(names)))]
        values = [v for v in values if not np.isnan(v)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) > 1 else (np.nan, np.nan)
    return value, float(low), float(high)


class Figures:
    """All figures of a board, each computed once."""

    def __init__(self, trials: Sequence[Trial], board: Board) -> None:
        self.trials, self.board = trials, board
        self.groups = np.array([trial.group for trial in trials])
        self.ours = next((name for name in ("graft", "paint") if name in board), None)
        self._known: dict[tuple[str, str], tuple[float, float, float]] = {}

    def interval(self, key: str, method: str) -> tuple[float, float, float]:
        if (key, method) not in self._known:
            self._known[key, method] = interval(key, self.board, method, self.groups)
        return self._known[key, method]

    def value(self, key: str, method: str) -> float:
        return self.interval(key, method)[0]

    def cell(self, key: str, method: str) -> str:
        return formatted(key, *self.interval(key, method))

    def places(self, key: str) -> tuple[dict[str, int], bool]:
        """The rank of each method that painted all tiles, 1 = best, and whether the measure passes its proof: real
        tissue is first, or as good as the first within its interval; Telea and mean fill are in the lower half."""
        measure = MEASURES[key]
        distances = {method: measure.distance(self.value(key, method)) for method, scores in self.board.items()
                     if method != "damaged" and len(scores.tiles) == len(self.trials)
                     and not np.isnan(self.value(key, method))}
        order = sorted(distances, key=lambda method: distances[method])
        places = {method: place for place, method in enumerate(order, 1)}
        if "real" not in places:
            return places, False
        value, low, high = self.interval(key, "real")
        nearest = value if np.isnan(low) else min(max(measure.ideal, low), high)
        return places, measure.distance(nearest) <= distances[order[0]] and all(
            places[method] > len(order) / 2 for method in ("telea", "mean") if method in places)

    def part(self, key: str, method: str, members: Iterable[Trial]) -> str:
        """A figure of some tiles only."""
        numbers = {trial.number for trial in members}
        at = np.flatnonzero([number in numbers for number in self.board[method].tiles])
        return formatted(key, *interval(key, self.board, method, self.groups, at)) if len(at) else "-"


def formatted(key: str, value: float, low: float = np.nan, high: float = np.nan) -> str:
    """A figure as text, such as "0.71 (0.64, 0.78)"; a dash where nothing could be measured."""
    if np.isnan(value):
        return "-"
    digits = MEASURES[key].digits
    text = f"{value:.{digits}f}"
    return text if np.isnan(low) else f"{text} ({low:.{digits}f}, {high:.{digits}f})"
