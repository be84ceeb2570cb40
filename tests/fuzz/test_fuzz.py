"""A thousand broken inputs, and what they and more of them once brought down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from made_slides import YCBCR, tissue, write_pyramid_tiff

from artifusion.cli.app import main
from artifusion.errors import SlideError, WeightsError
from artifusion.output.codecs import jpeg
from artifusion.slide.reader import open_slide

TESTS = Path(__file__).parents[1]
SEED = 0


def refused(*words):
    """The line that a command refuses with."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("artifusion: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_a_thousand_broken_inputs_bring_nothing_down():
    """`python -m fuzz` says how to look at one again."""
    ended = subprocess.run([sys.executable, "-m", "fuzz", "--count", "1000", "--seed", str(SEED)], cwd=TESTS,
                           capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, "\n".join(line for line in said if line[:1].isdigit()) + ended.stderr[-2000:]
    kinds = json.loads(said[-1])["kinds"]
    assert sum(sum(ends.values()) for ends in kinds.values()) == 1000
    assert all(ends.get("refused") for ends in kinds.values()), kinds


def test_the_harness_sees_every_fault():
    ended = subprocess.run([sys.executable, "-m", "fuzz.faults"], cwd=TESTS, capture_output=True, text=True, check=True)
    for wanted, findings in json.loads(ended.stdout.splitlines()[-1]).items():
        assert any(finding.startswith(wanted) for finding in findings), (wanted, findings)


# What was found in ten thousand inputs, mended, one test per kind

def test_a_tile_that_no_memory_holds_is_refused_before_openslide_ends_the_process(tmp_path):
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    with tifffile.TiffFile(slide, mode="r+b") as file:
        file.pages[0].tags["TileWidth"].overwrite(2**31 - 16)
    with pytest.raises(SlideError, match="tells tiles of 2147483632 x 64 px"):
        open_slide(slide)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_hold_no_numbers_are_refused(tmp_path, number):
    from tiny_training import TINY

    from artifusion.checkpoint import load_weights, save_weights
    from artifusion.diffusion.denoiser import SwinDenoiser

    state = SwinDenoiser(TINY).state_dict()
    next(iter(state.values())).view(-1)[0] = number
    save_weights(tmp_path / "weights", state, TINY, "tiny", {})
    with pytest.raises(WeightsError, match="holds what is no number"):
        load_weights(tmp_path / "weights")


def test_deep_json_in_weights_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("[" * 10**5)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "broken weights" in refused("info", tmp_path)


@pytest.mark.parametrize("key, value", [("depths", "[1, 1000000]"), ("dims", "[16, 1000000]"), ("time_dim", "1000000")])
def test_a_network_of_no_sensible_size_is_refused(tmp_path, key, value):
    (tmp_path / "train.toml").write_text(f"[denoiser]\nwindow_sizes = [4, 4]\nheads = [2, 2]\n{key} = {value}\n")
    assert f"denoiser.{key}" in refused("train", tmp_path / "train.toml", "--data", tmp_path, "--run-dir", tmp_path)


def test_a_tar_that_runs_in_circles_is_one_line(tmp_path):
    tar = tmp_path / "tiles.tar"
    head = bytearray(512)
    head[:1], head[124:136], head[156:157] = b"a", b"0" * 11 + b"\0", b"x"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    tar.write_bytes(bytes(head) * 2000)                    # a header for the next header, and so on
    assert "no shard" in refused("tiles", "--data", tar, "-o", tmp_path / "out.tar", "-q")


def test_a_jpeg_marker_that_names_no_table_is_a_broken_segment():
    segment = bytearray(imagecodecs.jpeg8_encode(tissue(64, 64), level=80))
    start = segment.index(b"\xff\xda")
    segment[start + 6] = 0x77                              # the tables of the first component
    with pytest.raises(SlideError, match="names no table"):
        jpeg.parse(bytes(segment), b"")


@pytest.mark.parametrize("text", ["crops,loss\nx,0.5\n", "minutes\n1\n", "crops,loss\n1,0.5,3\n"])
def test_a_broken_log_is_told_before_a_run_goes_on(tmp_path, text):
    from artifusion.errors import OutputError
    from artifusion.training.curves import read_log

    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(OutputError, match="move it away"):
        read_log(tmp_path / "log.csv")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_one_line(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("artifusion.slide.reader.open_slide", fails)
    (tmp_path / "slide.tif").touch()
    assert "not enough memory" in refused("info", tmp_path / "slide.tif")
