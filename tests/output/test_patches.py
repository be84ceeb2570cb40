from __future__ import annotations

import numpy as np
import pytest
import shapely

from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output.patches import Patches
from artifusion.slide.reader import open_slide

GREEN = (0, 200, 0)


@pytest.fixture
def work(copied_slide, tmp_path):
    with open_slide(copied_slide) as slide:
        mask = Mask.of([shapely.Point(300, 300).buffer(150), shapely.Point(700, 100).buffer(30)], slide.size)
        canvases = plan_canvases(find_regions(mask, 16), slide.size, 64, 32, 256, mask)
        yield slide, mask, canvases, tmp_path / "patches"


def flat(canvas, color=GREEN):
    return np.full((canvas.size.height, canvas.size.width, 3), color, np.uint8)


def test_only_painted_masked_pixels_change(work):
    slide, mask, canvases, folder = work
    patches, whole = Patches(folder, slide, mask), Box(0, 0, *slide.size)
    source, masked = slide.read(whole), mask.read(whole)
    assert np.array_equal(patches.remaining(whole), masked)
    patches.add(canvases[0], flat(canvases[0]))
    expected = source.copy()
    target = canvases[0].l0_target.slices()
    expected[target][masked[target]] = GREEN
    assert np.array_equal(patches.read(whole), expected)
    for canvas in canvases:
        patches.add(canvas, flat(canvas))
    assert np.array_equal(patches.read(whole), np.where(masked[..., None], np.uint8(GREEN), source))
    assert not patches.remaining(whole).any()
    window = Box(-10, 170, 333, 99)
    assert np.array_equal(patches.read(window)[:, 10:], patches.read(whole)[170:269, :323])


def test_the_identity_painter_gives_identical_pixels(work):
    slide, mask, canvases, folder = work
    patches = Patches(folder, slide, mask)
    for canvas in canvases:
        patches.add(canvas, patches.read(canvas.l0_box))
    assert np.array_equal(patches.read(Box(0, 0, *slide.size)), slide.read(Box(0, 0, *slide.size)))


def test_finished_canvases_survive_a_crash_and_half_written_ones_do_not(work):
    slide, mask, canvases, folder = work
    first = Patches(folder, slide, mask)
    first.add(canvases[0], flat(canvases[0]))
    (folder / "1_2_3_4.partial").write_bytes(b"half")
    again = Patches(folder, slide, mask)
    assert again.done(canvases[0]) and not any(again.done(canvas) for canvas in canvases[1:])
    assert np.array_equal(again.read(canvases[0].l0_box), first.read(canvases[0].l0_box))


def test_a_patch_of_another_shape_is_an_error(work):
    slide, mask, canvases, folder = work
    with pytest.raises(ValueError, match="uint8"):
        Patches(folder, slide, mask).add(canvases[0], np.zeros((3, 3, 3), np.uint8))
