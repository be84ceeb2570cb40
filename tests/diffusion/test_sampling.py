"""The denoising loop against what is known in closed form, and against diffusers."""

from itertools import pairwise

import pytest
import torch

from artifusion.diffusion.inpainting import Evidence, NoisedKnown, to_stops
from artifusion.diffusion.sampling import (
    STEPS,
    ancestral_step,
    ddim_step,
    dpm_step,
    even_levels,
    log_snr_levels,
    sample,
    with_time_travel,
)
from artifusion.diffusion.schedule import Schedule

SCHEDULE = Schedule("cosine")
MEAN = torch.tensor([0.5, -0.3])
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
SAMPLES = 20_000


def exact_denoiser(x, level):
    """E[x0 | x] of two correlated Gaussian pixels, each at its own noise level; level 0 is exact knowledge."""
    assert (level == level[:1]).all()                                    # all samples are at the same levels
    alpha, sigma = SCHEDULE.alpha_sigma(level[:1].expand(-1, -1, -1, 2)[0, 0, 0])            # (2,)
    a = torch.diag(alpha)                                                # (2, 2)
    gain = COVARIANCE @ a @ torch.linalg.inv(a @ COVARIANCE @ a + torch.diag(sigma.square() + 1e-12))
    return (MEAN + (x[:, 0, 0] - alpha * MEAN) @ gain.T)[:, None, None]


def numbered(*shape):
    return lambda number: torch.randn(shape, generator=torch.Generator().manual_seed(number))


def run(condition, step, times, count=SAMPLES):
    *_, x = sample(exact_denoiser, SCHEDULE, numbered(count, 1, 1, 2), times, step, condition)
    return x[:, 0, 0]


@pytest.mark.parametrize(("step", "steps"), [(ddim_step, 200), (ancestral_step, 200), (dpm_step, 30)])
def test_samples_of_a_gaussian_have_its_mean_and_covariance(step, steps):
    condition = Evidence(torch.zeros(SAMPLES, 1, 1, 2), torch.ones(SAMPLES, 1, 1, 2))
    x = run(condition, step, even_levels(steps))
    assert torch.allclose(x.mean(0), MEAN, atol=0.03)
    assert torch.allclose(torch.cov(x.T), COVARIANCE, atol=0.05)


def test_the_multistep_solver_needs_fewer_steps_than_ddim():
    """From the same noise, its ten steps end nearer to the solution of the equation (1,000 steps) than DDIM's ten."""
    condition = Evidence(torch.zeros(1000, 1, 1, 2), torch.ones(1000, 1, 1, 2))
    truth = run(condition, ddim_step, even_levels(1000), 1000)
    ddim, dpm = (run(condition, step, even_levels(10), 1000) for step in (ddim_step, dpm_step))
    assert (dpm - truth).abs().mean() < 0.5 * (ddim - truth).abs().mean()


