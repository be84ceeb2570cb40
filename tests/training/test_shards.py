import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from made_slides import tissue
from PIL import Image

from artifusion.config import DataConfig
from artifusion.errors import DataError, OutputError
from artifusion.training.corpus import Corpus, is_validation
from artifusion.training.shards import read_shard, read_tiles, save_tiles, write_shard
from artifusion.training.tiles import find_images


@pytest.fixture
def images(tmp_path):
    """A small folder that tells its scale and a large one that does not."""
    for folder, names, side in (("small", "a", 300), ("large", "bcd", 700)):
        (tmp_path / folder).mkdir()
        for n, name in enumerate(names):
            dpi = {"dpi": (25400 / 0.5, 25400 / 0.5)} if folder == "small" else {}
            Image.fromarray(tissue(side, side, n)).save(tmp_path / folder / f"{name}.png", **dpi)
    return [tmp_path / "small", tmp_path / "large"]


def test_a_shard_holds_the_tiles_of_the_images_with_their_names_and_scales(images, tmp_path):
    report = write_shard(images, tmp_path / "shard.tar", quiet=True)
    fresh, packed = list(read_tiles(find_images(images))), list(read_shard(tmp_path / "shard.tar"))
    assert report.tiles == len(fresh) == len(packed) == 3 * 4 + 1 and not report.left_out
    for one, other in zip(fresh, packed, strict=True):
        assert (one.image, one.spacing_um) == (other.image, other.spacing_um)
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 2.5
    assert [tile.spacing_um for tile in packed if tile.folder == "small"] == [pytest.approx(0.5, rel=0.01)]
    held = {tile.image for tile in packed if is_validation(tile.image, DataConfig(validation=("large/c.*",)))}
    assert held == {"large/c.png"}
    with tarfile.open(tmp_path / "shard.tar") as shard:
        assert shard.getnames()[:2] == ["large/000000.jpg", "large/000000.json"]
        jpeg = Image.open(shard.extractfile("large/000000.jpg"))
        assert {parts[1:3] for parts in jpeg.layer} == {(1, 1)}                       # no chroma subsampling


def test_training_from_a_shard_needs_no_originals_and_the_same_images_give_the_same_shard(images, tmp_path):
    write_shard(images, tmp_path / "one.tar", quiet=True)
    write_shard(images[::-1], tmp_path / "two.tar", quiet=True)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    for folder in images:
        for file in folder.iterdir():
            file.unlink()
    tiles = list(read_tiles(find_images([tmp_path / "one.tar"])))
    assert len(Corpus.of(tiles, DataConfig()).sources["large"].tiles) == 12


def test_a_limit_counts_names_beyond_ascii(images, tmp_path):
    folder = images[1].rename(tmp_path / "größer")
    whole = write_shard([folder], tmp_path / "whole.tar", quiet=True)
    smaller = write_shard([folder], tmp_path / "smaller.tar", max_mb=(whole.size_bytes - 1) / 1e6, quiet=True)
    assert smaller.size_bytes < whole.size_bytes and smaller.left_out == 1


def test_a_folder_is_searched_for_files_alone(images, tmp_path):
    before = find_images(images)
    (images[0] / "folder.png").mkdir()
    assert find_images(images) == before
    with pytest.raises(DataError, match="no such file"):
        find_images([300 * "a"])


def test_a_limit_takes_from_the_largest_folder_evenly(images, tmp_path):
    whole = write_shard(images, tmp_path / "whole.tar", quiet=True)
    limit = 0.6 * whole.size_bytes / 1e6
    report = write_shard(images, tmp_path / "small.tar", max_mb=limit, quiet=True)
    assert report.size_bytes <= limit * 1e6 < whole.size_bytes
    tiles = list(read_shard(tmp_path / "small.tar"))
    assert report.tiles == len(tiles) == whole.tiles - report.left_out
    assert {tile.image for tile in tiles} == {"small/a.png", "large/b.png", "large/c.png", "large/d.png"}


def test_nothing_is_overwritten_and_nothing_is_left_by_a_failure(images, tmp_path):
    (tmp_path / "there.tar").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write_shard(images, tmp_path / "there.tar", quiet=True)
    assert (tmp_path / "there.tar").read_bytes() == b"mine"
    with pytest.raises(OutputError, match=r"\.tar"):
        write_shard(images, tmp_path / "shard.zip", quiet=True)
    with pytest.raises(DataError, match="none of 13 tiles"):
        write_shard(images, tmp_path / "shard.tar", max_mb=0.01, quiet=True)
    Image.new("RGB", (300, 300), "white").save(tmp_path / "glass.png")
    with pytest.raises(DataError, match="no clean tissue"):
        write_shard([tmp_path / "glass.png"], tmp_path / "shard.tar", quiet=True)
    assert not [path for path in tmp_path.iterdir() if "shard" in path.name]


def test_a_foreign_or_broken_tar_is_one_clear_error(images, tmp_path):
    foreign = tmp_path / "foreign.tar"
    with tarfile.open(foreign, "w") as tar:
        tar.add(images[0] / "a.png", "a.json")
    with pytest.raises(DataError, match="no shard"):
        list(read_shard(foreign))
    (tmp_path / "nonsense.tar").write_bytes(b"nonsense" * 100)
    with pytest.raises(DataError, match="broken") as caught:
        list(read_shard(tmp_path / "nonsense.tar"))
    assert "\n" not in str(caught.value)
    for wrong, named in (({"image": 7}, "image"), ({"um_per_px": -1}, "um_per_px")):
        (tmp_path / "a.json").write_text(json.dumps({"image": "a/b.png", "um_per_px": None} | wrong))
        with tarfile.open(foreign, "w") as tar:
            tar.add(tmp_path / "a.json", "a/0.json")
        with pytest.raises(DataError, match=f"broken one .{named}: Input should be"):
            list(read_shard(foreign))
    write_shard(images, tmp_path / "shard.tar", quiet=True)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:100_000])
    with pytest.raises(DataError, match="broken"):
        list(read_shard(tmp_path / "cut.tar"))


def test_a_tile_whose_image_lies_in_no_folder_is_packed_like_any_other(images, tmp_path):
    (tile, *_) = read_tiles(find_images(images[:1]))
    save_tiles([replace(tile, image=name) for name in ("a.png", "/a.png", "")], tmp_path / "one.tar")
    write_shard([tmp_path / "one.tar"], tmp_path / "two.tar", quiet=True)
    assert [tile.image for tile in read_shard(tmp_path / "two.tar")] == ["a.png", "/a.png", ""]
    assert len(Corpus.of(read_shard(tmp_path / "two.tar"), DataConfig()).sources["."].tiles) == 3
