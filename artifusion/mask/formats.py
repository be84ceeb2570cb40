"""Mask images of every tool, told apart by what they hold and how they are named, as one image of our class ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np

from artifusion.errors import MaskError
from artifusion.mask.classes import CLASSES, WORD, class_of, is_tissue, words_of
from artifusion.mask.polygons import strips
from artifusion.mask.rasters import MOST_LABELS, Raster, counted, read_raster, white
from artifusion.slide.reader import Slide, sha256

MaskFormat = Literal["auto", "binary", "grandqc", "histoqc", "classes"]
FORMATS: tuple[MaskFormat, ...] = ("auto", "binary", "grandqc", "histoqc", "classes")

GRANDQC = {2: "fold", 3: "dark", 4: "pen", 5: "bubble", 6: "blur"}
GRANDQC_KEEP = {0, 1, 7}                     # margin, tissue, background
HISTOQC = {"flat": "bubble", "pen_markings": "pen", "blurry": "blur", "dark": "dark", "coverslip_edge": "other"}
HISTOQC_TRAPS = {
    "mask_use": "is what HistoQC found usable, and leaves out background and artifacts alike",
    "small_fill": "is tissue that HistoQC added", "small_remove": "is shape clean-up of HistoQC",
    "bright": "is background that HistoQC found", "fatlike": "is fat that HistoQC found",
    "spur": "is shape clean-up of HistoQC", "areathresh": "is shape clean-up of HistoQC",
}
MEMBER = re.compile(rf"(?P<slide>.+)_(?P<member>{'|'.join([*HISTOQC, *HISTOQC_TRAPS])})\.png")
GRANDQC_NAME = re.compile(r"(?P<slide>.+)_mask\.png")
SLIDE_SUFFIX = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|bif|dcm|vms|vmu|svslide|czi|png|jpe?g)", re.IGNORECASE)
SAYS_RESTORE = words_of("mask binary artifact artefact restore")


def read_ids(path: Path, slide: Slide, form: MaskFormat = "auto", wanted: Collection[str] | None = None
             ) -> tuple[str, np.ndarray]:
    """What kind of mask an image or a folder of HistoQC is, in words, and our class ids: uint8 (H, W), 0 = keep.

    Where members of HistoQC overlap, the first class of the vocabulary gets the pixel; those that are not among the
    `wanted` classes are left out before.

    Raises:
        MaskError: unreadable, of another shape, of another slide by its name, no mask of artifacts, or one that
            could be two things; the message says what settles it.
    """
    if path.is_dir():
        return _union(_members(path, slide, check_name=form == "auto"), slide, wanted)
    if form in ("auto", "histoqc"):
        _refuse_other_masks(path, slide)
    raster = read_raster(path, slide.size)
    form = _recognised(raster, slide) if form == "auto" else form
    if form == "histoqc":
        return _union([path], slide, wanted)
    if form == "grandqc":
        return "GrandQC class mask", _mapped(raster, {**dict.fromkeys(GRANDQC_KEEP, 0), **_ids(GRANDQC)}, "GrandQC's")
    if form == "classes":
        names = raster.vocabulary or CLASSES
        return "class mask", _mapped(raster, {0: 0, **_ids({at: name for name, at in names.items()})}, "our")
    ids = white(raster).view(np.uint8)                        # in place: there may be 500 million pixels
    ids *= np.uint8(CLASSES["other"])
    return _plain(raster), ids


def fingerprint(path: Path, slide: Slide) -> str:
    """The SHA-256 of a mask file; of a HistoQC folder that of the files that are read, with their names."""
    if not path.is_dir():
        return sha256(path)
    lines = "".join(f"{member.name} {sha256(member)}\n" for member in _members(path, slide, check_name=False))
    return hashlib.sha256(lines.encode()).hexdigest()


def _ids(names: dict[int, str]) -> dict[int, int]:
    return {at: CLASSES[class_of(name)] for at, name in names.items()}


def _mapped(raster: Raster, ids: dict[int, int], whose: str) -> np.ndarray:
    """Other numbers as our class ids."""
    unknown = [value for value in counted(raster.numbers) if value not in ids]
    if unknown:
        raise MaskError(f"{raster.path}: holds {', '.join(map(str, unknown[:5]))}, which are none of "
                        f"{whose} class ids ({', '.join(map(str, sorted(ids)))}); choose another --mask-format")
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    mapped = np.empty(raster.numbers.shape, np.uint8)
    for rows, _ in strips(mapped.shape):                      # an array as an index becomes int64
        mapped[rows] = table[raster.numbers[rows].astype(np.uint8)]
    return mapped


def _plain(raster: Raster) -> str:
    whole = raster.lossless and raster.values.dtype != np.bool_ and max(raster.counts) <= MOST_LABELS
    return "label image" if whole and len(raster.counts) > 2 else "black-and-white mask"


def _recognised(raster: Raster, slide: Slide) -> MaskFormat:
    """The format of a mask image.

    Raises:
        MaskError: its numbers and its name allow several that select different pixels, or it is of another slide.
    """
    path = raster.path
    if raster.vocabulary:
        return "classes"
    member, named = MEMBER.fullmatch(path.name), GRANDQC_NAME.fullmatch(path.name)
    own = named and SLIDE_SUFFIX.fullmatch(Path(named["slide"]).suffix)      # as GrandQC itself names them
    if raster.counts.get(0, 0) > raster.values.size / 2:                     # 0 is its margin and never most of it
        named = None
    found = set(raster.counts) if raster.lossless and raster.values.dtype != np.bool_ else set()
    small = bool(found) and min(found) >= 0 and max(found) <= 7
    if member and (not small or found == {0}):
        _check_slide(path, member["slide"], slide, "histoqc")
        return "histoqc"
    if not small or found == {0} or (not found & {1, 7} and not named):
        return "binary"                                     # every reading selects whatever is not 0
    if named:
        _check_slide(path, named["slide"], slide, "grandqc")
        return "grandqc"
    said = _said(path, slide)
    if len(found) == 2 and 0 in found and not own and (words_of(said) & SAYS_RESTORE or class_of(said) != "other"):
        return "binary"
    plain, grandqc = _share(raster, found - {0}), _share(raster, found & set(GRANDQC))
    raise MaskError(f"{path}: holds only {', '.join(map(str, sorted(found)))}, which can mean two things: as a plain "
                    f"mask or with our class ids it covers {plain} of the slide, with GrandQC's {grandqc}; say which "
                    "with --mask-format binary, classes or grandqc")


def _share(raster: Raster, selected: set[int]) -> str:
    share = sum(raster.counts[value] for value in selected) / raster.values.size
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.2%}"


def _said(path: Path, slide: Slide) -> str:
    """What a file's name says beside the slide's."""
    known = words_of(slide.path.stem)
    return " ".join(word for word in WORD.findall(path.stem) if not words_of(word) <= known)


def _refuse_other_masks(path: Path, slide: Slide) -> None:
    """Raise MaskError for what QC tools and people write that marks no artifacts, by its name."""
    member = MEMBER.fullmatch(path.name)
    if member and member["member"] in HISTOQC_TRAPS:
        raise MaskError(f"{path}: {HISTOQC_TRAPS[member['member']]}, so it cannot tell what to restore; name the "
                        "folder that HistoQC wrote for this slide (or pass --mask-format binary if it is a mask of "
                        "your own)")
    if path.name.endswith("_MASK.png") or path.parent.name == "tis_det_mask":
        raise MaskError(f"{path}: is GrandQC's tissue mask (0 = tissue), not one of artifacts; name the one in "
                        "mask_qc/ (or pass --mask-format binary if it is a mask of your own)")
    if is_tissue(_said(path, slide)):
        raise MaskError(f"{path}: is named as a mask of what the slide consists of, and restoring that would repaint "
                        "it; name a mask of artifacts, or pass --mask-format binary if white marks what to restore")


def _check_slide(path: Path, named: str, slide: Slide, form: MaskFormat) -> None:
    """Raise MaskError where the slide that a tool put into a file's name is another one."""
    stem, suffix = Path(named).stem, Path(named).suffix
    if SLIDE_SUFFIX.fullmatch(suffix) and stem not in (slide.path.stem, slide.path.name):
        raise MaskError(f"{path}: is named after {named}, and the slide is {slide.path.name}; name the mask of this "
                        f"slide, or pass --mask-format {form} if it is the same one")


