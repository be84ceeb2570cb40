import numpy as np
import pytest

from artifusion.errors import DataError
from artifusion.evaluation.trials import (
    ARTIFACTS,
    SIZES,
    THICK_PX,
    THIN_PX,
    damage_tile,
    depth_px,
    digest,
    partner,
    plan_trials,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", ARTIFACTS)
def test_a_hole_has_the_share_and_the_width_asked_for(trial, size, width):
    damaged, hole, artifact = damage_tile(trial.truth, size, width, seed=1, number=2)
    low, high = SIZES[size]
    assert low <= hole.mean() <= high and artifact in ARTIFACTS[width]
    assert depth_px(hole) <= THIN_PX if width == "thin" else depth_px(hole) >= THICK_PX
    assert np.array_equal(damaged[~hole], trial.truth[~hole]) and (damaged != trial.truth).any()


@pytest.mark.usefixtures("_cheap_artifacts")
def test_trials_come_in_pairs_of_one_image_and_are_seeded(images):
    trials = plan_trials([images], 4, seed=0, mpp=0.25)
    assert [trial.number for trial in trials] == [0, 1, 2, 3] and [trial.group for trial in trials] == [0, 0, 1, 1]
    assert {trial.organ for trial in trials} == {"colon", "bladder"}
    assert {trial.spacing_um for trial in trials} == {0.25}
    for trial in trials:
        other = partner(trials, trial)
        assert other.image == trial.image and other.group == trial.group
        assert not np.array_equal(other.truth, trial.truth)
    assert digest(trials) == digest(plan_trials([images], 4, seed=0, mpp=0.25))
    assert digest(trials[:2]) != digest(plan_trials([images], 2, seed=1, mpp=0.25))


def test_more_tiles_than_there_are_is_refused(images):
    with pytest.raises(DataError, match="ask for --tiles 8"):
        plan_trials([images], 100, seed=0)


def test_images_that_were_trained_on_are_no_validation(images):
    with pytest.raises(DataError, match="validation split"):
        plan_trials([images], 2, seed=0, validation=True)
