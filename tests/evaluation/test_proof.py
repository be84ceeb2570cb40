"""On real tissue every measure that judges puts real tissue before a mean fill and before Telea's."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from artifusion.evaluation import figures as figuring
from artifusion.evaluation import measures
from artifusion.evaluation import scores as scoring
from artifusion.evaluation import trials as planning
from artifusion.evaluation.features import NetworkSpace
from artifusion.evaluation.figures import Figures
from artifusion.evaluation.measures import STORED, band_energies, measure
from artifusion.evaluation.methods import make_methods, timed
from artifusion.evaluation.records import Records
from benchmarks.quality.gradients import gradient_energy

SHARED = Path(__file__).resolve().parents[3] / "shared"
JUDGES = ("probe", "probe2", "kid", "stain_pooled", "texture", "nuclei")
METHODS = ("real", "mean", "telea")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    data = SHARED / "data" / "train" / "tnbc"
    if not data.is_dir():
        pytest.skip("../shared is absent")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(figuring, "RESAMPLES", 1)
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


@pytest.mark.parametrize("key", [*JUDGES, *(key + STORED for key in JUDGES)])
def test_real_tissue_comes_before_fills(figures, key):
    real, mean, telea = (figuring.MEASURES[key].distance(figures.value(key, method)) for method in METHODS)
    assert np.isfinite([real, mean, telea]).all() and real < min(mean, telea)


@pytest.mark.parametrize("key", ["psnr", "ssim"])
def test_what_rewards_blur_does_not_pass(figures, key):
    assert figures.value(key, "telea") > figures.value(key, "real") and not figures.places(key)[1]


def test_noise_is_no_detail(figures):
    """A blurred fill with white noise whose gradients have just the truth's energy: its bands do not have it."""
    noise = np.random.default_rng(0).normal(size=(256, 256, 1))
    for trial in figures.trials:
        energy = gradient_energy(trial.truth, trial.hole)
        blurred = gaussian_filter(trial.truth.astype(float), (2, 2, 0))
        strengths = [0, *np.geomspace(1, 60, 60)]
        fills = [np.clip(np.rint(blurred + strength * noise), 0, 255).astype(np.uint8) for strength in strengths]
        fill = min(fills, key=lambda fill: abs(gradient_energy(fill, trial.hole) / energy - 1))
        assert gradient_energy(fill, trial.hole) == pytest.approx(energy, rel=0.15)
        true = band_energies(trial.truth, trial.hole)
        finest, second, third = np.array(band_energies(fill, trial.hole)) / true
        assert finest > 0.8 and second < 0.4 and third < 0.8
        for fill in fills:              # nor is there a strength of noise that suits all bands
            found = np.array(band_energies(fill, trial.hole)) / true
            assert np.abs(np.log(found)).max() > np.log(2)