@pytest.mark.parametrize("known", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize(("condition", "step", "times"), [
    (Evidence, ddim_step, even_levels(200)),
    (Evidence, ancestral_step, even_levels(100)),
    (Evidence, dpm_step, even_levels(30)),
    (NoisedKnown, ancestral_step, with_time_travel(even_levels(50), 5, 10)),
])
def test_inpainting_one_of_two_correlated_pixels_recovers_the_conditional_distribution(known, condition, step, times):
    pixels = torch.tensor([known, 0.0]).expand(SAMPLES, 1, 1, 2)
    hole = torch.tensor([0.0, 1.0]).expand(SAMPLES, 1, 1, 2)
    how = Evidence(pixels, hole) if condition is Evidence else NoisedKnown(pixels, hole, SCHEDULE)
    x = run(how, step, times)[:, 1]
    tolerance = 0.03 if condition is Evidence else 0.1                 # RePaint is exact only for endless resampling
    assert abs(x.mean() - (MEAN[1] + 0.8 * (known - MEAN[0]))) < tolerance
    assert abs(x.var() - (1 - 0.8**2)) < tolerance


def with_reading(known, about, times, reading):
    """Two pixels, one known exactly; of the other there is a reading with the noise of a level."""
    level = to_stops(torch.tensor([0.0, about]), times)
    alpha, sigma = (float(value[1]) for value in SCHEDULE.alpha_sigma(level))
    values = torch.stack([torch.full((SAMPLES,), known), reading(alpha, sigma)], -1)[:, None, None]
    assert abs(level[1] - about) <= 0.51 / (len(times) - 1)
    return Evidence(values, level.expand(SAMPLES, 1, 1, 2)), alpha, sigma


@pytest.mark.parametrize("about", [0.25, 0.6])
def test_evidence_beside_a_known_pixel_gives_the_moments_of_the_posterior(about):
    times, known = even_levels(200), 1.2
    how, alpha, sigma = with_reading(known, about, times, lambda alpha, sigma: torch.full((SAMPLES,), 0.4))
    prior_mean, prior_variance = float(MEAN[1] + 0.8 * (known - MEAN[0])), 1 - 0.8**2         # given the known pixel
    variance = 1 / (1 / prior_variance + alpha**2 / sigma**2)
    mean = variance * (prior_mean / prior_variance + alpha * 0.4 / sigma**2)
    x = run(how, ancestral_step, times)[:, 1]
    assert abs(x.mean() - mean) < 0.02 and abs(x.var() - variance) < 0.02


@pytest.mark.parametrize(("step", "steps"), [(ddim_step, 200), (ancestral_step, 200), (dpm_step, 30)])
def test_readings_of_the_truth_give_the_distribution_of_the_truth(step, steps):
    times, known = even_levels(steps), 1.2
    truth = MEAN[1] + 0.8 * (known - MEAN[0]) + (1 - 0.8**2) ** 0.5 * numbered(SAMPLES)(7)
    how, *_ = with_reading(known, 0.6, times, lambda alpha, sigma: alpha * truth + sigma * numbered(SAMPLES)(9))
    x = run(how, step, times)[:, 1]
    assert abs(x.mean() - truth.mean()) < 0.02 and abs(x.var() - truth.var()) < 0.02


def test_noised_known_without_time_travel_does_not_harmonise():
    """What the resampling of RePaint is for: without it the hole hardly knows its surroundings."""
    pixels = torch.tensor([2.0, 0.0]).expand(SAMPLES, 1, 1, 2)
    hole = torch.tensor([0.0, 1.0]).expand(SAMPLES, 1, 1, 2)
    truth = MEAN[1] + 0.8 * (2.0 - MEAN[0])
    alone, harmonised = (run(NoisedKnown(pixels, hole, SCHEDULE), ancestral_step, times)[:, 1].mean()
                         for times in (even_levels(50), with_time_travel(even_levels(50), 5, 10)))
    assert abs(harmonised - truth) < 0.5 * abs(alone - truth)


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


LINEAR = Schedule("linear", "noise")
THOUSANDTHS = [(t + 1) / 1000 for t in range(999, -1, -20)]


def guess_noise(x):
    """Some fixed function of x in the place of a denoiser's noise prediction."""
    return 0.5 * x.roll(1, -1) + 0.1 * x.tanh()


def trajectory(step, noise):
    condition = Evidence(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8))
    return list(sample(lambda x, level: LINEAR.x0(x, level, guess_noise(x)), LINEAR, noise, [*THOUSANDTHS, 0.0],
                       step, condition))


def theirs(scheduler, x, generator=None):
    steps = [round(1000 * level) - 1 for level in THOUSANDTHS]
    scheduler.set_timesteps(timesteps=steps) if generator else scheduler.set_timesteps(len(steps))
    assert scheduler.timesteps.tolist() == steps
    for t in scheduler.timesteps:
        x = scheduler.step(guess_noise(x), t, x, **({"generator": generator} if generator else {})).prev_sample
        yield x


def test_the_ddim_trajectory_equals_diffusers(diffusers):
    scheduler = diffusers.DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True,
                                        timestep_spacing="trailing")
    noise = numbered(1, 3, 8, 8)
    for ours, their in zip(trajectory(ddim_step, noise), theirs(scheduler, noise(0)), strict=True):
        assert torch.allclose(ours, their, rtol=1e-3, atol=2e-3)


def test_the_ddpm_trajectory_equals_diffusers(diffusers):
    scheduler = diffusers.DDPMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, variance_type="fixed_small")
    generator = torch.Generator().manual_seed(7)
    drawn = torch.Generator().manual_seed(7)
    start = numbered(1, 3, 8, 8)(0)

    def noise(number):
        return torch.randn(1, 3, 8, 8, generator=drawn) if number else start

    for ours, their in zip(trajectory(ancestral_step, noise), theirs(scheduler, start, generator), strict=True):
        assert torch.allclose(ours, their, rtol=1e-3, atol=2e-3)


