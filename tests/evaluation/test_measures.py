import numpy as np
import pytest
from torch import from_numpy

from artifusion.evaluation import measures
from artifusion.evaluation.exemplar import exemplar_fill
from artifusion.evaluation.features import MIN_INSIDE, NetworkSpace, colour_and_wavelets, hole_crops
from artifusion.evaluation.measures import (
    MEASURED,
    PICTURE,
    STORED,
    as_stored,
    band_energies,
    copying,
    edge_jump,
    measure,
    measure_left_out,
    outside_change,
    psnr,
)
from artifusion.evaluation.methods import mean_fill, telea
from artifusion.evaluation.nuclei import count_matches, find_nuclei, nuclear_threshold
from artifusion.evaluation.operators import load_torchvision


@pytest.fixture(scope="module")
def space():
    return NetworkSpace()


def test_the_truth_has_the_perfect_value_of_every_measure(trial, space):
    values = measure(trial, trial.truth.copy(), space)
    assert tuple(values) == MEASURED and values["outside"] == 0
    for stored in ("", STORED):
        found = {name: values[name + stored] for name in PICTURE}
        assert found["psnr"] == np.inf and found["ssim"] == 1 and found["fsim"] == pytest.approx(1)
        assert found["perceptual"] == found["haematoxylin_distance"] == found["eosin_distance"] == 0
        for name in ("nuclei", "nuclear_px", "band_1", "band_2", "band_3", "jump", "detected"):
            assert found[name] == found[f"true_{name}"] and found["matched"] == found["detected"]


@pytest.mark.parametrize("fill", [mean_fill, telea])
def test_every_measure_sees_that_a_fill_is_not_the_truth(trial, space, fill):
    values = measure(trial, fill(trial), space)
    assert values["outside"] == 0
    assert values["psnr"] < 40 and values["ssim"] < 0.9 and values["fsim"] < 0.95 and values["perceptual"] > 0.2
    assert values["haematoxylin_distance"] > 0.1 * values["true_haematoxylin_spread"]
    assert all(values[f"band_{n}{stored}"] < 0.3 * values[f"true_band_{n}{stored}"]
               for n in (1, 2) for stored in ("", STORED))


@pytest.mark.parametrize("step", [16, 128, 200])
def test_differences_that_would_wrap_in_8_bits_count_in_full(step):
    load_torchvision()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    truth = np.full((32, 32, 3), 20, np.uint8)
    hole = np.ones((32, 32), bool)
    shifted = truth + np.uint8(step)
    for painted, true in ((shifted, truth), (truth, shifted)):
        assert psnr(painted, true, hole) == pytest.approx(20 * np.log10(255 / step))
        assert psnr(painted, true, hole) == pytest.approx(float(peak_signal_noise_ratio(
            from_numpy(painted).float(), from_numpy(true).float(), data_range=255.0)), abs=1e-4)
        assert outside_change(painted, true, ~hole) == step
    half = np.concatenate([truth[:16], shifted[:16]])
    border = np.arange(32)[:, None].repeat(32, 1) < 16
    assert edge_jump(half, border) == step


def test_a_pixel_changed_outside_is_found(trial):
    painted = trial.truth.copy()
    painted[0, 0, 1] = painted[0, 0, 1] + 3 if painted[0, 0, 1] < 128 else painted[0, 0, 1] - 3
    assert outside_change(painted, trial.truth, trial.hole) == 3


def test_texture_is_quadratic_in_contrast(trial):
    soft = np.rint(trial.truth.mean() + (trial.truth - trial.truth.mean()) / 2).astype(np.uint8)
    bands, true = band_energies(soft, trial.hole), band_energies(trial.truth, trial.hole)
    assert bands == pytest.approx([energy / 4 for energy in true], rel=0.02)


@pytest.mark.parametrize(("period_px", "band"), [(2, 0), (6, 1), (12, 2)])
def test_detail_counts_in_the_band_of_its_size(period_px, band):
    waves = 128 + 40 * np.cos(2 * np.pi * np.arange(120) / period_px)
    image = np.rint(np.broadcast_to(waves[:, None, None], (120, 120, 3))).astype(np.uint8)
    assert np.argmax(band_energies(image, np.ones((120, 120), bool))) == band


