"""The note in a TIFF's description, in whatever form the description has: readers of that form still understand it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast
from xml.parsers import expat

import tifffile
from PIL import Image

from artifusion.errors import BROKEN_FILE
from artifusion.slide import tiff
from artifusion.slide.pages import lasting_page
from artifusion.slide.reader import Slide
from artifusion.slide.whole import tifffile_messages

WORD = "artifusion"                      # by which a note is found
OME_ROOT = re.compile(r"""<(?:[\w.-]+:)?OME\b(?:[^>]*?\sUUID\s*=\s*["'](?P<uuid>[^"'<>]*))?""")
PLANE_UUID = re.compile(r"<(?P<tag>(?:[\w.-]+:)?UUID)\b(?P<attributes>[^<>]*?)(?:/>|>(?P<uuid>[^<>]*)</(?P=tag)\s*>)")
FILE_NAME = re.compile(r"""\bFileName\s*=\s*(?P<quote>["'])(?P<name>.*?)(?P=quote)""")


def tags_with_note(page: tiff.Page, note: str, vendor: str, name: str) -> dict[int, bytes]:
    """Return `texts_with_note` of a page, and every further description of it: readers differ in which they take.

    Args:
        name: the file of the page.
    """
    texts = {code: without_uuids(page.text(code), name) for code in page.tags
             if code % tiff.REPEATED == tiff.DESCRIPTION}
    first = texts.pop(tiff.DESCRIPTION, "")
    again = {code: description_with_note(text, note, vendor) for code, text in texts.items()}
    return texts_with_note(first, page.text(tiff.SOFTWARE), note, vendor) | {
        code: text.encode(errors="surrogateescape") for code, text in again.items() if text is not None}


def texts_with_note(description: str, software: str, note: str, vendor: str) -> dict[int, bytes]:
    """Return the text tags of a first directory that change so that it holds the note, by code.

    The note stands in ImageDescription; in Software where the description has no place for it, and there too where
    tifffile shows no description, because it is in no encoding.
    """
    text, (tool, nul, rest) = description_with_note(description, note, vendor), software.partition("\0")
    texts = {} if text is None else {tiff.DESCRIPTION: text}
    if text is None or not _is_text(description):
        texts[tiff.SOFTWARE] = f"{tool}; {WORD}: {note}{nul}{rest}" if tool else f"{WORD}: {note}{nul}{rest}"
    return {code: text.encode(errors="surrogateescape") for code, text in texts.items()}


def _is_text(description: str) -> bool:
    """Return whether the bytes of a description are in one of the encodings that tifffile tries."""
    for encoding in ("utf-8", "cp1252"):
        try:
            description.encode(errors="surrogateescape").decode(encoding)
        except ValueError:
            continue
        return True
    return False


def text_problems(before: Slide, after: Slide, kept: bool) -> list[str]:
    """Return what readers no longer find in the texts of a restored slide: the note, and what the source says there.

    Args:
        kept: the description is the source's; by others than copies it is kept where it still holds.
    """
    if not tiff.is_tiff(after.path):
        with Image.open(after.path) as image:
            texts = [str(image.info.get("comment", "")), *map(str, getattr(image, "text", {}).values())]
        return [] if any(WORD in text for text in texts) else ["no text of the image tells what was restored"]
    problems = []
    if after.kind == "slide" and not any(WORD in text for text in (*after.properties, *after.properties.values())):
        problems.append("OpenSlide shows no note of what was restored")
    with tifffile_messages(), tifffile.TiffFile(after.path) as file:
        page: Any = file.pages[0]
        if not any(WORD in text for text in (page.description, page.description1, page.software)):
            problems.append("tifffile shows no note of what was restored")
        if not kept and not lasting_page(before).tags:
            return problems
        with tifffile.TiffFile(before.path) as source:
            if _is_image(source) and not _is_image(file):
                problems.append("tifffile makes no image of its pages any more")
            problems += [f"tifffile reads other {form} metadata" for form in FORMS if kept or form != OF_ALL_PAGES
                         if not _metadata(form, source).items() <= _metadata(form, file).items()]
    return problems


def _is_image(file: tifffile.TiffFile) -> bool:
    """Whether tifffile makes an image of the pages of a file by what they tell of themselves."""
    try:
        return bool(file.series[0].shape)
    except BROKEN_FILE:
        return False


def _metadata(form: str, file: tifffile.TiffFile) -> Mapping[str, Any]:
    """What tifffile reads of a form of metadata; nothing where the text only looks like that form."""
    try:
        return FORMS[form](file) or {}
    except BROKEN_FILE:
        return {}


def _ome(file: tifffile.TiffFile) -> Mapping[str, Any]:
    """What tifffile takes as OME-XML, parsed."""
    return tifffile.xml2dict(without_uuids(file.ome_metadata)) if file.is_ome and file.ome_metadata else {}


def _json(file: tifffile.TiffFile) -> Mapping[str, Any]:
    """The description where it is a JSON object."""
    content = json.loads(cast(Any, file.pages[0]).description)
    return content if isinstance(content, dict) else {}


OF_ALL_PAGES = "shape"                   # tifffile takes it only where each page tells its own, and built levels do not
FORMS: dict[str, Callable[[tifffile.TiffFile], Mapping[str, Any] | None]] = {
    "OME": _ome, "JSON": _json, "ImageJ": lambda file: {k: repr(v) for k, v in (file.imagej_metadata or {}).items()},
    OF_ALL_PAGES: lambda file: (file.shaped_metadata or ({},))[0]}


def description_with_note(text: str, note: str, vendor: str) -> str | None:
    """Return an ImageDescription with the note inserted, never inside another value; None where it has no place.

    Nothing else of the text changes. The note stands before the first NUL, where readers stop.
    """
    head, nul, rest = text.rstrip("\0").partition("\0")
    place = _place(head.rstrip(), note, vendor)
    if place is None:
        return None
    at, insertion = place
    return head[:at] + insertion + head[at:] + nul + rest


def without_uuids(text: str, name: str | None = None) -> str:
    """Return OME-XML without the UUID of the file that planes lie in: of those in the file itself, or without all.

    Planes without one lie in the file itself, whatever it is called. With one, readers look for them in the source.

    Args:
        name: of the file; None: without all.
    """
    root = OME_ROOT.search(text)
    if root is None or text.lstrip("\ufeff \t\r\n")[:1] != "<":
        return text

    def other(found: re.Match[str]) -> str:
        file = FILE_NAME.search(found["attributes"])
        own = name is None or (found["uuid"] or "").strip() == root["uuid"] or (
            file is not None and html.unescape(file["name"]).lower().removeprefix("./") == name.lower())
        return "" if own else found[0]

    return PLANE_UUID.sub(other, text)


def only_noted(old: str, new: str) -> bool:
    """Return whether a text is an older one with at most one insertion, which holds a note; UUIDs of planes aside."""
    old, new = (without_uuids(text).rstrip("\0 \r\n") for text in (old, new))
    pairs = enumerate(zip(old, new, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
    inserted = new[same : len(new) - (len(old) - same)]
    return old == new or (new.endswith(old[same:]) and WORD in inserted)


def _place(body: str, note: str, vendor: str) -> tuple[int, str] | None:
    """Return where the note goes in a description without trailing space, and the text that goes there."""
    first = body.lstrip("\ufeff \t\r\n")[:1]
    try:
        content = json.loads(body.lstrip("\ufeff")) if first in set('{["') else None
    except ValueError:
        content = None                                       # no JSON in spite of its first character
    except RecursionError:
        return None
    keys = content if isinstance(content, dict) else ()
    name = next(name for n in range(1, len(body) + 2) if (name := f"{WORD} {n}" if n > 1 else WORD)
                if f"|{name} = " not in body and name not in keys)      # a slide may be restored twice
    if vendor == "aperio":
        return len(body), f"|{name} = {note}"
    if first == "<":
        at = _end_of_root(body)
        safe = re.sub("-(?=-)", "- ", note)                  # a comment must not hold two hyphens in a row
        return None if at is None else (at, f"<!-- {WORD}: {safe} -->")
    if body.startswith("shape="):                            # tifffile reads all that follows as numbers
        return None
    if content is None:
        return len(body), f"\n{WORD}: {note}" if body else f"{WORD}: {note}"
    if isinstance(content, dict):
        return len(body) - 1, f"{', ' if content else ''}{json.dumps(name)}: {json.dumps(note)}"
    return None


def _end_of_root(xml: str) -> int | None:
    """Return where the closing tag of the root element begins; None where there is none, or this is no XML."""
    data = xml.encode(errors="surrogateescape")
    leading = len(data) - len(data.lstrip())
    for encoding in ("utf-8", "iso-8859-1"):                 # whatever the text declares: .NET writes "utf-16"
        parser, ends = expat.ParserCreate(encoding), list[int]()
        parser.EndElementHandler = lambda _, parser=parser, ends=ends: ends.append(parser.CurrentByteIndex)
        try:
            parser.Parse(data[leading:], True)
        except expat.ExpatError:
            continue
        at = leading + ends[-1]
        return len(data[:at].decode(errors="surrogateescape")) if data[at : at + 2] == b"</" else None
    return None
