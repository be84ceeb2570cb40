"""Prompts from pixels to files: clicks, boxes and QuPath's annotations become masks, and bad ones one line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_slides import he_like, write_pyramid_tiff
from PIL import Image

import artifusion
from artifusion.cli.app import main
from artifusion.damage.spots import paint
from artifusion.detection import pointing
from artifusion.detection.pointing import detect_at
from artifusion.detection.prompts import Prompts, read_prompts
from artifusion.errors import MaskError
from artifusion.geometry import Box, Point
from artifusion.mask.classes import CLASSES
from artifusion.mask.reading import read_mask
from artifusion.slide.reader import open_slide

MPP = 0.5
SIZE = (700, 600)
HERE, THERE = (200, 200), (520, 420)


def spotted():
    """Tissue with two dark spots, and where each lies."""
    one, first = paint("dark", he_like(*SIZE), HERE, 120, np.random.default_rng(1))
    both, second = paint("dark", one, THERE, 100, np.random.default_rng(2))
    return both, first, second


@pytest.fixture(scope="module")
def spots():
    return spotted()


@pytest.fixture
def spots_png(spots, tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(spots[0]).save(path, dpi=(25400 / MPP, 25400 / MPP))
    return path


def found_at(pixels, **prompts):
    return detect_at(pixels, mpp=MPP, **prompts).mask.read(Box(0, 0, *SIZE))


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def annotations(path, *features):
    """A GeoJSON file of (geometry, class or None)."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "geometry": geometry,
         "properties": {"classification": {"name": name}} if name else {}} for geometry, name in features]}))
    return path


def at(*xy):
    return {"type": "Point", "coordinates": list(xy)}


def rectangle(left, top, right, bottom):
    corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [corners]}


def test_a_click_finds_the_artifact_there_and_no_other(spots):
    pixels, first, second = spots
    found = found_at(pixels, points=[HERE])
    assert iou(found, first) > 0.6 and not (found & second).any()


