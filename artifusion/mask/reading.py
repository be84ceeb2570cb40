"""From a mask file of any tool to the mask of a slide: recognised, read, turned, widened, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely
from shapely.affinity import scale

from artifusion.errors import MaskError
from artifusion.files import sha256
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.formats import histoqc_members, reader_of
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import pixel_box, polygons_of
from artifusion.mask.selection import MaskFormat, MaskSelection, Polarity
from artifusion.slide.levels import missing_tiles
from artifusion.slide.reader import Slide

LARGEST_SHARE = 0.5                  # of the slide, without an explicit polarity


def read_mask(
    path: str | Path, slide: Slide, polarity: Polarity | None = None, grow_um: float = 0.0,
    classes: Collection[str] | None = None, form: MaskFormat = "auto",
) -> Mask:
    """Return the mask in a raster image of the slide, a HistoQC folder, or GeoJSON of QuPath or GrandQC.

    Where annotations overlap, the earlier one in the file keeps the pixels and its class.

    Args:
        polarity: "restore" takes the mask as it is, "keep" restores what it leaves out; given explicitly it also
            lifts the rule that a mask covers at most half of the slide.
        grow_um: widens the mask by that much on every side; the slide must know its mpp.
        classes: only these of the vocabulary (fold, bubble, pen, blur, dark, dust, other), by any of their names.
        form: what an image is, where its content and name leave it open.

    Raises:
        MaskError: unreadable, no mask, of another slide, selects nothing, or covers over half of the slide.
        ValueError: a polarity, a width, a class or a form that does not exist.
    """
    return read_selection(MaskSelection(Path(path), polarity, grow_um, classes, form), slide)


def read_selection(selection: MaskSelection, slide: Slide, to_avoid: bool = False) -> Mask:
    """Return the mask that a selection describes. Raises MaskError as `read_mask`.

    Args:
        to_avoid: nothing will be repainted: it may cover any share of the slide, and what has no area is passed over.
    """
    reader = reader_of(selection.path, slide, selection.format)
    mask = reader.read(slide, selection.classes, to_avoid)
    if selection.polarity == "keep":
        mask = inverted(mask, selection.path)
    if selection.grow_um:
        mask = widened(mask, selection, slide)
    if not to_avoid:
        check_share(mask, selection, reader.knows_classes)
    return mask


@dataclass(frozen=True)
class ReadMask:
    """A mask file read for a restoration.

    Attributes:
        mask: what is restored: of what the selection takes, that which was scanned.
        avoid: all that the file marks, restored or not: no donor, and nothing to learn from.
        described: the file and its selection, as the sidecar names them.
    """

    mask: Mask
    avoid: Mask
    described: dict[str, Any]


def read_to_restore(selection: MaskSelection, slide: Slide) -> ReadMask:
    """Return all that a restoration needs of a mask file. Raises MaskError as `read_mask` and `scanned` do."""
    mask = avoid = scanned(read_selection(selection, slide), slide)
    if selection.classes is not None:
        avoid = read_selection(replace(selection, classes=CLASSES), slide, to_avoid=True)
    return ReadMask(mask, avoid, {
        "name": selection.path.name, "sha256": fingerprint(selection, slide), "origin": mask.origin,
        "classes": list(selection.classes) if selection.classes is not None else None,
        "polarity": selection.polarity or "restore", "grow_um": selection.grow_um})


def scanned(mask: Mask, slide: Slide) -> Mask:
    """Return the mask without the tiles of level 0 that are missing: nothing was scanned there, or is painted.

    Raises:
        MaskError: nothing else is masked.
    """
    whole = Box(0, 0, *slide.size)
    around = [pixel_box(polygon) for polygon, area in zip(mask.polygons, mask.areas_px, strict=True) if area]
    boxes = missing_tiles(slide, around, lambda box: bool(mask.read(box.intersection(whole)).any()))
    if not boxes:
        return mask
    missing = shapely.union_all([shapely.box(box.x, box.y, box.right, box.bottom) for box in boxes])
    parts = [(part, name) for polygon, name in zip(mask.polygons, mask.classes, strict=True)
             for part in polygons_of(polygon.difference(missing))]
    kept = replace(mask, polygons=tuple(part for part, _ in parts), classes=tuple(name for _, name in parts),
                   origin=f"{mask.origin} outside missing tiles")
    if not kept.area_px:
        raise MaskError(f"{slide.path}: the mask marks only places of which the file holds no tiles; there is nothing "
                        "to restore")
    return kept


def fingerprint(selection: MaskSelection, slide: Slide) -> str:
    """The SHA-256 of a mask file; for a HistoQC folder the one of the files that are read, with their names."""
    if not selection.path.is_dir():
        return sha256(selection.path)
    members = histoqc_members(selection.path, slide, check_name=False)
    lines = "".join(f"{member.name} {sha256(member)}\n" for member in members)
    return hashlib.sha256(lines.encode()).hexdigest()


def inverted(mask: Mask, path: Path) -> Mask:
    """The mask of everything on the slide that this one leaves out. Raises MaskError where it names artifacts."""
    if mask.artifacts:
        raise MaskError(f"{path}: this {mask.origin} marks artifacts ({mask.artifacts}), and --mask-polarity keep "
                        "would repaint everything else; leave it out")
    rest = shapely.box(0, 0, *mask.l0_size).difference(shapely.union_all(mask.polygons))
    return Mask(tuple(polygons_of(rest)), mask.l0_size, origin=f"{mask.origin}, white = keep")


def widened(mask: Mask, selection: MaskSelection, slide: Slide) -> Mask:
    """The mask grown by grow_um on every side. Raises MaskError where the slide's mpp is unknown."""
    if slide.mpp_xy is None:
        raise MaskError(f"{selection.path}: cannot be grown by {selection.grow_um:g} um, {slide.path.name} "
                        f"{slide.mpp_doubt or 'does not tell its um per pixel'}; pass --mpp")
    x_um, y_um = slide.mpp_xy
    even = [scale(polygon, 1, y_um / x_um, origin=(0, 0)) for polygon in mask.polygons]      # pixels as high as wide
    wide = [scale(polygon.buffer(selection.grow_um / x_um, quad_segs=4), 1, x_um / y_um, origin=(0, 0))
            for polygon in even]
    return replace(Mask.of(wide, mask.l0_size, mask.classes), origin=mask.origin)


