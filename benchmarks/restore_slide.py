"""Time and peak memory of restoring one slide from the command line, with what verification says of the result.

    python benchmarks/restore_slide.py SLIDE [--share 0.03] [--mask MASK] [--repeats 3] [--json FILE]

Without --mask, `artifusion damage` paints artifacts on about `--share` of the slide first (not timed). The figures
are of the whole `artifusion restore` process, start and imports included; the median of the repeats is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from artifusion.slide import open_slide, read_mask


def run(*command: str | Path) -> float:
    """Seconds that an artifusion command took."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "artifusion", *map(str, command)], check=True)
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slide, mask = given.slide, given.mask
        if mask is None:
            slide = Path(folder) / f"damaged{given.slide.suffix}"
            run("damage", given.slide, slide, "--share", str(given.share), "--quiet")
            mask = slide.with_name(slide.name + ".mask.png")
        before_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        with open_slide(slide) as opened:
            suffix = ".svs" if slide.suffix == ".svs" else ".tiff"
            megapixels = opened.size.width * opened.size.height / 1e6
            share = read_mask(mask, opened).area_px / megapixels / 1e6
        out = Path(folder) / f"restored{suffix}"
        command = ("restore", slide, "--mask", mask, "-o", out, "--overwrite", "--quiet", "--device", "cpu")
        try:
            seconds = [run(*command) for _ in range(given.repeats)]
        except subprocess.CalledProcessError:
            out = out.with_suffix(".tiff")
            seconds = [run(*command[:5], out, *command[6:]) for _ in range(given.repeats)]
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        content = json.loads(out.with_name(out.name + ".json").read_text())
    result = {
        "slide": given.slide.name,
        "megapixels": round(megapixels, 2),
        "masked_share": round(share, 4),
        "regions": len(content["regions"]),
        "canvases": content["canvases"],
        "evaluations_per_canvas": content["sampler"]["evaluations_per_canvas"],
        "seconds": round(statistics.median(seconds), 1),
        "all_seconds": [round(s, 1) for s in seconds],
        "peak_rss_mb": round(peak_mb),
        "peak_rss_mb_of_preparation": round(before_mb),
        "container": content["written"]["container"],
        "verified": content["verified"],
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
