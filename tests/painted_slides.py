"""Slides written with flat colours under a made-up mask: what the tests of the writer and of `verify` look at."""

from __future__ import annotations

import numpy as np
import shapely
import tifffile

from artifusion.files import sha256
from artifusion.geometry import Size
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output.patches import Patches
from artifusion.output.provenance import geojson
from artifusion.output.writer import write_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid
from artifusion.slide.reader import open_slide

GREEN = (40, 180, 60)


def spots(size: Size, seed: int = 0, count: int = 6, share: float = 0.03) -> Mask:
    rng = np.random.default_rng(seed)
    radius = (share * size.width * size.height / count / np.pi) ** 0.5
    return Mask.of([shapely.Point(rng.uniform(0, size.width), rng.uniform(0, size.height)).buffer(radius)
                    for _ in range(count)], size)


def restore(source, out, folder, color=GREEN, mask=None, **options):
    """Paint every canvas flat (or, without a color, with itself) and write; returns the mask and the report."""
    with open_slide(source) as slide:
        mask = mask or spots(slide.size)
        patches = Patches(folder / "patches", slide, mask)
        for canvas in plan_canvases(find_regions(mask, 16), slide.size, mask=mask):
            image = patches.read(canvas.l0_box)
            if color is not None:
                image[:] = color
            patches.add(canvas, image)
        report = write_slide(patches, out, note="restored 6 regions", work=folder / "work", **options)
    report.path.replace(out)
    return mask, report


def raw(path):
    """Per page: shape of the grid and the compressed bytes of every segment."""
    file = tiff.read_tiff(path)
    with path.open("rb") as handle:
        return [(Grid.of(page), [tiff.read_segment(handle, page, i) for i in range(len(page.offsets))])
                for page in file.pages]


def facts(source, out, mask, report):
    """The two sidecars, in memory; without the output's hash, so that only contents are compared."""
    declared = geojson(mask, find_regions(mask, 16), "ab")
    return {"source": {"sha256": sha256(source)}, "output": {}, "written": report.to_dict()}, declared


def restored(source, folder, suffix=None, color=(40, 180, 60)):
    folder.mkdir(exist_ok=True)
    out = folder / f"out{suffix or source.suffix}"
    mask, report = restore(source, out, folder, color)
    return out, mask, facts(source, out, mask, report)


def place_segment(path, index, segment, page=0):
    """Let a segment of a page be other bytes, appended to the file; empty ones make it sparse."""
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(segment)
    point_segment(path, index, end if segment else 0, len(segment), page)


def point_segment(path, index, offset, length, page=0):
    """Let a segment of a page lie elsewhere in the file; None leaves its offset or length as it is."""
    with tifffile.TiffFile(path) as file:
        tags, order = file.pages[page].tags, {"<": "little", ">": "big"}[file.byteorder]
        found = [tags[codes[0] if codes[0] in tags else codes[1]] for codes in ((324, 273), (325, 279))]
        places = [(tag.valueoffset, {3: 2, 4: 4, 16: 8}[int(tag.dtype)]) for tag in found]
    with path.open("rb+") as file:
        for (at, size), value in zip(places, (offset, length), strict=True):
            if value is not None:
                file.seek(at + index * size)
                file.write(value.to_bytes(size, order))


def hide_tag(path, code, page=0):
    """Let a tag of a page have a code that no reader knows."""
    with tifffile.TiffFile(path) as file:
        at, order = file.pages[page].tags[code].offset, {"<": "little", ">": "big"}[file.byteorder]
    with path.open("rb+") as file:
        file.seek(at)
        file.write((65000).to_bytes(2, order))
