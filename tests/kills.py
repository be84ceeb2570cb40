"""Kills `artifusion restore` before every file operation in turn, and gives the same command again.

    python tests/kills.py FOLDER [--every N] [--limits BYTES,...] -- SLIDE --mask MASK -o OUT ...

OUT must lie in FOLDER, alone. Prints one JSON line per kill: what the killed run left, and what the same command then
did. The real command line runs in a process group of its own, painted by a flat colour (`painters.Flat`, one canvas a
batch), and the whole group gets SIGKILL from an audit hook, so that no moment between two file operations is missed.
--every N takes every Nth operation and the last eight, in which a finished slide gets its name. With --limits no file
may grow beyond so many bytes, as on a full disk.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace

import painters

seam = ModuleType("artifusion.restorer")                 # keeps torch, and its threads, out of a process that forks
seam.Restorer = SimpleNamespace(from_pretrained=lambda *_, **__: painters.Flat(batch_size=1))
sys.modules["artifusion.restorer"] = seam

from artifusion.cli import app  # noqa: E402
from artifusion.output import writer  # noqa: E402, F401
from artifusion.restoration import pipeline  # noqa: E402, F401

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def run(command, folder, kill_at=0, limit=0):
    """Run the command in a group of its own: exit status (-9: killed), what it said, its file operations, calls."""
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
                    os.killpg(0, signal.SIGKILL)

        class Counting(painters.Flat):
            def restore_batch(self, *args, **options):
                nonlocal calls
                calls += 1
                return super().restore_batch(*args, **options)

        seam.Restorer.from_pretrained = lambda *_, **__: Counting(batch_size=1)
        sys.addaudithook(hook)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        status = 1
        try:
            app.main(["restore", *command])
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            if not limit:
                facts.write_text(json.dumps([seen, calls]))
            sys.stdout.flush()
            os._exit(status or 0)
    os.close(said)
    with os.fdopen(heard) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    seen, calls = json.loads(facts.read_text()) if facts.exists() else (0, 0)
    return os.waitstatus_to_exitcode(status), told, seen, calls


def content(folder):
    """Every file of the folder; of a sidecar all but when and how fast it was made."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name.endswith(".json"):
            data = {key: value for key, value in json.loads(data).items() if key not in ("created", "seconds")}
        found[str(path.relative_to(folder))] = data
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--limits", default="")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    folder, out = given.folder, Path(given.command[given.command.index("-o") + 1])

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    fresh()
    status, said, operations, calls = run(given.command, folder)
    assert status == 0, said
    straight = content(folder)
    limits = [int(limit) for limit in given.limits.split(",") if limit]
    points = sorted({*range(1, operations + 1, given.every), *range(operations - 7, operations + 1)})
    for kill_at, limit in [(point, 0) for point in points] + [(0, limit) for limit in limits]:
        fresh()
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
