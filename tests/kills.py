"""Kills a command of `artifusion` at a chosen moment, and gives the same command again.

    python tests/kills.py FOLDER [--every N] [--limits BYTES,...] -- restore SLIDE --mask MASK -o OUT ...

OUT must lie in FOLDER, alone. Prints one JSON line per kill: what the killed run left, and what the same command then
did. The real command line runs in a process group of its own, painted by a flat colour (`painters.Flat`, one canvas a
batch), and the whole group gets SIGKILL from an audit hook, so that no moment between two file operations is missed.
--every N takes every Nth operation and the last eight, in which a finished slide gets its name. With --limits no file
may grow beyond so many bytes, as on a full disk.
"""

import argparse
import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace

import painters

from artifusion.cli import app
from artifusion.files import write_text
from artifusion.output import writer  # noqa: F401
from artifusion.restoration import pipeline  # noqa: F401

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
CLOCK = ("created", "seconds", "minutes")


def flat_seam(count, graft="off"):
    """A stand-in for the module of the restorer: it keeps torch, and its threads, out of a process that forks."""

    class Counting(painters.Flat):
        def restore_batch(self, *args, **options):
            count()
            return super().restore_batch(*args, **options)

    seam = ModuleType("artifusion.restorer")
    seam.Restorer = SimpleNamespace(from_pretrained=lambda *_, **__: Counting(batch_size=1, graft=graft))
    return seam


def run(command, folder, kill_at=0, limit=0, delay=0.0, number=signal.SIGKILL, graft="off", act=None):
    """Run a command in a group of its own, which gets a signal before its file operation `kill_at`, or after `delay`
    seconds: exit status (-9: killed), what it said, its file operations, canvases painted.

    `act`: what happens at `kill_at` instead of the signal.
    """
    heard, said = os.pipe()
    facts = folder.with_name("facts.txt")
    facts.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.stdout = sys.stderr = os.fdopen(said, "w", buffering=1)
        seen = calls = 0

        def hook(event, args):
            nonlocal seen
            if event in EVENTS and str(args[0]).startswith(str(folder)):
                seen += 1
                if seen == kill_at:
                    act() if act else os.killpg(0, number)

        def count():
            nonlocal calls
            calls += 1

        if command[0] == "restore":
            sys.modules["artifusion.restorer"] = flat_seam(count, graft)
        sys.addaudithook(hook)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        status = 1
        try:
            app.main(command)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            try:                                             # a signal by the clock may come as late as here, and
                if not limit:
                    write_text(facts, json.dumps([seen, calls]))          # whole or not at all
                sys.stdout.flush()
            finally:                                         # must not send the fork on into its parent's code
                os._exit(status or 0)
    os.close(said)
    timer = threading.Timer(delay, os.kill, (child, number))
    if delay:
        timer.start()
    with os.fdopen(heard) as pipe:
        told = pipe.read()
    timer.cancel()                                       # the child is not reaped yet: its number is still its own
    _, status = os.waitpid(child, 0)
    seen, calls = json.loads(facts.read_text()) if facts.exists() else (0, 0)
    return os.waitstatus_to_exitcode(status), told, seen, calls


def content(folder):
    """Every file of the folder, without what the clock says of the run."""
    return {str(path.relative_to(folder)): timeless(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def timeless(path):
    data = path.read_bytes()
    if path.suffix == ".json":
        return without_clock(json.loads(data))
    if path.suffix == ".csv":
        return [without_clock(row) for row in csv.DictReader(io.StringIO(data.decode()))]
    if path.name == "README.md":
        return re.sub(rb"\| minutes \| .*", b"", data)
    if path.name == "state.safetensors":
        length = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + length])
        return without_clock(json.loads(head.pop("__metadata__")["record"])), head, data[8 + length :]
    return data


def without_clock(value):
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if key not in CLOCK}
    return value


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--limits", default="")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    folder, out = given.folder, Path(given.command[given.command.index("-o") + 1])
    fresh(folder)
    status, said, operations, calls = run(given.command, folder)
    assert status == 0, said
    straight = content(folder)
    limits = [int(limit) for limit in given.limits.split(",") if limit]
    points = sorted({*range(1, operations + 1, given.every), *range(operations - 7, operations + 1)})
    for kill_at, limit in [(point, 0) for point in points] + [(0, limit) for limit in limits]:
        fresh(folder)
        status, said, *_ = run(given.command, folder, kill_at, limit)
        left = {"out": out.exists(), "whole": out.exists() and out.read_bytes() == straight[out.name],
                "painted": len(list(folder.glob("*.partial/patches/*.npy")))}
        again, told, _, repainted = run(given.command, folder)
        print(json.dumps({
            "kill_at": kill_at, "limit": limit, "operations": operations, "canvases": calls, "status": status,
            "said": said, **left, "again": again, "told": told, "repainted": repainted,
            "same": content(folder) == straight, "left": [path.name for path in folder.iterdir() if path.is_dir()],
        }), flush=True)


if __name__ == "__main__":
    main()
