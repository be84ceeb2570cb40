from itertools import pairwise

import pytest
import torch

from artifusion.diffusion.views import in_views, spans


@pytest.mark.parametrize("length", [64, 256, 320, 576, 1536, 4032])
def test_views_cover_a_side_overlap_and_are_as_few_as_can_be(length):
    found = spans(length, 256, 64, 64)
    assert found[0].start == 0 and found[-1].stop == length
    assert all(view.stop - view.start <= 256 and (view.stop - view.start) % 64 == 0 for view in found)
    assert all(one.stop - other.start >= 64 for one, other in pairwise(found))
    assert len(found) == 1 if length <= 256 else len(found) == -(-(length - 64) // 192)


def test_views_of_a_denoiser_with_larger_windows_than_a_view_are_its_smallest_canvases():
    found = spans(1536, 256, 64, 512)
    assert [(view.start, view.stop) for view in found] == [(0, 512), (341, 853), (683, 1195), (1024, 1536)]


def test_a_denoiser_that_looks_at_nothing_but_a_pixel_is_blended_back_exactly():
    """Any cover of any canvas gives back the identical image."""
    x = torch.randn(2, 3, 320, 576, generator=torch.Generator().manual_seed(0))
    blended = in_views(lambda x, level: 2 * x + 1, 256, 64, 64)(x, torch.ones(2, 1, 320, 576))
    assert torch.allclose(blended, 2 * x + 1, atol=1e-5)


def test_views_that_disagree_fade_into_each_other():
    """No line of pixels carries a joint: the step between neighbours stays below one part of the overlap."""
    views = iter(range(10))
    blended = in_views(lambda x, level: torch.full_like(x, float(next(views))), 256, 64, 64)
    row = blended(torch.zeros(1, 3, 64, 640), torch.ones(1, 1, 64, 640))[0, 0, 0]
    assert row.max() - row.min() > 1.5 and row.diff().abs().max() < 2 / 64


def test_a_view_without_a_noisy_pixel_is_not_evaluated():
    level = torch.zeros(1, 1, 64, 640)
    level[..., :100] = 0.5
    calls = []
    in_views(lambda x, level: calls.append(x.shape) or x, 256, 64, 64)(torch.randn(1, 3, 64, 640), level)
    assert calls == [(1, 3, 64, 256)]
