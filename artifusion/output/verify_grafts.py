"""Checks that grafted pixels are what the sidecar says: a donor's, of the source itself, turned and moved in tone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from shapely import Polygon

from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.output.allowed_change import jpeg_reason, moved_reason, reencoded_reason
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.block_arrays import per_block, per_pixel, with_neighbours, zeroed
from artifusion.output.codecs.segment_codecs import Codec, JpegCodec, codec_of
from artifusion.output.provenance import GRAFT, Grafted
from artifusion.output.segments import PixelChange
from artifusion.slide import tiff
from artifusion.slide.levels import Grid, level_pages
from artifusion.slide.placed import placed, unoriented
from artifusion.slide.reader import Slide

MCU_PX = 16                              # the largest side of the blocks that JPEG encodes together
LISTED = 5
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error)


@dataclass(frozen=True)
class Around:
    """What other passes did to the pixels of one: what those before it invented, what it invented itself, and what
    those after it painted over.

    lossless: every pass is; passes: how many lie between the two slides; by_block: the others kept every block beside
    what they invented.
    """

    earlier: Mask
    own: Mask
    later: Mask
    lossless: bool
    passes: int
    by_block: bool

    def reached(self, graft: Grafted, box: Box) -> np.ndarray:
        """Which pixels of a box around a graft another pass may have encoded again, or the donor's: bool (H, W)."""
        reached = touched_blocks(self.later, box)
        reached[graft.l0_box.slices(box)] |= unoriented(touched_blocks(self.earlier, graft.donor), graft.orientation)
        return reached


def graft_problems(before: Slide, after: Slide, sidecar: Mapping[str, Any], features: Sequence[Any],
                   around: Around, found: PixelChange) -> list[str]:
    """Return where pixels that stayed a donor's own are not those of the source; counts them into `found`.

    Every graft's pixels are computed again from the source and from what a pass declares, and compared with level 0 of
    the restored slide, except where a later pass painted: exactly where its format is exact; in JPEG blocks that hold
    nothing else, with what encoding gives of them; else within what encoding explains. Sidecars from before tones were
    declared are not checked. Memory: one graft, some 60 bytes for each pixel of its box.

    Raises:
        OutputError: artifusion did not write this sidecar.
    """
    encoding = Encoding(after, around.lossless)
    problems = []
    try:
        outlines = grafted_outlines(features, after)
        for region in sidecar.get("regions", ()):
            grafts = [held for held in region.get("grafts", ()) if "tone" in held]
            kept_px = 0
            for number, held in enumerate(grafts, 1):
                graft = Grafted.from_dict(held, outlines.get((region["id"], number), ()))
                check_graft(graft, before)
                box = aligned(graft.l0_box)
                where = Mask.of(graft.kept, before.size).read(box)
                kept_px += int(np.count_nonzero(where))
                within = graft.l0_box.slices(box)
                restored = around.own.read(graft.donor) | around.earlier.read(graft.donor)
                invented = bool(unoriented(restored, graft.orientation)[where[within]].any())
                where &= ~around.later.read(box)
                shown = after.read(box)
                wanted = shown.copy()
                wanted[within] = encoding.shown(placed(before, graft.donor, graft.orientation, graft.tone))
                found.add(wanted, shown, where)
                reason = ("its donor was restored itself" if invented else
                          encoding.reason(wanted, shown, where, box, around, graft))
                if reason:
                    problems.append(f"region {region['id']}, graft {number} does not hold its donor's pixels: {reason}")
            if grafts and kept_px != region["grafted_px"]:
                problems.append(f"region {region['id']}: the GeoJSON declares {kept_px} grafted px but the sidecar "
                                f"{region['grafted_px']}; one was changed")
    except MALFORMED:
        raise OutputError(f"{after.path}: its sidecar tells of a graft what none can be; restore the slide "
                          "again") from None
    return problems[:LISTED] + ([f"{len(problems) - LISTED} more grafts"] if problems[LISTED:] else [])


def check_graft(graft: Grafted, slide: Slide) -> None:
    """Raise ValueError where a graft lies beside the slide or does not have its donor's size."""
    whole = Box(0, 0, *slide.size)
    width, height = graft.donor[2:][::-1] if graft.orientation % 2 else graft.donor[2:]
    if (graft.l0_box.empty or graft.l0_box.intersection(whole) != graft.l0_box or not graft.donor.overlaps(whole)
            or (width, height) != graft.l0_box[2:] or not 0 <= graft.orientation < 8):
        raise ValueError(graft.l0_box)


