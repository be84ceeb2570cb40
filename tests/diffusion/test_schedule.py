import numpy as np
import pytest
import torch

from artifusion.diffusion.schedule import Schedule

LEVEL = torch.linspace(0, 1, 11).view(-1, 1, 1, 1)
KINDS = ["cosine", "linear"]
PREDICTIONS = ["velocity", "noise"]


@pytest.mark.parametrize("kind", KINDS)
def test_variance_is_preserved_and_noise_grows(kind):
    alpha, sigma = Schedule(kind).alpha_sigma(LEVEL)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (sigma.flatten().diff() > 0).all() and alpha[0] == 1 and sigma[0] == 0


def test_the_linear_schedule_equals_diffusers_at_its_1000_steps():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    alpha, _ = Schedule("linear").alpha_sigma(torch.arange(1, 1001).double() / 1000)
    assert np.allclose(alpha.square(), theirs.alphas_cumprod, rtol=2e-4)
    x0, noise = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in (0, 250, 999):
        ours = Schedule("linear").add_noise(x0, torch.tensor((step + 1) / 1000), noise)
        assert torch.allclose(ours, theirs.add_noise(x0, noise, torch.tensor([step])), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_true_prediction_gives_back_the_clean_image(kind, prediction):
    schedule, level = Schedule(kind, prediction), LEVEL[:-1]              # pure noise keeps nothing to give back
    x0, noise = torch.randn(2, 10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = schedule.add_noise(x0, level, noise)
    assert torch.allclose(schedule.x0(x, level, schedule.target(x0, level, noise)), x0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_level_zero_is_the_image_itself(kind):
    x0 = torch.randn(1, 3, 8, 8)
    assert torch.equal(Schedule(kind).add_noise(x0, torch.zeros(1, 1, 1, 1), torch.randn_like(x0)), x0)
