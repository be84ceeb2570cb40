"""Time and peak memory of restoring one slide from the command line, with what verification says of the result.

    python -m benchmarks.speed.restore_slide SLIDE [--side N] [--damage OPTIONS] [--mask MASK] [--restore OPTIONS]
        [--repeats 3] [--kill] [--folder FOLDER] [--json FILE]

--side: not SLIDE, but one of N px a side made of its pieces. Without --mask, `artifusion damage` paints artifacts first
(not timed; --damage="--share 0.01", for one). The figures are of the whole `artifusion restore` process, start and
imports included; the median of the repeats is reported. --kill: the same job once more, killed (SIGKILL) after half of
that time and given again; "resumed" tells whether slide and GeoJSON are the same, byte by byte. --folder keeps what is
written, and finds it there another time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from artifusion.mask.reading import read_mask
from artifusion.output.container import default_output
from artifusion.slide.reader import open_slide
from benchmarks.memory import run
from benchmarks.speed.grafts import make_slide

ARTIFUSION = (sys.executable, "-m", "artifusion")


def timed(*command: str | Path) -> tuple[float, float, float]:
    """Seconds that an artifusion command took, by the clock and of CPU, and the peak memory of its processes in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, seconds, peak_mb = run([*ARTIFUSION, *map(str, command)])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak_mb


def resumes(command: tuple[str | Path, ...], out: Path, after_s: float) -> bool:
    """Whether a restoration of a finished job into another output, killed and given again, writes the same bytes."""
    again = out.with_name(f"resumed{out.suffix}")
    command = tuple(again if part == out else part for part in command)
    try:
        subprocess.run([*ARTIFUSION, *map(str, command)], timeout=after_s, check=True)
        raise SystemExit(f"it was done before it could be killed, {after_s:.0f} s after its start")
    except subprocess.TimeoutExpired:                               # by SIGKILL
        assert not again.exists() and again.with_name(f"{again.name}.partial").exists()
    timed(*command)
    return all(out.with_name(out.name + suffix).read_bytes() == again.with_name(again.name + suffix).read_bytes()
               for suffix in ("", ".geojson"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--side", type=int)
    parser.add_argument("--damage", type=shlex.split, default=[])
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--restore", type=shlex.split, default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, slide, mask = given.folder or Path(name), given.slide, given.mask
        if given.side:
            slide = folder / f"{given.side}.tif"
            if not slide.exists():
                make_slide(given.slide, slide, given.side)
        with open_slide(slide) as opened:
            suffix = default_output(slide, opened).suffix
            pixels = opened.size.width * opened.size.height
        if mask is None:
            clean, slide = slide, folder / f"damaged{suffix}"
            mask = slide.with_name(slide.name + ".geojson")
            timed("damage", clean, slide, "--quiet", *given.damage)                 # what was finished is done
        with open_slide(slide) as opened:
            share = read_mask(mask, opened).area_px / pixels
        out = folder / f"restored{suffix}"
        command = ("restore", slide, "--mask", mask, "-o", out, "--overwrite", "--quiet", "--device", "cpu",
                   *given.restore)
        runs = [timed(*command) for _ in range(given.repeats)]
        content = json.loads(out.with_name(out.name + ".json").read_text())
        seconds = statistics.median(seconds for seconds, _, _ in runs)
        resumed = resumes(command, out, seconds / 2) if given.kill else None
    result = {
        "slide": given.slide.name,
        "megapixels": round(pixels / 1e6, 2),
        "masked_share": round(share, 4),
        "regions": len(content["regions"]),
        "pixels": {name: sum(region.get(name, 0) for region in content["regions"])
                   for name in ("area_px", "recovered_px", "faint_px", "grafted_px")},
        "canvases": content["canvases"],
        "evaluations_per_canvas": content["sampler"]["evaluations_per_canvas"],
        "seconds": round(seconds, 1),
        "all_seconds": [round(seconds, 1) for seconds, _, _ in runs],
        "cpu_seconds": [round(cpu, 1) for _, cpu, _ in runs],
        "peak_rss_mb": round(max(peak_mb for _, _, peak_mb in runs)),
        "container": content["written"]["container"],
        "verified": content["verified"],
        "resumed": resumed,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
