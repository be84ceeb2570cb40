"""Mask images of every tool, told apart by what they hold and how they are named, as one image of our class ids."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

import numpy as np

from artifusion.errors import MaskError
from artifusion.slide.classes import CLASSES, class_of
from artifusion.slide.rasters import Raster, read_raster, white
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
SAYS_RESTORE = {"mask", "masks", "binary", "artifact", "artifacts", "artefact", "artefacts", "restore"}


def read_ids(path: Path, slide: Slide, form: MaskFormat = "auto") -> tuple[str, np.ndarray]:
    """What kind of mask an image or a folder of HistoQC is, in words, and our class ids: uint8 (H, W), 0 = keep.

    Where members of HistoQC overlap, the first class of the vocabulary gets the pixel.

    Raises:
        MaskError: unreadable, of another shape, of another slide by its name, no mask of artifacts, or one that
            could be two things; the message says what settles it.
    """
    if path.is_dir():
        return _union(_members(path, slide, check_name=form == "auto"), slide)
    if form in ("auto", "histoqc"):
        _refuse_other_masks(path)
    raster = read_raster(path, slide.size)
    form = _recognised(raster, slide) if form == "auto" else form
    if form == "histoqc":
        return _union([path], slide)
    if form == "grandqc":
        return "GrandQC class mask", _mapped(raster, {**dict.fromkeys(GRANDQC_KEEP, 0), **_ids(GRANDQC)}, "GrandQC's")
    if form == "classes":
        names = raster.vocabulary or CLASSES
        return "class mask", _mapped(raster, {0: 0, **_ids({at: name for name, at in names.items()})}, "our")
    return "black-and-white mask", white(raster) * np.uint8(CLASSES["other"])


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
    found = np.unique(raster.numbers).tolist()
    unknown = [value for value in found if value not in ids]
    if unknown:
        raise MaskError(f"{raster.path}: holds {', '.join(f'{value:g}' for value in unknown[:5])}, which are none of "
                        f"{whose} class ids ({', '.join(map(str, sorted(ids)))}); choose another --mask-format")
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[raster.numbers.astype(np.uint8)]


def _recognised(raster: Raster, slide: Slide) -> MaskFormat:
    """The format of a mask image.

    Raises:
        MaskError: its numbers and its name allow several that select different pixels, or it is of another slide.
    """
    path, numbers = raster.path, raster.values
    if raster.vocabulary:
        return "classes"
    member, named = MEMBER.fullmatch(path.name), GRANDQC_NAME.fullmatch(path.name)
    found = set(np.unique(numbers).tolist()) if raster.lossless and numbers.dtype.kind in "ui" else set()
    small = bool(found) and min(found) >= 0 and max(found) <= 7
    if member and (not small or found == {0}):
        _check_slide(path, member["slide"], slide, "histoqc")
        return "histoqc"
    if not small or found == {0} or (not found & {1, 7} and not named):
        return "binary"                                     # every reading selects whatever is not 0
    if named:
        _check_slide(path, named["slide"], slide, "grandqc")
        return "grandqc"
    words = set(re.findall("[a-z]+", path.stem.lower()))
    if len(found) == 2 and 0 in found and (words & SAYS_RESTORE or class_of(path.stem) != "other"):
        return "binary"
    plain, grandqc = _share(numbers > 0), _share(np.isin(numbers, list(GRANDQC)))
    raise MaskError(f"{path}: holds only {', '.join(map(str, sorted(found)))}, which can mean two things: as a plain "
                    f"mask or with our class ids it covers {plain} of the slide, with GrandQC's {grandqc}; say which "
                    "with --mask-format binary, classes or grandqc")


def _share(selected: np.ndarray) -> str:
    share = float(selected.mean())
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.2%}"


def _refuse_other_masks(path: Path) -> None:
    """Raise MaskError for what QC tools write that marks no artifacts, by its name."""
    member = MEMBER.fullmatch(path.name)
    if member and member["member"] in HISTOQC_TRAPS:
        raise MaskError(f"{path}: {HISTOQC_TRAPS[member['member']]}, so it cannot tell what to restore; name the "
                        "folder that HistoQC wrote for this slide (or pass --mask-format binary if it is a mask of "
                        "your own)")
    if path.name.endswith("_MASK.png") or path.parent.name == "tis_det_mask":
        raise MaskError(f"{path}: is GrandQC's tissue mask (0 = tissue), not one of artifacts; name the one in "
                        "mask_qc/ (or pass --mask-format binary if it is a mask of your own)")


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


def _union(files: list[Path], slide: Slide) -> tuple[str, np.ndarray]:
    """The members of HistoQC as one image of class ids."""
    ids: np.ndarray | None = None
    names = []
    for path in files:
        match = MEMBER.fullmatch(path.name)
        member = match["member"] if match else ""
        selected = white(read_raster(path, slide.size))
        if ids is None:
            ids = np.zeros(selected.shape, np.uint8)
        elif ids.shape != selected.shape:
            raise MaskError(f"{path}: has another size than {files[0].name}; run HistoQC again for this slide")
        ids[selected & (ids == 0)] = CLASSES[HISTOQC.get(member, "other")]
        names.append(member or path.name)
    assert ids is not None                                  # there is at least one member
    return f"HistoQC {' + '.join(names)}", ids
