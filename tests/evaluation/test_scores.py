from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from artifusion.evaluation import figures as figuring
from artifusion.evaluation.figures import MEASURES, Figures, error_by_tile, interval
from artifusion.evaluation.probe import auc, detectability, kid, kid_spread, out_of_fold, right_answers
from artifusion.evaluation.scores import Scores

RNG = np.random.default_rng(0)


def test_the_probe_tells_what_differs_and_nothing_else():
    real, alike, shifted = RNG.normal(size=(3, 120, 30))
    groups = np.repeat(np.arange(30), 4)
    assert 0.35 < auc(detectability(real, alike, groups)) < 0.65
    assert auc(detectability(real, shifted + 1.5, groups)) > 0.98
    with pytest.raises(ValueError, match="two groups"):
        detectability(real, alike, np.zeros(120))


def test_the_area_under_the_curve_is_scikit_learns():
    scores = RNG.integers(0, 9, size=(50, 2)).astype(float)                 # with ties
    assert auc(scores) == pytest.approx(roc_auc_score(np.repeat([0, 1], 50), scores.T.ravel()))


def test_the_probe_cannot_know_a_tile_by_heart():
    """Every tile has colours of its own, and painted is what is reddest in its tile: a probe that sees a tile's other
    crops would know; one that does not is left with chance."""
    tile = np.repeat(RNG.normal(size=(40, 60)) * 10, 3, axis=0)
    labels = RNG.permuted(np.tile([0, 1], 60))
    (guesses,) = out_of_fold(tile + RNG.normal(size=tile.shape) * 0.01, labels, np.repeat(np.arange(40), 3))
    assert np.abs(np.corrcoef(guesses[:, 1], labels)[0, 1]) < 0.3


def test_kernel_distance_is_about_zero_for_like_sets_and_grows():
    real, alike = RNG.normal(size=(2, 200, 16))
    assert abs(kid(real, alike)) < 0.1 < kid(real, alike + 0.5) < kid(real, alike + 1)
    assert 0 < kid_spread(real, alike + 1, np.repeat(np.arange(50), 4), np.random.default_rng(0)) < kid(real, alike + 1)


def test_the_tissue_classifier_judges_tiles_that_it_never_saw():
    labels, groups = np.repeat(["a", "b"], 20), np.arange(40) // 2
    clean = RNG.normal(size=(40, 8)) + (labels == "b")[:, None] * 4
    right, swapped = right_answers(clean, [clean[::-1]], labels, groups)
    assert right.mean() > 0.9 and swapped.mean() < 0.1


def board(**methods):
    built = {}
    for name, columns in methods.items():
        columns = {key: np.asarray(values, float) for key, values in columns.items()}
        number = len(next(iter(columns.values())))
        built[name] = Scores(np.arange(number), columns, [np.empty(0, int)] * number)
    return built


def test_sums_are_added_up_before_they_are_divided():
    figures = board(ours={"nuclei": [12, 8], "true_nuclei": [10, 10],
                          "band_1": [1, 3], "true_band_1": [2, 2], "band_2": [1, 1], "true_band_2": [2, 2],
                          "band_3": [3, 3], "true_band_3": [2, 2]})
    at = np.arange(2)
    assert MEASURES["nuclei"].value(figures, "ours", at) == 0
    assert MEASURES["nuclei_by_tile"].value(figures, "ours", at) == pytest.approx(0.2)
    assert [MEASURES[f"band_{n}"].value(figures, "ours", at) for n in (1, 2, 3)] == [1, 0.5, 1.5]
    assert MEASURES["texture"].value(figures, "ours", at) == 0.5            # of the band that is worst
    assert MEASURES["texture"].distance(0.5) == pytest.approx(MEASURES["texture"].distance(2))


def test_what_is_won_back_of_the_loss():
    counts = {"damaged": (5, 10), "ours": (8, 10), "worse": (2, 10), "clean": (10, 10)}
    figures = board(**{name: {"detected": [found], "true_detected": [true]} for name, (found, true) in counts.items()})
    won = {name: MEASURES["count_won"].value(figures, name, np.arange(1)) for name in counts}
    assert won == {"damaged": 0, "ours": pytest.approx(0.6), "worse": pytest.approx(-0.6), "clean": 1}
    assert np.isnan(MEASURES["count_won"].value(board(damaged={"detected": [3], "true_detected": [3]}), "damaged",
                                                np.arange(1)))


def test_the_interval_is_that_of_a_mean_over_pairs():
    values = np.repeat(RNG.normal(10, 2, size=200), 2)                      # both of a pair alike: 200 draws, not 400
    figures = board(ours={"psnr": values})
    value, low, high = interval("psnr", figures, "ours", np.arange(400) // 2)
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.15) and low < value < high
    assert (low, high) == interval("psnr", figures, "ours", np.arange(400) // 2)[1:]
    assert np.isnan(interval("psnr", figures, "ours", np.zeros(400, int))[1])
    assert figuring.RESAMPLES >= 1000


def test_real_tissue_ties_with_the_first_where_its_interval_holds_the_ideal():
    known = {"real": (1.01, 0.99, 1.04), "paint": (1.0, 0.97, 1.03), "telea": (0.2, 0.1, 0.3), "mean": (0, 0, 0)}
    board = {name: SimpleNamespace(tiles=np.arange(2)) for name in known}
    figures = Figures([SimpleNamespace(group=0)] * 2, board)
    figures._known = {("texture", name): interval for name, interval in known.items()}
    assert figures.places("texture")[1]
    figures._known["texture", "real"] = (1.03, 1.02, 1.04)
    assert not figures.places("texture")[1]


def test_an_error_by_tile_is_nan_where_there_is_nothing_to_find():
    columns = {"nuclei": np.array([2.0, 1.0]), "true_nuclei": np.array([0.0, 2.0])}
    value = error_by_tile("nuclei", "true_nuclei")
    assert np.isnan(value({"ours": SimpleNamespace(columns=columns)}, "ours", np.array([0])))
    assert value({"ours": SimpleNamespace(columns=columns)}, "ours", np.array([1])) == 0.5
