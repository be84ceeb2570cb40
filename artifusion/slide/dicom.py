"""DICOM slides whose tiles OpenSlide would lose without a word, or look for without asking whether they have places."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np

from artifusion.errors import SlideError

MAGIC, AT = b"DICM", 128
SPARSE = b"TILED_SPARSE"
FRAME_GROUPS = b"\x00\x52\x30\x92"        # the tag, in the byte order of all DICOM that OpenSlide reads
PIXELS = b"\xe0\x7f\x10\x00"
SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI.\x00|.\x00\x00\x00)([0-9.]+)", re.DOTALL)
FRAMES = re.compile(rb"\x28\x00\x08\x00(?:IS.\x00|.\x00\x00\x00) *([0-9]{1,12})", re.DOTALL)
SIDES = [re.compile(rb"\x48\x00" + code + rb"\x00(?:UL\x04\x00|\x04\x00\x00\x00)(....)", re.DOTALL)
         for code in (b"\x06", b"\x07")]      # columns and rows of the slide
PLACES = [re.compile(rb"\x48\x00" + code + rb"\x02(?:SL\x04\x00|\x04\x00\x00\x00)(....)", re.DOTALL)
          for code in (b"\x1e", b"\x1f")]     # the column and row of a tile's first pixel, counted from 1
HEAD_BYTES = 1 << 20                      # in which the series and the kind of tiles stand


def check_frames(path: Path) -> None:
    """Raise SlideError where a DICOM slide does not tell one place of its own for each of its sparse tiles.

    OpenSlide also reads the files of the same series beside it, which hold the other levels.
    """
    series = _series(path)
    if series is None:
        return
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:                          # a folder of which nobody may see the names, OpenSlide neither
        beside = [path]
    for file in beside:
        if _series(file) == series and (reason := _misplaced(file)):
            raise SlideError(f"{file}: {reason}")


def _series(path: Path) -> bytes | None:
    """Return the series that a DICOM file belongs to; None for other files."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(AT + len(MAGIC))[AT:] != MAGIC:
                return None
            found = SERIES.search(file.read(HEAD_BYTES))
    except OSError:
        return None
    return found[1] if found else b""


def _misplaced(path: Path) -> str:
    """Return why tiles of a DICOM file would be missing or hide each other; empty where none would."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sparse = data.find(SPARSE, 0, HEAD_BYTES) >= 0
        pixels = data.find(PIXELS)
        end = pixels if pixels >= 0 else len(data)
        groups = data.find(FRAME_GROUPS, 0, end)
        values = [b"".join(found[1] for found in place.finditer(data, groups, end)) if groups >= 0 else b""
                  for place in PLACES]
        columns, rows = (np.frombuffer(place, "<i4") for place in values)
        frames, *sides = (found and found[1] for found in (part.search(data, 0, end) for part in (FRAMES, *SIDES)))
    if not sparse and not len(columns) and not len(rows):
        return ""
    if not 0 < len(columns) == len(rows) == int(frames or 1):
        return "does not tell where its tiles lie, the file is damaged; get a whole copy of it"
    width, height = (int.from_bytes(side or b"", "little") for side in sides)
    if columns.min() < 1 or rows.min() < 1 or columns.max() > width or rows.max() > height:
        return "tells places of tiles outside of the slide, the file is damaged; get a whole copy of it"
    order = rows.astype(np.int64) << 32 | columns
    if len(np.unique(order)) < len(order):
        return "holds several tiles for one place, as focal planes are, of which one would be shown; save one plane"
    return "" if sparse or (np.diff(order) > 0).all() else (
        "tells other places of its tiles than their order, the file is damaged; get a whole copy of it")
