"""How long the command line takes to answer: help, a dry run, info, and masks of noise.

    python -m benchmarks.speed.inputs SLIDE [--repeats 7] [--json FILE]

Whole processes, start and imports included; medians. The noise masks have 8000 x 8000 px and lie on a white slide of
that size: noise all over it, which is refused, and about as many specks as are not, in a square of 980 x 980 px.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def answer(repeats: int, status: int, *command: str | Path) -> dict[str, object]:
    """Seconds until `artifusion COMMAND` ended, each and the median, and the last line that it said."""
    seconds = []
    for _ in range(repeats):
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "artifusion", *map(str, command)], capture_output=True, text=True)
        seconds.append(round(time.monotonic() - begin, 2))
        if done.returncode != status:
            sys.exit(f"artifusion {' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")
    line = (done.stderr if status else done.stdout).strip().splitlines()[-1]
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "said": Path(line).name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        mask, noise, dense, square = (Path(folder) / name for name in ("mask.png", "noise.png", "dense.png", "sq.tif"))
        with Image.open(given.slide) as image:
            width, height = image.size
        small = np.zeros((height // 4, width // 4), np.uint8)
        small[50:90, 60:120] = 255
        Image.fromarray(small).save(mask)
        white = np.full((512, 512, 3), 255, np.uint8)
        tifffile.imwrite(square, (white for _ in range(256)), shape=(8000, 8000, 3), dtype=np.uint8, tile=(512, 512),
                         photometric="rgb", compression="jpeg")
        Image.fromarray(rng.random((8000, 8000)) < 0.5).save(noise)
        Image.fromarray(np.pad(rng.random((980, 980)) < 0.5, 3510)).save(dense)
        plan = ("restore", square, "--dry-run", "--mpp", "0.5", "--mask")
        result = {
            "help": answer(given.repeats, 0, "--help"),
            "info": answer(given.repeats, 0, "info", given.slide),
            "dry run": answer(given.repeats, 0, "restore", given.slide, "--mask", mask, "--dry-run"),
            "white noise of 8000 x 8000 px": answer(1, 1, *plan, noise),
            "dense specks, planned": answer(1, 0, *plan, dense),
        }
    print(json.dumps({**result, "cpus": os.cpu_count()}, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
