"""Time and peak memory of copying a large slide with 1 % of its segments touched, against a plain copy.

    python benchmarks/copy_slide.py TISSUE_FOLDER [--megabytes 600 1800] [--json FILE]

Makes Aperio-like slides (JPEG 4:2:0, three levels, 256-px tiles cut from the images of TISSUE_FOLDER) in a temporary
folder, paints regions in one flat colour through the patches' seam, writes with `write_slide` and verifies with
`verify_slide`, in a process of its own. Apart are the seconds that the touched segments take (find, decode, paint,
encode; find, decode, compare); the rest is held against copying the file, fsync and reading it back once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from PIL import Image

from artifusion.provenance import geojson
from artifusion.slide import Mask, Patches, compare, find_regions, open_slide, plan_canvases, verify_slide, writer
from artifusion.slide.reader import sha256
from artifusion.slide.segments import Grid

TILE_PX, QUALITY, COLOUR = 256, 80, (200, 60, 120)
RUNS = 5                   # measured; the median counts
DESCRIPTION = "Aperio Image Library v11.2.1 \r\n{0}x{1} (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 0.5000"


def tissue_tiles(folder: Path, count: int = 400) -> list[bytes]:
    """JPEG tiles cut from real images, all with the same tables."""
    tiles: list[bytes] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png")):
        image = np.asarray(Image.open(path).convert("RGB"))
        for y in range(0, image.shape[0] - TILE_PX + 1, TILE_PX):
            for x in range(0, image.shape[1] - TILE_PX + 1, TILE_PX):
                buffer = io.BytesIO()
                Image.fromarray(image[y : y + TILE_PX, x : x + TILE_PX]).save(buffer, "JPEG", quality=QUALITY)
                tiles.append(buffer.getvalue())
        if len(tiles) >= count:
            return tiles[:count]
    raise SystemExit(f"{folder}: not enough images")


def make_slide(path: Path, tiles: list[bytes], megabytes: int) -> None:
    """A pyramid of about that many MB, its tiles drawn in turn."""
    mean = sum(map(len, tiles)) / len(tiles)
    side = int((megabytes * 1e6 / mean / 1.3125) ** 0.5)           # level-0 tiles across and down
    with tifffile.TiffWriter(path, bigtiff=megabytes > 4000) as file:
        for level in (0, 1, 2):
            across = -(-side // 4**level) if level < 2 else -(-side // 16)
            width = side * TILE_PX // 4**level
            count = (-(-width // TILE_PX)) ** 2
            assert across ** 2 == count
            file.write(islice(cycle(tiles), count), shape=(width, width, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX),
                       photometric="ycbcr", subsampling=(2, 2), compression="jpeg", metadata=None,
                       subfiletype=1 if level else 0,
                       description=None if level else DESCRIPTION.format(width, width))


def spots(size: Any, share: float) -> Mask:
    """Discs over tile corners, four level-0 tiles each, on that share of the level-0 tiles."""
    rng = np.random.default_rng(0)
    across = size.width // TILE_PX - 1
    corners = rng.choice(across**2, max(1, int(share * (across + 1) ** 2 / 4)), replace=False)
    return Mask.of([shapely.Point((c % across + 1) * TILE_PX, (c // across + 1) * TILE_PX).buffer(100)
                    for c in corners.tolist()], size)


def plain_copy(source: Path, out: Path) -> float:
    """Seconds of a copy with fsync and one read-back."""
    begin = time.monotonic()
    shutil.copyfile(source, out)
    with out.open("rb+") as file:
        os.fsync(file.fileno())
    with out.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass
    seconds = time.monotonic() - begin
    out.unlink()
    return seconds


def warm_memory(count: int) -> None:
    """Write into that many bytes and free them: a virtual machine gets its memory from the host page by page, and
    who writes first into a page waits for it, up to ten times as long as the copy takes."""
    np.ones(count, np.uint8)


def peak_rss_mb() -> int:
    """The peak memory of this process. `ru_maxrss` would count what its parent held when it started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


class Stopwatch:
    """Adds up the seconds inside functions and generators."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def function(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begin = time.monotonic()
            try:
                return inner(*args)
            finally:
                self.seconds += time.monotonic() - begin

        return timed

    def generator(self, inner: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any) -> Iterator[Any]:
            items = iter(inner(*args))
            step = self.function(lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return timed


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
        writer.restored_segments = touched.generator(writer.restored_segments)      # type: ignore[assignment]
        compare.touched_reason = touched.function(compare.touched_reason)
        report = writer.write_slide(slide, mask, patches, source.with_name("out.svs"), note="flat",
                                    work=source.parent / "work")
        write_s = time.monotonic() - hashed
        Grid.touched = touched.function(Grid.touched)        # type: ignore[method-assign]
        declared = geojson(mask, regions, digest)
        facts = {"source": {"sha256": digest}, "output": {}, "written": report.to_dict()}
        written = time.monotonic()
        with writer.synced(report.path):
            verified = verify_slide(source, report.path, facts, declared, source_sha256=digest)
        end = time.monotonic()
    assert verified.ok and report.container == "copied", verified.problems
    found = verified.compared
    return {
        "megabytes": round(source.stat().st_size / 1e6), "gigapixels": round(slide.size.width**2 / 1e9, 2),
        "segments": found.segments, "touched": found.touched, "identical": found.identical,
        "source_hash_s": hashed - begin, "write_s": write_s, "verify_s": end - written,
        "touched_s": touched.seconds, "peak_rss_mb": peak_rss_mb(),
        "torch_imported": "torch" in sys.modules, "outside": found.outside.to_dict(),
    }


def measure(tiles: list[bytes], megabytes: int, share: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "slide.svs"
        make_slide(source, tiles, megabytes)
        os.sync()
        plain, runs = [], []
        for _ in range(1 + RUNS):                            # in turn: the machine may be shared
            os.sync()
            warm_memory(3 * source.stat().st_size)
            plain.append(plain_copy(source, Path(folder) / "copy.svs"))
            os.sync()
            warm_memory(3 * source.stat().st_size)
            output = subprocess.run([sys.executable, __file__, "--worker", source, "--share", str(share)], check=True,
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
