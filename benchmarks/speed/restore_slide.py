"""Time and peak memory of restoring one slide from the command line, with what verification says of the result.

    python -m benchmarks.speed.restore_slide SLIDE [--share 0.03] [--mask MASK] [--repeats 3] [--json FILE]

Without --mask, `artifusion damage` paints artifacts on about `--share` of the slide first (not timed). The figures
are of the whole `artifusion restore` process, start and imports included; the median of the repeats is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from artifusion.mask.reading import read_mask
from artifusion.output.container import default_output
from artifusion.slide.reader import open_slide
from benchmarks.memory import run


def timed(*command: str | Path) -> tuple[float, float]:
    """Seconds that an artifusion command took, and the peak memory of its processes in MB."""
    _, seconds, peak_mb = run([sys.executable, "-m", "artifusion", *map(str, command)])
    return seconds, peak_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    scale = ("--mpp", given.mpp) if given.mpp else ()
    with tempfile.TemporaryDirectory() as folder:
        slide, mask = given.slide, given.mask
        with open_slide(slide) as opened:
            suffix = default_output(slide, opened).suffix
            pixels = opened.size.width * opened.size.height
        if mask is None:
            slide = Path(folder) / f"damaged{suffix}"
            timed("damage", given.slide, slide, "--share", given.share, "--quiet", *scale)
            mask = slide.with_name(slide.name + ".mask.png")
        with open_slide(slide) as opened:
            share = read_mask(mask, opened).area_px / pixels
        out = Path(folder) / f"restored{suffix}"
        command = ("restore", slide, "--mask", mask, "-o", out, "--overwrite", "--quiet", "--device", "cpu", *scale)
        runs = [timed(*command) for _ in range(given.repeats)]
        content = json.loads(out.with_name(out.name + ".json").read_text())
    result = {
        "slide": given.slide.name,
        "megapixels": round(pixels / 1e6, 2),
        "masked_share": round(share, 4),
        "regions": len(content["regions"]),
        "canvases": content["canvases"],
        "evaluations_per_canvas": content["sampler"]["evaluations_per_canvas"],
        "seconds": round(statistics.median(seconds for seconds, _ in runs), 1),
        "all_seconds": [round(seconds, 1) for seconds, _ in runs],
        "peak_rss_mb": round(max(peak_mb for _, peak_mb in runs)),
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
