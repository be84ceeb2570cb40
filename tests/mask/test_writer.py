from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from PIL import Image

from artifusion.errors import OutputError
from artifusion.geometry import Point, Size
from artifusion.mask.classes import CLASSES, COLORS, class_of
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import class_outlines
from artifusion.mask.writer import (
    class_ids,
    mask_geojson,
    write_binary_png,
    write_class_png,
    write_geojson,
    write_pyramid,
)


def painted(height=700, width=611):
    ids = np.zeros((height, width), np.uint8)
    ids[100:220, 200:300] = CLASSES["pen"]
    ids[400:, 500:] = CLASSES["fold"]
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_class_ids_that_were_outlined_are_drawn_again(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 40, 2))
    size = Size(width + int(rng.integers(0, 150)), height + int(rng.integers(0, 150)))
    ids = (rng.integers(0, 8, (height, width)) * (rng.random((height, width)) < 0.5)).astype(np.uint8)
    polygons, names = class_outlines(Path("m.png"), ids, size)
    assert np.array_equal(class_ids(Mask(tuple(polygons), size, tuple(names)), Size(width, height)), ids)


def test_an_artifact_smaller_than_a_mask_pixel_is_not_lost_and_the_first_class_gets_a_shared_one():
    polygons = shapely.box(100, 100, 102, 102), shapely.box(103, 103, 109, 109)
    ids = class_ids(Mask(polygons, Size(400, 300), ("fold", "pen")), Size(40, 30))
    assert ids[10, 10] == CLASSES["fold"] and np.count_nonzero(ids) == 1


def test_a_class_png_carries_its_vocabulary(tmp_path):
    write_class_png(tmp_path / "m.png", painted())
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L" and json.loads(image.text["artifusion.classes"]) == CLASSES
        assert np.array_equal(np.asarray(image), painted())
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_a_binary_png_is_white_where_restored(tmp_path):
    write_binary_png(tmp_path / "m.png", painted() > 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "m.png")), 255 * (painted() > 0))


@pytest.mark.parametrize(("ids", "colour"), [(painted(), COLORS["pen"]), (painted() > 0, (255, 255, 255))])
def test_a_mask_pyramid_opens_with_levels_scale_and_colours(tmp_path, ids, colour):
    write_pyramid(tmp_path / "m.tif", ids, (2.0, 3.0))
    with openslide.OpenSlide(tmp_path / "m.tif") as opened:
        assert opened.level_dimensions == ((611, 700), (306, 350))
        assert [float(opened.properties[f"openslide.mpp-{axis}"]) for axis in "xy"] == pytest.approx([2, 3])
        assert [opened.read_region((250, 150), level, (1, 1)).getpixel((0, 0))[:3] for level in (0, 1)] == [colour] * 2
    assert np.array_equal(tifffile.imread(tmp_path / "m.tif"), ids * np.uint8(255) if ids.dtype == bool else ids)


def test_geojson_has_a_class_a_colour_and_a_score_per_polygon_and_counts_from_the_bounds(tmp_path):
    mask = Mask((shapely.box(10, 20, 30, 40), shapely.box(50, 50, 60, 60)), Size(100, 90), ("pen", "fold"))
    content = mask_geojson(mask, Point(5, 7), [0.25, 0.5])
    write_geojson(tmp_path / "m.geojson", content)
    assert json.loads((tmp_path / "m.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0] == [25, 13]
    first, second = (feature["properties"] for feature in content["features"])
    assert first["classification"] == {"name": "pen", "color": list(COLORS["pen"])}
    assert first["measurements"] == {"Area px": 400, "Score": 0.25} and second["classification"]["name"] == "fold"
    assert len({uuid.UUID(feature["id"]) for feature in content["features"]}) == 2
    assert content == mask_geojson(mask, Point(5, 7), [0.25, 0.5])


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_class_png(tmp_path / "none" / "m.png", painted())
    with pytest.raises(ValueError, match="up to 7"):
        write_class_png(tmp_path / "m.png", np.full((3, 3), 9, np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "meant"), [
    ("Fold", "fold"), ("Artifact: Tissue folds", "fold"), ("Air Bubbles", "bubble"), ("Edge & Air Bubble", "bubble"),
    ("PenMarking", "pen"), ("pen_markings", "pen"), ("INK", "pen"), ("OOF", "blur"), ("out-of-focus", "blur"),
    ("Blurry", "blur"), ("Darkspot & Foreign Object", "dark"), ("Dust", "dust"), ("Tumor", "other"), ("open", "other"),
    ("scaffold", "other"), ("thread", "other"), ("", "other"), ("Falten", "fold"), ("Pli du tissu", "fold"),
    ("fałda", "fold"), ("折叠", "fold"), ("Luftblase", "bubble"), ("気泡", "bubble"), ("Tinte", "pen"), ("ペン", "pen"),
    ("unscharf", "blur"), ("흐림", "blur"), ("poussière", "dust"), ("poussie\u0300res", "dust"), ("Hülle", "other"),
])
def test_every_tools_names_mean_a_class_of_the_vocabulary(name, meant):
    assert class_of(name) == meant
