"""Time and peak memory of copying a large slide with 1 % of its segments touched, against a plain copy.

    python -m benchmarks.speed.copy_slide TISSUE_FOLDER [--megabytes 600 1800] [--json FILE]

Makes Aperio-like slides (JPEG 4:2:0, three levels, 256-px tiles cut from the images of TISSUE_FOLDER) in a temporary
folder, paints regions in one flat colour through the patches' seam, writes with `write_slide` and verifies with
`verify_slide`, in a process of its own. Apart are the seconds that the touched segments take (find, decode, paint,
encode; find, decode, compare); the rest is held against copying the file, fsync and reading it back once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from artifusion.files import sha256
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output import compare, writer
from artifusion.output.patches import Patches
from artifusion.output.provenance import geojson
from artifusion.output.verify import verify_slide
from artifusion.slide.levels import Grid
from artifusion.slide.reader import open_slide
from benchmarks.memory import peak_mb, warm_memory
from benchmarks.stopwatch import Stopwatch
from benchmarks.synthetic import COLOUR, make_slide, spots, tiles_across, tissue_tiles

RUNS = 5                   # measured; the median counts


def plain_copy(source: Path, out: Path, read_back: bool = True) -> float:
    """Seconds of a copy with fsync, and of reading it back once."""
    begin = time.monotonic()
    shutil.copyfile(source, out)
    with out.open("rb+") as file:
        os.fsync(file.fileno())
    if read_back:
        with out.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass
    seconds = time.monotonic() - begin
    out.unlink()
    return seconds


def restore_flat(source: Path, share: float) -> dict[str, Any]:
    """Write and verify in this process; says how long each took and the peak memory."""
    touched = Stopwatch()
    with open_slide(source) as slide:
        mask = spots(slide.size, share)
        patches = Patches(source.parent / "patches", slide, mask)
        regions = find_regions(mask, 16)
        for canvas in plan_canvases(regions, slide.size, mask=mask):
            patches.add(canvas, np.full((canvas.l0_box.height, canvas.l0_box.width, 3), COLOUR, np.uint8))
        begin = time.monotonic()
        digest = sha256(source)
        hashed = time.monotonic()
        writer.restored_segments = touched.generator(writer.restored_segments)
        compare.touched_reason = touched.function(compare.touched_reason)
        report = writer.write_slide(patches, source.with_name("out.svs"), note="flat",
                                    work=source.parent / "work")
        write_s = time.monotonic() - hashed
        Grid.touched = touched.function(Grid.touched)        # type: ignore[method-assign]
        declared = geojson(mask, regions, digest)
        facts = {"source": {"sha256": digest}, "output": {}, "written": report.to_dict()}
        written = time.monotonic()
        with writer.sync_in_background(report.path):
            verified = verify_slide(source, report.path, facts, declared, source_sha256=digest)
        end = time.monotonic()
    assert verified.ok and report.container == "copied", verified.problems
    found = verified.compared
    return {
        "megabytes": round(source.stat().st_size / 1e6), "gigapixels": round(slide.size.width**2 / 1e9, 2),
        "segments": found.segments, "touched": found.touched, "identical": found.identical,
        "source_hash_s": hashed - begin, "write_s": write_s, "verify_s": end - written,
        "touched_s": touched.seconds, "peak_rss_mb": round(peak_mb()),
        "torch_imported": "torch" in sys.modules, "outside": found.outside.to_dict(),
    }


def measure(tiles: list[bytes], megabytes: int, share: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "slide.svs"
        make_slide(source, tiles, tiles_across(tiles, megabytes))
        os.sync()
        plain, runs = [], []
        for _ in range(1 + RUNS):                            # in turn: the machine may be shared
            os.sync()
            warm_memory(3 * source.stat().st_size)
            plain.append(plain_copy(source, Path(folder) / "copy.svs"))
            os.sync()
            warm_memory(3 * source.stat().st_size)
            output = subprocess.run([sys.executable, "-m", "benchmarks.speed.copy_slide",
                                     "--worker", source, "--share", str(share)], check=True,
                                    capture_output=True, text=True).stdout
            runs.append(json.loads(output))
            shutil.rmtree(Path(folder) / "work")
    plain, runs = plain[1:], runs[1:]                        # the first turn warms up
    rests = [run["write_s"] + run["verify_s"] - run["touched_s"] for run in runs]
    at = sorted(range(RUNS), key=lambda n: rests[n] / plain[n])[RUNS // 2]
    result = runs[at] | {
        "plain_copy_fsync_read_s": plain[at], "rest_s": rests[at], "rest_over_plain": rests[at] / plain[at],
        "with_source_hash_over_plain": (rests[at] + runs[at]["source_hash_s"]) / plain[at],
        "all_rest_over_plain": [round(rest / copy, 2) for rest, copy in zip(rests, plain, strict=True)],
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs)}
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tissue", type=Path, nargs="?")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[600, 1800])
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(restore_flat(given.worker, given.share)))
        return
    if given.tissue is None:
        parser.error("name a folder of tissue images")
    tiles = tissue_tiles(given.tissue)
    result = {"share": given.share, "slides": [measure(tiles, megabytes, given.share) for megabytes in given.megabytes],
              "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
