"""Regions of any size go through the seam (images and masks in, images out) and come back whole, each pixel once."""

import json

import numpy as np
import pytest
from made_slides import tissue
from painters import Brighter, Flat, Identity
from PIL import Image

from artifusion.geometry import Box
from artifusion.mask.reading import read_mask
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide

SIDES = (100, 700, 2000)                                   # the last one is painted cell by cell


def slide_and_mask(side, folder):
    """An image and a mask: a box of that side with a hole and a torn edge, and two small ones. Paths, bool (H, W)."""
    width, height = side + 300, side + 200
    pixels = np.tile(tissue(330, 320), (1 + height // 320, 1 + width // 330, 1))[:height, :width]
    Image.fromarray(np.minimum(pixels, 250)).save(folder / "image.png", compress_level=1)
    mask = np.zeros((height, width), bool)
    mask[60 : 60 + side, 120 : 120 + side] = True
    mask[60 + side // 2 : 60 + side // 2 + side // 9, 120 + side // 3 : 120 + side // 2] = False
    mask[60 : 60 + side : 7, 120 : 120 + side // 40 : 5] = False
    mask[70:95, 40:70] = mask[-35:-10, -50:-10] = True
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "image.png", folder / "mask.png", mask


@pytest.mark.parametrize("side", SIDES)
def test_what_an_identity_painter_paints_is_the_source(side, tmp_path):
    image, mask, _ = slide_and_mask(side, tmp_path)
    painter = Identity()
    restore_slide(image, mask, tmp_path / "out.png", restorer=painter, polarity="restore")
    assert painter.calls and np.array_equal(Image.open(tmp_path / "out.png"), Image.open(image))


@pytest.mark.parametrize("side", SIDES)
def test_every_masked_pixel_is_painted_exactly_once(side, tmp_path):
    image, mask, selected = slide_and_mask(side, tmp_path)
    restore_slide(image, mask, tmp_path / "out.png", restorer=Brighter(), polarity="restore")
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (image, tmp_path / "out.png"))
    assert np.array_equal(after - before, np.repeat(selected[..., None], 3, axis=2))


def test_a_grown_mask_is_the_mask_everywhere(png_image, tmp_path):
    mask = np.zeros((260, 300), np.uint8)
    mask[100:130, 100:140] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    content = restore_slide(png_image, tmp_path / "mask.png", out, restorer=Flat(), grow_um=4)       # 8 px
    changed = (np.asarray(Image.open(out)) != np.asarray(Image.open(png_image))).any(axis=2)
    with open_slide(png_image) as slide:
        declared = read_mask(tmp_path / "out.png.geojson", slide).read(Box(0, 0, *slide.size))
    assert np.array_equal(changed, declared) and changed[93, 120] and changed[115, 147] and not changed[91, 120]
    assert content["regions"][0]["area_px"] == declared.sum() and content["mask"]["grow_um"] == 4


def test_a_class_name_that_is_no_text_is_declared_readably(png_image, tmp_path):
    ring = [[10, 10], [60, 10], [60, 60], [10, 10]]
    mask = {"type": "Feature", "properties": {"classification": {"name": "fold \ud800"}},
            "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "mask.geojson").write_text(json.dumps(mask))           # half a surrogate pair, which JSON can hold
    content = restore_slide(png_image, tmp_path / "mask.geojson", tmp_path / "out.png", restorer=Flat())
    assert content["regions"][0]["class"] == "fold" and content["verified"]["ok"]
