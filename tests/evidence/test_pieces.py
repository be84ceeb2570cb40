"""Large and long holes are cut into pieces that are filled from the edge inwards, each fitted to the ones before."""

import json

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

from artifusion.evidence.donors import DonorFit, Hole
from artifusion.evidence.graft import graft
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.pieces import LONGER, PIECE_UM, pieces
from artifusion.evidence.score import DOUBTFUL, GOOD, score_of, verdict_of
from artifusion.evidence.tone import tone_of
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.slide.placed import Tone
from artifusion.slide.reader import in_memory


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[: 2 * radius + 1, : 2 * radius + 1] - radius
    return x**2 + y**2 <= radius**2


def test_pieces_cover_the_hole_and_are_no_longer_than_tissue_stays_alike():
    bent = np.zeros((900, 1600), bool)
    for x in range(1500):
        bent[int(400 + 250 * np.sin(x / 250)) :, x + 50][:90] = True
    for hole, mpp in ((disc(50), 0.5), (disc(400), 0.5), (disc(600), 0.25), (bent, 0.5)):
        found = pieces(hole, mpp)
        assert np.array_equal(found > 0, hole) and set(np.unique(found[hole])) == set(range(1, found.max() + 1))
        for number in range(1, found.max() + 1):
            extents = np.ptp(np.argwhere(found == number), axis=0) + 1
            assert extents.max() * mpp <= LONGER * PIECE_UM * 1.1
    assert pieces(disc(50), 0.5).max() == 1 and pieces(np.zeros((5, 5), bool), 0.5).max() == 0


def test_a_long_band_is_cut_across_and_a_disc_is_filled_inwards():
    band = np.zeros((80, 2400), bool)
    band[20:60] = True
    found = pieces(band, 0.5)
    assert 7 <= found.max() <= 10
    assert all((np.unique(found[20:60, x]).size <= 2) for x in range(2400))
    assert sum(np.unique(found[20:60, x]).size == 1 for x in range(2400)) > 2200
    large = pieces(disc(500), 0.5)
    depth = [np.hypot(*(np.argwhere(large == number).mean(axis=0) - 500)) for number in range(1, large.max() + 1)]
    assert np.argmin(depth) >= 0.6 * len(depth)


def test_stripes_run_on_through_all_pieces():
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(1400) / 3.5)[None, :, None] * (30, 45, 25) + (190, 140, 180)
    image = (waves + gaussian_filter(rng.normal(0, 40, (1000, 1400, 3)), (1.5, 1.5, 0))).clip(0, 255).astype(np.uint8)
    inside = Box(500, 250, 90, 520)
    box = inside.expanded(60)
    hole = np.zeros((box.height, box.width), bool)
    hole[inside.slices(box)] = True
    mask = Mask.of([shapely.box(inside.x, inside.y, inside.right, inside.bottom)], Size(1400, 1000))
    damaged = np.where(hole[..., None], 0, image[box.slices()]).astype(np.uint8)
    found = graft(Hole(box, damaged, hole, ~hole), [DonorIndex.of(in_memory(image), 0.5, [mask])])
    assert len(found.donors) >= 2 and found.verdict == "good"
    truth = np.broadcast_to(waves, image.shape)[box.slices()]
    for number in range(1, len(found.donors) + 1):
        part = found.pieces == number
        assert np.corrcoef(found.pixels[part].astype(float).mean(1), truth[part].mean(1))[0, 1] > 0.8
    assert np.array_equal(found.pixels[~hole], damaged[~hole])


def test_a_donor_takes_the_tone_of_its_place_and_keeps_its_detail():
    rng = np.random.default_rng(2)
    truth = np.clip(rng.normal(180, 15, (120, 140, 3)), 0, 255).astype(np.uint8)
    hole = np.zeros((120, 140), bool)
    hole[40:80, 40:90] = True
    donor = (truth - np.uint8([9, 4, 12])).astype(np.uint8)
    tone = tone_of(donor, np.where(hole[..., None], 0, truth).astype(np.uint8), ~hole, 0.5, 235)
    assert np.abs(tone.applied(donor)[hole].astype(int) - truth[hole]).max() <= 1
    assert Tone.from_dict(json.loads(json.dumps(tone.to_dict()))) == tone
    assert tone_of(donor, truth, np.zeros_like(hole), 0.5, 235) is None


def test_glass_takes_the_tone_of_glass_and_not_of_the_tissue_beside_it():
    """Tissue is 20 grey levels darker than where the donor comes from, glass 2 levels lighter."""
    rng = np.random.default_rng(3)
    truth = np.rint(rng.normal(245, 0.6, (120, 160, 3)))
    truth[:, :60] = rng.normal(150, 10, (120, 60, 3))
    donor = truth + np.where(np.arange(160)[:, None] < 60, 20, -2)
    truth, donor = (np.clip(each, 0, 255).astype(np.uint8) for each in (truth, donor))
    hole = np.zeros((120, 160), bool)
    hole[40:80, 65:110] = True
    found = tone_of(donor, truth, ~hole, 0.5, 235).applied(donor)[hole].astype(float)
    assert np.abs(found.mean(axis=0) - 245).max() < 0.5 and found.std(axis=0).max() < 1


def test_verdicts_follow_the_fit():
    perfect = DonorFit(**dict.fromkeys(DonorFit._fields, 0.0))
    scores = [score_of(perfect._replace(inside=inside)) for inside in (0, 100, 700, 2000)]
    assert scores[0] == 1 and scores == sorted(scores, reverse=True) and scores[-1] < DOUBTFUL < scores[2] < GOOD
    assert verdict_of([0.9, 0.8], [10, 10])[1] == "good"
    assert verdict_of([0.9, 0.0], [10, 5])[1] == "doubtful"
    assert verdict_of([0.0, 0.1], [10, 5])[1] == "unrestorable"
