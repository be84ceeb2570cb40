"""A mask stays the same mask in every form: no edge moves by more than one mask pixel, whatever comes after what."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from artifusion.errors import OutputError
from artifusion.geometry import Box, Point, Size
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.reading import read_mask
from artifusion.mask.writer import write_mask
from artifusion.slide.reader import open_slide

FORMS = {"binary.png": True, "classes.png": False, "pyramid.tif": False, "binary.tiff": True, "qupath.geojson": False}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    Image.new("RGB", (331, 247), (220, 180, 200)).save(path, dpi=(25400 / 0.5, 25400 / 0.5))
    with open_slide(path) as opened:
        yield opened


def random_mask(seed, size):
    """Blobs with holes and specks between pixels, of several classes, some on the slide's edge."""
    rng = np.random.default_rng(seed)
    polygons, names = [], []
    for _ in range(rng.integers(1, 7)):
        centre = shapely.Point(rng.uniform(0, size.width), rng.uniform(0, size.height))
        blob = centre.buffer(rng.uniform(1, 40), quad_segs=int(rng.integers(1, 9)))
        if rng.random() < 0.5:
            blob = blob.difference(shapely.affinity.translate(blob, *rng.uniform(-9, 9, 2)).buffer(-8))
        if isinstance(blob, shapely.Polygon):
            polygons.append(blob)
            names.append(str(rng.choice(list(CLASSES))))
    return Mask.of(polygons, size, names)


def drawn(mask, name=None):
    parts = [polygon for polygon, found in zip(mask.polygons, mask.classes, strict=True) if name in (None, found)]
    return Mask(tuple(parts), mask.l0_size).read(Box(0, 0, *mask.l0_size))


@pytest.mark.parametrize(("first", "second"), list(product(FORMS, FORMS)))
def test_no_edge_moves_by_more_than_one_mask_pixel_from_any_form_to_any_other(slide, tmp_path, first, second):
    for seed in range(8):
        downsample = float(np.random.default_rng(seed).uniform(1, 7))
        given = random_mask(seed, slide.size)
        if not given.area_px:
            continue
        mask = given
        for form in (first, second):
            write_mask(mask, tmp_path / form, slide, binary=FORMS[form],
                       downsample=None if form.endswith("json") else downsample)
            mask = read_mask(tmp_path / form, slide, polarity="restore")
        images = [form for form in (first, second) if not form.endswith("json")]
        reach = 2 * int(np.ceil(downsample)) + 1 if images else 1          # a mask pixel to every side
        near = ndimage.maximum_filter(drawn(given), reach)
        assert not (drawn(given) & ~drawn(mask)).any(), "nothing is lost"
        assert not (drawn(mask) & ~near).any(), "no edge moved by more than a mask pixel"
        if not (FORMS[first] or FORMS[second]):
            for name in set(given.classes):
                here = ndimage.maximum_filter(drawn(given, name), reach)
                assert not (drawn(mask, name) & ~here).any(), f"{name} stays {name}"
        assert set(mask.classes) <= ({"other"} if FORMS[first] or FORMS[second] else set(given.classes))


def test_geojson_counts_from_the_bounds_of_the_slide_both_ways(slide, tmp_path, monkeypatch):
    mask = Mask.of([shapely.box(100, 120, 200, 180)], slide.size, ["dark"])
    monkeypatch.setattr(slide, "bounds_offset", Point(90, 70), raising=False)
    write_mask(mask, tmp_path / "m.geojson", slide)
    shape = shapely.geometry.shape(json.loads((tmp_path / "m.geojson").read_text())["features"][0]["geometry"])
    assert shape.bounds == (10, 50, 110, 110)
    assert read_mask(tmp_path / "m.geojson", slide) == mask


def test_the_scale_of_a_mask_image_is_asked_for_or_fits(slide, tmp_path):
    mask = Mask.of([shapely.box(10, 10, 200, 100)], slide.size, ["fold"])
    assert write_mask(mask, tmp_path / "m.png", slide) == slide.size
    assert write_mask(mask, tmp_path / "m.png", slide, downsample=4) == Size(83, 62)
    assert write_mask(mask, tmp_path / "m.tif", slide, mpp=2) == Size(83, 62)
    with open_slide(tmp_path / "m.tif") as opened:
        assert opened.mpp_xy == pytest.approx((0.5 * 331 / 83, 0.5 * 247 / 62))
    for options, remedy in (({"mpp": 0.3}, "finer than the slide's 0.5"), ({"mpp": 0.1}, "larger --mpp")):
        with pytest.raises(OutputError, match=remedy):
            write_mask(mask, tmp_path / "n.png", slide, **options)
    with pytest.raises(OutputError, match=r"written as \.png"):
        write_mask(mask, tmp_path / "n.svs", slide)
    assert not (tmp_path / "n.png").exists()
