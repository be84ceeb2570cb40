from __future__ import annotations

import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import shapely

from artifusion.geometry import Box, Point, Size
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions
from artifusion.output.provenance import WARNING, Filled, Grafted, geojson, note, sidecar_of
from artifusion.slide.placed import Tone, unoriented

SIZE = Size(1000, 800)


def mask():
    return Mask.of([shapely.box(10, 10, 60, 60), shapely.Point(80, 40).buffer(15), shapely.Point(500, 500).buffer(40)],
                   SIZE, ["fold", "fold", "pen"])


def test_geojson_declares_every_polygon_in_qupaths_form():
    declared = geojson(mask(), find_regions(mask(), 16), "ab")
    json.dumps(declared)
    assert [f["geometry"]["type"] for f in declared["features"]] == ["MultiPolygon", "Polygon"]
    for feature in declared["features"]:
        assert uuid.UUID(feature["id"])
        properties = feature["properties"]
        assert properties["objectType"] == "annotation" and properties["isLocked"] is True
        assert set(properties["classification"]) == {"name", "color"} and properties["metadata"]["warning"] == WARNING
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in declared["features"]]
    assert shapely.union_all(shapes).equals(shapely.union_all(mask().polygons))


def test_geojson_is_the_same_every_time_and_counts_from_the_bounds():
    regions = find_regions(mask(), 16)
    assert geojson(mask(), regions, "ab") == geojson(mask(), regions, "ab")
    assert geojson(mask(), regions, "ab")["features"][0]["id"] != geojson(mask(), regions, "cd")["features"][0]["id"]
    moved = geojson(mask(), regions, "ab", Point(5, 7))["features"][1]["geometry"]
    assert shapely.geometry.shape(moved).centroid.distance(shapely.Point(495, 493)) < 0.01


def test_the_note_is_one_line_that_fits_into_any_description():
    text = note(regions=1, share=0.0312, grafted=0.02, weights="my|weights\nv2", weights_sha256="ab" * 32,
                sampler="DDIM 20 steps", seed=3)
    assert "|" not in text and "\n" not in text and text.endswith(WARNING)
    assert "1 region (3.12% of the area: 2.00% grafted, 1.12% painted)" in text and "sha256:abababababab," in text


def test_the_sidecar_tells_what_was_done():
    job = {"source": {"name": "b.svs", "sha256": "s"}, "version": "0.1.0"}
    content = sidecar_of(job, find_regions(mask(), 16), {"container": "copied"},
                         {"name": "b.restored.svs", "sha256": "o"}, 1.234, created=datetime(2026, 1, 2, tzinfo=UTC))
    assert json.loads(json.dumps(content)) == content and content["warning"] == WARNING
    assert content["source"] == job["source"] and content["output"] == {"name": "b.restored.svs", "sha256": "o"}
    area = sum(mask().areas_px[:2])
    assert content["regions"][0] == {"id": 1, "l0_box": [10, 10, 85, 50], "area_px": area, "class": "fold"}
    assert content["created"] == "2026-01-02T00:00:00+00:00"


def test_grafts_are_declared_with_what_is_painted_around_them_and_where_they_come_from():
    regions = find_regions(mask(), 16)
    kept = (shapely.box(15, 15, 25, 30),)
    tone = Tone(8, 1, bytes(range(6)), (1, -2, 3), 235)
    graft = Grafted(kept, Box(10, 10, 20, 30), Box(200, 5, 30, 20), 3, tone, 0.7)
    filled = {region.id: Filled() for region in regions} | {1: Filled((graft,), 150, 0.7, "good")}
    content = sidecar_of({}, regions, {}, {}, 1.0, filled)
    held = json.loads(json.dumps(content["regions"][0]["grafts"][0]))
    assert (held["l0_box"], held["donor"], held["orientation"]) == ([10, 10, 20, 30], [200, 5, 30, 20], 3)
    assert Grafted.from_dict(held, kept) == graft
    assert content["regions"][0]["grafted_px"] == 150 and content["regions"][1]["grafts"] == []
    declared = geojson(mask(), regions, "ab", filled=filled)["features"]
    grafted = [f for f in declared if f["properties"]["name"] == "restored 1: grafted"]
    assert [f["properties"]["measurements"]["Donor x"] for f in grafted] == [200]
    assert grafted[0]["properties"]["measurements"]["Area px"] == 150
    (donor,) = (f for f in declared if "donor_of" in f["properties"]["metadata"])
    restored = [f for f in declared if f is not donor]
    assert sum(f["properties"]["measurements"]["Area px"] for f in restored) == mask().area_px
    taken = np.zeros((30, 20), bool)                        # of the donor, as it lies where it is grafted
    taken[5:20, 5:15] = True
    found = Mask.of([shapely.geometry.shape(donor["geometry"])], SIZE).read(graft.donor)
    assert np.array_equal(unoriented(found, 3), taken)
    polygons, _ = geojson_polygons({"type": "FeatureCollection", "features": declared}, Path("x"), Point(0, 0))
    assert Mask.of(polygons, mask().l0_size).area_px == mask().area_px          # a donor is no mask


def test_the_slide_room_never_imports_torch():
    for module in ("artifusion.slide", "artifusion.output.provenance"):
        subprocess.run([sys.executable, "-c", f"import {module}, sys; sys.exit('torch' in sys.modules)"], check=True)
