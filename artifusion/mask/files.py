"""From the mask file of any tool to the mask of a slide: read, picked, turned, grown, and refused where it must be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import shapely
from shapely import Polygon

from artifusion.errors import MaskError
from artifusion.mask.classes import CLASSES, class_of, is_tissue
from artifusion.mask.formats import FORMATS, MaskFormat, read_ids
from artifusion.mask.geojson import SUFFIXES, geojson_polygons, load_geojson, origin_of
from artifusion.mask.mask import Mask
from artifusion.mask.polygons import polygons_of
from artifusion.mask.rasters import outlined
from artifusion.slide.reader import Slide

POLARITIES = ("restore", "keep")
HALF = 0.5
NAMED = 3                            # classes without a place in the vocabulary that are named, at most


def read_mask(
    path: str | Path, slide: Slide, polarity: str | None = None, grow_um: float = 0,
    classes: Collection[str] | None = None, form: MaskFormat = "auto",
) -> Mask:
    """Return the mask in a raster image of the slide, a HistoQC folder, or GeoJSON of QuPath or GrandQC.

    Where annotations overlap, the earlier one in the file keeps the ground and its class.

    Args:
        polarity: "restore" takes the mask as it is, "keep" restores what it leaves out; given explicitly it also
            lifts the rule that a mask covers at most half of the slide.
        grow_um: widens the mask by that much on every side; the slide must know its mpp.
        classes: only these of the vocabulary (fold, bubble, pen, blur, dark, dust, other), by any of their names.
        form: what an image is, where its content and name leave it open.

    Raises:
        MaskError: unreadable, no mask, of another slide, selects nothing, or covers over half of the slide.
    """
    path = Path(path)
    if polarity not in (None, *POLARITIES):
        raise ValueError(f"polarity must be one of {POLARITIES}, got {polarity!r}")
    if grow_um < 0:
        raise ValueError(f"grow_um must not be negative, got {grow_um}")
    if form not in FORMATS:
        raise ValueError(f"form must be one of {FORMATS}, got {form!r}")
    wanted = None if classes is None else vocabulary(classes)
    if not path.exists():
        raise MaskError(f"{path}: no such mask; check the path")
    if not path.is_dir() and path.suffix.lower() in SUFFIXES:
        mask = read_annotations(path, slide, wanted)
    else:
        origin, ids = read_ids(path, slide, form, wanted)
        polygons, names = outlined(path, ids, slide.size)
        polygons, names = picked(polygons, names, wanted, f"{path}: this {origin}")
        mask = Mask(tuple(polygons), slide.size, tuple(names), origin)
    if polarity == "keep":
        mask = inverted(mask, path)
    if grow_um:
        mask = grown(mask, path, slide, grow_um)
    check_share(mask, path, polarity)
    return mask


def vocabulary(names: Collection[str]) -> list[str]:
    """Names of classes, as anybody writes them, in our vocabulary and its order. Raises ValueError for unknown ones."""
    unknown = [name for name in names if class_of(name) == "other" and name.strip().lower() != "other"]
    if unknown or not names:
        raise ValueError(f"{', '.join(unknown) or 'nothing'} is no class of artifact; choose from {', '.join(CLASSES)}")
    return sorted({class_of(name) for name in names}, key=list(CLASSES).index)


def read_annotations(path: Path, slide: Slide, wanted: Collection[str] | None = None) -> Mask:
    """The mask in a GeoJSON file, with the classes of our vocabulary; of all classes or of those wanted.

    Raises:
        MaskError: no GeoJSON of artifacts, for the greater part outside the slide, without a class that is wanted,
            or, where all are, with annotations of what a slide consists of, which nobody wants repainted.
    """
    content = load_geojson(path)
    origin = origin_of(content, path)
    polygons, given = geojson_polygons(content, path, slide.bounds_offset)
    tissue = sorted({" ".join(name.split()) for name in given if is_tissue(name)})
    if tissue and wanted is None:
        raise MaskError(f"{path}: holds annotations of the class {tissue[0]}, which is no artifact; remove them, or "
                        "pick with --classes what to restore")
    # Before overlaps are settled: what is not wanted, tissue above all, must not take the ground from what is.
    artifacts = [(polygon, name) for polygon, name in zip(polygons, given, strict=True) if not is_tissue(name)]
    polygons, given = picked([polygon for polygon, _ in artifacts], [name for _, name in artifacts], wanted,
                             f"{path}: this {origin}")
    mask = Mask.of(polygons, slide.size, [class_of(name) for name in given])
    left = sum(polygon.area for polygon in mask.polygons)
    outside = shapely.union_all(polygons).difference(shapely.box(0, 0, *slide.size)).area
    if not left or outside > HALF * (outside + left):
        share = "all" if not left else f"{outside / (outside + left):.0%}"
        raise MaskError(f"{path}: {share} of its area lies outside the slide ({slide.size.width}x"
                        f"{slide.size.height} px); coordinates must be level-0 pixels of this slide")
    others = sorted({" ".join(name.split()) for name in given if class_of(name) == "other"} - {"", "other"})
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        origin += f" ({', '.join(others[:NAMED])}{more} as other)"
    return replace(mask, origin=origin)


def picked(polygons: list[Polygon], names: list[str], wanted: Collection[str] | None, whose: str
           ) -> tuple[list[Polygon], list[str]]:
    """The polygons of the wanted classes (None: all), and their names. Raises MaskError where there are none."""
    if wanted is None:
        return polygons, names
    chosen = [index for index, name in enumerate(names) if class_of(name) in wanted]
    if not chosen:
        there = ", ".join(name for name in CLASSES if name in map(class_of, names)) or "no artifact at all"
        raise MaskError(f"{whose} holds {there}: --classes {','.join(wanted)} selects nothing; name others")
    return [polygons[index] for index in chosen], [names[index] for index in chosen]


def inverted(mask: Mask, path: Path) -> Mask:
    """The mask of everything on the slide that this one leaves out. Raises MaskError where it names artifacts."""
    known = [name for name in CLASSES if name in mask.classes and name != "other"]
    if known:
        raise MaskError(f"{path}: this {mask.origin} marks artifacts ({', '.join(known)}), and --mask-polarity keep "
                        "would repaint everything else; leave it out")
    rest = shapely.box(0, 0, *mask.l0_size).difference(shapely.union_all(mask.polygons))
    return Mask(tuple(polygons_of(rest)), mask.l0_size, origin=f"{mask.origin}, white = keep")


def grown(mask: Mask, path: Path, slide: Slide, grow_um: float) -> Mask:
    """The mask widened on every side. Raises MaskError where the slide's mpp is unknown."""
    if slide.mpp is None:
        raise MaskError(f"{path}: cannot be grown by {grow_um:g} um, {slide.path.name} "
                        f"{slide.mpp_doubt or 'does not tell its um per pixel'}; pass --mpp")
    wide = [polygon.buffer(grow_um / slide.mpp, quad_segs=4) for polygon in mask.polygons]
    return replace(Mask.of(wide, mask.l0_size, mask.classes), origin=mask.origin)


