"""What else happens to commands of `artifusion` while they work: prints one JSON line for each fault.

    python tests/faults.py [--commands restore,tiles,...] [--mount]

A full disk (no file may grow beyond a size; with --mount, as root, small tmpfs), a target that is read-only, a source
that is removed, a second process on the same output, a clock that is set back. After each, the same command is given
again under usual conditions.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kills import content, fresh, run
from random_kills import COMMANDS, content_names, inputs

LIMITS, DISK_KB = (1, 1000, 8000), (4, 16, 48)
LONG_AGO, FAR_AHEAD = 10**8, 2 * 10**9


def faults(name, command, place, mount):
    """Yield (fault, exit status, what was said, the folder in which the same command is to be given again)."""
    out, sources = place / "out", place / "in"
    graft = "auto" if name == "graft" else "off"

    def ran(**how):
        return run(command, out, graft=graft, **how)[:2]

    operations = run(command, out, graft=graft)[2]
    for limit in LIMITS:
        fresh(out)
        yield f"files of at most {limit} bytes", *ran(limit=limit)
    for part in (0.2, 0.5, 0.8):
        at = max(1, round(part * operations))
        fresh(out)
        shutil.copytree(sources, place / "kept")
        source = Path(command[command.index("--data") + 1] if "--data" in command else command[-1] if
                      name == "convert" else command[1])
        status = ran(kill_at=at, act=lambda path=source: shutil.rmtree(path) if path.is_dir() else path.unlink())
        shutil.rmtree(sources)
        (place / "kept").rename(sources)
        yield f"source removed before operation {at}", *status
        fresh(out)
        other = place / "other.json"
        status = ran(kill_at=at, act=lambda path=other: path.write_text(json.dumps(ran())))
        yield f"second process before operation {at}", *status, *json.loads(other.read_text())
        for when, word in ((LONG_AGO, "back"), (FAR_AHEAD, "ahead")):
            fresh(out)
            status = ran(kill_at=at)
            for path in [out, *out.rglob("*")]:
                os.utime(path, (when, when))
            yield f"clock set {word} after a kill at operation {at}", *status
    for size in DISK_KB if mount else ():
        fresh(out)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", out], check=True)
        status = ran()
        left = place / "left"
        shutil.copytree(out, left)
        subprocess.run(["umount", out], check=True)
        out.rmdir()
        left.rename(out)
        yield f"disk of {size} kB", *status
    if mount:
        fresh(out)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", out], check=True)
        status = ran()
        subprocess.run(["umount", out], check=True)
        yield "read-only", *status


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--mount", action="store_true")
    given = parser.parse_args()
    names = given.commands.split(",")
    if "train" in names:
        import artifusion.training.run  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in").mkdir()
        every = inputs(place / "in")
        for name in names:
            command = [str(part).format(out=place / "out") for part in every[name]]
            fresh(place / "out")
            graft = "auto" if name == "graft" else "off"
            assert run(command, place / "out", graft=graft)[0] == 0
            straight = content(place / "out")
            fresh(place / "out")
            for fault, status, said, *other in faults(name, command, place, given.mount):
                left = content_names(place / "out")
                again, told, *_ = run(command, place / "out", graft=graft)
                print(json.dumps({"command": name, "fault": fault, "status": status, "said": said, "other": other,
                                  "left": left, "again": again, "told": told,
                                  "same": content(place / "out") == straight}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