def aligned(box: Box) -> Box:
    """The smallest box around another whose corner lies on a multiple of MCU_PX."""
    return Box.from_edges(box.x // MCU_PX * MCU_PX, box.y // MCU_PX * MCU_PX, box.right, box.bottom)


def touched_blocks(mask: Mask, box: Box) -> np.ndarray:
    """Which pixels of a box lie in a block that a mask touches, or beside such a block: bool (H, W)."""
    wide = aligned(box.expanded(2 * MCU_PX))
    marked = mask.read(wide)
    blocks = with_neighbours(per_block(np.logical_or, marked, MCU_PX, MCU_PX), across=True, down=True)
    return per_pixel(blocks, MCU_PX, MCU_PX, marked.shape)[box.slices(wide)]


def grafted_outlines(features: Sequence[Any], after: Slide) -> dict[tuple[int, int], list[Polygon]]:
    """The level-0 polygons of the pixels that stayed a donor's own, by region and number of the graft."""
    found: dict[tuple[int, int], list[Polygon]] = {}
    for feature in features:
        metadata = feature.get("properties", {}).get("metadata", {})
        if GRAFT in metadata:
            key = int(metadata["region"]), int(metadata[GRAFT])
            found.setdefault(key, []).extend(geojson_polygons(feature, after.path, after.bounds_offset)[0])
    return found


class Encoding:
    """How level 0 of a restored slide is encoded, and what differences that explains."""

    def __init__(self, after: Slide, exact: bool) -> None:
        self._path, self._exact = after.path, exact
        self._page: tiff.Page | None = None
        self._codec: Codec | None = None
        if after.kind != "image":
            file = tiff.read_tiff(after.path)
            self._page = file.pages[(level_pages(file, after) or [0])[0]]
            self._codec = codec_of(self._page)

    def shown(self, rgb: np.ndarray) -> np.ndarray:
        """What an exact codec shows of pixels that are written, uint8 (H, W, 3)."""
        return rgb if self._codec is None else self._codec.rgb(self._codec.samples(rgb))

    def reason(self, wanted: np.ndarray, shown: np.ndarray, where: np.ndarray, l0_box: Box, around: Around,
               graft: Grafted) -> str:
        """Return why encoding does not explain that other pixels are shown of a graft; empty where it does.

        Args:
            wanted, shown: uint8 (H, W, 3) of a box whose corner lies on a multiple of MCU_PX.
            where: which of them are compared, bool (H, W).
        """
        shift = zeroed(shown.astype(np.int16) - wanted, ~where)
        if self._exact:
            return moved_reason(shift, l0_box, "a pixel")
        if not around.by_block or (self._codec is not None and not isinstance(self._codec, JpegCodec)):
            return reencoded_reason(shift, ~where, l0_box)
        photometric = self._codec.photometric if self._codec else jpeg.YCBCR
        header = self._header(l0_box)
        reencoded = shown.astype(np.int16) - jpeg.encoded(wanted, header, photometric)
        return jpeg_reason((header, header), shift, reencoded, ~where, l0_box, photometric, around.passes,
                           around.reached(graft, l0_box))

    def reason_anew(self, old: np.ndarray, new: np.ndarray, masked: np.ndarray, l0_box: Box) -> str:
        """Return why encoding a whole slide anew does not explain its pixels outside the mask; empty where it does.

        Args:
            old, new: uint8 (H, W, 3) of a box as in `reason`; masked: bool (H, W).
        """
        shift = new.astype(np.int16) - old
        if self._exact:
            return moved_reason(zeroed(shift, masked), l0_box, "a pixel outside the declared regions")
        return reencoded_reason(shift, masked, l0_box, lambda: jpeg.encoded(
            old, self._header(l0_box), jpeg.YCBCR).astype(np.int16) - old)

    def _header(self, l0_box: Box) -> jpeg.Header:
        """The header of a plain JPEG, or of the first segment in a box."""
        if self._page is None:
            return jpeg.parse(self._path.read_bytes(), b"")
        tables = self._page.tags.get(tiff.JPEG_TABLES)
        with self._path.open("rb") as file:
            found = (tiff.read_segment(file, self._page, index) for index in Grid.of(self._page).over(l0_box))
            return jpeg.parse(next(segment for segment in found if segment), tables.raw if tables else b"")
