"""Recovery of tissue under ink that is known."""

from dataclasses import replace

import numpy as np
import pytest
from inked import error, tissue, under
from scipy.ndimage import binary_dilation, binary_erosion

from artifusion.damage.artifacts import PenInk
from artifusion.evidence.colours import Colours, Places, posterior
from artifusion.evidence.ink import KNOTS, Ink, Noise, layers
from artifusion.evidence.ink_fit import RIM_UM, Objective, fit_ink, spectrum
from artifusion.evidence.ink_map import Cells, Sample
from artifusion.evidence.ink_refine import like_neighbours
from artifusion.evidence.recover import (
    FAINT,
    FAINT_ID,
    KEPT_ID,
    PAINTED,
    PAINTED_ID,
    RECOVERED_ID,
    SPREAD,
    level_of,
    recover,
)

SIDE = 256


def band(side=SIDE):
    return np.tile(np.abs(np.arange(side) - side // 2) < side // 5, (side, 1))


@pytest.mark.parametrize("colour", ["blue", "green", "red", "black"])
def test_recovered_tissue_is_far_nearer_to_the_truth_than_the_inked_scan(colour):
    clean, mask = tissue(), band()
    inked = under(PenInk(colour, 0.65), clean, mask)
    found = recover(inked, mask, mpp=0.5)
    assert error(found.image, clean, mask) < 0.3 * error(inked, clean, mask)
    assert (found.classes[mask] == RECOVERED_ID).mean() > 0.9
    assert found.ink["failed"] is None
    assert np.argmax(found.ink["spectrum"]) == np.argmax(PenInk(colour, 1).added(np.ones(1))) or colour == "black"


def test_pixels_outside_the_mask_equal_the_input_and_classes_follow_the_level():
    clean, mask = tissue(), band()
    inked = under(PenInk("black", 1.3), clean, mask)
    found = recover(inked, mask, mpp=0.5)
    assert (found.image[~mask] == inked[~mask]).all()
    assert (found.level[~mask] == 0).all() and (found.classes[~mask] == KEPT_ID).all()
    assert ((found.classes == RECOVERED_ID) == (mask & (found.level < FAINT))).all()
    assert ((found.classes == PAINTED_ID) == (mask & (found.level >= PAINTED))).all()
    assert ((found.classes == FAINT_ID) == (mask & (found.level >= FAINT) & (found.level < PAINTED))).all()
    painted = found.classes == PAINTED_ID
    assert (found.image[painted] == inked[painted]).all()


def test_a_mask_wider_than_the_ink_leaves_no_ink_and_hardly_touches_what_lies_beside_it():
    clean, mask = tissue(), band()
    inked = under(PenInk("green", 0.65), clean, mask)
    wide = binary_dilation(mask, iterations=20)
    found = recover(inked, wide, mpp=0.5)
    beside = wide & ~binary_dilation(mask, iterations=8)
    assert error(found.image, clean, mask) < 0.3 * error(inked, clean, mask)
    assert error(found.image, clean, beside) < 1


def test_levels_rise_with_the_ink_and_opaque_ink_is_to_be_painted_and_says_why():
    clean, mask = tissue(), band()
    levels = [recover(under(PenInk("black", density), clean, mask), mask, mpp=0.5).ink["level"]
              for density in (0.3, 0.8, 1.3)]
    assert levels == sorted(levels) and levels[0] < FAINT
    opaque = recover(np.where(mask[..., None], np.uint8(0), clean), mask, mpp=0.5)
    assert (opaque.classes[mask] == PAINTED_ID).all() and "opaque" in opaque.ink["failed"]


@pytest.mark.parametrize("grey", [(12, 12, 12), (15, 15, 60), (60, 60, 60)])
def test_what_an_opaque_stroke_hides_is_to_be_painted_though_it_could_be_evenly_stained_tissue_under_ink(grey):
    clean = tissue(512)
    mask = binary_dilation(stroke := np.hypot(*(np.mgrid[:512, :512] - 256)) < 150, iterations=8)
    noise = np.random.default_rng(0).normal(0, 2, clean.shape)
    found = recover(np.where(stroke[..., None], (grey + noise).clip(0, 255), clean).astype(np.uint8), mask, mpp=0.5)
    assert (found.classes[stroke] == PAINTED_ID).mean() > 0.9
    reference = tissue(512, seed=1)
    reference[:, :120] = 243                                    # glass in it tells nothing of how flat tissue is
    found = recover(np.where(stroke[..., None], (grey + noise).clip(0, 255), clean).astype(np.uint8), mask, reference,
                    mpp=0.5)
    assert (found.classes[stroke] == PAINTED_ID).mean() > 0.9
    seen = recover(under(PenInk("black", 1.0), clean, stroke), mask, mpp=0.5)
    assert (seen.classes[mask] == PAINTED_ID).mean() < 0.1


def test_an_opaque_stroke_on_glass_leaves_glass():
    clean = np.full((512, 512, 3), 243, np.uint8)
    clean[:, :100] = tissue(512)[:, :100]
    stroke = np.hypot(*(np.mgrid[:512, :512] - [[[256]], [[330]]])) < 100
    found = recover(np.where(stroke[..., None], np.uint8(60), clean), binary_dilation(stroke, iterations=8), mpp=0.5)
    recovered = stroke & (found.classes == RECOVERED_ID)
    assert recovered.sum() > 0.9 * stroke.sum() and error(found.image, clean, recovered) < 2


def test_below_a_mask_without_ink_the_scan_stays():
    found = recover(tissue(), band(), mpp=0.5)
    assert error(found.image, tissue(), band()) < 0.5 and (found.classes[band()] == RECOVERED_ID).all()
    assert found.ink["spectrum"] is None and found.ink["failed"] is None


def test_without_clean_tissue_nothing_is_recovered_and_a_reference_helps():
    clean = tissue()
    everywhere = np.ones((SIDE, SIDE), bool)
    inked = under(PenInk("green", 0.65), clean, everywhere)
    assert "clean tissue" in recover(inked, everywhere, mpp=0.5).ink["failed"]
    found = recover(inked, everywhere, reference=tissue(seed=1), mpp=0.5)
    assert error(found.image, clean, everywhere) < 0.4 * error(inked, clean, everywhere)


def test_the_number_of_threads_changes_no_pixel(monkeypatch):
    clean, mask = tissue(), band()
    inked = under(PenInk("blue", 0.65), clean, mask)
    monkeypatch.setattr("artifusion.evidence.recover.TILE_PX", 96)
    found = []
    for count in (1, 3):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, count=count: set(range(count)))
        found.append(recover(inked, mask, mpp=0.5))
    assert (found[0].image == found[1].image).all() and (found[0].level == found[1].level).all()


@pytest.mark.parametrize(("change", "words"), [
    ({"image": np.zeros((4, 4), np.uint8)}, "uint8"), ({"mask": np.zeros((3, 3), bool)}, "bool"),
    ({"known": np.zeros((64, 64), np.uint8)}, "known"), ({"reference": np.zeros((0, 9, 3), np.uint8)}, "pixel"),
    ({"reference": np.zeros((9, 3), np.uint8)}, "reference"), ({"mpp": 0.0}, "mpp")])
def test_wrong_arguments_are_named(change, words):
    given = {"image": tissue(64), "mask": np.zeros((64, 64), bool), "reference": None, "mpp": 0.5} | change
    with pytest.raises(ValueError, match=words):
        recover(**given)


def test_an_empty_mask_changes_nothing():
    clean = tissue(64)
    found = recover(clean, np.zeros((64, 64), bool))
    assert (found.image == clean).all() and (found.classes == KEPT_ID).all()


def test_the_posterior_of_one_gaussian_is_the_closed_form():
    covariance = np.array([[0.02, 0.01, 0.0], [0.01, 0.03, 0.01], [0.0, 0.01, 0.02]])
    mean, noise, seen = np.array([0.3, 0.5, 0.2]), np.array([0.01, 0.02, 0.5]), np.array([0.5, 0.6, 0.9])
    colours = Colours(np.ones(1, np.float32), mean[None].astype(np.float32), covariance[None].astype(np.float32))
    found, variance = posterior(colours, seen[:, None].astype(np.float32), noise[:, None].astype(np.float32),
                                np.zeros((1, 1), np.float32))
    gain = covariance @ np.linalg.inv(covariance + np.diag(noise))
    assert found[:, 0] == pytest.approx(mean + gain @ (seen - mean), abs=1e-5)
    assert variance[:, 0] == pytest.approx(np.diag(covariance - gain @ covariance), abs=1e-6)


def test_the_gradient_of_the_fit_is_that_of_its_objective():
    clean, mask = tissue(64), np.ones((64, 64), bool)
    image = under(PenInk("blue", 0.65), clean, mask)
    colours = Colours.of(clean.reshape(-1, 3))
    sample = Sample.of(image, mask, Places.of(colours, image, ~mask, 4, 0.5), 3)
    cells = Cells.over(mask.shape, 16)
    aim = Objective(colours, sample, cells, Noise(clean, Ink.even(np.array([1, 0.5, 0.2]))), np.array([1, 0.5, 0.2]))
    rng = np.random.default_rng(0)
    x = aim.begin(rng.uniform(0.2, 0.7, cells.count))
    x = x + 0.05 * rng.standard_normal(len(x))
    thickness, shares, _ = aim.split(x)
    here = aim.at @ thickness
    density = spectrum(shares).density(here)
    aim.precision = tuple(part.astype(np.float64) for part in
                          colours.precision(aim.noise.variance(sample.light, here, density)))
    aim.spread = 0.01 + 0.05 * rng.random((3, cells.count))
    gradient = aim(x)[1]
    for at in (0, 5, cells.count + 4, cells.count + 10, len(x) - 3, len(x) - cells.count - 2):
        step = np.zeros_like(x)
        step[at] = 2e-2 if at >= cells.count else 5e-3
        slope = (aim(x + step)[0] - aim(x - step)[0]) / (2 * step[at])
        assert gradient[at] == pytest.approx(slope, rel=0.08, abs=3e-4)


def test_the_fit_does_not_see_the_rim_of_a_mask_where_ink_ends():
    clean, mask = tissue(), band()
    image = under(PenInk("blue", 0.65), clean, mask)
    colours = Colours.of(clean[~mask])
    sample = Sample.of(image, mask, Places.of(colours, image, ~mask, 4, 0.5), 3)
    inner = binary_erosion(mask, iterations=round(RIM_UM / 0.5) - 1, border_value=1)
    spoilt = replace(sample, density=sample.density + np.where(inner[sample.rows, sample.columns], 0, np.float32(0.3)))
    fits = [fit_ink(image, mask, each, colours, clean[:, :64], 0.5) for each in (sample, spoilt)]
    assert (fits[0].ink.slopes == fits[1].ink.slopes).all() and (fits[0].thickness == fits[1].thickness).all()


def test_a_pixel_in_doubt_is_of_its_neighbours_kind_and_places_beside_the_ink_stay():
    places = Places(1, np.log(np.full((2, 32, 32), 0.5, np.float32)))
    rows, columns = np.nonzero(np.ones((32, 16)))
    nothing = np.zeros((3, len(rows)), np.float32)
    in_doubt = (rows == 8) & (columns == 8)
    shares = np.where(in_doubt, 0.5, [[0.95], [0.05]]).astype(np.float32)
    local = like_neighbours(places, shares, Sample(rows, columns, nothing, nothing, shares))
    found = np.exp(local.log_shares)
    assert found.sum(axis=0) == pytest.approx(np.ones((32, 32)), abs=1e-5)
    assert found[0, 8, 8] > 0.8
    assert found[:, :, 26:] == pytest.approx(np.full((2, 32, 6), 0.5), abs=1e-2)


def test_layers_add_up_to_the_thickness():
    thickness = np.array([0, 0.1, 0.5, 2.2], np.float32)
    assert layers(thickness).shape == (len(KNOTS), 4)
    assert layers(thickness).sum(axis=0) == pytest.approx(thickness)


def test_a_level_is_that_at_which_noise_has_the_variance():
    mask = np.ones((8, 8), bool)
    for level in (0.2, 0.5):
        share = np.full((8, 8), np.sin(np.pi * level / 2) ** 2, np.float32)
        assert level_of(share, mask) == pytest.approx(level, abs=1e-3)


def test_a_level_is_the_error_to_expect():
    clean, mask = tissue(), band()
    expected, errors = [], []
    for colour, density in (("blue", 0.65), ("red", 1.3), ("black", 0.65), ("black", 1.3)):
        noise = np.random.default_rng(0).normal(0, 2, clean.shape)
        inked = under(PenInk(colour, density), clean, mask) + np.where(mask[..., None], noise, 0)
        found = recover(np.clip(np.rint(inked), 0, 255).astype(np.uint8), mask, mpp=0.5)
        seen = mask & (found.level < PAINTED)
        expected.append(SPREAD * np.sin(np.pi / 2 * found.level[seen]))
        errors.append(np.sqrt(np.square(found.image[seen].astype(float) - clean[seen]).mean(axis=1)))
    expected, errors = np.concatenate(expected), np.concatenate(errors)
    thirds = np.array([[np.square(values[part]).mean() ** 0.5 for values in (expected, errors)]
                       for part in np.array_split(expected.argsort(), 3)])
    assert (np.diff(thirds[:, 1]) > 0).all() and (abs(np.log2(thirds[:, 0] / thirds[:, 1])) < 1).all()


@pytest.mark.parametrize("at", [(4, 4), (5, 5), (101, 60), (255, 255)])
def test_a_single_pixel_anywhere_is_no_obstacle(at):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[at] = True
    found = recover(tissue(), mask, mpp=0.5)
    assert (found.classes > 0).sum() == 1 and np.isfinite(found.level).all()


def test_an_opaque_image_without_anything_clean_is_to_be_painted():
    black = np.full((SIDE, SIDE, 3), 4, np.uint8)
    found = recover(black, np.ones((SIDE, SIDE), bool), tissue(512, seed=1), mpp=0.5)
    assert (found.classes == PAINTED_ID).all()