def check_share(mask: Mask, path: Path, polarity: str | None) -> None:
    """Raise MaskError where the mask selects nothing, or over half of the slide without an explicit polarity."""
    share = mask.area_px / (mask.l0_size.width * mask.l0_size.height)
    if share == 0 and polarity == "keep":
        raise MaskError(f"{path}: selects nothing, all of the slide is marked as kept; if white means restore, "
                        "pass --mask-polarity restore")
    if share == 0 and mask.origin.startswith(("GrandQC", "HistoQC", "class mask")):
        raise MaskError(f"{path}: selects nothing, this {mask.origin} holds no artifact: there is nothing to restore "
                        "(if it is a plain mask, pass --mask-format binary)")
    if share == 0:
        raise MaskError(f"{path}: selects nothing (white means restore); mark what to restore in white, or pass "
                        "--mask-polarity keep if black marks it")
    known = [name for name in CLASSES if name in mask.classes and name != "other"]
    if share > HALF and polarity is None and known:
        raise MaskError(f"{path}: covers {share:.0%} of the slide with {', '.join(known)}; if that is meant, pass "
                        "--mask-polarity restore, or pick some with --classes")
    if share > HALF and polarity is None:
        raise MaskError(f"{path}: covers {share:.0%} of the slide; if white means keep, pass --mask-polarity keep, "
                        "and if that is meant, --mask-polarity restore")
    if share == 1:
        raise MaskError(f"{path}: covers the whole slide; nothing is left to paint from, unmark what is clean")
