"""Whole slides, 1 % masked: what restoring takes besides denoising, stage by stage, and its memory.

`measure` makes the slides and asks for every figure; run as a program, this file restores one slide in a process of
its own, through `restore_slide` itself, and prints the seconds of its parts. The seam's painter really denoises the
first few batches, whose seconds stand for all by their pixels; the rest of the mask gets one flat colour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from artifusion.config import RestoreConfig
from artifusion.geometry import Size
from artifusion.mask.writer import write_mask
from artifusion.output import compare, writer
from artifusion.output.codecs.segment_codecs import JpegCodec
from artifusion.output.patches import Patches
from artifusion.pretrained import DEFAULT_WEIGHTS, architecture_and_walk
from artifusion.restoration import pipeline
from artifusion.slide.reader import open_slide
from benchmarks.memory import peak_mb, run, warm_memory
from benchmarks.speed.copy_slide import plain_copy
from benchmarks.stopwatch import Stopwatch
from benchmarks.synthetic import COLOUR, QUALITY, TILE_PX, discs, make_slide

SHARE, DISC_PX = 0.01, 880          # of the slide under discs; across: a disc's canvas has 1,024 px a side


class SampledPainter:
    """A Restorer that denoises the first `count` batches; what follows is painted at once, in one colour."""

    def __init__(self, count: int, steps: int, device: str) -> None:
        self.config = RestoreConfig(steps=steps, graft="off")
        self.multiple = architecture_and_walk(DEFAULT_WEIGHTS)[0].multiple
        flat = {"name": "flat colour", "sha256": "0" * 64}
        self.weights, self.device = SimpleNamespace(**flat, named=lambda: flat), SimpleNamespace(type="cpu")
        self.machine, self.threads = {"torch": "none", "processor": "none", "dtype": "uint8"}, {"threads": 1}
        self.left, self.px, self.sampled_px, self.sampled_s = count, 0, 0, 0.0
        if count:
            from artifusion import Restorer

            self.restorer = Restorer.from_pretrained(device=device, config=self.config)
            self.weights, self.device = self.restorer.weights, self.restorer.device
            self.machine, self.threads = self.restorer.machine, self.restorer.threads
        self.devices = (self.device,)

    def restore_batch(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], **given: Any
                      ) -> list[np.ndarray]:
        px = sum(mask.size for mask in masks)
        self.px += px
        if not self.left:
            return [np.where(mask[..., None], np.array(COLOUR, np.uint8), image)
                    for image, mask in zip(images, masks, strict=True)]
        self.left -= 1
        begin = time.monotonic()
        painted = self.restorer.restore_batch(images, masks, **given)
        self.sampled_s += time.monotonic() - begin
        self.sampled_px += px
        return painted


def restore(source: Path, mask: Path, painter: SampledPainter) -> dict[str, Any]:
    """Restore a slide in this process: the seconds of its parts, each measured where `restore_slide` spends them."""
    names = ("open", "hash", "plan", "seam", "paint", "keep", "touched", "write_slide", "verify",
             "compare_touched", "codec")
    watches = {name: Stopwatch() for name in names}
    for owner, name, watch in (
        (pipeline, "open_slide", "open"), (pipeline, "sha256", "hash"), (pipeline, "read_to_restore", "plan"),
        (pipeline, "plan_restoration", "plan"), (painter, "restore_batch", "seam"), (Patches, "add", "keep"),
        (pipeline, "write_slide", "write_slide"), (pipeline, "verify_slide", "verify"),
        (compare, "touched_reason", "compare_touched"),
        (JpegCodec, "encode", "codec"), (JpegCodec, "decode", "codec"), (JpegCodec, "reach", "codec"),
    ):
        setattr(owner, name, watches[watch].function(getattr(owner, name)))
    pipeline.paint = watches["paint"].generator(pipeline.paint)
    writer.restored_segments = watches["touched"].generator(writer.restored_segments)
    begin = time.monotonic()
    content = pipeline.restore_slide(source, mask, source.with_name("out.svs"), restorer=painter)
    whole = time.monotonic() - begin
    assert content and content["written"]["container"] == "copied" and content["verified"]["ok"], content
    seconds = {name: watch.seconds for name, watch in watches.items()}
    found = content["verified"]
    masked = sum(region["area_px"] for region in content["regions"])
    work = whole - seconds["seam"]
    stages = {
        "read": seconds["open"] + seconds["hash"] + seconds["paint"] - seconds["seam"],
        "plan": seconds["plan"], "encode": seconds["touched"],
        "write": seconds["write_slide"] - seconds["touched"], "verify": seconds["verify"],
    }
    return {"work_s": work, "stages_s": stages | {"rest": work - sum(stages.values())},
            "parts_s": {name: seconds[name] for name in ("hash", "keep", "compare_touched", "codec")},
            "canvases": content["canvases"], "canvas_px": painter.px, "sampled_px": painter.sampled_px,
            "sampled_s": painter.sampled_s, "masked_px": masked, "segments": found["segments"],
            "touched": found["touched"], "identical": found["identical"], "own_peak_mb": peak_mb()}


def reencode(source: Path) -> dict[str, float]:
    """Seconds in which pyvips turns the slide into a like pyramid (JPEG, same quality and tiles), fsync included."""
    import pyvips

    out = source.with_name("reencoded.tiff")
    begin = time.monotonic()
    image = pyvips.Image.new_from_file(str(source), access="sequential")
    image.tiffsave(str(out), tile=True, tile_width=TILE_PX, tile_height=TILE_PX, pyramid=True, compression="jpeg",
                   Q=QUALITY, bigtiff=True)
    with out.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - begin
    out.unlink()
    return {"seconds": seconds}


def make_masked(folder: Path, tiles: list[bytes], gigapixels: float, diameter_px: int) -> tuple[Path, Path, Size]:
    """A made-up slide of about that size and a mask of discs on SHARE of it: their paths, and the slide's size."""
    source, mask = folder / "slide.svs", folder / "mask.geojson"
    make_slide(source, tiles, round((gigapixels * 1e9) ** 0.5 / TILE_PX))
    with open_slide(source) as slide:
        write_mask(discs(slide.size, SHARE, diameter_px), mask, slide)
        return source, mask, slide.size


