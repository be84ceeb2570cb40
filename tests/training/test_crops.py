"""What a training crop shows, what is hidden of it, and by which names its source is known."""

import numpy as np
import pytest
from made_slides import tissue
from PIL import Image

from artifusion.config import DataConfig, TargetConfig
from artifusion.training.corpus import Corpus, cut_crop, first_match, is_validation
from artifusion.training.degradation import degrade
from artifusion.training.grafts import graft_tissue
from artifusion.training.shards import read_shard, read_tiles, write_shard
from artifusion.training.targets import BAND_PX, DRAW, draw_target
from artifusion.training.tiles import Tile, find_images

KINDS = list(DRAW)


def targets(kind, count=64, side_px=64, grafted=0.6):
    config = TargetConfig(kinds={kind: 1}, grafted=grafted)
    return [draw_target(side_px, config, n, np.random.default_rng([0, n])) for n in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side_px", [32, 64, 192])
def test_every_kind_hides_something_at_levels_between_0_and_1(kind, side_px):
    for target in targets(kind, 8, side_px):
        assert target.level.dtype == np.float32 and target.level.shape == (side_px, side_px)
        assert target.level.min() >= 0 and 0 < target.level.max() <= 1


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"map", "large"}))
def test_levels_cover_the_range_evenly_one_in_a_crop(kind):
    levels = targets(kind)
    assert all(len(np.unique(target.level[target.level > 0])) == 1 for target in levels)
    assert np.allclose(np.quantile([target.level.max() for target in levels], (0, 0.5, 1)), (0, 0.5, 1), atol=0.05)


def test_large_holes_are_large_and_mostly_at_high_levels():
    large = targets("large")
    assert min((target.level > 0).mean() for target in large) >= 0.12
    assert np.mean([target.level.max() > 0.5 for target in large]) == pytest.approx(0.75, abs=0.03)


def test_maps_have_several_levels_none_above_that_of_recovered_pixels():
    maps = targets("map")
    assert max(target.level.max() for target in maps) <= 0.6
    assert np.median([len(np.unique(target.level)) for target in maps]) > 5


def test_a_band_lies_between_its_inside_and_its_outside_and_most_insides_are_grafts():
    bands = targets("band", 256)
    assert np.mean([target.graft is not None for target in bands]) == pytest.approx(0.6, abs=0.1)
    for target in targets("band", 16, grafted=1.0):
        assert np.array_equal(target.level > 0, target.graft == -1)
        assert min((target.graft == part).mean() for part in (-1, 0, 1)) >= 0.04
        for side, other in ((0, 1), (1, 0)):                 # across the band, from one side to the other
            here, there = np.argwhere(target.graft == side), np.argwhere(target.graft == other)
            gap = np.sqrt(((here[:, None] - there) ** 2).sum(-1)).min()
            assert BAND_PX[0] <= gap <= BAND_PX[1] + 2


def test_a_graft_is_the_best_donor_inside_the_crop_outside_and_one_of_both_in_the_band():
    own, good, bad = (np.full((32, 32, 3), value, np.uint8) for value in (100, 110, 100))
    bad[::2] = 180
    graft = np.zeros((32, 32), np.int8)
    graft[8:24, 8:24], graft[12:20, 12:20] = -1, 1
    joined = graft_tissue(own, [bad, good], graft)
    assert (joined == 100).all()                             # the good one's colour is moved to the crop's
    own[:, 16:] = 200
    joined = graft_tissue(own, [np.full_like(own, 100)], graft)
    assert np.array_equal(joined[graft == 0], own[graft == 0])


def test_a_degraded_crop_is_near_the_crop_and_its_blocks_begin_anywhere():
    crop = tissue(64, 64, 1)
    degraded = [degrade(crop, np.random.default_rng(n)) for n in range(40)]
    assert all(each.shape == crop.shape and each.dtype == np.uint8 for each in degraded)
    assert 0 < np.mean([np.abs(each.astype(int) - crop).mean() for each in degraded]) < 12
    assert len({each.tobytes() for each in degraded}) > 30
    same = [degrade(crop, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*same)


def test_the_first_pattern_that_fits_a_folder_or_an_image_counts():
    table = {"a/*_L2.png": 1.0, "a": 2.0, "atlas/*": 3.0}
    assert first_match(table, "train/a/x_L2.png") == 1.0
    assert first_match(table, "train/a/x_L1.png") == 2.0
    assert first_match(table, "train/atlas/case/x.png") == 3.0
    assert first_match(table, "train/b/x.png") is None
    assert is_validation("train/atlas/case/x.png", DataConfig(validation=("case/*",)))
    assert not is_validation("case/other/x.png", DataConfig(validation=("case/*.png",)))


def test_folders_of_one_pattern_are_one_source(tmp_path):
    for name in ("atlas/one/a", "atlas/two/b", "single/c"):
        path = tmp_path / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tissue(300, 300, 2)).save(path)
    config = DataConfig(weights={"atlas/*": 3}, spacing_um={"two/*": 0.7, "single": 0.3})
    images = find_images([tmp_path / "train"])
    assert list(images.values()) == ["train/atlas/one/a.png", "train/atlas/two/b.png", "train/single/c.png"]
    corpus = Corpus.of(list(read_tiles(images, quiet=True)), config)
    assert list(corpus.sources) == ["atlas/*", "single"] and corpus.weights.tolist() == [0.75, 0.25]
    assert corpus.sources["atlas/*"].spacing_um == [0.5, 0.7] and corpus.sources["single"].spacing_um == [0.3]
    write_shard([tmp_path / "train"], tmp_path / "shard.tar", quiet=True)
    assert list(Corpus.of(list(read_shard(tmp_path / "shard.tar")), config).sources) == ["atlas/*", "single"]


def test_an_estimated_scale_is_told_with_its_uncertainty():
    plain = DataConfig(max_zoom=1.0, spacing_um={"made-up": 0.5})
    unsure = plain.model_copy(update={"spacing_jitter": {"made-up": 0.3}})
    tile = Tile(tissue(200, 200, 3), "made-up/a.png", None)
    told = {name: [cut_crop(Corpus.of([tile], config), config, 64, np.random.default_rng(n))[1] for n in range(60)]
            for name, config in (("plain", plain), ("unsure", unsure))}
    assert set(told["plain"]) == {0.5}
    assert 0.5 / 1.3 <= min(told["unsure"]) < 0.42 and 0.6 < max(told["unsure"]) <= 0.5 * 1.3
