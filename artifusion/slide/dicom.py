"""DICOM slides that would end the process: OpenSlide looks for the places of sparse tiles without asking for them."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from artifusion.errors import SlideError

MAGIC, AT = b"DICM", 128
SPARSE = b"TILED_SPARSE"
FRAME_GROUPS = b"\x00\x52\x30\x92"        # the tag, in the byte order of all DICOM that OpenSlide reads
PIXELS = b"\xe0\x7f\x10\x00"
SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI.\x00|.\x00\x00\x00)([0-9.]+)", re.DOTALL)
HEAD_BYTES = 1 << 20                      # in which the series and the kind of tiles stand


def check_frames(path: Path) -> None:
    """Raise SlideError where a DICOM slide has sparse tiles and does not tell where each lies.

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
        if _series(file) == series and _lacks_places(file):
            raise SlideError(f"{file}: does not tell where its sparse tiles lie, the file is damaged; get a whole copy "
                             "of it")


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


def _lacks_places(path: Path) -> bool:
    """Return whether a DICOM file tells of sparse tiles, but of no frame's place before its pixels."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sparse = data.find(SPARSE, 0, HEAD_BYTES)
        if sparse < 0:
            return False
        pixels = data.find(PIXELS, sparse)
        return data.find(FRAME_GROUPS, sparse, pixels if pixels >= 0 else len(data)) < 0
