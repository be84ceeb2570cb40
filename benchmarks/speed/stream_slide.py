"""Time and peak memory of streaming a slide of several gigapixels into a pyramid (JPEG quality 90, 4:4:4).

    python -m benchmarks.speed.stream_slide TISSUE_FOLDER [--gigapixels 6] [--lossless] [--json FILE]

The source is a slide that exists only as a rule: tiles cut from the images of TISSUE_FOLDER, in turn. So `write_slide`
reads, paints, halves and encodes every pixel as of a file that cannot be copied, without a file of many GB to read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import openslide

from artifusion.geometry import Box, Size
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output.codecs import jpeg
from artifusion.output.patches import Patches
from artifusion.output.writer import write_slide
from artifusion.slide.reader import Slide
from benchmarks.memory import peak_mb
from benchmarks.synthetic import COLOUR, TILE_PX, spots, tissue_tiles


class Mosaic(Slide):
    """Tiles in turn, as large as one likes."""

    vendor = "mosaic"

    def __init__(self, tiles: list[bytes], side: int) -> None:
        self.path, self.icc, self.mpp, self.mpp_origin = Path("mosaic.none"), None, 0.25, "file"
        self.level_sizes, self.level_downsamples, self.properties = (Size(side, side),), (1.0,), {}
        self._tiles = [jpeg.decode(tile, b"", jpeg.YCBCR) for tile in tiles]

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        pixels = np.empty((lv_box.height, lv_box.width, 3), np.uint8)
        for y in range(lv_box.y // TILE_PX * TILE_PX, lv_box.bottom, TILE_PX):
            for x in range(lv_box.x // TILE_PX * TILE_PX, lv_box.right, TILE_PX):
                tile = Box(x, y, TILE_PX, TILE_PX)
                part = tile.intersection(lv_box)
                number = (x // TILE_PX * 7 + y // TILE_PX * 13) % len(self._tiles)
                pixels[part.slices(lv_box)] = self._tiles[number][part.slices(tile)]
        return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tissue", type=Path)
    parser.add_argument("--gigapixels", type=float, default=6)
    parser.add_argument("--lossless", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    slide = Mosaic(tissue_tiles(given.tissue), round((given.gigapixels * 1e9) ** 0.5))
    mask = spots(slide.size, 0.001)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        patches = Patches(work / "patches", slide, mask)
        for canvas in plan_canvases(find_regions(mask, 16), slide.size, mask=mask):
            patches.add(canvas, np.full((canvas.l0_box.height, canvas.l0_box.width, 3), COLOUR, np.uint8))
        begin = time.monotonic()
        report = write_slide(patches, work / "out.tiff", note="flat", work=work / "work",
                             lossless=given.lossless)
        seconds = time.monotonic() - begin
        with openslide.OpenSlide(report.path) as written:
            levels = written.level_dimensions
        megabytes = report.path.stat().st_size / 1e6
    result = {"gigapixels": slide.size.width**2 / 1e9, "lossless": given.lossless, "container": report.container,
              "levels": levels, "output_mb": round(megabytes), "seconds": round(seconds, 1),
              "megapixels_per_second": round(slide.size.width**2 / 1e6 / seconds, 1),
              "peak_rss_mb": round(peak_mb()),
              "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
