"""Seams and memory of a region larger than any canvas, painted by a tiny untrained denoiser.

    python -m benchmarks.quality.large_region [--sides 700 3000] [--json FILE]

A made-up slide with one square region of each side is restored by `restore_slide` in a process of its own. The
untrained denoiser paints coloured noise: nothing learned can hide a joint. Reported are

memory   peak resident memory of that process, in MB, with what it needs before it paints
seam     mean absolute difference of the two pixels on either side of a border between canvases, over that of all other
         neighbours in the region; beside it the largest such ratio of any single line of pixels inside a canvas
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from artifusion import Restorer
from artifusion.checkpoint import Weights
from artifusion.config import DenoiserConfig, RestoreConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.mask.reading import read_mask
from artifusion.restoration.pipeline import restore_slide
from artifusion.restoration.plan import plan_restoration
from artifusion.slide.reader import open_slide
from benchmarks.memory import peak_mb

MARGIN_PX = 200


def untrained() -> Restorer:
    torch.manual_seed(0)
    denoiser = SwinDenoiser(DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(2, 2),
                                           window_sizes=(8, 8), time_dim=16))
    torch.nn.init.normal_(denoiser.head[3].weight, std=0.05)
    return Restorer(Weights(denoiser, "untrained", "0" * 64, {}), "cpu", RestoreConfig(steps=3))


def paint(folder: Path, side: int) -> dict[str, float]:
    """Restore one region of side x side px; the figures of this process."""
    rng = np.random.default_rng(0)
    size = side + 2 * MARGIN_PX
    image = np.repeat(np.repeat(rng.integers(90, 230, (-(-size // 8), -(-size // 8), 3), np.uint8), 8, 0), 8, 1)
    source, out = folder / "slide.tif", folder / "out.tif"
    tifffile.imwrite(source, image[:size, :size], tile=(256, 256), photometric="rgb", compression="lzw")
    del image
    mask = Image.new("L", (size, size))
    mask.paste(255, (MARGIN_PX, MARGIN_PX, MARGIN_PX + side, MARGIN_PX + side))
    mask.save(folder / "mask.png")
    restorer = untrained()
    before = peak_mb()
    restore_slide(source, folder / "mask.png", out, restorer=restorer, polarity="restore", mpp=0.5, lossless=True)
    peak = peak_mb()
    with open_slide(source, mpp=0.5) as slide:
        selected = read_mask(folder / "mask.png", slide, "restore")
        plan = plan_restoration(slide, selected, restorer.config, restorer.multiple)
    borders = ({canvas.l0_target.x for canvas in plan.canvases} - {MARGIN_PX},
               {canvas.l0_target.y for canvas in plan.canvases} - {MARGIN_PX})
    inside = tifffile.imread(out, key=0).astype(float)[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    joints, lines = [], []
    for axis, found in zip((1, 0), borders, strict=True):
        steps = np.abs(np.diff(inside, axis=axis)).mean((1 - axis, 2))                  # one value per line of pixels
        at = [border - MARGIN_PX - 1 for border in sorted(found)]
        joints += steps[at].tolist()
        lines += np.delete(steps, at).tolist()
    return {"side_px": side, "canvases": len(plan.canvases), "peak_mb": round(peak), "before_mb": round(before),
            "seam": round(float(np.mean(joints) / np.mean(lines)), 4) if joints else float("nan"),
            "largest_seam": round(float(np.max(joints) / np.mean(lines)), 4) if joints else float("nan"),
            "largest_line": round(float(np.max(lines) / np.mean(lines)), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[700, 3000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(paint(given.one, given.sides[0])))
        return
    results = []
    for side in given.sides:
        with tempfile.TemporaryDirectory() as folder:
            out = subprocess.run([sys.executable, "-m", "benchmarks.quality.large_region",
                                  "--sides", str(side), "--one", folder], check=True,
                                 capture_output=True, text=True).stdout
        results.append(json.loads(out))
        print(out, end="", flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
