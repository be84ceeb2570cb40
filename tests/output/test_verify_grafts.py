"""Grafted pixels are their donors', exactly or within what encoding explains, or `verify` says so."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_slides import MAKERS, write_leica
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


HOLES = [(101, 100, 129, 90), (180, 140, 120, 100), (500, 400, 140, 80)]      # the second lies over a part of the first


def chain(source, folder, suffixes):
    """A slide restored three times, with grafts: the last output, its sidecar and GeoJSON."""
    for number, (suffix, (x, y, width, height)) in enumerate(zip(suffixes, HOLES, strict=True), 1):
        mask = np.zeros((703, 901), np.uint8)
        mask[y : y + height, x : x + width] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        out = folder / f"pass{number}{suffix}"
        content = restore_slide(source, folder / "mask.png", out, restorer=Flat(graft="auto"), seed=number, mpp=0.5)
        source = out
    return out, content, json.loads((folder / f"{out.name}.geojson").read_text())


@pytest.fixture(scope="module", params=[
    ("aperio", ".svs"), ("ycbcr420", ".tif"), ("jpeg2000-ycbcr", ".svs"), ("lzw", ".tif"), ("aperio", ".svs", ".tiff"),
    ("jpeg2000-ycbcr", ".tiff"), ("image", ".jpg"), ("image", ".png", ".tif"), ("leica", ".tiff")], ids="-".join)
def three(request, tmp_path_factory):
    """A source, and what three passes over it with grafts end in."""
    folder = tmp_path_factory.mktemp("chain")
    maker, first, *later = request.param
    if maker == "leica":                                     # what OpenSlide alone reads: encoded anew, then copied
        source = write_leica(folder / "slide.scn", (901, 703), (16, 20), (880, 672))
    else:
        source = MAKERS["lzw" if maker == "image" else maker](folder)
    if maker == "image":
        with open_slide(source) as slide:
            Image.fromarray(slide.read(Box(0, 0, *slide.size))).save(source := folder / "source.png")
    return source, *chain(source, folder, [first, *(later or [first]), *(later or [first])])


def test_grafts_of_every_pass_of_a_chain_are_compared_with_their_donors(three):
    source, out, content, _ = three
    report = verify_slide(source, out)
    assert report.ok and report.passes == 3, report.problems
    kept = [sum(region["grafted_px"] for region in link["regions"]) for link in (*content["history"], content)]
    assert min(kept) > 2_000
    assert sum(kept[1:]) + 1_000 < report.grafted.px < sum(kept)           # the second pass took some of the first
    lossless = all(link["written"]["lossless"] for link in (*content["history"], content))
    assert not lossless or report.grafted.largest == 0


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("move", ["beside", "restored"])
def test_a_wrong_donor_in_any_pass_of_a_chain_is_found(three, number, move):
    source, out, content, declared = three
    content = json.loads(json.dumps(content))
    graft = [*content["history"], content][number - 1]["regions"][0]["grafts"][0]
    if move == "beside":
        graft["donor"][0] += 8
    else:                                                    # in what the first pass restored
        graft["donor"][:2] = HOLES[0][:2]
    found = verify_slide(source, out, content, declared).problems
    assert any("graft 1 does not hold its donor's pixels" in problem for problem in found), found
    assert move == "beside" or any("its donor was restored itself" in problem for problem in found)
