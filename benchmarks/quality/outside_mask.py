"""Pixels that change outside the mask inside touched segments, per format of the copied containers.

    python -m benchmarks.quality.outside_mask IMAGE [SLIDE ...] [--json FILE]

One slide of every format is written from IMAGE (tissue, 1024 px a side at least); SLIDEs are taken as they are. Discs
over 3 % of the area are painted in one flat colour, the hardest case for the blocks beside them. Every result is
verified. Per slide: level 0 by what the writer reports. For JPEG also the changed pixels outside the MCUs that the mask
touches, within 1 px of one and farther, counted on the decoded pixels of both files; and milliseconds of CPU per
touched segment (median), encoded whole and block by block.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image
from scipy.ndimage import binary_dilation

from artifusion.files import sha256
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.segment_codecs import JPEG_2000, JpegCodec, codec_of
from artifusion.output.patches import Patches
from artifusion.output.provenance import geojson
from artifusion.output.stored import masked_segments
from artifusion.output.verify import verify_slide
from artifusion.output.writer import write_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid
from artifusion.slide.reader import open_slide

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from made_slides import APERIO, RGB, YCBCR, jpeg2000_rgb, jpeg2000_ycbcr422, write_pyramid_tiff

COLOUR, SHARE, SPOTS = (200, 60, 120), 0.03, 6
SIZES = [(1024, 1024), (512, 512), (256, 256)]
APERIO_1024 = {"description": APERIO.format(w=1024, h=1024)}
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG RGB 4:4:4 q80 (Aperio)": APERIO_1024 | RGB,
    "JPEG YCbCr 4:4:4 q80": YCBCR | {"subsampling": (1, 1)},
    "JPEG YCbCr 4:2:2 q80": YCBCR | {"subsampling": (2, 1)},
    "JPEG YCbCr 4:2:0 q80": YCBCR,
    "JPEG 2000 RGB, lossy (Aperio 33005)": APERIO_1024 | {"encode": jpeg2000_rgb, "compression": 33005},
    "JPEG 2000 YCbCr 4:2:2 (Aperio 33003)": APERIO_1024 | {"encode": jpeg2000_ycbcr422, "compression": 33003},
    "LZW, predictor 2": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "adobe_deflate"},
    "uncompressed": {},
}


def painted(source: Path, folder: Path, same_size: bool = False) -> dict[str, Any]:
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
        report = write_slide(patches, folder / f"out{source.suffix}", note="flat",
                             work=folder / "work", same_size=same_size)
    digest = sha256(source)
    facts = {"source": {"sha256": digest}, "output": {}, "written": report.to_dict(), "same_size": same_size}
    verified = verify_slide(source, report.path, facts, geojson(mask, regions, digest))
    assert verified.ok, verified.problems
    level = report.levels[0]
    return {"container": report.container, "segments": level.segments, "touched": level.touched,
            "changed_share": round(level.outside_changed_share or 0, 5), "largest": level.outside_largest_change,
            "encoded_whole": level.encoded_whole,
            "size_over_source": round(report.path.stat().st_size / source.stat().st_size, 4),
            **by_block(source, report.path, mask),
            "untouched_identical_on_all_levels": f"{verified.compared.identical} of "
                                                 f"{verified.compared.segments - verified.compared.touched}"}


def by_block(source: Path, restored: Path, mask: Mask) -> dict[str, Any]:
    """What changed outside the touched MCUs of level 0, and what encoding costs; nothing where it is no JPEG."""
    page, fresh = tiff.read_tiff(source).pages[0], tiff.read_tiff(restored).pages[0]
    codec, grid = codec_of(page), Grid.of(page)
    if not isinstance(codec, JpegCodec):
        return {}
    beside = beyond = 0
    whole, blocks = [], []
    with source.open("rb") as file, restored.open("rb") as other:
        for index in masked_segments(grid, mask):
            old, new = tiff.read_segment(file, page, index), tiff.read_segment(other, fresh, index)
            before, after, touched = codec.decode(old), codec.decode(new), mask.read(grid.box(index))
            width, height = jpeg.parse(old, codec.tables).mcu
            mcus = np.zeros_like(touched)
            for y, x in np.ndindex(-(-touched.shape[0] // height), -(-touched.shape[1] // width)):
                block = np.s_[y * height : (y + 1) * height, x * width : (x + 1) * width]
                mcus[block] = touched[block].any()
            changed, ring = (before != after).any(axis=2), binary_dilation(mcus, np.ones((3, 3))) & ~mcus
            beside += int(np.count_nonzero(changed & ring))
            beyond += int(np.count_nonzero(changed & ~ring & ~mcus))
            for cost, where in ((whole, None), (blocks, touched)):
                start = time.process_time()
                jpeg.encode(after, old, codec.tables, codec.photometric, where)
                cost.append(1000 * (time.process_time() - start))
    return {"beside_blocks_changed_px": beside, "beyond_blocks_changed_px": beyond,
            "encode_whole_cpu_ms": round(statistics.median(whole), 2),
            "encode_blocks_cpu_ms": round(statistics.median(blocks), 2)}


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
            source = maker(folder)
            result[format_name] = painted(source, folder)
            if tiff.read_tiff(source).pages[0].number(tiff.COMPRESSION, 1) in JPEG_2000:
                result[f"{format_name} --same-size"] = painted(source, folder, same_size=True)
    for format_name, figures in result.items():
        print(format_name, figures)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
