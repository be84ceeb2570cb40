"""How much of "nuclei count won back" can be won by whoever does not know what lay in the hole.

    python -m benchmarks.quality.count_known DATA ... [--tiles 200 --mpp 0.25 --seed 0]

The trials are those of `artifusion evaluate`. Guesses of a hole's nuclei: as dense as outside it, or as within 20 um of
it; a ridge regression and a forest on these, in twenty folds, so with the other holes' truths; the same with the area
that the hole's nuclei truly cover; and draws from a Poisson distribution around the regression: tissue that is like
what was lost, and is not it. The figure is that of the report's column.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from artifusion.evaluation.nuclei import find_nuclei, nuclear_threshold, stains
from artifusion.evaluation.trials import Trial, plan_trials

BESIDE_UM = 20.0
FOLDS, DRAWS = 20, 50
PENALTIES = np.logspace(-3, 3, 13)


def counts(trial: Trial) -> tuple[float, ...]:
    """Nuclei of the truth, of them outside the hole, of the damaged tile; of the hole: expected, expected by what is
    beside it, its share of the tile, and the share of it that nuclei cover."""
    density = stains(trial.truth)[..., 0]
    threshold = nuclear_threshold(density, ~trial.hole)
    true = find_nuclei(density, threshold, trial.spacing_um)
    damaged = find_nuclei(stains(trial.damaged)[..., 0], threshold, trial.spacing_um)
    away = ndimage.distance_transform_edt(~trial.hole) * trial.spacing_um
    beside, size = (away > 0) & (away <= BESIDE_UM), np.count_nonzero(trial.hole)
    outside = true.inside(~trial.hole)[0]
    return (len(true.centres), outside, len(damaged.centres), outside * size / np.count_nonzero(~trial.hole),
            true.inside(beside)[0] * size / np.count_nonzero(beside), size / trial.hole.size,
            true.inside(trial.hole)[1] / size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = np.array([counts(trial) for trial in plan_trials(given.data, given.tiles, given.seed, given.mpp)])
    true, outside, damaged, expected, by_ring, share, area = rows.T
    in_hole = true - outside
    known = np.stack([expected, by_ring, share], axis=1)
    ridge, with_area, forest = (
        cross_val_predict(model, values, in_hole, cv=FOLDS).clip(0) for model, values in (
            (RidgeCV(PENALTIES), known), (RidgeCV(PENALTIES), np.c_[known, area * share]),
            (RandomForestRegressor(300, min_samples_leaf=4, criterion="absolute_error", random_state=0), known)))
    sampled = np.random.default_rng(given.seed).poisson(ridge, (DRAWS, len(ridge)))

    def won(guess: np.ndarray) -> float:
        """1: all of the error that damage causes is gone."""
        return float(1 - abs(guess - in_hole).sum() / abs(damaged - true).sum())

    for name, guess in (("as dense as outside", expected), (f"as within {BESIDE_UM:.0f} um", by_ring), ("ridge", ridge),
                        ("forest", forest), ("ridge, knowing the area that nuclei cover", with_area)):
        print(f"{name}: {won(guess):.2f}")
    print(f"Poisson draws around the ridge: {np.mean([won(one) for one in sampled]):.2f}")


if __name__ == "__main__":
    main()
