"""The denoising loop against what is known in closed form."""

import pytest
import torch

from artifusion.diffusion.inpainting import CleanKnown
from artifusion.diffusion.sampling import ddim_step, levels, sample
from artifusion.diffusion.schedule import CosineSchedule

SCHEDULE = CosineSchedule()
MEAN = torch.tensor([0.5, -0.3])
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


def exact_denoiser(x, level):
    """E[x0 | x] of two correlated Gaussian pixels, each at its own noise level; level 0 is exact knowledge."""
    alpha, sigma = SCHEDULE.alpha_sigma(level)                           # (B, 1, 1, 2)
    a = torch.diag_embed(alpha[:, 0, 0])                                 # (B, 2, 2)
    noise = torch.diag_embed(sigma[:, 0, 0].square() + 1e-12)
    gain = COVARIANCE @ a @ torch.linalg.inv(a @ COVARIANCE @ a + noise)
    residual = x[:, 0, 0] - alpha[:, 0, 0] * MEAN
    return (MEAN + (gain @ residual[..., None])[..., 0])[:, None, None]


def run(condition, count, steps):
    noise = torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    *_, x = sample(exact_denoiser, SCHEDULE, noise, levels(steps), ddim_step, condition)
    return x[:, 0, 0]


def test_samples_of_a_gaussian_have_its_mean_and_covariance():
    count = 20_000
    x = run(CleanKnown(torch.zeros(count, 1, 1, 2), torch.ones(count, 1, 1, 2)), count, steps=200)
    assert torch.allclose(x.mean(0), MEAN, atol=0.03)
    assert torch.allclose(torch.cov(x.T), COVARIANCE, atol=0.05)


@pytest.mark.parametrize("known", [-1.5, 0.0, 2.0])
def test_inpainting_one_of_two_correlated_pixels_recovers_the_conditional_distribution(known):
    count = 20_000
    pixels = torch.tensor([known, 0.0]).expand(count, 1, 1, 2)
    hole = torch.tensor([0.0, 1.0]).expand(count, 1, 1, 2)
    x = run(CleanKnown(pixels, hole), count, steps=200)[:, 1]
    mean = MEAN[1] + 0.8 * (known - MEAN[0])
    assert abs(x.mean() - mean) < 0.03
    assert abs(x.var() - (1 - 0.8**2)) < 0.03


def test_one_evaluation_per_step():
    calls = []

    def count(x, level):
        calls.append(float(level.max()))
        return x

    condition = CleanKnown(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    trajectory = list(sample(count, SCHEDULE, torch.randn(1, 1, 4, 4), levels(10), ddim_step, condition))
    assert len(trajectory) == len(calls) == 10
    assert calls[0] == 1.0 and calls == sorted(calls, reverse=True)


def test_known_pixels_enter_clean_at_level_zero():
    known, hole = torch.full((1, 3, 4, 4), 0.25), torch.zeros(1, 1, 4, 4)
    hole[..., 2:] = 1
    x, level = CleanKnown(known, hole).enter(torch.full((1, 3, 4, 4), 9.0), 0.7)
    assert (x[..., :2] == 0.25).all() and (x[..., 2:] == 9).all()
    assert (level[..., :2] == 0).all() and torch.allclose(level[..., 2:], torch.tensor(0.7))


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        levels(0)