def _members(folder: Path, slide: Slide, check_name: bool) -> list[Path]:
    """The files of artifacts that HistoQC wrote for a slide, in the order of the vocabulary.

    `folder` is the slide's own (named after it), or that of the whole run, which holds results.tsv.
    """
    own = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.stem == slide.path.stem]
    if own:
        return _members(own[0], slide, check_name)
    if (folder / "results.tsv").is_file():
        raise MaskError(f"{folder}: HistoQC wrote no folder for {slide.path.name}; it may have failed there, which its "
                        "exit code does not tell: see error.log, or name the folder of the slide")
    written = [match for path in sorted(folder.iterdir()) if (match := MEMBER.fullmatch(path.name))]
    slides = {match["slide"] for match in written}
    if not written:
        raise MaskError(f"{folder}: is a folder, and not one that HistoQC wrote for a slide; name the mask file itself "
                        "(an image or QuPath GeoJSON)")
    if len(slides) > 1:
        raise MaskError(f"{folder}: holds masks of {len(slides)} slides; name the folder of one slide")
    if check_name:
        _check_slide(folder, slides.pop(), slide, "histoqc")
    order = list(HISTOQC)
    members = sorted((match for match in written if match["member"] in HISTOQC), key=lambda m: order.index(m["member"]))
    if not members:
        wanted = ", ".join(f"*_{name}.png" for name in HISTOQC)
        raise MaskError(f"{folder}: holds none of HistoQC's masks of artifacts ({wanted}); run HistoQC with the "
                        "modules that find them")
    return [folder / match.string for match in members]


def _union(files: list[Path], slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
    """The members of HistoQC as one image of class ids: those of the wanted classes, where there are any."""
    members = {path: match["member"] for path in files if (match := MEMBER.fullmatch(path.name))}
    if len(members) < len(files):
        names = ", ".join(f"*_{name}.png" for name in HISTOQC)
        raise MaskError(f"{files[0]}: is not named as HistoQC names its masks of artifacts ({names}); choose another "
                        "--mask-format")
    if wanted is not None:
        members = {path: name for path, name in members.items() if HISTOQC[name] in wanted} or members
    ids: np.ndarray | None = None
    for path, name in members.items():
        selected = white(read_raster(path, slide.size))
        if ids is None:
            ids = np.zeros(selected.shape, np.uint8)
        elif ids.shape != selected.shape:
            raise MaskError(f"{path}: has another size than the others; run HistoQC again for this slide")
        ids[selected & (ids == 0)] = CLASSES[HISTOQC[name]]
    assert ids is not None                                  # there is at least one member
    return f"HistoQC {' + '.join(members.values())}", ids