def check_share(mask: Mask, selection: MaskSelection, knows_classes: bool) -> None:
    """Raise MaskError where the mask selects nothing, or over half of the slide without an explicit polarity."""
    path, polarity = selection.path, selection.polarity
    share = mask.area_px / (mask.l0_size.width * mask.l0_size.height)
    if share == 0 and polarity == "keep":
        raise MaskError(f"{path}: selects nothing, all of the slide is marked as kept; if white means restore, "
                        "pass --mask-polarity restore")
    if share == 0 and knows_classes:
        raise MaskError(f"{path}: selects nothing, this {mask.origin} holds no artifact: there is nothing to restore "
                        "(if it is a plain mask, pass --mask-format binary)")
    if share == 0:
        raise MaskError(f"{path}: selects nothing (white means restore); mark what to restore in white, or pass "
                        "--mask-polarity keep if black marks it")
    if share > LARGEST_SHARE and polarity is None and mask.artifacts:
        raise MaskError(f"{path}: covers {share:.0%} of the slide with {mask.artifacts}; if that is meant, pass "
                        "--mask-polarity restore, or pick some with --classes")
    if share > LARGEST_SHARE and polarity is None:
        raise MaskError(f"{path}: covers {share:.0%} of the slide; if white means keep, pass --mask-polarity keep, "
                        "and if that is meant, --mask-polarity restore")
    if share == 1:
        raise MaskError(f"{path}: covers the whole slide; nothing is left to paint from, unmark what is clean")
