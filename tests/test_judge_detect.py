"""The labelled places on real slides, and how detection is judged by them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely

from artifusion.geometry import ORIGIN, Size
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.writer import mask_geojson
from artifusion.slide.reader import in_memory
from benchmarks.quality.judge_detect import folds_found, judged, shares, show_unlabelled, summary
from benchmarks.quality.labelled import LabelledSlide, Place, agreement, labelled_slides

SIZE = Size(1000, 800)
PLACES = (Place(shapely.box(100, 100, 200, 300), "fold", "fold"),
          Place(shapely.box(500, 100, 600, 200), "fold", "dust"),
          Place(shapely.box(100, 500, 200, 600), "normal", "normal", "artery"),
          Place(shapely.box(400, 500, 500, 600), "unsure", "fold"))
LABELS = LabelledSlide("made", "none", "judge", SIZE, 0.5, PLACES)


@pytest.fixture
def judge(tmp_path):
    """Judges boxes (left, top, right, bottom, class, score) on a slide that is tissue all over."""
    def judge(*found, labels=LABELS):
        boxes, kinds, scores = [shapely.box(*f[:4]) for f in found], [f[4] for f in found], [f[5] for f in found]
        kept = tmp_path / "found.geojson"
        kept.write_text(json.dumps(mask_geojson(Mask(tuple(boxes), SIZE, tuple(kinds)), ORIGIN, scores)))
        with in_memory(np.full((SIZE.height, SIZE.width, 3), 120, np.uint8), 0.5) as slide:
            return judged(slide, labels, kept)
    return judge


def test_an_artifact_is_what_both_readers_call_one():
    assert [place.kind for place in PLACES] == ["fold", "fold", "normal", "unsure"]


def test_a_region_is_judged_by_where_half_of_it_lies(judge):
    result = judge((110, 110, 190, 290, "fold", 0.9), (100, 250, 300, 600, "fold", 0.9),
                   (400, 500, 500, 600, "pen", 0.9), (700, 700, 720, 720, "dust", 0.9),
                   (110, 510, 120, 520, "dust", 0.9))
    assert [region.verdict for region in result.regions] == ["true", "false", "doubt", "unread", "false"]


def test_what_nobody_read_of_a_slide_that_was_not_looked_over_is_unread(judge):
    result = judge((700, 700, 800, 800, "fold", 0.9), (110, 510, 120, 520, "fold", 0.9),
                   labels=replace(LABELS, looked_over=False))
    assert [region.verdict for region in result.regions] == ["unread", "false"]


def test_shares_leave_out_what_is_in_doubt_or_unread(judge):
    result = judge((110, 110, 190, 290, "fold", 0.9), (700, 500, 800, 600, "fold", 0.6),
                   (400, 500, 500, 600, "fold", 0.9))
    share = shares([result], ["fold"], 0.5)
    assert share["artifact by region"] == 0.5
    assert share["artifact by area"] == pytest.approx(80 * 180 / (80 * 180 + 100 * 100), abs=1e-3)
    assert share["false per cm2"] == pytest.approx(1 / result.tissue_cm2, abs=1e-3)
    assert shares([result], ["fold"], 0.7)["artifact by region"] == 1
    assert shares([result], ["pen"], 0.5)["artifact by region"] is None


def test_a_fold_is_found_by_half_of_its_area(judge):
    whole, part = (100, 100, 200, 220, "pen", 0.9), (100, 100, 200, 130, "fold", 0.9)
    none = (100, 100, 200, 300, "blur", 1.0)
    assert [folds_found([judge(region)], 0.5)["found"] for region in (whole, part, none)] == [1, 0, 0]
    assert [folds_found([judge(region)], 0.5)["found in part"] for region in (whole, part, none)] == [0, 1, 0]


def test_a_crop_is_written_of_each_region_that_no_reader_saw(judge, tmp_path):
    result = judge((110, 110, 190, 290, "fold", 0.9), (700, 500, 800, 600, "pen", 0.9),
                   (700, 700, 720, 720, "dust", 0.3))
    with in_memory(np.full((SIZE.height, SIZE.width, 3), 120, np.uint8), 0.5) as slide:
        show_unlabelled(slide, result.regions, LABELS, tmp_path / "crops")
    assert [path.name for path in (tmp_path / "crops").iterdir()] == ["made-0-pen-700-500.png"]


def test_labels_fit_a_slide_of_another_size(judge):
    half = LabelledSlide("made", "none", "judge", Size(500, 400), 1.0, tuple(
        Place(shapely.affinity.scale(p.outline, 0.5, 0.5, origin=(0, 0)), p.first, p.second) for p in PLACES))
    found = (110, 110, 190, 290, "fold", 0.9), (600, 600, 700, 700, "fold", 0.9)
    assert summary([judge(*found, labels=half)]) == summary([judge(*found)])


def test_kappa_is_one_for_equal_readings_and_zero_for_chance():
    box = shapely.box(0, 0, 1, 1)
    equal = [Place(box, kind, kind) for kind in ("fold", "normal", "dust")]
    chance = [Place(box, first, second) for first in ("fold", "normal") for second in ("fold", "normal")]
    assert agreement(equal) == (1, 1)
    assert agreement(chance) == (0.5, 0)


def test_labels_that_ship_are_valid_and_their_halves_share_no_organ():
    slides = labelled_slides()
    assert len(slides) >= 14
    organs = {use: {organ for s in slides if s.use == use for organ in s.organ.split(" and ")}
              for use in ("tune", "judge")}
    assert not organs["tune"] & organs["judge"] and len(organs["tune"] | organs["judge"]) >= 12
    for slide in slides:
        for place in slide.places:
            assert {place.first, place.second} <= {*CLASSES, "normal", "unsure"}
            assert place.outline.is_valid and place.outline.area > 0
            assert place.outline.intersects(shapely.box(0, 0, *slide.size))
