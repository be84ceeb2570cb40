"""A slide of which a part is damaged: what needs that part names it, and all else goes on without it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from inked import tissue, under
from made_slides import write_pyramid_tiff
from painted_slides import place_segment
from painters import Flat
from PIL import Image

from artifusion.damage.artifacts import PenInk
from artifusion.errors import SlideError
from artifusion.evidence.donors import Hole
from artifusion.evidence.find import find_donors
from artifusion.evidence.index import DonorIndex
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.mask.writer import write_class_png
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide
from artifusion.slide.whole import quiet_libraries
from artifusion.training.tiles import clean_tiles

SIDE = 768
HOLE, COPY = Box(300, 200, 100, 80), Box(500, 560, 100, 80)
DAMAGED = [Box(512, 512, 128, 128), Box(512, 0, 256, 256), Box(0, 512, 256, 256)]    # level 0 of a tile of each level


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Tissue under ink, the like of which lies in part in a damaged tile; one more tile is damaged on each level."""
    path, image = tmp_path_factory.mktemp("damaged") / "slide.tif", tissue(SIDE)
    image[COPY.expanded(40).slices()] = image[HOLE.expanded(40).slices()]
    hole = np.zeros((SIDE, SIDE), bool)
    hole[HOLE.slices()] = True
    write_pyramid_tiff(path, [(SIDE, SIDE), (SIDE // 2, SIDE // 2), (SIDE // 4, SIDE // 4)],
                       image=under(PenInk("blue", 0.6), image, hole), tile=128, compression="deflate")
    for page, index in enumerate((28, 2, 2)):
        place_segment(path, index, b"no pixels", page)
    place_segment(path, 3, b"no pixels", 2)
    return path


def test_an_error_in_one_place_spoils_no_other(slide):
    with open_slide(slide) as opened, ThreadPoolExecutor(4) as pool:
        def looked(number):
            x, y = 128 * (number % 6), 128 * (number // 6 % 6)
            try:
                return opened.read(Box(x, y, 128, 128)).mean() > 0
            except SlideError as error:
                assert f"at ({x}, {y})" in str(error)
                return False

        assert list(pool.map(looked, range(144))) == [number % 36 != 28 for number in range(144)]


def test_what_can_be_read_is_told_from_what_is_damaged(slide):
    with open_slide(slide) as opened:
        pixels, seen = opened.seen_as(box := Box(450, 450, 300, 290))
        beside = DAMAGED[0].expanded(64)
        far = np.ones_like(seen)
        far[beside.intersection(box).slices(box)] = False
        assert seen[far].all() and not seen[DAMAGED[0].slices(box)].any() and (pixels[~seen] == 255).all()
        assert np.array_equal(pixels[-20:], opened.read(Box(450, 720, 300, 20)))
        small, seen = opened.seen_as(Box(0, 0, SIDE, SIDE), Size(SIDE // 4, SIDE // 4))
        assert not seen[128:].any() and seen[:96].all()
        assert np.array_equal(small[:96], opened.read_as(Box(0, 0, SIDE, 384), Size(SIDE // 4, 96)))


def test_a_damaged_place_is_no_donor(slide):
    hole = np.zeros((160, 180), bool)
    hole[40:120, 40:140] = True
    box, mask = HOLE.expanded(40), Mask.of([], Size(SIDE, SIDE))
    with open_slide(slide) as opened:
        index = DonorIndex.of(opened, 0.5, [mask])
        assert not index.usable[128:].any() and index.usable[:96].all()
        whole = DonorIndex(opened, 0.5, (mask,), index.step, index.picture, np.ones_like(index.usable))
        whole.picture[:] = np.asarray(Image.fromarray(tissue(SIDE)).resize(whole.size))     # which shows no damage
        for searched in (index, whole):
            donors = find_donors(Hole(box, opened.read(box), hole, ~hole), [searched])
            assert donors and not any(donor.l0_box.overlaps(DAMAGED[0]) for donor in donors)


def test_a_slide_is_restored_whatever_is_damaged_elsewhere(slide, tmp_path):
    """Grafts, what shows through ink, and the picture of the whole."""
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[HOLE.slices()], ids[320:400, 60:160] = 3, 1
    write_class_png(tmp_path / "mask.png", ids)
    content = restore_slide(slide, tmp_path / "mask.png", tmp_path / "out.tif", restorer=Flat(graft="auto"),
                            recover=["pen"], preview=tmp_path / "look.png")
    assert content["verified"]["ok"] and verify_slide(slide, tmp_path / "out.tif").ok
    assert sum(region["grafted_px"] for region in content["regions"]) > 3000
    assert sum(region.get("recovered_px", 0) for region in content["regions"]) > 3000
    assert Image.open(tmp_path / "look.png").size[1] > 640


def test_tissue_to_adapt_to_is_taken_where_it_can_be_read_and_a_shard_is_refused(slide):
    mask, boxes = Mask.of([], Size(SIDE, SIDE)), [Box(x, 512, 256, 256) for x in (0, 256, 512)]
    with open_slide(slide) as opened:
        assert len(list(clean_tiles(opened, boxes, mask))) == 2
        with pytest.raises(SlideError, match="damaged"):
            list(clean_tiles(opened, boxes))


def test_what_libraries_say_is_dropped_and_what_python_says_later_is_not(capfd):
    with quiet_libraries(), quiet_libraries():
        os.write(2, b"a library\n")
    os.write(2, b"python\n")
    assert capfd.readouterr().err == "python\n"
