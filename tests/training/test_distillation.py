import pytest
import torch

from artifusion.config import DistillConfig
from artifusion.diffusion.inpainting import Evidence
from artifusion.diffusion.sampling import ddim_step, dpm_step, log_snr_levels, sample
from artifusion.diffusion.schedule import Schedule
from artifusion.training.distillation import Teacher

SCHEDULE = Schedule("cosine", "velocity")
MEAN, SPREAD = 0.3, 0.5
CONFIG = DistillConfig(steps=4, substeps=3)
SPACING = torch.full((8,), 0.5)


def exact(x, level, hole, spacing_um):
    """The velocity that the denoiser of independent Gaussian pixels predicts."""
    alpha, sigma = SCHEDULE.alpha_sigma(level)
    x0 = MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)
    return (alpha * x - x0) / sigma.clamp(min=1e-6)


TEACHER = Teacher(exact, SCHEDULE, CONFIG)


def crops():
    """Two crops at each of the student's levels, a half of each known: x0, level, noise."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 8, 3, 8, 8, generator=generator)
    level = torch.zeros(8, 1, 8, 8)
    level[..., 4:] = torch.linspace(0.05, 1, 8)[:, None, None, None]
    return x0, TEACHER.student_level(level), noise


def test_a_students_levels_are_those_it_paints_with_each_for_an_equal_share_of_crops():
    _, level, _ = crops()
    assert (level[..., :4] == 0).all()
    found = level.amax((1, 2, 3)).tolist()
    assert found == pytest.approx([each for each in reversed(log_snr_levels(4, SCHEDULE)[:-1]) for _ in range(2)])


def test_one_ddim_step_to_the_answer_ends_where_the_teachers_steps_do():
    x0, level, noise = crops()
    hole = (level > 0).float()
    wanted, _ = TEACHER.answer(x0, level, noise, SPACING)
    grid = log_snr_levels(4, SCHEDULE)
    for crop in range(8):
        one = slice(crop, crop + 1)
        step = 3 - crop // 2
        x = SCHEDULE.add_noise(x0[one], level[one], noise[one])
        known = Evidence(x0[one], hole[one])

        def teach(x, at):
            return SCHEDULE.x0(x, at, exact(x, at, None, None))

        *_, theirs = sample(teach, SCHEDULE, lambda n, x=x: x, log_snr_levels(12, SCHEDULE)[3 * step : 3 * step + 4],
                            dpm_step, known)
        *_, mine = sample(lambda x, at, one=one: wanted[one], SCHEDULE, lambda n, x=x: x, grid[step : step + 2],
                          ddim_step, known)
        assert torch.allclose((mine - theirs) * hole[one], torch.zeros(()), atol=1e-4)


def test_the_answer_is_of_the_same_noised_crop():
    x0, level, noise = crops()
    wanted, implied = TEACHER.answer(x0, level, noise, SPACING)
    assert torch.allclose(SCHEDULE.add_noise(wanted, level, implied), SCHEDULE.add_noise(x0, level, noise), atol=1e-5)
    assert torch.equal(wanted[..., :4], x0[..., :4])