def measure(folder: Path, tiles: list[bytes], gigapixels: float, turns: int, reencodes: int, diameter_px: int,
            steps: int, device: str) -> dict[str, Any]:
    """A made-up slide of about that size: plain copies, restorations and re-encodes in turn, medians of the turns.

    The first restoration denoises one batch and gives the memory; in the others torch is not even imported. The
    source lies in the page cache.
    """
    source, mask, size = make_masked(folder, tiles, gigapixels, diameter_px)

    def program(*arguments: object) -> tuple[dict[str, Any], float]:
        warm_memory(3 * source.stat().st_size)
        os.sync()
        printed, _, peak = run([sys.executable, "-m", "benchmarks.speed.whole_slide", source, *map(str, arguments)])
        return json.loads(printed), peak

    copies, runs, peaks, again, again_peaks = [], [], [], [], []
    for turn in range(turns):
        warm_memory(3 * source.stat().st_size)
        os.sync()
        copies.append(plain_copy(source, folder / "copy.svs", read_back=False))
        found, peak = program("--mask", mask, "--batches", int(not turn), "--steps", steps, "--device", device)
        runs.append(found)
        peaks.append(max(peak, found.pop("own_peak_mb")))
        for path in folder.glob("out.svs*"):
            path.unlink()
        if turn < reencodes:
            found, peak = program("--reencode")
            again.append(found["seconds"])
            again_peaks.append(peak)
    first = runs[0]
    allowed = [3 * copy + found["parts_s"]["codec"] for copy, found in zip(copies, runs, strict=True)]
    result = {
        "gigapixels": size.width * size.height / 1e9, "megabytes": source.stat().st_size / 1e6,
        "masked_share": first["masked_px"] / (size.width * size.height), "canvases": first["canvases"],
        "segments": first["segments"], "touched": first["touched"], "identical": first["identical"], "turns": turns,
        "stages_s": {name: statistics.median(found["stages_s"][name] for found in runs) for name in first["stages_s"]},
        "parts_s": {name: statistics.median(found["parts_s"][name] for found in runs) for name in first["parts_s"]},
        "denoise_s": first["sampled_s"] * first["canvas_px"] / first["sampled_px"],
        "sampled_canvases": first["sampled_px"] / first["canvas_px"] * first["canvases"],
        "work_s": statistics.median(found["work_s"] for found in runs), "copy_s": statistics.median(copies),
        "work_over_allowed": statistics.median(
            found["work_s"] / most for found, most in zip(runs, allowed, strict=True)),
        "besides_codec_over_copy": statistics.median(
            (found["work_s"] - found["parts_s"]["codec"]) / copy for found, copy in zip(runs, copies, strict=True)),
        "all_work_s": [found["work_s"] for found in runs], "all_copy_s": copies,
        "peak_mb": max(peaks), "peak_without_denoiser_mb": max(peaks[1:], default=None),
    }
    if again:
        result |= {"reencode_s": statistics.median(again), "all_reencode_s": again,
                   "reencode_peak_mb": max(again_peaks),
                   "reencode_over_work": statistics.median(
                       seconds / found["work_s"] for seconds, found in zip(again, runs, strict=False))}
    source.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--batches", type=int, default=1, help="denoised; the others are painted flat")
    parser.add_argument("--steps", type=int, default=RestoreConfig().steps)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--reencode", action="store_true")
    given = parser.parse_args()
    if given.reencode:
        print(json.dumps(reencode(given.slide)))
    else:
        print(json.dumps(restore(given.slide, given.mask, SampledPainter(given.batches, given.steps, given.device))))


if __name__ == "__main__":
    main()
