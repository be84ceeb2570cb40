"""On real tissue every measure that judges puts real tissue before a mean fill and before Telea's."""

from pathlib import Path

import numpy as np
import pytest

from artifusion.evaluation import measures
from artifusion.evaluation import scores as scoring
from artifusion.evaluation import trials as planning
from artifusion.evaluation.features import NetworkSpace
from artifusion.evaluation.measures import measure
from artifusion.evaluation.methods import make_methods, timed
from artifusion.evaluation.records import Records
from artifusion.evaluation.report import Figures

SHARED = Path(__file__).resolve().parents[3] / "shared"
JUDGES = ("probe", "probe2", "kid", "stain_pooled", "texture", "nuclei")
METHODS = ("real", "mean", "telea")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    data = SHARED / "data" / "train" / "tnbc"
    if not data.is_dir():
        pytest.skip("../shared is absent")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(scoring, "RESAMPLES", 1)
    monkeypatch.setattr(measures, "MAX_WINDOWS", 1)
    cheap = {width: {kind: planning.ARTIFACTS[width][kind]} for width, kind in (("thin", "pen"), ("thick", "dark"))}
    monkeypatch.setattr(planning, "ARTIFACTS", cheap)
    trials = planning.plan_trials([data], 8, seed=0)
    records, space = Records(tmp_path_factory.mktemp("proof")), NetworkSpace()
    for trial in trials:
        for name, fill in make_methods(METHODS, (), trials, None, 0).items():
            if name in METHODS:
                painted, cost = timed(fill, trial, None)
                records.add(trial, name, painted, cost, 0.0, measure(trial, painted, space, real=name == "real"))
    yield Figures(trials, scoring.score(trials, records, METHODS, space))
    monkeypatch.undo()


@pytest.mark.parametrize("key", JUDGES)
def test_real_tissue_comes_before_fills(figures, key):
    real, mean, telea = (scoring.MEASURES[key].distance(figures.value(key, method)) for method in METHODS)
    assert np.isfinite([real, mean, telea]).all() and real < min(mean, telea)


@pytest.mark.parametrize("key", ["psnr", "ssim"])
def test_what_rewards_blur_does_not_pass(figures, key):
    assert figures.value(key, "telea") > figures.value(key, "real") and not figures.places(key)[1]
