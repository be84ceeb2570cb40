"""Find the reader of a mask; the readers of images are here, and that of annotations is `geojson.GeoJson`.

A reader of images is one class. It knows which names it refuses, which images its tool wrote, and what their numbers
mean in our class ids. To add one, write the class, add it to IMAGE_READERS, and add its word to `selection.MaskFormat`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np

from artifusion.errors import MaskError
from artifusion.files import is_left_by_macos
from artifusion.mask.classes import CLASSES, NEUTRAL_WORDS, class_of, is_tissue, picked, split, words_of
from artifusion.mask.geojson import GEOJSON_SUFFIXES, GeoJson
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import class_outlines
from artifusion.mask.rasters import Raster, read_raster
from artifusion.mask.selection import MaskFormat
from artifusion.slide.reader import Slide

GRANDQC = {2: "fold", 3: "dark", 4: "pen", 5: "bubble", 6: "blur"}
GRANDQC_KEEP = {0, 1, 7}                     # margin, tissue, background
GRANDQC_NAME = re.compile(r"(?P<slide>.+)_mask\.png")
HISTOQC = {"flat": "bubble", "pen_markings": "pen", "blurry": "blur", "dark": "dark", "coverslip_edge": "other"}
HISTOQC_TRAPS = {
    "mask_use": "is what HistoQC found usable, and leaves out background and artifacts alike",
    "small_fill": "is tissue that HistoQC added", "small_remove": "is shape clean-up of HistoQC",
    "bright": "is background that HistoQC found", "fatlike": "is fat that HistoQC found",
    "spur": "is shape clean-up of HistoQC", "areathresh": "is shape clean-up of HistoQC",
}
HISTOQC_NAME = re.compile(rf"(?P<slide>.+)_(?P<member>{'|'.join([*HISTOQC, *HISTOQC_TRAPS])})")
SLIDE_SUFFIX = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|bif|dcm|vms|vmu|svslide|czi|png|jpe?g)", re.IGNORECASE)
RESTORE_WORDS = words_of("mask binary artifact artefact restore")


class MaskReader(Protocol):
    """Reads one mask. `knows_classes`: the tool says which artifacts it found, and can have found none."""

    @property
    def knows_classes(self) -> bool: ...

    def read(self, slide: Slide, wanted: Collection[str] | None, to_avoid: bool = False) -> Mask: ...


def reader_of(path: Path, slide: Slide, mask_format: MaskFormat) -> MaskReader:
    """The reader of a mask: that of the given format for an image, else the one that recognises name and content.

    Raises:
        MaskError: missing, unreadable, of another shape, of another slide by its name, no mask of artifacts, or one
            that could be two things; the message says what settles it.
    """
    if not path.exists():
        raise MaskError(f"{path}: no such mask; check the path")
    if path.is_dir():
        return HistoQc(path, members=histoqc_members(path, slide, check_name=mask_format == "auto"))
    if not path.is_file():
        raise MaskError(f"{path}: is a pipe or a device, no file; save the mask first and name the file")
    if path.suffix.lower() in GEOJSON_SUFFIXES:
        return annotations_of(path, slide, mask_format)
    if mask_format in ("auto", "histoqc"):
        for reader in IMAGE_READERS.values():
            reader.refuse_name(path, slide)
    raster = read_raster(path, slide.size)
    if mask_format != "auto":
        return IMAGE_READERS[mask_format](path, raster)
    for reader in IMAGE_READERS.values():
        if reader.recognises(raster, slide):
            return reader(path, raster)
    labels = raster.labels
    plain, grandqc = raster.share(labels - {0}), raster.share(labels & set(GRANDQC))
    raise MaskError(f"{path}: holds only {', '.join(map(str, sorted(labels)))}, which can mean two things: as a plain "
                    f"mask or with our class ids it covers {plain} of the slide, with GrandQC's {grandqc}; say which "
                    "with --mask-format binary, classes or grandqc")


def annotations_of(path: Path, slide: Slide, mask_format: MaskFormat) -> GeoJson:
    """The reader of GeoJSON. The file's name tells whether HistoQC wrote it, and what annotations are whose class names
    nothing.

    Raises:
        MaskError: as `reader_of`.
    """
    annotations, match = GeoJson(path), HISTOQC_NAME.fullmatch(bare_name(path))
    classes = annotations.class_names - {""}
    if mask_format == "auto" and not any(words_of(name) - NEUTRAL_WORDS for name in classes):
        for reader in IMAGE_READERS.values():
            reader.refuse_name(path, slide)
    if mask_format == "auto" and match:
        check_slide(path, match["slide"], slide, "histoqc")
    # The member's name is free in HistoQC's configuration; it writes no classes.
    own_member = path.name.startswith(f"{slide.path.name}_") and not classes
    if annotations.tool == "QuPath" and (match or own_member):
        annotations.tool, annotations.class_of_unnamed = "HistoQC", HISTOQC.get(match["member"], "") if match else ""
    return annotations


class ImageReader:
    """The base of the readers of images: outlines class ids and picks the wanted classes."""

    knows_classes = True

    def __init__(self, path: Path, raster: Raster) -> None:
        self.path, self.raster = path, raster

    @staticmethod
    def refuse_name(path: Path, slide: Slide) -> None:
        """Raise MaskError where the name says that an image of this tool marks no artifacts."""

    @staticmethod
    def recognises(raster: Raster, slide: Slide) -> bool:
        """Whether this tool wrote an image. Raises MaskError where its name says that it belongs to another slide."""
        raise NotImplementedError

    def class_ids(self, slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
        """What the mask is, in words, and our class ids: uint8 (H, W), 0 = keep."""
        raise NotImplementedError

    def read(self, slide: Slide, wanted: Collection[str] | None, to_avoid: bool = False) -> Mask:
        """The mask, of the wanted classes (None: all). Raises MaskError where it has none of them."""
        origin, ids = self.class_ids(slide, wanted)
        polygons, names = class_outlines(self.path, ids, slide.size)
        kept = picked(names, wanted, f"{self.path}: this {origin}")
        return Mask(tuple(polygons[i] for i in kept), slide.size, tuple(names[i] for i in kept), origin)


class ClassMask(ImageReader):
    """An image of class ids with the vocabulary that it carries; one without is read by ours."""

    @staticmethod
    def recognises(raster: Raster, slide: Slide) -> bool:
        return bool(raster.vocabulary)

    def class_ids(self, slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
        names = self.raster.vocabulary or CLASSES
        return "class mask", self.raster.mapped({0: 0, **{at: CLASSES[class_of(name)] for name, at in names.items()}},
                                                "our")


class HistoQc(ImageReader):
    """The masks of artifacts that HistoQC wrote for a slide, or one of them; white marks the artifact.

    Members that are not wanted are left out first. Where the others overlap, the first class of the vocabulary gets the
    pixel.
    """

    def __init__(self, path: Path, raster: Raster | None = None, members: Collection[Path] = ()) -> None:
        self.path, self.only_raster, self.members = path, raster, members or [path]

    @staticmethod
    def refuse_name(path: Path, slide: Slide) -> None:
        match = HISTOQC_NAME.fullmatch(bare_name(path))
        if match and match["member"] in HISTOQC_TRAPS:
            raise MaskError(f"{path}: {HISTOQC_TRAPS[match['member']]}, so it cannot tell what to restore; name the "
                            "folder that HistoQC wrote for this slide (or pass --mask-format binary if it is a mask of "
                            "your own)")

    @staticmethod
    def recognises(raster: Raster, slide: Slide) -> bool:
        match = HISTOQC_NAME.fullmatch(bare_name(raster.path))
        if not match or raster.labels - {0}:
            return False
        check_slide(raster.path, match["slide"], slide, "histoqc")
        return True

    def class_ids(self, slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
        names = {path: match["member"] for path in self.members if (match := HISTOQC_NAME.fullmatch(bare_name(path)))}
        if not names:
            known = ", ".join(f"*_{name}.png" for name in HISTOQC)
            raise MaskError(f"{self.path}: is not named as HistoQC names its masks of artifacts ({known}); choose "
                            "another --mask-format")
        if wanted is not None:
            names = {path: name for path, name in names.items() if HISTOQC[name] in wanted} or names
        ids: np.ndarray | None = None
        for path, name in names.items():
            selected = (self.only_raster or read_raster(path, slide.size)).white()
            if ids is None:
                ids = np.zeros(selected.shape, np.uint8)
            elif ids.shape != selected.shape:
                raise MaskError(f"{path}: has another size than the others; run HistoQC again for this slide")
            ids[selected & (ids == 0)] = CLASSES[HISTOQC[name]]
        assert ids is not None                              # there is at least one member
        return f"HistoQC {' + '.join(names.values())}", ids


def histoqc_members(folder: Path, slide: Slide, check_name: bool) -> list[Path]:
    """The files of artifacts that HistoQC wrote for a slide, in the order of the vocabulary.

    `folder` is the slide's own (named after it), or that of the whole run, which holds results.tsv.
    """
    own = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.stem == slide.path.stem]
    if own:
        return histoqc_members(own[0], slide, check_name)
    if (folder / "results.tsv").is_file():
        raise MaskError(f"{folder}: HistoQC wrote no folder for {slide.path.name}; it may have failed there, which its "
                        "exit code does not tell: see error.log, or name the folder of the slide")
    written = [match for path in sorted(folder.glob("*.png")) if path.is_file() and not is_left_by_macos(path.name)
               and (match := HISTOQC_NAME.fullmatch(path.stem))]
    slides = {match["slide"] for match in written}
    if not written:
        raise MaskError(f"{folder}: is a folder, and not one that HistoQC wrote for a slide; name the mask file itself "
                        "(an image or QuPath GeoJSON)")
    if len(slides) > 1:
        raise MaskError(f"{folder}: holds masks of {len(slides)} slides; name the folder of one slide")
    if check_name:
        check_slide(folder, slides.pop(), slide, "histoqc")
    order = list(HISTOQC)
    members = sorted((match for match in written if match["member"] in HISTOQC), key=lambda m: order.index(m["member"]))
    if not members:
        known = ", ".join(f"*_{name}.png" for name in HISTOQC)
        raise MaskError(f"{folder}: holds none of HistoQC's masks of artifacts ({known}); run HistoQC with the "
                        "modules that find them")
    return [folder / f"{match.string}.png" for match in members]


class GrandQc(ImageReader):
    """The class mask of GrandQC."""

    @staticmethod
    def refuse_name(path: Path, slide: Slide) -> None:
        if bare_name(path).endswith("_MASK") or path.parent.name == "tis_det_mask":
            raise MaskError(f"{path}: is GrandQC's tissue mask (0 = tissue), not one of artifacts; name the one in "
                            "mask_qc/ (or pass --mask-format binary if it is a mask of your own)")

    @staticmethod
    def recognises(raster: Raster, slide: Slide) -> bool:
        match = GRANDQC_NAME.fullmatch(raster.path.name)
        mostly_margin = raster.counts.get(0, 0) > raster.values.size / 2     # never so in GrandQC's own masks
        if not match or mostly_margin or not raster.labels - {0}:
            return False
        check_slide(raster.path, match["slide"], slide, "grandqc")
        return True

    def class_ids(self, slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
        ours = dict.fromkeys(GRANDQC_KEEP, 0) | {at: CLASSES[name] for at, name in GRANDQC.items()}
        return "GrandQC class mask", self.raster.mapped(ours, "GrandQC's")


class Plain(ImageReader):
    """A black-and-white mask or a label image: white, or any label but 0, means restore."""

    knows_classes = False

    @staticmethod
    def refuse_name(path: Path, slide: Slide) -> None:
        if is_tissue(own_words(path, slide)):
            raise MaskError(f"{path}: is named as a mask of what the slide consists of, and restoring that would "
                            "repaint it; name a mask of artifacts, or pass --mask-format binary if white marks what "
                            "to restore")

    @staticmethod
    def recognises(raster: Raster, slide: Slide) -> bool:
        labels = raster.labels
        if not labels - {0} or not labels & {1, 7}:         # every format selects whatever is not 0 then
            return True
        match = GRANDQC_NAME.fullmatch(raster.path.name)
        as_grandqc_names = match and SLIDE_SUFFIX.fullmatch(Path(match["slide"]).suffix)
        words = own_words(raster.path, slide)
        return (len(labels) == 2 and 0 in labels and not as_grandqc_names
                and bool(words_of(words) & RESTORE_WORDS or class_of(words) != "other"))

    def class_ids(self, slide: Slide, wanted: Collection[str] | None) -> tuple[str, np.ndarray]:
        origin = "label image" if self.raster.many_labels else "black-and-white mask"
        ids = self.raster.white().view(np.uint8)            # in place: there may be 500 million pixels
        ids *= np.uint8(CLASSES["other"])
        return origin, ids


IMAGE_READERS: dict[MaskFormat, type[ImageReader]] = {       # in the order in which they are asked
    "classes": ClassMask, "histoqc": HistoQc, "grandqc": GrandQc, "binary": Plain}


def check_slide(path: Path, named: str, slide: Slide, mask_format: MaskFormat) -> None:
    """Raise MaskError where the slide that a tool put into a file's name is another one."""
    stem, suffix = Path(named).stem, Path(named).suffix
    if SLIDE_SUFFIX.fullmatch(suffix) and stem not in (slide.path.stem, slide.path.name):
        raise MaskError(f"{path}: is named after {named}, and the slide is {slide.path.name}; name the mask of this "
                        f"slide, or pass --mask-format {mask_format} if it is the same one")


def own_words(path: Path, slide: Slide) -> str:
    """The words of a file's name without those of the slide's."""
    known = words_of(slide.path.name)
    return " ".join(word for word in split(bare_name(path)) if not words_of(word) <= known)


def bare_name(path: Path) -> str:
    """A mask's name without its suffix, for GeoJSON without all of them: "mask.geojson.gz" is "mask"."""
    name = path.stem
    while path.suffix.lower() in GEOJSON_SUFFIXES and Path(name).suffix.lower() in GEOJSON_SUFFIXES:
        name = Path(name).stem
    return name
