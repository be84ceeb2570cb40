from itertools import pairwise

import pytest

from artifusion.config import AdversarialConfig, RestoreConfig, TrainConfig, WalkConfig, load_config
from artifusion.errors import ConfigError


def test_shipped_configurations_load_by_name_and_by_file(tmp_path):
    config = load_config(TrainConfig, "train", "he-small")
    assert config.name == "he-small" and "her2st/C6.jpg" in config.data.validation
    assert load_config(RestoreConfig, "restore", "default") == RestoreConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[denoiser]\ndim = 3", "did you mean 'dims'"),
        ("batchsize = 3", "did you mean 'batch_size'"),
        ("crops = -1", "crops"),
        ("crops = ", "not valid TOML"),
        ("[denoiser]\nheads = [3, 5, 10]", "multiple"),
        ("[denoiser]\ntime_dim = 15", "multiple of 2"),
        ("[data]\ncrop_px = 100", "multiple of 64"),
        ("[data.other_crops_px]\n96 = 0.1", "other_crops_px must be a multiple of 64"),
        ("[data.other_crops_px]\n64 = 0.6\n192 = 0.6", "at most 1"),
        ("[targets]\nkinds = { tear = 1 }", "kinds.tear"),
        ("[targets]\nkinds = {}", "kinds"),
        ("learning_rate = inf", "finite"),
        ("[data]\nspacing_um = { tnbc = 250 }", "less than or equal to 100"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(TrainConfig, "train", path)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_extends_another_differs_where_it_says_so(tmp_path):
    base = load_config(TrainConfig, "train", "he-small")
    file = tmp_path / "more.toml"
    file.write_text('extends = "he-small"\nseed = 3\n[data]\nmax_zoom = 1.0\n')
    config = load_config(TrainConfig, "train", file)
    assert config == base.model_copy(update={"seed": 3, "data": base.data.model_copy(update={"max_zoom": 1.0})})
    file.write_text('extends = "nothing"')
    with pytest.raises(ConfigError, match="extends 'nothing', and there is no such shipped train configuration"):
        load_config(TrainConfig, "train", file)


@pytest.mark.parametrize("name", ["he-small", "he-base", "distill", "finish", "adapt", "paper"])
def test_every_shipped_training_configuration_is_valid(name):
    assert load_config(TrainConfig, "train", name).crops > 0


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="he-small"):
        load_config(TrainConfig, "train", "nothing")
    with pytest.raises(ConfigError, match="no such"):
        load_config(TrainConfig, "train", tmp_path / "he-small.toml")
    with pytest.raises(ConfigError, match="no such"):
        load_config(TrainConfig, "train", 300 * "a")


def test_a_folder_named_like_a_shipped_configuration_does_not_hide_it(tmp_path, monkeypatch):
    """`train he-small --run-dir he-small` goes on when it is given again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "he-small").mkdir()
    assert load_config(TrainConfig, "train", "he-small").name == "he-small"
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(TrainConfig, "train", tmp_path)


def test_what_is_given_beside_the_file_wins_and_is_checked_with_it():
    assert load_config(RestoreConfig, "restore", "paper", steps=20).evaluations == 110
    with pytest.raises(ConfigError, match="jump_length 10 must be below steps 10"):
        load_config(RestoreConfig, "restore", "paper", steps=10)


@pytest.mark.parametrize(("steps", "jump_length", "jump_samples"), [(10, 1, 1), (250, 10, 10), (20, 7, 3), (3, 5, 1)])
def test_evaluations_are_those_of_the_walk(steps, jump_length, jump_samples):
    from artifusion.diffusion.sampling import even_levels, with_time_travel

    config = RestoreConfig(steps=steps, jump_length=jump_length, jump_samples=jump_samples)
    times = with_time_travel(even_levels(steps), jump_length, jump_samples)
    assert config.evaluations == sum(later < level for level, later in pairwise(times))


def test_the_walk_is_the_weights_own_where_it_is_not_given():
    finish = load_config(TrainConfig, "train", "finish")
    assert finish.walk == WalkConfig()
    student = finish.model_copy(update={"adversarial": AdversarialConfig(share=1)}).walk
    assert student == WalkConfig(sampler="ancestral", steps=3, end_half_log_snr=3.0)
    distilled = load_config(TrainConfig, "train", "distill").walk
    assert distilled == WalkConfig(sampler="ddim", steps=4, end_half_log_snr=3.0)
    assert student.model_dump().items() <= RestoreConfig().along(student).model_dump().items()
    assert RestoreConfig(steps=5).along(student).steps == 5
    paper = load_config(RestoreConfig, "restore", "paper")
    assert paper.along(student).evaluations == paper.evaluations == 2410
    assert load_config(TrainConfig, "train", "he-small").walk == WalkConfig()
