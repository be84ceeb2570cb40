"""The second look: where it looks, what it sees there, and what becomes of scores."""

import numpy as np
import pytest
import torch
from made_slides import doubled, he_like

from artifusion.detection import second_look as looking
from artifusion.detection.findings import Finding
from artifusion.detection.second_look import (
    CELLS,
    COARSEST_UM,
    EVERY_UM,
    LEAST_SCORE,
    MOST,
    SIDE_PX,
    VIEWED_UM,
    SecondLook,
    evidence,
    looked_at_again,
    middles,
    second_look,
    view,
)
from artifusion.detection.survey import Survey
from artifusion.geometry import Box, Size
from artifusion.slide.reader import in_memory

MPP = 0.5


@pytest.fixture(scope="module")
def slide():
    return in_memory(he_like(1600, 1400), MPP)


def test_a_place_is_seen_at_both_scales_with_what_it_covers(slide):
    covered, box = np.ones((25, 50), bool), Box(600, 500, 200, 100)             # 100 x 50 um
    pixels, shares = view(slide, MPP, covered, box, (700, 550))
    assert pixels.shape == (2, SIDE_PX, SIDE_PX, 3) and shares.shape == (2, CELLS, CELLS)
    for um, of_cells in zip(VIEWED_UM, shares, strict=True):
        assert of_cells.sum() * (SIDE_PX / CELLS * um) ** 2 == pytest.approx(100 * 50, rel=0.1)
        assert of_cells[CELLS // 2, CELLS // 2] == 1 and not of_cells[0].any()
    assert np.array_equal(pixels[0], slide.read_as(Box(476, 326, 448, 448), Size(SIDE_PX, SIDE_PX)))


def test_a_place_in_a_corner_is_seen_as_well(slide):
    pixels, shares = view(slide, MPP, np.ones((4, 4), bool), Box(0, 0, 16, 16), (8, 8))
    assert shares[0].sum() * (SIDE_PX / CELLS) ** 2 == pytest.approx(8 * 8, rel=0.1)
    assert (pixels[0, 0, 0] == pixels[0, 1, 1]).all()                           # nothing lies there


@pytest.mark.parametrize(("length_um", "views"), [(20, 1), (2 * EVERY_UM, 2), (50 * EVERY_UM, MOST)])
def test_a_long_finding_is_looked_at_in_several_places_far_from_each_other(length_um, views):
    box = Box(1000, 2000, int(length_um / MPP), 40)
    covered = np.zeros((5, box.width // 8), bool)
    covered[2] = True
    found = middles(covered, box, MPP)
    assert len(found) == views and all(box.x <= x <= box.right and box.y <= y <= box.bottom for x, y in found)
    assert abs(found[0][0] - (box.x + box.right) / 2) <= 8
    if views > 1:
        assert min(abs(a - b) for n, (a, _) in enumerate(found) for b, _ in found[:n]) > box.width / 8


def test_the_middle_of_a_ring_is_on_the_ring():
    y, x = np.mgrid[:40, :40]
    ring = abs(np.hypot(y - 20, x - 20) - 15) < 2
    ((x0, y0),) = middles(ring, Box(0, 0, 40, 40), 1.0)
    assert ring[int(y0), int(x0)]


def test_only_what_may_be_an_artifact_is_scored_anew(slide, monkeypatch):
    survey = Survey.of(slide, MPP)
    found = [Finding(kind, "seen", score, Box(100, 100, 20, 20), np.ones((20, 20), bool))
             for kind, score in (("fold", 0.6), ("fold", LEAST_SCORE - 0.01), ("blur", 0.9), ("dust", 0.6))]
    scores = {}
    for second in (-4.0, 4.0):
        monkeypatch.setattr(looking, "evidence", lambda *_, second=second: second)
        scores[second] = [finding.score for finding in looked_at_again(found, survey)]
    for n in (0, 3):
        assert scores[-4.0][n] < 0.5 < scores[4.0][n]
    for n in (1, 2):
        assert scores[-4.0][n] == scores[4.0][n] == found[n].score


def test_slides_coarser_than_the_network_knows_keep_their_scores(slide, monkeypatch):
    monkeypatch.setattr(looking, "evidence", None)
    survey = Survey.of(in_memory(slide.read(Box(0, 0, 400, 300)), COARSEST_UM * 1.1), COARSEST_UM * 1.1)
    finding = Finding("fold", "seen", 0.6, Box(10, 10, 20, 20), np.ones((20, 20), bool))
    assert list(looked_at_again([finding], survey)) == [finding]


def test_the_network_is_the_library_s_as_far_as_it_is_not_tuned():
    features = pytest.importorskip("artifusion.evaluation.features")
    theirs, ours = features.load_network(), second_look()
    pixels = torch.randint(0, 256, (1, 2, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)
    with torch.inference_mode():
        x = theirs.bn1(theirs.conv_stem(pixels[0].permute(0, 3, 1, 2) / 127.5 - 1))
        for block in theirs.blocks[:3]:
            x = block(x)
        seen = ours.stem_of(pixels)[0].float()
    assert float((seen - x).abs().mean() / x.abs().mean()) < 0.03               # half precision


def test_answers_do_not_depend_on_who_is_asked_together():
    net = SecondLook().eval()
    pixels = torch.randint(0, 256, (3, 2, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)
    shares = torch.rand(3, 2, CELLS, CELLS)
    with torch.inference_mode():
        together, alone = net(pixels, shares), net(pixels[1:2], shares[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_a_strip_laid_double_is_more_of_an_artifact_than_the_tissue_was(slide):
    clean = slide.read(Box(0, 0, 1600, 1400))
    damaged, where = doubled(clean, np.s_[600:660], np.s_[300:1100])
    rows, columns = np.nonzero(where)
    box = Box.from_edges(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    before, after = (evidence(second_look(), in_memory(pixels, MPP), MPP, where[box.slices()], box)
                     for pixels in (clean, damaged))
    assert after > before + 1


def test_crumbs_that_another_finding_leaves_are_dropped(slide):
    survey = Survey(slide, MPP, Size(200, 175), 4.0, Size(400, 350), 2.0)
    bar = np.zeros((20, 60), bool)
    bar[8:12] = True
    bar[:, 56:] = True                                                          # 80 x 16 um stand beside the middle
    ids, _ = survey.outline([Finding("fold", "seen", 0.9, Box(40, 40, 60, 20), bar),
                             Finding("dust", "seen", 0.95, Box(44, 40, 50, 20), np.ones((20, 50), bool))], None)
    rows, columns = np.nonzero(ids == 1)
    assert columns.min() > 2 * 92 and len(rows) * 4 > 600                       # but not the 16 x 16 um at the left
    assert (ids == 6).any()
