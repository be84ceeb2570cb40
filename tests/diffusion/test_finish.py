"""The last match of painted pixels with their surroundings, band by band of the fine spectrum."""

import pytest
import torch

from artifusion.diffusion.finish import SIGMAS_PX, blurred, match_fine_bands, match_steps, mean_over, ring_around


def textured(seed, size=128):
    """A texture with energy at every scale: (1, 3, H, W)."""
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return blurred(noise, 0.7) + 2 * blurred(noise.roll(7, -1), 2.0)


def hole(size=128):
    painted = torch.zeros(1, 1, size, size)
    painted[..., 48:80, 40:90] = 1
    return painted


def ratios(image, truth, painted):
    """Energy of each fine band in the hole over the truth's."""
    found, fine, fine_truth = [], image, truth
    for sigma in SIGMAS_PX:
        coarse, coarse_truth = blurred(image, sigma), blurred(truth, sigma)
        found.append(float(mean_over((fine - coarse).square(), painted)
                           / mean_over((fine_truth - coarse_truth).square(), painted)))
        fine, fine_truth = coarse, coarse_truth
    return found


@pytest.mark.parametrize("spoiled", [
    lambda x: x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)),    # fine noise was left
    lambda x: blurred(x, 0.45),                                                               # softer than the scan
    lambda x: 0.6 * x])                                                                       # paler at every scale
def test_each_fine_band_comes_nearer_to_the_energy_of_the_surroundings(spoiled):
    truth, painted = textured(1), hole()
    image = torch.where(painted > 0, spoiled(truth), truth)
    before = ratios(image, truth, painted)
    after = ratios(match_fine_bands(image, painted), truth, painted)
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        assert abs(other - 1) < 0.25 and abs(other - 1) < abs(one - 1) + 0.1
        assert abs(other - 1) < abs(one - 1) / 2 or (number > 1 and abs(one - 1) < 0.3)     # coarse ones may fit before


def test_known_pixels_stay_and_what_fits_is_left_alone():
    truth, painted = textured(1), hole()
    matched = match_fine_bands(truth, painted)
    assert torch.equal(matched * (1 - painted), truth * (1 - painted))
    assert (matched - truth).abs().max() < 0.2 * truth.std()
    small = torch.zeros(1, 1, 128, 128)
    small[..., :, :127] = 1                                                  # too few known pixels tell nothing
    assert torch.equal(match_fine_bands(truth, small), truth)


def steps(image, painted):
    """Mean size of the steps between known and painted neighbours in a row."""
    crossing = painted[..., 1:] != painted[..., :-1]
    return float(((image[..., 1:] - image[..., :-1]).abs() * crossing).sum() / crossing.sum())


def test_an_outline_gets_the_steps_of_the_surroundings_and_one_without_is_left_alone():
    truth, painted = textured(1, 256), hole(256)
    outlined = truth + 2 * painted * truth.std()
    usual = steps(truth, hole(256).roll(90, -2))
    assert steps(outlined, painted) > 3 * usual
    matched = match_steps(outlined, painted)
    assert 0.4 * usual < steps(matched, painted) < 1.6 * usual
    inside = torch.nn.functional.max_pool2d(1 - painted, 3, stride=1, padding=1) == 0
    assert torch.equal(matched * (1 - painted), outlined * (1 - painted))
    assert torch.equal(matched * inside, outlined * inside)                  # a single pixel deep
    assert (match_steps(truth, painted) - truth).abs().max() < 0.3 * truth.std()
    assert torch.equal(match_steps(torch.zeros_like(truth), painted), torch.zeros_like(truth))


def test_few_large_steps_around_do_not_let_every_step_of_the_outline_be_large():
    """Surroundings with some nuclei, none of which touches the outline."""
    texture, painted = textured(2, 256), hole(256)
    other = textured(3, 256)[:, :1]
    nuclei = (other > 2.2 * other.std()) & (torch.nn.functional.max_pool2d(painted, 3, stride=1, padding=1) == 0)
    tissue = texture + 6 * texture.std() * nuclei
    ring = ring_around(painted)[0]
    usual = float(mean_over((tissue[..., 1:] - tissue[..., :-1]).abs(), ring[..., 1:] * ring[..., :-1]))
    outlined = tissue + 1.5 * texture.std() * painted
    assert steps(outlined, painted) / 3 > 2 * usual > 2 / 1.15 * steps(match_steps(outlined, painted), painted) / 3
