"""The picture that a run draws is painted as its weights are meant to paint."""

import pytest

from artifusion.config import RestoreConfig, TrainConfig, load_config
from artifusion.training.held_out import walk_of


@pytest.mark.parametrize(("recipe", "walk"), [("finish", "three"), ("distill", "four"), ("he-small", "default")])
def test_a_runs_picture_is_painted_by_the_walk_that_goes_with_its_recipe(recipe, walk):
    assert walk_of(load_config(TrainConfig, "train", recipe)) == load_config(RestoreConfig, "restore", walk)
