"""Grafts against painting everything, on a large slide: restored area per second, stage by stage, and memory.

    python -m benchmarks.speed.grafts SLIDE [--folder FOLDER] [--regions 200] [--side 40960] [--json FILE]

A slide of --side px is made of pieces of SLIDE (CMU-1-Small-Region, say), turned and mirrored at random, as tiled
JPEG with two reduced levels. On its tissue lie ellipses and bent bands, 50 to 400 um long; they are restored with
`--graft auto` and `--graft off`, each in a process of its own. --folder keeps the slide for another run. CPU seconds
are those of all threads: they tell more where other programs run beside.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import shapely
import shapely.affinity
import tifffile
from PIL import Image

from artifusion.config import RestoreConfig
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.writer import write_mask
from artifusion.restoration import pipeline
from artifusion.slide.placed import oriented
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import tissue_mask
from benchmarks.memory import peak_mb, run
from benchmarks.quality.donors import band, ellipse
from benchmarks.stopwatch import Stopwatch

PIECE_PX, TILE_PX, QUALITY = 2048, 256, 80
SHORTEST_UM, LONGEST_UM = 50, 400
APART_UM = 40                           # between regions
ON_TISSUE = 0.9                         # of a region's box
REDUCED = (1, 4, 16)                    # levels
STAGES = ("graft_plan", "paint_plan", "write_slide", "verify_slide")


def make_slide(source: Path, path: Path, side: int) -> None:
    """A pyramid of side x side px, of pieces of a slide in random orientations."""
    with open_slide(source) as slide:
        mpp = slide.mpp or 0.5
        corners = [(x, y) for y in {0, slide.size.height - PIECE_PX} for x in {0, slide.size.width - PIECE_PX}]
        pieces = [oriented(slide.read(Box(*corner, PIECE_PX, PIECE_PX)), n) for corner in corners for n in range(8)]
    chosen = np.random.default_rng(0).integers(len(pieces), size=(side // PIECE_PX,) * 2)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, step in enumerate(REDUCED):
            small = [np.asarray(Image.fromarray(piece).reduce(step)) for piece in pieces]
            file.write(tiles(small, chosen), shape=(side // step, side // step, 3), dtype=np.uint8,
                       tile=(TILE_PX, TILE_PX), photometric="ycbcr", subsampling=(1, 1), compression="jpeg",
                       metadata=None, subfiletype=1 if level else 0, resolution=(1e4 / mpp / step,) * 2,
                       resolutionunit="CENTIMETER")


def tiles(pieces: list[np.ndarray], chosen: np.ndarray) -> Iterator[bytes]:
    """The JPEG tiles of a level, row by row, of pieces (H, W, 3) of one size."""
    side, known = len(pieces[0]), dict[tuple[int, ...], bytes]()
    count = -(-side * len(chosen) // TILE_PX)
    for row, column in np.ndindex(count, count):
        y, x = row * TILE_PX, column * TILE_PX
        parts = chosen[y // side : -(-(y + TILE_PX) // side), x // side : -(-(x + TILE_PX) // side)]
        key = (*parts.ravel().tolist(), y % side, x % side)
        if key not in known:
            whole = np.concatenate([np.concatenate([pieces[n] for n in line], axis=1) for line in parts])
            pixels = whole[y % side : y % side + TILE_PX, x % side : x % side + TILE_PX]
            pixels = np.pad(pixels, ((0, TILE_PX - pixels.shape[0]), (0, TILE_PX - pixels.shape[1]), (0, 0)), "edge")
            known[key] = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=QUALITY, colorspace="RGB",
                                                  outcolorspace="YCBCR", subsampling="444")
        yield known[key]


def regions(slide: Slide, count: int) -> Mask:
    """So many holes on a slide's tissue, apart from each other."""
    mpp, rng = slide.mpp or 0.5, np.random.default_rng(0)
    step = REDUCED[-1]
    tissue = tissue_mask(slide.read_level(len(REDUCED) - 1, Box(0, 0, *slide.level_sizes[-1])))
    found: list[shapely.Polygon] = []
    while len(found) < count:
        length = rng.uniform(SHORTEST_UM, LONGEST_UM) / mpp
        shape = ellipse(length, rng) if rng.random() < 0.6 else band(length, mpp, rng)
        place = rng.uniform(length, np.array(slide.size) - length)
        shape = shapely.affinity.translate(shape, *place)
        left, top, right, bottom = (int(at) // step for at in shape.bounds)
        if tissue[top : bottom + 1, left : right + 1].mean() >= ON_TISSUE and all(
                other.distance(shape) > APART_UM / mpp for other in found):
            found.append(shape)
    return Mask.of(found, slide.size)


def restore(source: Path, mask: Path, graft: Any) -> dict[str, Any]:
    """Restore a slide in this process: the seconds of its stages, and what came of it."""
    from artifusion import Restorer

    watches = {name: Stopwatch() for name in STAGES}
    for name, watch in watches.items():
        setattr(pipeline, name, watch.function(getattr(pipeline, name)))
    out = source.with_name(f"{graft}.tif")
    begin, cpu = time.monotonic(), time.process_time()
    content = pipeline.restore_slide(source, mask, out, overwrite=True,
                                     restorer=Restorer.from_pretrained(config=RestoreConfig(graft=graft)))
    seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    assert content and content["verified"]["ok"], content
    area = sum(region["area_px"] for region in content["regions"]) * content["mpp"] ** 2 / 1e6
    verdicts = [region.get("verdict") for region in content["regions"]]
    return {"regions": len(verdicts), "area_mm2": area, "canvases": content["canvases"], "seconds": seconds,
            "cpu_seconds": cpu, "mm2_per_second": area / seconds, "mm2_per_cpu_second": area / cpu,
            "stages_s": {name: watch.seconds for name, watch in watches.items()}, "own_peak_mb": peak_mb(),
            "verdicts": {name: verdicts.count(name) for name in ("good", "doubtful", "unrestorable")},
            "grafted_px": content["verified"]["grafted"]["px"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--regions", type=int, default=200)
    parser.add_argument("--side", type=int, default=40960)
    parser.add_argument("--graft", choices=["auto", "off"], nargs="+", default=["auto", "off"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--restore", type=Path, metavar="MASK", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.restore:
        print(json.dumps(restore(given.slide, given.restore, given.graft[0])))
        return
    with tempfile.TemporaryDirectory(prefix="artifusion-grafts-") as name:
        folder = given.folder or Path(name)
        source, mask = folder / f"{given.side}.tif", folder / f"{given.regions}.geojson"
        if not source.exists():
            make_slide(given.slide, source, given.side)
        with open_slide(source) as slide:
            write_mask(regions(slide, given.regions), mask, slide)
        result: dict[str, Any] = {"side_px": given.side, "slide_mb": source.stat().st_size / 1e6}
        for graft in given.graft:
            printed, _, peak = run([sys.executable, "-m", "benchmarks.speed.grafts", source, "--restore", mask,
                                    "--graft", graft])
            result[graft] = json.loads(printed)
            result[graft]["peak_mb"] = max(peak, result[graft].pop("own_peak_mb"))
        if len(given.graft) == 2:
            result["times_as_fast"] = {name: result["auto"][name] / result["off"][name]
                                       for name in ("mm2_per_second", "mm2_per_cpu_second")}
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
