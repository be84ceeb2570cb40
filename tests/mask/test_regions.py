from __future__ import annotations

import numpy as np
import pytest
import shapely

from artifusion.errors import MaskError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.mask.regions import batches, find_regions, plan_canvases

SIZE = Size(4000, 3600)


def disk(x, y, radius):
    return shapely.Point(x, y).buffer(radius)


def random_mask(seed, count=60, size=SIZE):
    rng = np.random.default_rng(seed)
    return Mask.of([disk(rng.uniform(0, size.width), rng.uniform(0, size.height), rng.uniform(3, 120))
                    for _ in range(count)], size)


def painted_times(canvases, size):
    times = np.zeros((size.height, size.width), np.int32)
    for canvas in canvases:
        times[canvas.l0_target.slices()] += 1
    return times


@pytest.mark.parametrize("seed", range(5))
def test_every_masked_pixel_lies_in_exactly_one_region(seed):
    mask = random_mask(seed)
    regions = find_regions(mask, merge_px=32)
    covered = np.zeros((SIZE.height, SIZE.width), int)
    for region in regions:
        covered[region.l0_box.slices()] += 1
        assert region.l0_box.x >= 0 and region.l0_box.right <= SIZE.width
    masked = mask.read(Box(0, 0, *SIZE))
    assert covered.max() == 1 and (covered[masked] == 1).all()
    assert sum(region.area_px for region in regions) == masked.sum()
    assert [region.id for region in regions] == list(range(1, len(regions) + 1))
    assert list(regions) == sorted(regions, key=lambda r: (r.l0_box.y, r.l0_box.x))


def test_close_polygons_share_a_region_and_far_ones_do_not():
    mask = Mask.of([disk(100, 100, 20), disk(150, 100, 20), disk(1000, 100, 20)], SIZE, ["a", "b", "c"])
    assert len(find_regions(mask, merge_px=0)) == 3
    assert [region.l0_box.width for region in find_regions(mask, merge_px=10)] == [90, 40]
    assert find_regions(Mask((), SIZE), 10) == ()


def test_the_class_of_a_region_is_that_of_its_largest_part():
    mask = Mask.of([disk(100, 100, 10), disk(150, 100, 30)], SIZE, ["pen", "fold"])
    assert [region.name for region in find_regions(mask, 64)] == ["fold"]


@pytest.mark.parametrize("side", [100, 700, 3000])
def test_regions_of_any_size_are_covered_exactly_once(side):
    mask = Mask.of([shapely.box(333, 222, 333 + side, 222 + side)], SIZE)
    canvases = plan_canvases(find_regions(mask, 0), SIZE, mask=mask)
    times = painted_times(canvases, SIZE)
    assert times.max() == 1 and (times[mask.read(Box(0, 0, *SIZE))] == 1).all()
    assert (len(canvases) == 1) == (side == 100)


@pytest.mark.parametrize("seed", range(3))
def test_canvases_keep_their_promises(seed):
    mask = Mask.of([*random_mask(seed).polygons, shapely.box(1500, 900, 3100, 2000)], SIZE)
    canvases = plan_canvases(find_regions(mask, 32), SIZE, 64, 64, 512, mask)
    times = painted_times(canvases, SIZE)
    assert times.max() == 1 and (times[mask.read(Box(0, 0, *SIZE))] == 1).all()
    frame = Box(0, 0, *SIZE)
    for canvas in canvases:
        assert canvas.size.width % 64 == canvas.size.height % 64 == 0 and max(canvas.size) <= 512
        assert canvas.l0_box.intersection(frame) == canvas.l0_box
        context = canvas.l0_target.expanded(64).intersection(frame)
        assert canvas.l0_box.intersection(context) == context
        assert mask.read(canvas.l0_target).any()


def test_cells_that_touch_never_share_a_wave():
    mask = Mask.of([shapely.box(300, 300, 3300, 2500)], SIZE)
    canvases = plan_canvases(find_regions(mask, 0), SIZE, 64, 64, 512, mask)
    for i, one in enumerate(canvases):
        for other in canvases[i + 1 :]:
            if one.wave == other.wave:
                assert not one.l0_box.overlaps(other.l0_target) and not other.l0_box.overlaps(one.l0_target)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (2000, 0), (0, 2000), (2000, 2000), (900, 0), (900, 900)])
def test_every_cell_sees_known_tissue_or_a_finished_neighbour_wherever_the_region_lies(x, y):
    mask = Mask.of([shapely.box(x, y, x + 2000, y + 2000)], SIZE)
    canvases = plan_canvases(find_regions(mask, 0), SIZE, mask=mask)
    for canvas in canvases:
        finished = [other for other in canvases if other.wave < canvas.wave and other.l0_target.overlaps(canvas.l0_box)]
        assert finished or not mask.read(canvas.l0_box).all()


def test_a_mask_without_a_gap_is_refused():
    mask = Mask.of([shapely.box(0, 0, 1000, 800)], Size(1000, 800))
    with pytest.raises(MaskError, match="nothing is left to paint from"):
        plan_canvases(find_regions(mask, 0), mask.l0_size, mask=mask)


def test_a_speckled_mask_is_merged_in_bounded_memory():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 1990, (20_000, 2))
    mask = Mask(tuple(shapely.box(x, y, x + 2, y + 2) for x, y in corners.tolist()), Size(2000, 2000))
    (region,) = find_regions(mask, 32)
    assert region.l0_box.width > 1900


def test_cells_without_a_masked_pixel_are_skipped():
    ring = shapely.Point(2000, 1800).buffer(1500).difference(shapely.Point(2000, 1800).buffer(1400))
    mask = Mask.of([ring], SIZE)
    regions = find_regions(mask, 0)
    assert len(plan_canvases(regions, SIZE, mask=mask)) < len(plan_canvases(regions, SIZE)) / 1.5


def test_a_canvas_of_a_small_slide_is_the_slide():
    mask = Mask.of([disk(50, 40, 10)], Size(100, 80))
    (canvas,) = plan_canvases(find_regions(mask, 0), mask.l0_size)
    assert canvas.l0_box == Box(0, 0, 100, 80)


def test_batches_hold_one_wave_and_size_in_a_fixed_order():
    mask = Mask.of([*random_mask(1).polygons, shapely.box(1500, 900, 3100, 2000)], SIZE)
    canvases = plan_canvases(find_regions(mask, 32), SIZE, mask=mask)
    groups = batches(canvases, 4)
    assert sorted(c.l0_target for group in groups for c in group) == sorted(c.l0_target for c in canvases)
    assert all(len({(c.wave, c.size) for c in group}) == 1 and len(group) <= 4 for group in groups)
    waves = [group[0].wave for group in groups]
    assert waves == sorted(waves) and groups == batches(canvases, 4)


def test_no_room_for_cells_is_an_error():
    with pytest.raises(ValueError, match="context"):
        plan_canvases((), SIZE, 64, 256, 512)