def test_a_box_finds_the_artifact_in_it(spots):
    pixels, _, second = spots
    rows, columns = (np.flatnonzero(second.any(axis=axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
    assert iou(found_at(pixels, boxes=[tuple(map(int, box))]), second) > 0.6


def test_clicks_far_apart_find_an_artifact_each(spots):
    pixels, first, second = spots
    found = found_at(pixels, points=[HERE, THERE])
    assert iou(found, first | second) > 0.6
    assert (found & first).any() and (found & second).any()


def test_a_not_point_is_not_covered(spots):
    found = found_at(spots[0], points=[HERE])
    rows, columns = np.nonzero(found)
    edge = int(columns.max()) - 4, int(rows[columns.argmax()])
    assert found[edge[1], edge[0]]
    again = found_at(spots[0], points=[HERE], not_points=[edge])
    assert again[HERE[1], HERE[0]] and not again[edge[1], edge[0]]


def test_a_further_point_is_looked_for_around_what_was_found_alone(spots, tmp_path, monkeypatch):
    path = tmp_path / "slide.png"
    Image.fromarray(spots[0]).save(path)
    beside = Point(HERE[0] + 40, HERE[1])
    with open_slide(path, MPP) as slide:
        former = pointing.artifact_at(slide, MPP, Prompts((Point(*HERE),)))
        windows, look = [], pointing.look
        monkeypatch.setattr(pointing, "look", lambda slide, window, *rest: windows.append(window) or
                            look(slide, window, *rest))
        (found,) = pointing.artifacts_at(slide, MPP, [Prompts((Point(*HERE), beside))])
    wide = max(former.around.width, former.around.height)
    first = next(n for n, window in enumerate(windows) if window == former.l0_box)
    assert found.prompts.points == (HERE, beside) and windows[first + 1 :]
    assert all(window.width <= 1.5 * wide for window in windows[first + 1 :])


def test_a_box_may_reach_beyond_the_slide(spots):
    pixels, _, second = spots
    left, top = THERE[0] - 80, THERE[1] - 80
    inside, beyond = (found_at(pixels, boxes=[(left, top, *size)]) for size in
                      ((SIZE[0] - left, SIZE[1] - top), (5000, 5000)))
    assert np.array_equal(inside, beyond) and (beyond & second).any()


def test_a_repeated_click_changes_nothing(spots):
    once, twice = (detect_at(spots[0], mpp=MPP, points=[HERE] * count) for count in (1, 2))
    assert np.array_equal(once.ids, twice.ids)


def test_the_same_call_finds_the_same(spots):
    one, other = (detect_at(spots[0], mpp=MPP, points=[HERE]) for _ in range(2))
    assert one.regions == other.regions and np.array_equal(one.ids, other.ids)
    assert artifusion.detect_at is detect_at


def test_a_large_slide_has_the_mask_at_a_finer_scale_than_its_picture(spots, tmp_path):
    pixels, first, _ = spots
    wide = np.tile(he_like(*SIZE), (12, 12, 1))
    wide[:SIZE[1], :SIZE[0]] = pixels
    sizes = [(wide.shape[1] // n, wide.shape[0] // n) for n in (1, 4, 16)]
    path = write_pyramid_tiff(tmp_path / "wide.tif", sizes, image=wide, compression="jpeg")
    found = detect_at(path, points=[HERE], mpp=0.8)
    assert found.mpp == 1.0
    covered = found.mask.read(Box(0, 0, *SIZE))
    assert iou(covered, first) > 0.6
    small = np.asarray(Image.fromarray(first).resize((SIZE[0] * 4 // 5, SIZE[1] * 4 // 5), Image.Resampling.NEAREST))
    assert iou(found.ids[: small.shape[0], : small.shape[1]] > 0, small) > 0.6


@pytest.mark.parametrize(("prompts", "said"), [
    ({}, "nothing points at an artifact"),
    ({"not_points": [HERE]}, "nothing points at an artifact"),
    ({"points": [(700, 10)]}, "700,10 lies outside the slide (700x600 px)"),
    ({"points": [HERE], "not_points": [(-1, 10)]}, "-1,10 lies outside"),
    ({"points": [HERE], "not_points": [HERE]}, "said to be an artifact and to be none"),
    ({"boxes": [(700, 0, 50, 50)]}, "holds nothing of the slide"),
    ({"boxes": [(10, 10, 0, 50)]}, "holds nothing of the slide"),
])
def test_prompts_that_mean_nothing_are_refused(spots, prompts, said):
    with pytest.raises(MaskError) as error:
        detect_at(spots[0], mpp=MPP, **prompts)
    assert said in str(error.value)


def test_a_point_on_glass_is_refused():
    with pytest.raises(MaskError, match="bare glass"):
        detect_at(np.full((400, 400, 3), 245, np.uint8), mpp=MPP, points=[(200, 200)])


def test_points_and_rectangles_of_qupath_are_prompts_with_classes(spots_png, tmp_path):
    several = {"type": "MultiPoint", "coordinates": [[5, 6], [7, 8]]}
    path = annotations(tmp_path / "p.geojson", (at(200.4, 200.9), "Fold"), (at(30, 40), "Ignore*"), (several, None),
                       (rectangle(10, 20, 40, 60), "pen"))
    with open_slide(spots_png) as slide:
        found = {one.kind: one for one in read_prompts(path, slide)}
    assert found["fold"].points == (Point(200, 200),)
    assert found["pen"].boxes == (Box(10, 20, 30, 40),)
    assert found["other"].points == (Point(5, 6), Point(7, 8)) and found["other"].not_points == (Point(30, 40),)


@pytest.mark.parametrize(("geometry", "said"), [
    ({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}, "entry 1 is a LineString"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [0, 9], [0, 0]]]}, "entry 1 is a Polygon"),
    ({"type": "Point", "coordinates": ["a", 1]}, "entry 1 is no geometry"),
    ({"type": "Point", "coordinates": []}, "entry 1 is no geometry"),
    (None, "entry 1 is no geometry"),
])
def test_other_annotations_are_no_prompts(spots_png, tmp_path, geometry, said):
    with open_slide(spots_png) as slide, pytest.raises(MaskError) as error:
        read_prompts(annotations(tmp_path / "p.geojson", (geometry, None)), slide)
    assert said in str(error.value)


def test_prompts_of_different_classes_make_a_mask_of_both(spots):
    found = detect_at(spots[0], mpp=MPP, prompts=[Prompts((Point(*HERE),), kind="dark"),
                                                  Prompts((Point(*THERE),), kind="fold")])
    assert {region.kind for region in found.regions} == {"dark", "fold"}
    assert {CLASSES["dark"], CLASSES["fold"]} < set(np.unique(found.ids))


def test_what_the_command_writes_is_a_mask_to_restore(spots_png, spots, tmp_path):
    out, overlay = tmp_path / "m.png", tmp_path / "o.png"
    done = run("detect", spots_png, "-o", out, "--point", f"{HERE[0]},{HERE[1]}", "--overlay", overlay, "-q")
    assert done.exit_code == 0, done.output
    assert "1 other area" in done.output and overlay.exists()
    with open_slide(spots_png) as slide:
        for path in (out, tmp_path / "m.png.geojson"):
            assert iou(read_mask(path, slide).read(Box(0, 0, *SIZE)), spots[1]) > 0.6
    again = run("detect", spots_png, "-o", tmp_path / "n.png", "-q", "--prompts",
                annotations(tmp_path / "p.geojson", (at(*HERE), "dark spot")))
    assert again.exit_code == 0 and "1 dark spot" in again.output


@pytest.mark.parametrize(("options", "code", "said"), [
    (["--point", "12"], 2, "is not X,Y"),
    (["--box", "1,2,3"], 2, "is not X,Y,W,H"),
    (["--point", "9999,5"], 1, "lies outside the slide"),
    (["--not", "5,5"], 1, "nothing points at an artifact"),
    (["--prompts", "absent.geojson"], 1, "no such file"),
    (["--point", "5,5", "--threshold", "0.4"], 2, "--threshold is for looking for all"),
])
def test_wrong_prompts_write_nothing(spots_png, tmp_path, options, code, said):
    done = run("detect", spots_png, "-o", tmp_path / "m.png", "-q", *options)
    assert done.exit_code == code and said in done.output
    assert code == 2 or done.output.count("\n") == 1
    assert not (tmp_path / "m.png").exists() and not (tmp_path / "m.png.geojson").exists()
