"""Breaks inputs and runs the commands on them; prints what was found and ends with 1 where anything was.

    cd tests; python -m fuzz --count 10000 --seed 1 [--seeds FOLDER] [--only NUMBER --keep FOLDER]

Input number N of a seed is the same one every time, and alone with --only N. Every input has a process of its own,
forked from one that has imported everything, with 20 s of CPU, 30 s of waiting and 1.5 GB of addresses more.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from fuzz import trials
from fuzz.seeds import add_seeds, make_seeds
from fuzz.trials import HEAVY, LIGHT, Trial

UNFORESEEN = ("not foretold", "failed after painting")       # the plan said yes, and then a file could not be read
CPU_S, WAITING_S, MEMORY_BYTES = 20, 30, 1500 << 20


def kind_of(seed: int, number: int):
    """The kind of an input, which decides what else is drawn for it."""
    kinds = [*LIGHT, *HEAVY]
    shares = np.array([*LIGHT.values(), *HEAVY.values()], float)
    return kinds[np.random.default_rng([seed, number]).choice(len(kinds), p=shares / shares.sum())]


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def cpu_time(process: int) -> str:
    return " ".join(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13])


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def attempt(kind, folder: Path, seeds: Path, seed: int, number: int) -> tuple[list[str], list[int]]:
    """The findings of one input and its exit codes, in a process of its own under the limits."""
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.close(heard)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 2))
        limit = address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        stacks = (folder / "stacks").open("w")
        faulthandler.enable(stacks)
        faulthandler.register(signal.SIGXCPU, stacks)
        trial = Trial(folder, seeds, np.random.default_rng([seed, number, 1]))
        try:
            kind(trial)
        except BaseException as error:
            trial.findings.append(f"harness {trials.signature(error)}")
        os.write(told, json.dumps([trial.findings, trial.codes]).encode()[:60_000])
        os._exit(0)
    os.close(told)
    ended, worked, since = 0, "", time.monotonic()
    with os.fdopen(heard, "rb") as pipe:
        os.set_blocking(heard, False)
        while not ended:
            heard_of = select.select([heard], [], [], 1)[0]         # what it found, or its end
            ended, status = os.waitpid(child, 0 if heard_of else os.WNOHANG)
            if not ended and (used := cpu_time(child)) != worked:   # a loaded machine may let it wait for its turn
                worked, since = used, time.monotonic()
            elif not ended and time.monotonic() - since > WAITING_S:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return [f"hang: waits for over {WAITING_S} s"], []
        said = pipe.read() or b""
    code = os.waitstatus_to_exitcode(status)
    if code:
        stack = [line.strip() for line in (folder / "stacks").read_text().splitlines() if "artifusion/" in line]
        name = "hang" if code in (-signal.SIGXCPU, -signal.SIGKILL) else f"crash by {signal.Signals(-code).name}"
        errors = folder / "stderr"
        return ([f"{name} {' < '.join(line.rpartition('/')[2] for line in stack[:2])} "
                f"{errors.read_text(errors='replace')[-120:].strip() if errors.exists() else ''}"], [])
    findings, codes = json.loads(said)
    return findings, codes


def prepare(seeds: Path) -> None:
    """The seeds that commands make: a restored slide; with torch weights, a shard and a run."""
    def run(*words: object) -> None:
        try:
            trials.app.main([str(word) for word in words])
        except SystemExit as end:
            assert not end.code, words

    tissue = seeds / "tissue"
    if "torch" not in sys.modules:
        restored = seeds / "restored"
        restored.mkdir()
        trial = Trial(seeds / "making", seeds, np.random.default_rng(0))
        slide, out = shutil.copyfile(seeds / "slides" / "ycbcr.tif", restored / "slide.tif"), restored / "out.tif"
        for plan in (["--dry-run"], []):                     # every command once, so that its modules are imported
            run("restore", slide, "--mask", trial.box(), "-o", out, "-q", *plan)
        with trials.grafting():
            run("restore", slide, "--mask", trial.box(), "-o", trial.outputs / "grafted.tif", "-q")
        (seeds / "begun").mkdir()
        assert attempt(partial(trials.restore_two, fail_after=1), seeds / "begun", seeds, 0, 0)[1] == [130]
        (seeds / "begun" / "out" / "kept.tif.partial").rename(seeds / "interrupted")
        shutil.copyfile(restored / "out.tif.geojson", seeds / "geojson" / "ours.geojson")
        for suffix in ("png", "tif"):
            run("mask", "convert", trial.box(), trial.outputs / f"mask.{suffix}", "--slide", slide, "-q")
        run("restore", seeds / "images" / "rgb.jpg", "--mask", trial.box(), "-o", trial.outputs / "image.png", "-q")
        run("damage", slide, trial.outputs / "damaged.tif", "-q")
        run("verify", slide, out)
        run("info", slide)
        run("tiles", "--data", tissue, "-o", seeds / "tiles.tar", "-q")
    else:
        from artifusion.config import TrainConfig, load_config
        from artifusion.training.run import train

        steps = train(load_config(TrainConfig, "train", seeds / "train.toml"), [tissue], seeds / "run", device="cpu",
                      quiet=True)
        next(steps), next(steps)                            # saves what the first step learned, and the second is lost
        steps.close()
        records = import_module("artifusion.evaluation.records")
        rows = [records.COLUMNS, *([n, "a/b.png", "a", "", "fold", "small", "thin", "0.1", method, 10, 1, 2] +
                                   [0.5] * len(records.MEASURED) for n in range(2) for method in ("mean", "paint"))]
        (seeds / "tiles.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        run("detect", seeds / "slides" / "ycbcr.tif", "-o", seeds / "making" / "found.png", "-q", "--any-stain")
        shutil.copytree(seeds / "run" / "weights", seeds / "weights")
    gc.freeze()                                             # else a child that collects garbage copies all memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seeds", type=Path, action="append", default=[], help="a folder of more files to break")
    parser.add_argument("--kinds", default="", help="only these, with commas")
    parser.add_argument("--only", type=int, help="this input alone")
    parser.add_argument("--keep", type=Path, help="where the folders of inputs with findings stay")
    parser.add_argument("--strict", action="store_true", help="end with 1 also where a plan did not foresee a refusal")
    given = parser.parse_args()
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", ResourceWarning)        # which users do not see
    numbers = range(given.first, given.first + given.count) if given.only is None else [given.only]
    kinds = {number: kind_of(given.seed, number) for number in numbers}
    kinds = {n: kind for n, kind in kinds.items() if not given.kinds or kind.__name__ in given.kinds.split(",")}
    seam, started = trials.stand_in(), time.monotonic()
    found: dict[str, list[int]] = collections.defaultdict(list)
    tallies: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    sys.modules["artifusion.restorer"] = seam
    with tempfile.TemporaryDirectory() as name:
        seeds = Path(name) / "seeds"
        make_seeds(seeds)
        add_seeds(seeds, given.seeds)
        for heavy in (False, True):
            if heavy:
                del sys.modules["artifusion.restorer"]
                import artifusion.restorer
                import artifusion.training.run  # noqa: F401
            prepare(seeds)
            for number, kind in kinds.items():
                if (kind in HEAVY) is not heavy:
                    continue
                folder = Path(name) / str(number)
                folder.mkdir()
                before = children_cpu()
                findings, codes = attempt(kind, folder, seeds, given.seed, number)
                tally = tallies[kind.__name__]
                tally["cpu_seconds"] += children_cpu() - before                # type: ignore[assignment]
                tally["taken" if codes and not any(codes) else "refused"] += 1
                for finding in dict.fromkeys(findings):
                    print(f"{number} {kind.__name__}: {finding}", flush=True)
                    found[finding].append(number)
                if given.keep and (findings or given.only is not None):
                    shutil.rmtree(given.keep / str(number), ignore_errors=True)
                    shutil.copytree(folder, given.keep / str(number))
                shutil.rmtree(folder)
    took = time.monotonic() - started
    own = resource.getrusage(resource.RUSAGE_SELF)
    cpu = own.ru_utime + own.ru_stime + children_cpu()
    print(json.dumps({"inputs": len(kinds), "seconds": round(took), "cpu_seconds": round(cpu),
                      "kinds": {kind: {what: round(number, 1) for what, number in ends.items()}
                                for kind, ends in tallies.items()},
                      "inputs_with_findings": len({n for numbers in found.values() for n in numbers}),
                      "findings": {what: len(numbers) for what, numbers in found.items()}}))
    return int(any(given.strict or not what.startswith(UNFORESEEN) for what in found))


if __name__ == "__main__":
    sys.exit(main())
