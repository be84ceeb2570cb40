"""Files that are written whole or not at all, their SHA-256, and JSON."""

from __future__ import annotations

import fcntl
import filecmp
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from artifusion.errors import OutputError

REMEDY = "free some space or write elsewhere, and start again"


@contextmanager
def whole_file(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """A sibling to write to; it gets the name `path` when the block ends well, and is gone when it does not.

    Raises:
        OutputError: the file cannot be written there; the text ends with the remedy.
    """
    part = part_of(path)
    try:
        with part.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)         # until the process ends, however that may be
            yield part
            os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from None
    finally:
        with suppress(OSError):                      # what made the writing fail is what is told
            part.unlink(missing_ok=True)


@contextmanager
def again(path: Path, remedy: str) -> Iterator[Path]:
    """Where to write a file that is there already: the same job is done, and nothing changes.

    Raises:
        OutputError: something else was written than is there; the text ends with the remedy.
    """
    with TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        yield written
        if not filecmp.cmp(written, path, shallow=False):
            raise OutputError(f"{path}: exists already; {remedy}")


def part_of(path: Path) -> Path:
    """Where this process writes a file before it gets its name; another process writes elsewhere."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of a file; what a process is writing stays."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_text(path: Path, text: str) -> Path:
    """Write a small file whole or not at all; returns its path. Raises OutputError."""
    with whole_file(path) as part:
        part.write_text(text)
    return path


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> Path:
    """Write JSON, without NaN, whole or not at all; returns its path. Raises OutputError."""
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def move(file: Path, target: Path) -> None:
    """Give a finished file its name; a file of that name is replaced. Both lie on one disk."""
    os.replace(file, target)


def is_left_by_macos(name: str) -> bool:
    """Whether macOS keeps metadata in a file of this name, beside another one on foreign disks and in archives."""
    return name.rpartition("/")[2].startswith("._")


def sync(path: Path) -> None:
    """Wait until a file is on the disk, and not only in the memory of the system."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: str | Path) -> tuple[int, int, int]:
    """What changes when a file is written again: its inode, size and time of change in ns."""
    state = Path(path).stat()
    return state.st_ino, state.st_size, state.st_mtime_ns
