"""The image evidence: what each artifact looks like, what clean tissue does not, and stains that are not H&E."""


import numpy as np
import pytest
import torch
from made_slides import doubled, he_like
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from artifusion.damage.spots import paint
from artifusion.detection.findings import UNIT, components, find
from artifusion.detection.folds import folds, network
from artifusion.detection.signs import blurred, density_above_glass, evidence, look_of
from artifusion.detection.survey import COARSE_PX, Survey
from artifusion.errors import SlideError
from artifusion.geometry import Size
from artifusion.slide.reader import ImageSlide, in_memory

MPP = 1.0


def found_in(pixels):
    survey = Survey.of(in_memory(pixels, MPP), MPP)
    tiles = survey.tiles()
    look = survey.look(tiles, any_stain=False)
    maps = survey.maps(tiles, look, fold_probability=folds(look, MPP))
    return [finding for finding in find(maps, MPP) if finding.score >= 0.5]


def dice(findings, kind, truth):
    found = np.zeros_like(truth)
    for finding in findings:
        if finding.kind == kind:
            found[finding.box.slices()] |= finding.covered
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_clean_tissue_is_left_alone():
    assert found_in(he_like()) == []


@pytest.mark.parametrize(("kind", "size_px", "least"), [
    ("pen", 160, 0.7), ("bubble", 110, 0.7), ("fold", 190, 0.3), ("dark", 90, 0.7)])
def test_a_painted_artifact_is_found_with_its_class(kind, size_px, least):
    damaged, truth = paint(kind, he_like(), (200, 180), size_px, np.random.default_rng(3))
    assert dice(found_in(damaged), kind, truth) > least


def test_a_bubble_that_the_picture_cuts_is_filled_up_to_its_edge():
    damaged, truth = paint("bubble", he_like(), (0, 180), 110, np.random.default_rng(1))
    assert dice(found_in(damaged), "bubble", truth) > 0.7


def test_a_fold_on_a_sixth_of_the_tissue_does_not_pass_for_the_tissue_s_own_strays():
    damaged, truth = doubled(he_like(), slice(150, 210), slice(0, 400))
    assert dice(found_in(damaged), "fold", truth) > 0.55


@pytest.mark.parametrize(("beside", "fold"), [(10, True), (17, False), (1, False)])
def test_a_fold_is_denser_than_the_tissue_beside_it_however_light_and_glass_is_no_tissue(beside, fold):
    maps = {"fold": np.zeros((200, 200), np.uint8), "density": np.full((200, 200), beside, np.uint8)}
    maps["fold"][80:120], maps["density"][80:120] = UNIT, 20
    assert [finding.kind for finding in find(maps, MPP)] == ["fold"] * fold


def test_fluorescence_and_brown_stains_are_refused_with_the_flag_that_overrides_it():
    dark = np.full((200, 200, 3), 12, np.uint8)
    brown = he_like(200, 200)
    brown[40:160, 40:160] = (140, 95, 50)
    for pixels in (dark, brown):
        with pytest.raises(SlideError, match="--any-stain"):
            look_of([pixels], MPP)
        look_of([pixels], MPP, any_stain=True)


def test_the_scales_bound_the_pixels_of_a_slide_of_any_size():
    slide = ImageSlide.__new__(ImageSlide)                # its pixels would not fit
    for side, mpp in ((250, 0.25), (2000, 0.5), (40_000, 0.5), (100_000, 0.25), (150_000, 0.25)):
        slide.level_sizes = (Size(side, side),)
        survey = Survey.of(slide, mpp)
        assert survey.coarse.width * survey.coarse.height <= COARSE_PX
        assert survey.fine.width * survey.fine.height <= 4.01 * COARSE_PX
        assert mpp <= survey.fine_um <= survey.coarse_um


def test_maps_of_tiles_are_those_of_the_whole(tmp_path):
    """What lies beyond a tile's halo does not matter: memory is a tile, not a slide."""
    pixels = np.concatenate([he_like(900, 300, seed) for seed in range(2)])
    survey = Survey.of(in_memory(pixels, MPP), MPP)
    tiles = survey.tiles()
    look = survey.look(tiles, any_stain=False)
    assert len(tiles) > 1
    fold_probability = folds(look, MPP)
    whole = evidence(density_above_glass(pixels, look), MPP, look) | {"fold": fold_probability(pixels)}
    maps = survey.maps(tiles, look, fold_probability=fold_probability)
    assert maps.keys() == whole.keys() | {"density"}
    for kind, values in whole.items():
        assert np.abs(maps[kind] - np.clip(values * UNIT, 0, 255)).max() <= 1, kind


@pytest.mark.parametrize("shape", [(1, 5), (40, 30), (30, 40, 3)])
@pytest.mark.parametrize("sigma_px", [0.1, 2.5, 12.0])
def test_smoothing_is_scipy_s(shape, sigma_px):
    values = np.random.default_rng(0).random(shape, np.float32)
    sigmas = (max(0.5, sigma_px), max(0.5, sigma_px), 0)[: len(shape)]
    assert np.abs(blurred(values, sigma_px) - ndimage.gaussian_filter(values, sigmas, truncate=3)).max() < 1e-6


def test_places_are_those_of_a_threshold_with_hysteresis_in_reading_order():
    map_ = (ndimage.gaussian_filter(np.random.default_rng(0).random((200, 300)), 1.5) * 400 - 150).clip(0, 255)
    map_ = map_.astype(np.uint8)
    labels, count = ndimage.label(apply_hysteresis_threshold(map_, 60, 90), np.ones((3, 3)))
    found = list(components(map_, 0.6, 0.9, 1))
    assert len(found) == count > 10
    for number, (box, covered) in enumerate(found, 1):
        assert np.array_equal(covered, labels[box.slices()] == number) and covered.sum() == (labels == number).sum()


def test_the_fold_network_does_not_depend_on_the_number_of_threads():
    threads, found = torch.get_num_threads(), {}
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 184, 216), dtype=np.float32))
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found[count] = network()(x)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[1], logits) for logits in found.values())
