"""Faults on purpose, every one of which the harness must see: `python -m fuzz.faults` prints what it found in each."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fuzz import __main__ as harness
from fuzz import trials
from fuzz.seeds import make_seeds
from fuzz.trials import Trial


def instead(trial: Trial, act: Callable[[], object], code: int = 0) -> None:
    """A command that does something else."""
    def main(*_: object, **__: object) -> None:
        act()
        sys.exit(code)

    trials.app.main = main
    trial.run("command")


def restored(trial: Trial) -> tuple[Path, Path]:
    slide = trial.whole("raw.tif", "slides/raw.tif")
    trial.restore(slide, trial.box())
    return slide, trial.outputs / "kept.tif"


def changed_far_away(trial: Trial) -> None:
    slide, out = restored(trial)
    data = bytearray(out.read_bytes())
    data[2000:2100] = bytes(100)                            # of the first tile
    out.write_bytes(data)
    trial.compare(slide, out)


def not_painted(trial: Trial) -> None:
    slide, out = restored(trial)
    shutil.copyfile(slide, out)
    trial.compare(slide, out)


FAULTS: dict[str, Callable[[Trial], None]] = {               # the beginning of the finding -> the fault
    "traceback [command] ZeroDivisionError": lambda trial: instead(trial, lambda: 1 / 0),
    "traceback [command] MemoryError": lambda trial: instead(trial, lambda: bytearray(harness.MEMORY_BYTES)),
    "hang ": lambda trial: instead(trial, lambda: sum(iter(int, 1))),
    "hang: waits": lambda trial: instead(trial, lambda: time.sleep(99)),
    "crash by SIGSEGV": lambda trial: instead(trial, lambda: ctypes.string_at(0)),
    "exit 3": lambda trial: instead(trial, lambda: None, 3),
    "not one line": lambda trial: instead(trial, lambda: print("artifusion: a\nb", file=sys.stderr), 1),
    "chatter": lambda trial: instead(trial, lambda: print("a warning", file=sys.stderr)),
    "half-written": lambda trial: instead(trial, lambda: (trial.outputs / "half").touch(), 1),
    "source changed": lambda trial: instead(trial, lambda: (trial.inputs / "slide.tif").touch()),
    "silent damage": changed_far_away,
    "declared and not painted": not_painted,
}


def main() -> None:
    harness.CPU_S, harness.WAITING_S = 2, 2
    sys.modules["artifusion.restorer"] = trials.stand_in()
    with tempfile.TemporaryDirectory() as name:
        seeds = Path(name) / "seeds"
        make_seeds(seeds)
        found = {}
        for number, (wanted, fault) in enumerate(FAULTS.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            found[wanted] = harness.attempt(fault, folder, seeds, 0, number)[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
