import torch

from artifusion.diffusion.schedule import CosineSchedule

LEVEL = torch.linspace(0, 1, 11).view(-1, 1, 1, 1)
SCHEDULE = CosineSchedule()


def test_variance_is_preserved_and_noise_grows():
    alpha, sigma = SCHEDULE.alpha_sigma(LEVEL)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (sigma.flatten().diff() > 0).all() and alpha[0] == 1 and sigma[0] == 0


def test_velocity_gives_back_the_clean_image_at_every_level():
    x0, noise = torch.randn(11, 3, 8, 8), torch.randn(11, 3, 8, 8)
    x = SCHEDULE.add_noise(x0, LEVEL, noise)
    back = SCHEDULE.x0_from_velocity(x, LEVEL, SCHEDULE.velocity(x0, LEVEL, noise))
    assert torch.allclose(back, x0, atol=1e-5)


def test_level_zero_is_the_image_itself():
    x0 = torch.randn(1, 3, 8, 8)
    assert torch.equal(SCHEDULE.add_noise(x0, torch.zeros(1, 1, 1, 1), torch.randn_like(x0)), x0)
