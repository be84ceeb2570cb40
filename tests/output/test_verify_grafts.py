"""Grafted pixels are their donors', exactly or within what encoding explains, or `verify` says so."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_slides import MAKERS
from painters import Flat
from PIL import Image

from artifusion.cli.app import main
from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide


@pytest.fixture(scope="module", params=["aperio", "ycbcr420", "jpeg2000-ycbcr", "lzw", "image.png", "image.jpg"])
def restored(request, tmp_path_factory):
    """A slide or image with a large hole, restored: source, output, sidecar and GeoJSON."""
    folder = tmp_path_factory.mktemp("grafts")
    if request.param.startswith("image"):
        source, out = folder / "source.png", folder / f"out{request.param[5:]}"
        with open_slide(MAKERS["lzw"](folder)) as slide:
            Image.fromarray(slide.read(Box(0, 0, *slide.size))).save(source)
    else:
        source = MAKERS[request.param](folder)
        out = folder / f"out{source.suffix}"
    mask = np.zeros((703, 901), np.uint8)
    mask[100:190, 101:230] = mask[400:480, 500:640] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    content = restore_slide(source, folder / "mask.png", out, restorer=Flat(graft="auto"), mpp=0.5)
    return source, out, content, json.loads((folder / f"{out.name}.geojson").read_text())


def problems(restored, change):
    source, out, content, declared = restored
    content = json.loads(json.dumps(content))
    change(content["regions"][0]["grafts"][0])
    return verify_slide(source, out, content, declared).problems


def test_every_grafted_pixel_is_compared_with_its_donor(restored):
    source, out, content, _ = restored
    report = verify_slide(source, out)
    assert report.ok and report.grafted.px == sum(region["grafted_px"] for region in content["regions"]) > 10_000
    assert (report.grafted.largest == 0) == content["written"]["lossless"]
    assert content["verified"]["grafted"]["px"] == report.grafted.px
    assert CliRunner().invoke(main, ["verify", str(source), str(out)]).output.count("against their donors") == 1


@pytest.mark.parametrize("change", [
    lambda graft: graft["donor"].__setitem__(0, graft["donor"][0] - 1),
    lambda graft: graft.__setitem__("orientation", (graft["orientation"] + 2) % 4 + graft["orientation"] // 4 * 4),
    lambda graft: graft["tone"].__setitem__("glass", [100, 100, 100]) or graft["tone"].__setitem__("lightest", 20),
], ids=["another place", "another orientation", "another tone"])
def test_pixels_of_another_donor_than_is_declared_are_found(restored, change):
    (problem,) = problems(restored, change)
    assert problem.startswith("region 1, graft 1 does not hold its donor's pixels: ")


def test_a_donor_under_the_mask_is_none(restored):
    content = restored[2]
    box = content["regions"][0]["grafts"][0]["l0_box"]
    found = problems(restored, lambda graft: graft.update(
        donor=box, orientation=0) if graft["orientation"] % 2 == 0 else graft.update(
        donor=[box[0], box[1], box[3], box[2]]))
    assert any("its donor was restored itself" in problem for problem in found)


@pytest.mark.parametrize("change", [
    lambda graft: graft.pop("donor"), lambda graft: graft["tone"].__setitem__("field", "AAAA"),
    lambda graft: graft["tone"].__setitem__("rows", 0), lambda graft: graft["donor"].__setitem__(2, 10**7),
    lambda graft: graft["l0_box"].__setitem__(2, 10**9), lambda graft: graft.__setitem__("orientation", "up"),
])
def test_a_graft_that_none_can_be_gets_one_clear_line(restored, change, tmp_path):
    source, out, content, declared = restored
    content = json.loads(json.dumps(content))
    change(content["regions"][0]["grafts"][0])
    with pytest.raises(OutputError, match="tells of a graft what none can be"):
        verify_slide(source, out, content, declared)


def test_polygons_that_lost_a_graft_are_found(restored):
    source, out, content, declared = restored
    declared = json.loads(json.dumps(declared))
    for feature in declared["features"]:
        feature["properties"]["metadata"].pop("graft", None)
    assert any("grafted px but the sidecar" in problem for problem in
               verify_slide(source, out, content, declared).problems)
