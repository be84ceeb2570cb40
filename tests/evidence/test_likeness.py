"""Colours, orientations and weighted differences agree with their plain definitions."""

import numpy as np
import pytest
from made_slides import tissue

from artifusion.evidence.likeness import Picture, best_shift, carried, grain, opponent
from artifusion.slide.placed import oriented, turned, unoriented


@pytest.mark.parametrize("orientation", range(8))
def test_unoriented_undoes_oriented_and_shifts_turn_with_it(orientation):
    values = np.arange(5 * 7 * 2).reshape(5, 7, 2)
    turned_values = oriented(values, orientation)
    assert np.array_equal(unoriented(turned_values, orientation), values)
    at, after = ((np.argwhere(oriented_plane == number)[0]) for oriented_plane, number in
                 ((turned_values[..., 0], values[2, 3, 0]), (turned_values[..., 0], values[3, 5, 0])))
    down, right = after - at
    assert turned(1, 2, orientation) == (right, down)


def test_equal_greys_differ_by_their_levels_and_colours_count_three_times():
    grey = opponent(np.uint8([[100, 100, 100], [110, 110, 110]]))
    assert np.square(grey[0] - grey[1]).sum() == pytest.approx(100, rel=1e-5)
    hue = opponent(np.uint8([[110, 100, 90], [90, 100, 110]]))
    assert np.square(hue[0] - hue[1]).sum() == pytest.approx(3 * 800 / 3, rel=1e-5)


def test_differences_are_weighted_sums_of_squares_in_every_orientation_and_bar_what_is_not_usable():
    rng = np.random.default_rng(0)
    values = rng.normal(100, 30, (30, 40, 3)).astype(np.float32)
    template, weight = rng.normal(100, 30, (7, 9, 3)).astype(np.float32), rng.random((7, 9)).astype(np.float32)
    support = weight > 0.5
    usable = np.ones((30, 40), bool)
    usable[12, 20] = False
    for orientation, found in enumerate(Picture(values, usable).differences(template, weight, support)):
        turned_template, turned_weight, turned_support = (oriented(each, orientation) for each in
                                                          (template, weight, support))
        height, width = turned_weight.shape
        assert found.shape == (31 - height, 41 - width)
        for row, column in ((0, 0), (3, 5), (31 - height - 1, 41 - width - 1), (12, 20), (9, 17)):
            part = np.s_[row : row + height, column : column + width]
            barred = (~usable[part] & turned_support).any()
            off = np.square(values[part] - turned_template) * turned_weight[..., None]
            expected = np.inf if barred else off.sum()
            assert found[row, column] == pytest.approx(expected, rel=1e-3)
    row, column, least = best_shift(values, values[5:12, 8:17], weight)
    assert (row, column) == (5, 8) and least < 1


def test_what_is_known_is_carried_smoothly_into_what_is_not():
    values = np.full((50, 70, 2), 7.0)
    known = np.zeros((50, 70), bool)
    known[:, :9] = True
    values[~known] = 999
    assert np.allclose(carried(values, known), 7)
    values[:, :9] = np.arange(50)[:, None, None]
    found = carried(values, known)
    assert np.array_equal(found[known], values[known]) and found.min() >= 0 and found.max() <= 49


def test_grain_tells_the_direction_of_fibres():
    light = np.sin(np.arange(80) / 2)[None] * np.full((80, 1), 40.0)
    upright, lying = (grain(np.ascontiguousarray(each, np.float32), np.ones((80, 80), bool), 5)[20:60, 20:60]
                      for each in (light, light.T))
    assert (upright[..., 1] > 0.9 * upright[..., 0]).all() and (lying[..., 1] < -0.9 * lying[..., 0]).all()
    assert grain(tissue(60, 60)[..., 0].astype(np.float32), np.zeros((60, 60), bool), 5).max() == 0