def test_what_is_stored_is_what_a_jpeg_reader_sees(trial):
    stored = as_stored(trial.truth)
    assert stored.shape == trial.truth.shape and stored.dtype == np.uint8
    assert 0 < np.abs(stored.astype(int) - trial.truth).mean() < 20 and np.array_equal(stored, as_stored(trial.truth))


def test_of_a_hole_that_is_left_out_only_the_nuclei_around_it_are_measured(trial):
    values = measure_left_out(trial)
    assert tuple(values) == MEASURED
    known = {name for name, value in values.items() if not np.isnan(value)}
    assert known == {"matched", "detected", "true_detected"}
    assert 0 < values["matched"] <= values["detected"] < values["true_detected"]


@pytest.mark.parametrize("turn", [lambda a: a, np.fliplr, np.rot90])
def test_pasted_tissue_is_copying_however_it_is_turned(trial, turn):
    hole = np.zeros_like(trial.hole)
    hole[10:70, 10:70] = True
    pasted = trial.truth.copy()
    pasted[10:70, 10:70] = turn(trial.truth[150:210, 150:210])
    assert copying(pasted, trial.truth, hole) == {"match": pytest.approx(1), "copied": 1}
    assert copying(trial.truth, trial.truth, hole)["copied"] == 0


def test_the_exemplar_only_pastes_and_that_is_seen(trial):
    filled = exemplar_fill(trial.damaged, trial.hole)
    assert outside_change(filled, trial.truth, trial.hole) == 0
    visible = {tuple(pixel) for pixel in trial.truth[~trial.hole].tolist()}
    assert all(tuple(pixel) in visible for pixel in filled[trial.hole].tolist())
    assert copying(filled, trial.truth, trial.hole)["copied"] > 0.15
    assert np.array_equal(filled, exemplar_fill(np.where(trial.hole[..., None], 255, filled), trial.hole))


def test_flat_paint_has_nothing_to_compare(trial):
    assert np.isnan(copying(mean_fill(trial), trial.truth, trial.hole)["match"])


def test_the_blob_detector_counts_round_dark_spots():
    density = np.random.default_rng(0).normal(0.05, 0.02, (128, 128))
    centres = np.array([(20, 20), (20, 90), (64, 64), (100, 30), (105, 100)])
    y, x = np.mgrid[:128, :128]
    for row, column in centres:
        density[np.hypot(y - row, x - column) < 8] = 0.4
    nuclei = find_nuclei(density, nuclear_threshold(density, np.ones((128, 128), bool)), 0.5)
    assert len(nuclei.centres) == 5 and count_matches(nuclei.centres, centres, 0.5) == 5
    left = np.arange(128)[None].repeat(128, 0) < 60
    assert nuclei.inside(left)[0] == 2 and nuclei.covered.sum() == pytest.approx(5 * np.pi * 64, rel=0.2)


def test_one_nucleus_answers_to_one_detection():
    true = np.array([(10, 10), (50, 50)])
    assert count_matches(np.array([(10, 11), (11, 10), (10, 10)]), true, 0.5) == 1
    assert count_matches(np.array([(10, 30)]), true, 0.5) == 0 and count_matches(np.empty((0, 2)), true, 0.5) == 0


def test_crops_lie_in_the_hole(trial):
    crops = hole_crops(trial.hole)
    assert 1 <= len(crops) <= 4 and all(trial.hole[crop].mean() >= MIN_INSIDE for crop in crops)
    assert hole_crops(np.zeros((256, 256), bool)) == []
    assert len(hole_crops(np.ones((256, 256), bool), most=6)) == 6


def test_both_spaces_are_functions_of_the_crop_alone(trial, space):
    crops = [trial.truth[n : n + 64, n : n + 64] for n in (0, 60, 130)]
    for vectors in (space.vectors, colour_and_wavelets):
        together = vectors(crops)
        assert np.allclose(together[-1:], vectors(crops[-1:]), atol=1e-4) and np.isfinite(together).all()
        assert np.isfinite(vectors([np.full((64, 64, 3), 200, np.uint8)])).all()
    assert np.allclose(space.vectors(crops, [np.zeros((64, 64), bool)] * 3), space.vectors(crops), atol=1e-4)
    assert np.ptp(space.vectors(crops), axis=0).max() > 0 and measures.fsim([], []) is np.nan
