"""Commands that are killed at random moments, and what else happens to them while they work: programs in processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def program(name, *options):
    return subprocess.run([sys.executable, ROOT / "tests" / name, *options], capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})


@pytest.mark.parametrize(("commands", "count"), [("restore,graft,damage,tiles,convert", 15), ("train", 2)])
def test_a_command_that_is_killed_and_given_again_ends_as_if_nobody_had_killed_it(commands, count):
    done = program("random_kills.py", "--count", str(count), "--seed", "1", "--commands", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert sum(int(row[1]) for row in rows) == count


@pytest.fixture(scope="module")
def faults():
    done = program("faults.py", "--commands", "restore,tiles,convert")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_after_any_fault_the_same_command_ends_as_if_there_had_been_none(faults):
    assert len(faults) == 3 * 15
    for fault in faults:
        assert fault["again"] == 0 and fault["same"], fault


def test_any_fault_is_one_line_that_says_what_to_do(faults):
    for fault in faults:
        assert fault["status"] in (0, 1, -9) and "Traceback" not in fault["said"], fault
        if fault["status"] == 1:
            (line,) = (line for line in fault["said"].splitlines() if line.startswith("artifusion: "))
            assert any(remedy in line for remedy in ("start again", "check the path")), fault
    full = [fault for fault in faults if fault["fault"] == "files of at most 1 bytes"]
    assert len(full) == 3 and all(fault["status"] == 1 and not any(name.endswith(("x.tif", "x.tar"))
                                                                   for name in fault["left"]) for fault in full)


def test_of_two_processes_on_one_slide_one_writes_it_and_the_other_says_so(faults):
    pairs = [fault for fault in faults if fault["fault"].startswith("second") and fault["command"] == "restore"]
    for fault in pairs:
        status, said = fault["other"]
        assert fault["status"] == 0 and status == 1 and "another run is writing it" in said
    removed = [fault for fault in faults if fault["fault"].startswith("source") and fault["command"] == "restore"]
    assert any("is gone, and was there before" in fault["said"] for fault in removed)
