"""SIGKILL of the whole process group between file operations, and a disk that is full: `kills.py` in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kills(aperio_slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    mask = np.zeros((703, 901), np.uint8)
    for x, y in ((20, 20), (300, 300), (600, 500)):
        mask[y : y + 60, x : x + 60] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    out = folder / "out"
    command = [sys.executable, ROOT / "tests" / "kills.py", out, "--every", "3", "--limits", "1,3000,60000", "--",
               "restore", aperio_slide, "--mask", folder / "mask.png", "-o", out / "x.svs",
               "--preview", out / "look.png", "-q"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_kill_leaves_no_output_or_a_whole_one(kills):
    killed = [kill for kill in kills if kill["status"] == -9]              # threads may do one operation less
    assert len(killed) > 12 and all(kill["whole"] for kill in kills if kill["status"] == 0)
    assert all(kill["whole"] == kill["out"] for kill in killed)
    assert {kill["out"] for kill in killed} == {True, False}                # before its publication, and after


def test_the_same_command_again_gives_the_same_bytes_and_leaves_nothing_behind(kills):
    for kill in kills:
        assert kill["same"] and kill["left"] == [], kill
        gone = kill["kill_at"] >= kill["operations"] - 1                    # of the folder no file is left
        assert kill["again"] == 0 or (gone and kill["whole"] and "exists already" in kill["told"]), kill


def test_what_was_painted_before_the_kill_is_not_painted_again(kills):
    for kill in kills:
        assert kill["repainted"] == (0 if kill["whole"] else kill["canvases"] - kill["painted"]), kill
    assert {kill["painted"] for kill in kills} & {1, 2}                     # some kills fell between two canvases


def test_a_full_disk_is_one_line_and_no_output(kills):
    full = [kill for kill in kills if kill["limit"]]
    assert len(full) == 3
    for kill in full:
        assert kill["status"] == 1 and not kill["out"]
        assert kill["said"].count("\n") == 1 and "start again" in kill["said"] and "Traceback" not in kill["said"]
