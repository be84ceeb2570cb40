from __future__ import annotations

import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime

import shapely

from artifusion.geometry import Point, Size
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions
from artifusion.output.provenance import WARNING, geojson, note, sidecar

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
    text = note(regions=1, share=0.0312, weights="my|weights\nv2", weights_sha256="ab" * 32, sampler="DDIM 20 steps",
                seed=3, version="0.1.0")
    assert "|" not in text and "\n" not in text and text.endswith(WARNING)
    assert "1 region (3.12% of the area)" in text and "sha256:abababababab," in text


def test_the_sidecar_tells_what_was_done():
    job = {"source": {"name": "b.svs", "sha256": "s"}, "version": "0.1.0"}
    content = sidecar(job, find_regions(mask(), 16), 2, {"container": "copied"}, "b.restored.svs", "o", 1.234,
                      datetime(2026, 1, 2, tzinfo=UTC))
    assert json.loads(json.dumps(content)) == content and content["warning"] == WARNING
    assert content["source"] == job["source"] and content["output"] == {"name": "b.restored.svs", "sha256": "o"}
    area = sum(mask().areas_px[:2])
    assert content["regions"][0] == {"id": 1, "l0_box": [10, 10, 85, 50], "area_px": area, "class": "fold"}
    assert content["created"] == "2026-01-02T00:00:00+00:00"


def test_the_slide_room_never_imports_torch():
    for module in ("artifusion.slide", "artifusion.output.provenance"):
        subprocess.run([sys.executable, "-c", f"import {module}, sys; sys.exit('torch' in sys.modules)"], check=True)
