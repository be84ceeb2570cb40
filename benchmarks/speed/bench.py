"""The benchmark: a tile against the published procedure, the denoiser, whole slides, the command line.

    python -m benchmarks.speed.bench [--tissue FOLDER] [--parts tile denoiser slides commands] [--quick]
                               [--json FILE] [--docs FOLDER]

`make bench` installs what it needs and runs it: some ten minutes on two cores, a few GB of temporary files. Results go
to benchmarks/results/<version>/<machine>.json, and docs/generated/performance.md is drawn from that
file. --parts measures these
alone and keeps what the file holds of the others; without a name it only draws. --quick runs everything once, on the
smallest sizes, to see that it runs, and writes to build/bench: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifusion import __version__
from artifusion.config import RestoreConfig
from artifusion.device import resolve_device
from artifusion.output.codecs import jpeg
from benchmarks.speed import report, throughput, tile, whole_slide
from benchmarks.speed.inputs import answer
from benchmarks.synthetic import tissue_tiles

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    turns: int = 3                                                  # of the tile; medians count
    walk: tuple[int, int, int] = (4, 2, 10)                         # the published one's sample: 22 evaluations
    seconds: float = 4                                              # per figure of the denoiser
    runs: int = 3                                                   # and at least so often
    canvases: tuple[tuple[int, int], ...] = throughput.CANVASES
    crops: int | None = None                                        # per training step; None: as in training
    products: int = 10                                              # of matrices, of which the best is the peak
    slides: tuple[tuple[float, int, int], ...] = ((0.4, 3, 1), (1.6, 3, 2), (6.4, 1, 0))    # Gpx, turns, re-encodes
    disc_px: int = whole_slide.DISC_PX
    steps: int = RestoreConfig().steps
    repeats: int = 5                                                # of a command


QUICK = Extent(turns=1, walk=(1, 1, 1), seconds=0, runs=1, canvases=((256, 1),), crops=1, products=1,
               slides=((0.001, 2, 1),), disc_px=100, steps=1, repeats=1)


def commands(folder: Path, tiles: list[bytes], extent: Extent) -> dict[str, Any]:
    """Seconds of `artifusion --help` and of a dry run on the smallest slide, start and imports included."""
    source, mask, _ = whole_slide.make_masked(folder, tiles, extent.slides[0][0], extent.disc_px)
    found = {"help": answer(extent.repeats, 0, "--help"),
             "dry_run": answer(extent.repeats, 0, "restore", source, "--mask", mask, "--dry-run")}
    source.unlink()
    return {"gigapixels": extent.slides[0][0], **found}


def machine(device: str) -> dict[str, Any]:
    """What ran: the processor and its cores, the GPU that was used, and the software; no names of hosts."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if resolve_device(device).type == "cuda" else None
    cpu = " ".join(re.sub(r"\((R|TM|tm)\)|CPU|@.*", " ", cpu).split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu,
            "amx": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
            "memory_gb": round(memory / 2**30, 1), "load_at_start": round(os.getloadavg()[0], 2),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
            "torch": torch.__version__}


def file_name(facts: dict[str, Any]) -> str:
    """The machine as a file name: its GPU, or its processor with the cores."""
    name = facts["gpu"] or f"{facts['cpu']} {facts['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"


def rounded(value: Any) -> Any:
    """JSON with numbers of five digits, which is more than any of them is worth."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tissue", type=Path, help="folder of images to make slides from; else scikit-image's own")
    parser.add_argument("--parts", nargs="*", choices=report.PARTS, default=report.PARTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path, help="where performance.md and pictures/ lie")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):                   # ends like Ctrl-C: temporary files go
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    extent, facts = QUICK if given.quick else Extent(), machine(given.device)
    results, docs = ("build/bench/results", "build/bench/docs") if given.quick else (
        "benchmarks/results", "docs/generated")
    path = given.json or ROOT / results / __version__ / file_name(facts)
    result: dict[str, Any] = {"version": __version__, "quick": given.quick, "parts": {}}
    if path.exists() and (before := json.loads(path.read_text()))["quick"] == given.quick:
        result = before
    tiles, tissue = tissue_tiles(given.tissue), given.tissue.name if given.tissue else "scikit-image's"
    with tempfile.TemporaryDirectory(prefix="artifusion-bench-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Any]] = {
            "tile": lambda: tile.measure(jpeg.decode(tiles[0], b"", jpeg.YCBCR), given.device, extent.turns,
                                         extent.walk, extent.steps),
            "denoiser": lambda: throughput.measure("he-small", given.device, extent.seconds, extent.canvases,
                                                   extent.runs, extent.crops, extent.products),
            "slides": lambda: [whole_slide.measure(folder, tiles, *slide, extent.disc_px, extent.steps, given.device)
                               for slide in extent.slides],
            "commands": lambda: commands(folder, tiles, extent),
        }
        for part in given.parts:
            begin = time.monotonic()
            measured = parts[part]()
            took = time.monotonic() - begin
            print(f"{part}: {took:.0f} s", file=sys.stderr, flush=True)
            result["parts"][part] = rounded({"took_s": took, "tissue": tissue, "machine": facts, "figures": measured})
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(report.write(result, given.docs or ROOT / docs))


if __name__ == "__main__":
    main()
