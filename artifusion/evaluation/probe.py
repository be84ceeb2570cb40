"""Measures of many tiles at once: can restored crops be told apart from real ones, and what does damage cost?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

FOLDS = 5
PENALTY = 0.01              # C of the logistic regressions: features outnumber crops
HALVES = 40


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, others: Sequence[np.ndarray] = ()
                ) -> list[np.ndarray]:
    """Probabilities (N, classes) of every row by a linear classifier that was trained on the other folds.

    Args:
        features: (N, D), standardised by each fold's training rows.
        labels: (N,).
        groups: (N,); rows of one group are never in both training and test.
        others: other features (N, D) of the same rows, judged by the same classifiers.

    Returns one array for `features` and one for each of `others`; columns follow the sorted labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = np.unique(labels)
    probabilities = [np.zeros((len(labels), len(classes))) for _ in (features, *others)]
    for train, test in GroupKFold(min(FOLDS, len(np.unique(groups)))).split(features, labels, groups):
        present = np.unique(labels[train])
        if len(present) < 2:
            columns = np.searchsorted(classes, present)
            for out in probabilities:
                out[np.ix_(test, columns)] = 1
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000))
        probe.fit(features[train], labels[train])
        for out, rows in zip(probabilities, (features, *others), strict=True):
            out[np.ix_(test, np.searchsorted(classes, present))] = probe.predict_proba(rows[test])
    return probabilities


def detectability(real: np.ndarray, painted: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How much like painted ones crops of the same places look to a linear probe, out of fold: (N, 2) real, painted.

    Groups (N,) are kept together, so that no probe knows the tile that it judges. Raises ValueError below two groups.
    """
    if len(np.unique(groups)) < 2:
        raise ValueError("a probe needs crops of at least two groups of tiles")
    labels = np.repeat([0, 1], len(real))
    (probabilities,) = out_of_fold(np.concatenate([real, painted]), labels, np.tile(groups, 2))
    return probabilities[:, 1].reshape(2, -1).T


def auc(scores: np.ndarray) -> float:
    """Area under the ROC curve of scores (N, 2): how often a painted crop scores above a real one."""
    ranks, count = rankdata(scores.T.ravel()), len(scores)
    return float((ranks[count:].sum() - count * (count + 1) / 2) / count**2)         # Mann & Whitney 1947


def kid(real: np.ndarray, painted: np.ndarray) -> float:
    """Kernel distance of two sets of features; unbiased, so around 0, also below, for similar sets  (Binkowski et al.
    2018, cubic kernel, all of both sets at once)."""
    import torch

    from artifusion.evaluation.operators import load_torchvision

    load_torchvision()
    from torchmetrics.image.kid import poly_mmd

    x, y = (torch.from_numpy(np.ascontiguousarray(rows)).double() for rows in (real, painted))
    return float(poly_mmd(x, y))


def kid_spread(real: np.ndarray, painted: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> float:
    """Standard error of `kid` from random halves of the groups without repeats (delete-half jackknife, Shao & Wu 1989);
    a bootstrap would count repeated rows as similar."""
    names = np.unique(groups)
    if len(names) < 4:
        return float("nan")
    whole, values = kid(real, painted), []
    for _ in range(HALVES):
        half = np.isin(groups, rng.permutation(names)[: len(names) // 2])
        if half.sum() >= 2:
            values.append(kid(real[half], painted[half]))
    return float(np.sqrt(np.mean(np.square(np.array(values) - whole))))


def tissue_classes(organs: Sequence[str], sources: Sequence[str], images: Sequence[str]) -> np.ndarray:
    """The classes of the tissue classifier: organs where known, else sources; images where all have one class."""
    labels = np.array([organ or source for organ, source in zip(organs, sources, strict=True)])
    return labels if len(np.unique(labels)) > 1 else np.array(images)


def right_answers(
    clean: np.ndarray, others: Sequence[np.ndarray], labels: np.ndarray, groups: np.ndarray
) -> list[np.ndarray]:
    """Which tiles a classifier of other, clean tiles gets right: bool (N,) for `clean` and for each of `others`."""
    classes = np.unique(labels)
    return [classes[guesses.argmax(1)] == labels for guesses in out_of_fold(clean, labels, groups, others)]
