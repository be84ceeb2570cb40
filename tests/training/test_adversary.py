"""The adversarial finish, with a tiny student."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY, tiny_config

from artifusion.checkpoint import load_weights
from artifusion.config import AdversarialConfig, DataConfig, TargetConfig, WalkConfig
from artifusion.diffusion.sampling import ancestral_step, log_snr_levels, sample
from artifusion.diffusion.schedule import Schedule
from artifusion.errors import ConfigError
from artifusion.restorer import Restorer
from artifusion.training.adversary import Adversary, Crops, in_hole
from artifusion.training.discriminator import Discriminator
from artifusion.training.run import train

CPU = torch.device("cpu")
FINISH = {"adversarial": AdversarialConfig(), "targets": TargetConfig(kinds={"band": 1, "large": 1}), "warmup_crops": 8,
          "learning_rate": 1e-3, "crops": 24}


@pytest.fixture
def trained(tissue, tmp_path):
    """The weights of a tiny run."""
    list(train(tiny_config(), [tissue], tmp_path / "trained", device="cpu", quiet=True))
    return tmp_path / "trained/weights"


def crops(count=6, side=64):
    generator = torch.Generator().manual_seed(0)
    hole = torch.zeros(count, 1, side, side)
    hole[..., 16:48, 16:40] = 1
    x0, noise = torch.randn(2, count, 3, side, side, generator=generator)
    return Crops(x0, hole, noise, torch.full((count,), 0.5))


def test_a_finish_is_resumed_bit_for_bit_with_its_discriminator_and_what_it_remembers(tissue, trained, tmp_path):
    config = tiny_config(**FINISH)
    list(train(config, [tissue], tmp_path / "straight", init=trained, device="cpu", quiet=True))
    config = tiny_config(**FINISH, checkpoint_minutes=1e-9)
    run = train(config, [tissue], tmp_path / "resumed", init=trained, device="cpu", quiet=True)
    for _ in range(4):
        next(run)
    run.close()
    list(train(config, [tissue], tmp_path / "resumed", init=trained, device="cpu", quiet=True))
    straight, resumed = (load_file(tmp_path / name / "state.safetensors") for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert any(key.startswith("discriminator.") for key in straight) and len(straight["remembered.0"]) > 8
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    finished = load_weights(tmp_path / "resumed/weights")
    assert finished.training["adversarial"] == {"steps": 3, "share": 0.5}
    assert finished.walk == WalkConfig(), "half a finish paints along the walk of what it began from"
    begun = load_weights(trained).denoiser.state_dict()
    for key, value in finished.denoiser.state_dict().items():
        assert torch.allclose(value, (begun[key] + straight[f"ema.{key}"]) / 2, atol=2e-3), key
    header = (tmp_path / "resumed/log.csv").read_text().splitlines()[0]
    assert all(f"loss_{part}" in header for part in ("reconstruction", "colour", "discriminator", "adversarial"))


def test_the_student_itself_paints_along_the_walk_that_it_learned(tissue, trained, tmp_path):
    whole = AdversarialConfig(share=1)
    list(train(tiny_config(**FINISH | {"adversarial": whole}), [tissue], tmp_path / "run", init=trained, device="cpu",
               quiet=True))
    restorer = Restorer(load_weights(tmp_path / "run/weights"), "cpu")
    assert restorer.config.evaluations == 3
    assert restorer._times(3) == Adversary(whole, Schedule(), CPU).levels


def test_the_student_rests_while_the_discriminator_begins(tissue, trained, tmp_path):
    config = tiny_config(**FINISH | {"warmup_crops": 24})
    list(train(config, [tissue], tmp_path / "run", init=trained, device="cpu", quiet=True))
    state = load_file(tmp_path / "run/state.safetensors")
    begun = load_weights(trained).denoiser.state_dict()
    assert all(torch.equal(state[f"model.{key}"], value) for key, value in begun.items())
    fresh = Discriminator().state_dict()
    assert any(not torch.equal(state[f"discriminator.{key}"], fresh[key]) for key in fresh)


def test_a_finish_without_weights_to_begin_from_is_refused(tissue, tmp_path):
    with pytest.raises(ConfigError, match="--init"):
        next(train(tiny_config(**FINISH), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_what_does_not_go_with_a_finish_is_refused():
    with pytest.raises(ValueError, match="one side"):
        type(tiny_config()).model_validate({"denoiser": TINY, "data": DataConfig(crop_px=32, other_crops_px={64: 0.5}),
                                            "adversarial": {}})
    with pytest.raises(ValueError, match="3 entries"):
        AdversarialConfig(steps=4)


def test_the_walk_that_is_trained_is_the_walk_that_is_sampled():
    """A crop comes to each step as `sample` brings it there, and the known pixels stay."""
    adversary, given = Adversary(AdversarialConfig(), Schedule(), CPU), crops(2)
    levels_seen = []

    def predict(x, level, hole, spacing_um):
        levels_seen.append(level.max().item())
        return 0.3 * x

    x, before = adversary._walk(predict, given, 2, torch.Generator().manual_seed(1))
    assert levels_seen == pytest.approx(log_snr_levels(3, Schedule())[:2])
    generator, seen = torch.Generator().manual_seed(1), []

    class Known:
        def enter(self, x, level, noise):
            return torch.where(given.hole > 0, x, given.x0), given.hole * level

    def denoise(x, level):
        seen.append(torch.where(given.hole > 0, Schedule().x0(x, level, 0.3 * x), given.x0))
        return seen[-1]

    def noise(number):
        return given.noise if number == 0 else torch.randn(given.noise.shape, generator=generator)

    *_, expected = sample(denoise, Schedule(), noise, log_snr_levels(3, Schedule())[:3], ancestral_step, Known())
    assert torch.equal(x, torch.where(given.hole > 0, expected, given.x0)) and torch.equal(before, seen[-1])


def test_the_discriminator_sees_only_the_hole():
    maps = [torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 8, 8)]
    hole = crops(1).hole
    far = [each.clone() for each in maps]
    far[0][..., :2, :2] = far[1][..., 7:, 7:] = 100
    assert in_hole(far, hole) == 0
    assert in_hole([each + 1 for each in maps], hole) == pytest.approx(1)


def test_a_discriminator_learns_to_tell_a_blur_from_the_truth():
    torch.manual_seed(0)
    adversary = Adversary(AdversarialConfig(discriminator_rate=2e-3), Schedule(), CPU)
    student = torch.nn.Conv2d(3, 3, 1)                        # it cannot paint; its loss says whether that is seen

    def predict(x, level, hole, spacing_um):
        return student(x)

    values = [adversary.losses(predict, crops(), number, 1.0) for number in range(0, 6 * 30, 6)]
    for name, least, most in (("discriminator", 0, 0.5), ("adversarial", 1.2, math.inf)):    # steps see other levels
        late = torch.stack([value[name].detach() for value in values[-10:]]).mean()
        assert least < late / values[0][name] < most
    values[-1]["loss"].backward()
    assert student.weight.grad.abs().sum() > 0
