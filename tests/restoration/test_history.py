"""A slide that is restored again: what every pass invented stays declared, and `verify` follows from first to last."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from made_masks import qupath_feature, ring, write_qupath
from made_slides import write_leica
from painters import Flat
from PIL import Image

from artifusion.damage.slide import damage_slide
from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box
from artifusion.output.history import notes_in
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide

SPOTS = [(100, 100, 60), (130, 120, 60), (500, 400, 90)]          # the first two overlap and share blocks


def mask_of(folder, source, spot, name="mask.png"):
    with open_slide(source) as slide:
        mask = np.zeros(slide.size[::-1], np.uint8)
    x, y, side = spot
    mask[y : y + side, x : x + side] = 255
    Image.fromarray(mask).save(folder / name)
    return folder / name


def chain(source, folder, suffixes, spots=SPOTS):
    """Restore a slide again and again; returns the outputs."""
    outputs = []
    for number, (suffix, spot) in enumerate(zip(suffixes, spots, strict=True), 1):
        out = folder / f"pass{number}{suffix}"
        restore_slide(source, mask_of(folder, source, spot), out, restorer=Flat(), seed=number)
        outputs.append(out)
        source = out
    return outputs


@pytest.fixture(scope="module")
def three(aperio_slide, tmp_path_factory):
    return chain(aperio_slide, tmp_path_factory.mktemp("three"), [".svs"] * 3)


def sidecar_of(out):
    return json.loads(out.with_name(f"{out.name}.json").read_text())


def annotations(out):
    return json.loads(out.with_name(f"{out.name}.geojson").read_text())["features"]


def test_the_sidecar_holds_every_pass_and_the_annotations_name_theirs(three):
    last = sidecar_of(three[2])
    assert [entry["output"] for entry in last["history"]] == [sidecar_of(out)["output"] for out in three[:2]]
    assert all(entry["source"]["sha256"] and entry["weights"] and entry["version"] and len(entry["regions"]) == 1
               and "history" not in entry for entry in last["history"])
    found = annotations(three[2])
    assert [feature["properties"]["metadata"]["pass"] for feature in found] == ["1", "2", "3"]
    boxes = [shapely.geometry.shape(feature["geometry"]).bounds for feature in found]
    assert boxes == [(x, y, x + side, y + side) for x, y, side in SPOTS]
    assert len({feature["id"] for feature in found}) == 3


def test_a_chain_of_three_is_verified_from_any_of_its_sources(three, aperio_slide):
    for source, passes in ((aperio_slide, 3), (three[0], 2), (three[1], 1)):
        report = verify_slide(source, three[2])
        assert report.ok and report.passes == passes, report.problems
    report = verify_slide(aperio_slide, three[2])
    assert report.compared.identical == report.compared.segments - report.compared.touched
    assert "passes between the two: 3, each declared" in report.lines()


@pytest.mark.parametrize("suffixes", [(".svs", ".tiff", ".tiff"), (".tiff", ".tif", ".tif")])
def test_a_chain_may_change_its_container(aperio_slide, tmp_path, suffixes):
    outputs = chain(aperio_slide, tmp_path, suffixes)
    report = verify_slide(aperio_slide, outputs[2])
    assert report.ok and report.container == "pyramid", report.problems
    with open_slide(outputs[2]) as slide:
        assert len(notes_in(slide)) == 3


@pytest.mark.parametrize("mpps", [(None, None), (0.25, None), (None, 0.25), (0.25, 0.4)])
def test_a_slide_that_is_encoded_anew_first_and_then_copied_is_declared_in_the_frame_of_every_output(mpps, tmp_path):
    """QuPath counts from the bounds of the SCN, and from the corner of the TIFF, which has none."""
    source, (left, top), outputs = write_leica(tmp_path / "slide.scn", (1000, 1300), (400, 700)), (400, 700), []
    boxes = [(520, 800, 600, 860), (560, 840, 660, 900)]             # level 0, the second over a part of the first
    before, counted_from = source, (left, top)
    for number, (box, mpp) in enumerate(zip(boxes, mpps, strict=True), 1):
        x, y = counted_from
        mask = write_qupath(tmp_path / "mask.geojson", [qupath_feature({"type": "Polygon", "coordinates": [
            ring(box[0] - x, box[1] - y, box[2] - x, box[3] - y)]}, {"name": "Fold"})])
        outputs.append(tmp_path / f"pass{number}.tiff")
        content = restore_slide(before, mask, outputs[-1], restorer=Flat(), seed=number, mpp=mpp)
        assert content["written"]["container"] == ("copied" if number > 1 else "re-encoded")
        outlines = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in annotations(outputs[-1])]
        assert [outline.bounds for outline in outlines] == boxes[:number]
        before, counted_from = outputs[-1], (0, 0)
    assert [feature["properties"]["metadata"]["pass"] for feature in annotations(outputs[1])] == ["1", "2"]
    report = verify_slide(source, outputs[1])
    assert report.ok and report.passes == 2 and report.container == "re-encoded", report.problems
    for feature in (moved := annotations(outputs[1])):                # as if counted from the bounds of the source
        feature["geometry"] = json.loads(shapely.to_geojson(shapely.transform(
            shapely.from_geojson(json.dumps(feature["geometry"])), lambda points: points - (left, top))))
    assert not verify_slide(source, outputs[1], geojson={"type": "FeatureCollection", "features": moved}).ok


@pytest.mark.parametrize("suffixes", [(".png", ".png", ".tiff"), (".jpg", ".jpg", ".jpg")])
def test_images_keep_their_history(png_image, tmp_path, suffixes):
    outputs = chain(png_image, tmp_path, suffixes, [(20, 20, 30), (40, 40, 30), (200, 200, 20)])
    report = verify_slide(png_image, outputs[2])
    assert report.ok and report.passes == 3, report.problems
    with open_slide(outputs[2]) as slide:
        assert [note.split(", seed ")[1][0] for note in notes_in(slide)] == ["1", "2", "3"]


def test_every_container_is_verified_after_three_passes(copied_slide, tmp_path):
    outputs = chain(copied_slide, tmp_path, [copied_slide.suffix] * 3)
    assert verify_slide(copied_slide, outputs[2]).ok


def test_a_pass_that_is_left_out_is_a_problem(three, aperio_slide, tmp_path):
    content = sidecar_of(three[2])
    without = content | {"history": content["history"][:1]}
    (problem, *_) = verify_slide(aperio_slide, three[2], without, {"features": annotations(three[2])} | {
        "type": "FeatureCollection"}).problems
    assert "pass 2 did not begin from what pass 1 wrote" in problem
    kept = [feature for feature in annotations(three[2]) if feature["properties"]["metadata"]["pass"] != "1"]
    problems = verify_slide(aperio_slide, three[2], content, {"type": "FeatureCollection", "features": kept}).problems
    assert any("no declared region touches it" in problem or "declares" in problem for problem in problems)


@pytest.mark.parametrize("history", [3, {}, [3], [{}], [{"source": 3}], [{"source": {"sha256": "x"}}]])
def test_a_history_that_no_run_wrote_is_refused(three, aperio_slide, history):
    try:
        assert not verify_slide(aperio_slide, three[2], sidecar_of(three[2]) | {"history": history}).ok
    except OutputError as error:
        assert "artifusion wrote" in str(error)


def lost(three, tmp_path):
    """A restored slide alone, without what lay beside it."""
    alone = tmp_path / "alone.svs"
    alone.write_bytes(three[1].read_bytes())
    return alone


def test_a_restored_slide_without_its_declaration_is_refused_unless_asked(three, tmp_path):
    alone = lost(three, tmp_path)
    mask, out = mask_of(tmp_path, alone, SPOTS[2]), tmp_path / "out.svs"
    with pytest.raises(SlideError, match=r"alone.svs.json.*is missing.*--undeclared"):
        restore_slide(alone, mask, out, restorer=Flat())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.svs", "mask.png"]
    content = restore_slide(alone, mask, out, restorer=Flat(), undeclared=True)
    assert [entry["undeclared"] for entry in content["history"]] == [True, True]
    assert [feature["properties"]["metadata"]["pass"] for feature in annotations(out)] == ["3"]
    assert verify_slide(alone, out).ok
    assert "not the file that was restored" in verify_slide(three[0], out).problems[0]


@pytest.mark.parametrize("spoil", ["other sidecar", "no geojson", "changed geojson", "broken", "list", "changed slide"])
def test_a_declaration_of_another_file_is_refused(three, tmp_path, spoil):
    alone = lost(three, tmp_path)
    sidecar, polygons = tmp_path / "alone.svs.json", tmp_path / "alone.svs.geojson"
    sidecar.write_text(json.dumps(sidecar_of(three[0] if spoil == "other sidecar" else three[1])))
    if spoil != "no geojson":
        found = annotations(three[1])
        polygons.write_text(json.dumps({"type": "FeatureCollection",
                                        "features": found[:1] if spoil == "changed geojson" else found}))
    if spoil in ("broken", "list"):
        sidecar.write_text("{" if spoil == "broken" else "[]")
    if spoil == "changed slide":
        alone.write_bytes(alone.read_bytes() + b"\0")
    with pytest.raises(SlideError, match="was restored before"):
        restore_slide(alone, mask_of(tmp_path, alone, SPOTS[2]), tmp_path / "out.svs", restorer=Flat())


def test_what_lies_beside_a_scan_by_chance_is_no_history(aperio_slide, tmp_path):
    scan = tmp_path / "scan.svs"
    scan.write_bytes(aperio_slide.read_bytes())
    (tmp_path / "scan.svs.json").write_text('{"tool": "artifusion", "output": {"sha256": "of another file"}}')
    assert "history" not in restore_slide(scan, mask_of(tmp_path, scan, SPOTS[0]), restorer=Flat())


def test_a_slide_that_was_damaged_first_declares_that_too(aperio_slide, tmp_path):
    damaged, out = tmp_path / "damaged.svs", tmp_path / "out.svs"
    damage_slide(aperio_slide, damaged, share=0.02)
    content = restore_slide(damaged, mask_of(tmp_path, damaged, SPOTS[0]), out, restorer=Flat())
    assert content["history"][0]["painted"]["kinds"] and verify_slide(damaged, out).ok
    assert verify_slide(aperio_slide, out).ok
    assert {feature["properties"]["metadata"]["pass"] for feature in annotations(out)} == {"1", "2"}


def test_invented_pixels_are_no_donors(three, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("artifusion.restoration.pipeline.graft_plan",
                        lambda slide, plan, avoid, *rest: seen.append(avoid) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore_slide(three[1], mask_of(tmp_path, three[1], (700, 20, 40)), tmp_path / "out.svs", restorer=Flat())
    x, y, side = SPOTS[1]
    assert seen[0].read(Box(x, y, side, side)).all() and not seen[0].read(Box(500, 400, 90, 90)).any()


def test_a_finished_job_given_again_is_done_and_another_is_refused(aperio_slide, tmp_path):
    mask, out = mask_of(tmp_path, aperio_slide, SPOTS[0]), tmp_path / "out.svs"
    first = restore_slide(aperio_slide, mask, out, restorer=Flat())
    before, again = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, Flat()
    content = restore_slide(aperio_slide, mask, out, restorer=again)
    assert content == first | {"done_before": True} and again.calls == 0
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for other in ({"seed": 7}, {"preview": tmp_path / "look.png"}):
        with pytest.raises(OutputError, match="exists already"):
            restore_slide(aperio_slide, mask, out, restorer=Flat(), **other)
    out.write_bytes(out.read_bytes() + b"\0")
    with pytest.raises(OutputError, match="exists already"):
        restore_slide(aperio_slide, mask, out, restorer=Flat())
    restore_slide(aperio_slide, mask, out, restorer=Flat(), overwrite=True)
    assert verify_slide(aperio_slide, out).ok
