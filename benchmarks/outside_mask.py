"""Pixels that change outside the mask inside touched segments, per format of the copied containers.

    python benchmarks/outside_mask.py IMAGE [SLIDE ...] [--json FILE]

One slide of every format is written from IMAGE (tissue, 1024 px a side at least); SLIDEs are taken as they are. Discs
over 3 % of the area are painted in one flat colour, the hardest case for the blocks beside them. Every result is
verified. Per slide: level 0 by what the writer reports.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from artifusion.provenance import geojson
from artifusion.slide import Mask, Patches, find_regions, open_slide, plan_canvases, verify_slide, write_slide
from artifusion.slide.reader import sha256

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from made_slides import APERIO, RGB, YCBCR, jpeg2000_rgb, jpeg2000_ycbcr422, write_pyramid_tiff

COLOUR, SHARE, SPOTS = (200, 60, 120), 0.03, 6
SIZES = [(1024, 1024), (512, 512), (256, 256)]
APERIO_1024 = {"description": APERIO.format(w=1024, h=1024)}
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG RGB 4:4:4 q80 (Aperio)": APERIO_1024 | RGB,
    "JPEG YCbCr 4:4:4 q80": YCBCR | {"subsampling": (1, 1)},
    "JPEG YCbCr 4:2:0 q80": YCBCR,
    "JPEG 2000 RGB, lossy (Aperio 33005)": APERIO_1024 | {"encode": jpeg2000_rgb, "compression": 33005},
    "JPEG 2000 YCbCr 4:2:2 (Aperio 33003)": APERIO_1024 | {"encode": jpeg2000_ycbcr422, "compression": 33003},
    "LZW, predictor 2": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "adobe_deflate"},
    "uncompressed": {},
}


def painted(source: Path, folder: Path) -> dict[str, Any]:
    with open_slide(source) as slide:
        rng = np.random.default_rng(0)
        width, height = slide.size
        radius = (SHARE * width * height / SPOTS / np.pi) ** 0.5
        discs = [shapely.Point(rng.uniform(0, width), rng.uniform(0, height)).buffer(radius) for _ in range(SPOTS)]
        mask = Mask.of(discs, slide.size)
        regions = find_regions(mask, 16)
        patches = Patches(folder / "patches", slide, mask)
        for canvas in plan_canvases(regions, slide.size, mask=mask):
            patches.add(canvas, np.full((canvas.l0_box.height, canvas.l0_box.width, 3), COLOUR, np.uint8))
        report = write_slide(slide, mask, patches, folder / f"out{source.suffix}", note="flat", work=folder / "work")
    digest = sha256(source)
    facts = {"source": {"sha256": digest}, "output": {}, "written": report.to_dict()}
    verified = verify_slide(source, report.path, facts, geojson(mask, regions, digest))
    assert verified.ok, verified.problems
    level = report.levels[0]
    return {"container": report.container, "segments": level.segments, "touched": level.touched,
            "changed_share": round(level.outside_changed_share or 0, 5), "largest": level.outside_largest_change,
            "untouched_identical_on_all_levels": f"{verified.compared.identical} of "
                                                 f"{verified.compared.segments - verified.compared.touched}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    image = np.asarray(Image.open(given.image).convert("RGB"))[:1024, :1024]
    makers: dict[str, Callable[[Path], Path]] = {slide.name: lambda _, slide=slide: slide for slide in given.slides}
    result = {}
    with tempfile.TemporaryDirectory() as name:
        for format_name, codec in FORMATS.items():
            suffix = ".svs" if "description" in codec else ".tif"
            makers[format_name] = lambda folder, codec=codec, suffix=suffix: write_pyramid_tiff(
                folder / f"slide{suffix}", SIZES, tile=256, image=image, **codec)
        for number, (format_name, maker) in enumerate(makers.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            result[format_name] = painted(maker(folder), folder)
            print(format_name, result[format_name])
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
