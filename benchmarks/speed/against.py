"""This checkout's speed against another's: both paint in turn, so that a busy machine slows both.

    python -m benchmarks.speed.against OTHER_CHECKOUT [--canvas 256] [--batch 1] [--steps 10]
        [--repeats 5] [--json FILE]

evaluation  seconds of one evaluation of the denoiser, per canvas, median
restored    seconds of a restoration of made-up canvases, per canvas, median
difference  largest, of the pixels the two have painted, in grey levels, and the mean
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = """
import json, sys, time
import numpy as np, torch
from artifusion import Restorer
side, batch, steps = map(int, sys.argv[1:])
restorer = Restorer.from_pretrained(device="cpu")
rng = np.random.default_rng(0)
smooth = rng.integers(120, 240, (batch, side // 16, side // 16, 3)).repeat(16, 1).repeat(16, 2)
images = list(np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8))
mask = np.zeros((side, side), bool)
mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
hole = torch.from_numpy(mask)[None, None].expand(batch, -1, -1, -1).float().contiguous()
inputs = torch.randn(batch, 3, side, side), hole * 0.5, hole, torch.full((batch,), 0.5)
for line in sys.stdin:
    if line.strip() == "painted":
        painted = np.stack(restorer.restore_batch(images, [mask] * batch, steps=steps))[:, mask]
        print(json.dumps(painted.tolist()), flush=True)
        continue
    begin = time.perf_counter()
    if line.strip() == "restored":
        restorer.restore_batch(images, [mask] * batch, steps=steps)
    else:
        with torch.inference_mode():
            restorer.denoiser(*inputs)
    print(json.dumps((time.perf_counter() - begin) / batch), flush=True)
"""


def start(checkout: Path, *arguments: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, *map(str, arguments)], text=True, cwd=checkout,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env=os.environ | {"PYTHONPATH": str(checkout)})


def ask(worker: subprocess.Popen[str], what: str) -> Any:
    assert worker.stdin and worker.stdout
    worker.stdin.write(f"{what}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    workers = [start(path.resolve(), given.canvas, given.batch, given.steps)
               for path in (given.other, Path(__file__).parents[2])]
    report: dict[str, object] = {"canvas_px": given.canvas, "batch": given.batch, "steps": given.steps}
    other, own = ([value for row in ask(worker, "painted") for pixel in row for value in pixel] for worker in workers)
    apart = [abs(one - two) for one, two in zip(other, own, strict=True)]
    report["difference"] = {"largest": max(apart), "mean": round(statistics.fmean(apart), 3)}
    for what, repeats in (("evaluation", 4 * given.repeats), ("restored", given.repeats)):
        for worker in workers:
            ask(worker, what)
        times = [[ask(worker, what) for worker in workers] for _ in range(repeats)]
        other, own = (statistics.median(column) for column in zip(*times, strict=True))
        report[what] = {"other_s": round(other, 4), "this_s": round(own, 4), "ratio": round(other / own, 3)}
    for worker in workers:
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    print(json.dumps(report, indent=2))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
