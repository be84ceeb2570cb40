"""From painted tiles to scores: what is known of a method once all its tiles are looked at together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from scipy.stats import wasserstein_distance

from artifusion.evaluation.features import OWN, NetworkSpace, colour_and_wavelets, hole_crops
from artifusion.evaluation.measures import STORED, as_stored
from artifusion.evaluation.methods import LEFT_OUT
from artifusion.evaluation.nuclei import stains
from artifusion.evaluation.probe import auc, detectability, kid, right_answers, tissue_classes
from artifusion.evaluation.records import Records
from artifusion.evaluation.trials import Trial

PIXEL_STEP = 67             # every so many-th hole pixel goes into the pooled stain distribution
TEXT = ("image", "source", "organ", "artifact", "hole_size", "hole_width", "method")


@dataclass
class Scores:
    """The results of one method, by tile."""

    tiles: np.ndarray                           # (N,) numbers of the trials that it painted
    columns: dict[str, np.ndarray]              # (N,) each, of tiles.csv
    crops: list[np.ndarray]                     # the rows of the crops of each tile in the arrays below
    # By how the pixels are stored: "" as painted, STORED after JPEG.
    stain: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)     # in the hole, (n, 2) each
    features: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)        # (M, OWN) real, painted
    probes: dict[str, np.ndarray] = field(default_factory=dict)     # space + stored -> (M, 2) scores of real, painted
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

    def kid(self, stored: str, at: np.ndarray) -> float:
        rows = np.concatenate([self.crops[n] for n in at]) if len(at) else np.empty(0, int)
        if stored not in self.features or len(rows) < 2:
            return np.nan
        real, painted = self.features[stored]
        return kid(real[rows], painted[rows])

    def pooled_stain(self, stored: str, at: np.ndarray) -> float:
        if stored not in self.stain:
            return np.nan
        painted, true = (np.concatenate([self.stain[stored][n][which] for n in at]) for which in (0, 1))
        return float(np.mean([wasserstein_distance(painted[:, n], true[:, n]) / true[:, n].std() for n in (0, 1)]))


Board = Mapping[str, Scores]


def score(trials: Sequence[Trial], records: Records, methods: Sequence[str], space: NetworkSpace) -> dict[str, Scores]:
    """The scores of every method on the tiles that it painted."""
    rows, board = records.rows(), {}
    for method in methods:
        done = [trial for trial in trials if (method, trial.number) in rows]
        numbers = {name: np.array([float(rows[method, trial.number][name]) for trial in done])
                   for name in list(rows[method, done[0].number]) if name not in TEXT}
        crops = [hole_crops(trial.hole) for trial in done]
        ends = np.cumsum([0, *map(len, crops)])
        board[method] = Scores(np.array([trial.number for trial in done]), numbers,
                               [np.arange(*pair) for pair in pairwise(ends)])
        if method != LEFT_OUT:
            painted = [records.painted(method, trial.number) for trial in done]
            compare(board[method], done, painted, "", space)
            compare(board[method], [replace(trial, truth=as_stored(trial.truth)) for trial in done],
                    [as_stored(image) for image in painted], STORED, space)
    classify(trials, records, board, space)
    return board


def compare(scores: Scores, trials: Sequence[Trial], painted: Sequence[np.ndarray], stored: str, space: NetworkSpace
            ) -> None:
    """Add what compares painted tiles with their truths, both stored in one way, to the scores of a method."""
    scores.stain[stored] = [
        (stains(image)[trial.hole][::PIXEL_STEP], stains(trial.truth)[trial.hole][::PIXEL_STEP])
        for trial, image in zip(trials, painted, strict=True)]
    true_crops, painted_crops = (
        [image[crop] for image, trial in zip(images, trials, strict=True) for crop in hole_crops(trial.hole)]
        for images in ([trial.truth for trial in trials], painted))
    real, fake = space.vectors(true_crops), space.vectors(painted_crops)
    scores.features[stored] = real[:, -OWN:], fake[:, -OWN:]
    groups = np.repeat([trial.group for trial in trials], [len(rows) for rows in scores.crops])
    if len(np.unique(groups)) > 1:
        scores.probes["network" + stored] = detectability(real, fake, groups)
        scores.probes["statistics" + stored] = detectability(
            colour_and_wavelets(true_crops), colour_and_wavelets(painted_crops), groups)


def classify(trials: Sequence[Trial], records: Records, board: dict[str, Scores], space: NetworkSpace) -> None:
    """Judge the methods that painted all tiles by a tissue classifier, trained on clean tiles of other pairs.

    Of tiles whose hole is left out it sees the activations outside the hole.
    """
    complete = [method for method, scores in board.items() if len(scores.tiles) == len(trials)]
    labels = tissue_classes([t.organ for t in trials], [t.source for t in trials], [t.image for t in trials])
    groups = np.array([trial.group for trial in trials])
    if len(np.unique(labels)) < 2 or len(np.unique(groups)) < 2:
        return
    clean = space.vectors([trial.truth for trial in trials])
    others = [space.vectors([trial.damaged for trial in trials], [trial.hole for trial in trials])
              if method == LEFT_OUT else
              space.vectors([records.painted(method, trial.number) for trial in trials]) for method in complete]
    right_clean, *right = right_answers(clean, others, labels, groups)
    for method, answers in zip(complete, right, strict=True):
        board[method].right, board[method].right_clean = answers, right_clean
