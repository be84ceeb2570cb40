"""Checks that grafted pixels are what the sidecar says: a donor's, of the source itself, turned and moved in tone."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from shapely import Polygon

from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.mask.geojson import features_of, geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.output.allowed_change import CLIPPED, REENCODED_BLOCK_LIMIT, SPARE, moved_reason
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.block_arrays import per_block, zeroed
from artifusion.output.codecs.segment_codecs import JpegCodec, codec_of
from artifusion.output.container import level_pages
from artifusion.output.provenance import GRAFT, Grafted
from artifusion.output.segments import Grid, PixelChange
from artifusion.slide import tiff
from artifusion.slide.placed import placed, unoriented
from artifusion.slide.reader import Slide

BLOCK_PX = 8                             # side of a JPEG block
AVERAGE = 3**-0.5                        # of the largest error, root mean square, where errors are spread evenly
LISTED = 5
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error)


def graft_problems(before: Slide, after: Slide, mask: Mask, sidecar: Mapping[str, Any], geojson: Mapping[str, Any],
                   found: PixelChange) -> list[str]:
    """Return where pixels that stayed a donor's own are not those of the source; counts them into `found`.

    Every graft's pixels are computed again from the source and from what is declared, and compared with level 0 of
    the restored slide: exactly where its format is exact, else within what encoding explains. Sidecars from before
    tones were declared are not checked. Memory: one graft, some 60 bytes for each pixel of its box.

    Raises:
        OutputError: artifusion did not write this sidecar.
    """
    outlines = grafted_outlines(geojson, after, before)
    expect, error = encoding_of(after, bool(sidecar["written"]["lossless"]))
    problems = []
    try:
        for region in sidecar.get("regions", ()):
            grafts = [held for held in region.get("grafts", ()) if "tone" in held]
            kept_px = 0
            for number, held in enumerate(grafts, 1):
                graft = Grafted.from_dict(held, outlines.get((region["id"], number), ()))
                where = Mask.of(graft.kept, before.size).read(graft.l0_box)
                kept_px += int(np.count_nonzero(where))
                if unoriented(mask.read(graft.donor), graft.orientation)[where].any():
                    problems.append(f"region {region['id']}, graft {number}: its donor was restored itself")
                wanted = expect(placed(before, graft.donor, graft.orientation, graft.tone))
                shown = after.read(graft.l0_box)
                found.add(wanted, shown, where)
                shift = zeroed(shown.astype(np.int16) - wanted, ~where)
                if reason := donor_reason(shift, where, graft.l0_box, error(graft.l0_box)):
                    problems.append(f"region {region['id']}, graft {number}: {reason}")
            if grafts and kept_px != region["grafted_px"]:
                problems.append(f"region {region['id']}: the GeoJSON declares {kept_px} grafted px but the sidecar "
                                f"{region['grafted_px']}; one was changed")
    except MALFORMED:
        raise OutputError(f"{after.path}: its sidecar tells of a graft what none can be; restore the slide "
                          "again") from None
    return problems[:LISTED] + ([f"{len(problems) - LISTED} more grafts"] if problems[LISTED:] else [])


def grafted_outlines(geojson: Mapping[str, Any], after: Slide, before: Slide) -> dict[tuple[int, int], list[Polygon]]:
    """The level-0 polygons of the pixels that stayed a donor's own, by region and number of the graft."""
    found: dict[tuple[int, int], list[Polygon]] = {}
    for feature in features_of(geojson):
        metadata = feature.get("properties", {}).get("metadata", {})
        if GRAFT in metadata:
            key = int(metadata["region"]), int(metadata[GRAFT])
            found.setdefault(key, []).extend(geojson_polygons(feature, after.path, before.bounds_offset)[0])
    return found


def encoding_of(after: Slide, exact: bool) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[Box], float | None]]:
    """How level 0 of a restored slide was written: what it shows of pixels, and by how much encoding moves them.

    The first turns the pixels that were to be written into those that an exact codec shows. The second gives for a
    level-0 box by how many grey levels a JPEG block's brightness can move, root mean square: 0 where the format is
    exact, None where it is lossy but no JPEG.
    """
    if after.kind == "image":
        if exact:
            return np.asarray, lambda l0_box: 0.0
        with Image.open(after.path) as image:
            tables = list(getattr(image, "quantization", {}).values())
        return np.asarray, lambda l0_box: quantisation_error(tables) if tables else None
    file = tiff.read_tiff(after.path)
    page = file.pages[(level_pages(file, after) or [0])[0]]
    codec = codec_of(page)
    if exact or not isinstance(codec, JpegCodec):
        return lambda rgb: codec.rgb(codec.samples(rgb)), lambda l0_box: 0.0 if exact else None

    def error(l0_box: Box) -> float:
        with after.path.open("rb") as handle:
            segments = (tiff.read_segment(handle, page, index) for index in Grid.of(page).over(l0_box))
            return max((quantisation_error(jpeg.parse(segment, codec.tables).quantisation)
                        for segment in segments if segment), default=0.0)

    return np.asarray, error


def quantisation_error(tables: Any) -> float:
    """By how much quantising moves a block, root mean square: by half a step in each coefficient  (Parseval)."""
    return max(float(np.sqrt(np.square(np.asarray(table, np.float64)).sum())) for table in tables) / 2 / BLOCK_PX


def donor_reason(shift: np.ndarray, where: np.ndarray, l0_box: Box, error: float | None) -> str:
    """Return why the pixels of a graft are not its donor's; empty where they are, as far as the encoding tells.

    A block's error is at most `error`, and over many blocks about AVERAGE of that, since errors are spread evenly.

    Args:
        shift: by how much the graft's pixels differ from their donor's, int16 (H, W, 3), 0 elsewhere.
        where: which pixels are the graft's, bool (H, W).
        error: as from `encoding_of`.
    """
    if error == 0 or not where.any():
        return moved_reason(shift, l0_box, "a pixel that is declared as its donor's own")
    light = np.square(shift @ np.array([0.299, 0.587, 0.114], np.float32))                       # (H, W)
    moved = float(np.sqrt(light.sum() / np.count_nonzero(where)))
    limit = REENCODED_BLOCK_LIMIT if error is None else AVERAGE * error + SPARE
    if moved > limit:
        return f"differs from its donor by {moved:.1f} grey levels; encoding explains {limit:.1f}"
    if error is not None:
        left, top = l0_box.x % BLOCK_PX, l0_box.y % BLOCK_PX
        blocks = np.sqrt(per_block(np.add, np.pad(light, ((top, 0), (left, 0))), BLOCK_PX, BLOCK_PX)) / BLOCK_PX
        row, column = np.unravel_index(int(blocks.argmax()), blocks.shape)
        if blocks[row, column] > error + CLIPPED:
            corner = l0_box.x - left + int(column) * BLOCK_PX, l0_box.y - top + int(row) * BLOCK_PX
            return (f"a block differs from its donor by {blocks[row, column]:.1f} grey levels at {corner}; encoding "
                    f"explains {error + CLIPPED:.1f}")
    return ""