def test_the_dpm_solver_trajectory_equals_diffusers(diffusers):
    scheduler = diffusers.DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear", solver_order=3,
                                                      algorithm_type="dpmsolver++", timestep_spacing="trailing",
                                                      final_sigmas_type="zero")
    noise = numbered(1, 3, 8, 8)
    for ours, their in zip(trajectory(dpm_step, noise), theirs(scheduler, noise(0)), strict=True):
        assert torch.allclose(ours, their, rtol=1e-3, atol=2e-3)


def test_the_repaint_walk_equals_diffusers(diffusers):
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(250, jump_length=10, jump_n_sample=10)
    visited = with_time_travel(even_levels(250), 10, 10)
    # theirs lists the steps that are evaluated or left upwards; ours the levels between them
    assert [round(250 * level) - 1 for level in visited[:-1]] == (scheduler.timesteps // 4).tolist()
    assert sum(later < level for level, later in pairwise(visited)) == 2410              # the published evaluations


def test_one_evaluation_wherever_the_levels_fall_and_none_where_they_rise():
    calls = []

    def count(x, level):
        calls.append(float(level.max()))
        return x

    condition = Evidence(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    for times in (even_levels(10), with_time_travel(even_levels(20), 5, 3)):
        calls.clear()
        assert len(list(sample(count, SCHEDULE, numbered(1, 1, 4, 4), times, ddim_step, condition))) == len(times) - 1
        assert len(calls) == sum(later < level for level, later in pairwise(times))


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_multistep_solver_forgets_where_the_levels_rise(name):
    """After a jump up, every step walks on as it would from there alone."""
    seen = []

    def remember(move):
        seen.append((move.level, [level for level, _ in move.before]))
        return STEPS[name](move)

    condition = Evidence(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    list(sample(lambda x, level: x, SCHEDULE, numbered(1, 1, 4, 4), [1.0, 0.75, 0.5, 0.25, 0.75, 0.5, 0.0], remember,
                condition))
    assert seen == [(1.0, []), (0.75, [1.0]), (0.5, [0.75, 1.0]), (0.75, []), (0.5, [0.75])]


def test_known_pixels_enter_clean_at_level_zero():
    known, hole = torch.full((1, 3, 4, 4), 0.25), torch.zeros(1, 1, 4, 4)
    hole[..., 2:] = 1
    x, level = Evidence(known, hole).enter(torch.full((1, 3, 4, 4), 9.0), 0.7, lambda: pytest.fail("no noise"))
    assert (x[..., :2] == 0.25).all() and (x[..., 2:] == 9).all()
    assert (level[..., :2] == 0).all() and torch.allclose(level[..., 2:], torch.tensor(0.7))


def test_noised_known_pixels_enter_at_the_level_of_the_hole():
    known, hole, noise = torch.full((1, 3, 4, 4), 0.25), torch.zeros(1, 1, 4, 4), torch.randn(1, 3, 4, 4)
    hole[..., 2:] = 1
    x, level = NoisedKnown(known, hole, SCHEDULE).enter(torch.full((1, 3, 4, 4), 9.0), 0.7, lambda: noise)
    assert (level == 0.7).all() and (x[..., 2:] == 9).all()
    assert torch.equal(x[..., :2], SCHEDULE.add_noise(known, torch.tensor(0.7), noise)[..., :2])


@pytest.mark.parametrize("wrong", [(0, 1, 1), (10, 0, 1), (10, 1, 0)])
def test_no_steps_is_refused(wrong):
    steps, *jumps = wrong
    with pytest.raises(ValueError, match="at least 1"):
        with_time_travel(even_levels(steps), *jumps)


@pytest.mark.parametrize("schedule", [SCHEDULE, LINEAR])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_levels_even_in_log_snr(schedule, steps):
    levels = torch.tensor(log_snr_levels(steps, schedule)).double()
    assert len(levels) == steps + 1 and levels[0] == 1 and levels[-1] == 0 and (levels.diff() < 0).all()
    alpha, sigma = schedule.alpha_sigma(levels[1:-1])
    gaps = (alpha / sigma).log().diff()
    assert torch.allclose(gaps, gaps.mean().expand_as(gaps), rtol=0.02)


def test_the_multistep_solver_does_well_on_levels_even_in_log_snr():
    condition = Evidence(torch.zeros(1000, 1, 1, 2), torch.ones(1000, 1, 1, 2))
    truth = run(condition, ddim_step, even_levels(1000), 1000)
    assert (run(condition, dpm_step, log_snr_levels(10, SCHEDULE), 1000) - truth).abs().mean() < 0.05
