"""A donor takes on the tone of the place, and goes over into what lies around without a step."""

import numpy as np
import pytest

from artifusion.evidence.graft import band_px, seams
from artifusion.evidence.tone import blended, faded, tone_of

MPP = 0.25


def texture(seed: int, size: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 130, (size, size, 3)).astype(np.uint8)


def known(size: int = 120, rim: int = 30) -> np.ndarray:
    kept = np.ones((size, size), bool)
    kept[rim:-rim, rim:-rim] = False
    return kept


def joined(donor: np.ndarray, pixels: np.ndarray, kept: np.ndarray, mpp: float = MPP) -> np.ndarray:
    return blended(donor, pixels, kept, seams(~kept, ~kept, band_px(mpp)), band_px(mpp))


def test_a_donor_of_another_tone_meets_the_outline_and_stays_itself_inside():
    donor, kept = texture(1), known()
    moved = joined(donor, donor + np.uint8(20), kept).astype(int) - donor
    row = moved[60, 30:90, 0]
    assert row[0] >= 16 and row[-1] >= 16                           # of 20, one pixel inside
    assert (np.diff(row[:30]) <= 0).all() and (row[30 - 1] == 0)
    assert abs(moved[30 + band_px(MPP) : -30 - band_px(MPP), 60]).max() == 0


def test_fine_differences_fade_before_coarse_ones():
    donor, kept = np.full((120, 120, 3), 110, np.uint8), known()
    fine, coarse = donor.copy(), donor.copy()
    fine[:, ::2] += 20
    coarse[:, 60:] += 20
    depths = [np.abs(joined(donor, pixels, kept).astype(int) - donor)[33, 40:80].std() for pixels in (fine, coarse)]
    assert depths[0] < 0.5 < 3 < depths[1]


def test_what_fits_stays_and_what_is_hidden_beside_a_hole_says_nothing():
    donor, kept = texture(2), known()
    assert np.array_equal(joined(donor, donor, kept), donor)
    pixels = donor + np.uint8(10)
    kept[:30] = False                                               # hidden too, not filled by this donor
    black = np.where(kept[..., None], pixels, np.uint8(0))
    assert np.array_equal(joined(donor, black, kept), joined(donor, pixels, kept))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 2.0])
def test_the_step_at_the_outline_becomes_smaller_at_every_scale(mpp):
    kept = known()
    pixels, donor = texture(3), texture(4) // 2
    steps = [np.abs(np.diff(np.where(kept[..., None], pixels, inside).astype(int), axis=0)[29, 30:90]).mean()
             for inside in (donor, joined(donor, pixels, kept, mpp))]
    assert steps[1] < 0.6 * steps[0]


def test_a_tint_at_the_outline_fades_inwards_and_a_cut_nucleus_hardly_counts():
    seen = ~np.pad(np.ones((40, 40), bool), 20)                     # 1 um per pixel
    tint, nucleus = (np.zeros((80, 80, 3), np.float32) for _ in range(2))
    tint[:, 15:20] = 10
    nucleus[38:42, 16:20] = 90
    fading = faded(tint, seen, 1.0)[40, 20:30, 0]
    assert fading[0] > 6 and (np.diff(fading) <= 0).all() and fading[6] == 0
    assert faded(nucleus, seen, 1.0)[40, 20, 0] < 0.25 * 90


def test_a_donor_in_its_tone_meets_a_tint_at_the_outline_and_keeps_its_own_deep_inside():
    donor, kept = np.full((160, 160, 3), 150, np.uint8), known(160, 50)
    pixels, mpp = donor.copy(), 0.5
    pixels[40:120, 40:120] += 10                                    # 5 um around the hole
    moved = tone_of(donor, pixels, kept, mpp, 240).applied(donor).astype(int)[80, :, 0] - 150
    assert 8 <= moved[48] <= 11 and moved[51] >= 6
    assert moved[50 + round(8 / mpp)] < 0.6 * moved[51]
