"""Work in progress beside an output, and its publication: a kill at any moment leaves no output or a whole one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from artifusion.errors import DataError, OutputError, SlideError

JOB, LOCK, PUBLISHING, PART = "job.json", "lock", "publishing.json", "state.part"
OWN = {LOCK, PUBLISHING, PART}      # what a work folder may hold before it has a job, and after
LAST = (JOB, PUBLISHING)


def check_outputs(
    inputs: Sequence[Path], outputs: Sequence[Path], overwrite: bool, ours: Collection[Path] = ()
) -> None:
    """Raise OutputError where an output is an input or a folder, exists without `overwrite`, or cannot lie there.

    `ours`: outputs that an interrupted run of the same job published; they may exist.
    """
    for out in outputs:
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; name the file to write")
        if not out.parent.is_dir():
            raise OutputError(f"{out}: its folder does not exist; make {out.parent} first")
        if not os.access(out.parent, os.W_OK):
            raise OutputError(f"{out}: no permission to write in {out.parent}; choose a name in another folder")
        if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
            raise OutputError(f"{out}: is the source itself or the mask and never overwritten; choose another name")
        if out.exists() and not overwrite and out.absolute() not in ours:
            raise OutputError(f"{out}: exists already; choose another name or pass --overwrite")
    for one, other in combinations([path.parent.resolve() / path.name for path in outputs], 2):
        if one == other:
            raise OutputError(f"{one}: named for two outputs; choose two names")


def beside(target: Path, *suffixes: str) -> list[Path]:
    """The files that lie beside an output, named after it."""
    return [target.parent / f"{target.name}{suffix}" for suffix in suffixes]


def work_folder(target: Path) -> Path:
    (folder,) = beside(target, ".partial")
    return folder


def resumes(target: Path, job: Mapping[str, Any]) -> bool:
    """Whether an interrupted run of the very same job lies beside the output."""
    try:
        return (work_folder(target) / JOB).read_text() == stamp(job)
    except OSError:
        return False


def published(target: Path, job: Mapping[str, Any] | None = None) -> set[Path]:
    """The outputs that an interrupted run had begun to publish: of the very same job, or of any where none is given."""
    record = publication(target)
    return set(map(Path, record["files"])) if record and (job is None or record["job"] == stamp(job)) else set()


def finished(target: Path, job: Mapping[str, Any]) -> bool:
    """Whether an interrupted run of the very same job had published everything, and only its work folder is left."""
    record = publication(target)
    if not record or record["job"] != stamp(job):
        return False
    return target.exists() and not any(Path(file).exists() for file in record["files"].values())


def publication(target: Path) -> dict[str, Any] | None:
    """What an interrupted run wrote before it moved its first file: its job, and where each file comes from."""
    try:
        return json.loads((work_folder(target) / PUBLISHING).read_text())
    except (OSError, ValueError):
        return None


def sweep(target: Path) -> None:
    """Remove a work folder in which a kill left nothing but the lock, unless a run holds it."""
    work = work_folder(target)
    if work.is_dir() and not work.is_symlink() and {path.name for path in work.iterdir()} <= {LOCK}:
        with suppress(Timeout, OSError), FileLock(work / LOCK, timeout=0):
            shutil.rmtree(work)


def stamp(job: Mapping[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)


@contextmanager
def workspace(target: Path, job: Mapping[str, Any]) -> Iterator[Path]:
    """OUT.partial, holding what an interrupted run of the very same job left; gone when the block ends well.

    What an interrupted run of another job left there is removed. After a SlideError or a DataError it is gone as well:
    a damaged source stays one, as does a source without clean tissue, and a better one is another job.

    Raises:
        OutputError: it cannot be made, is not ours, or another run is at work in it.
    """
    work, damage = work_folder(target), None
    try:
        if work.is_symlink() or (work.exists() and not work.is_dir()):
            raise OutputError(f"{work}: is in the way of the work folder; move it away")
        work.mkdir(exist_ok=True)
        if {path.name for path in work.iterdir()} - OWN and not (work / JOB).is_file():
            raise OutputError(f"{work}: is in the way and was not made by artifusion; move it away")
        with FileLock(work / LOCK, timeout=0):
            if not resumes(target, job):
                clear(work)
                write_whole(work / JOB, stamp(job))
            try:
                yield work
            except (SlideError, DataError) as error:
                damage = error
            clear(work)
        shutil.rmtree(work)
    except Timeout:
        raise OutputError(f"{target}: another run is writing it; wait for it or stop it") from None
    except OSError as error:
        raise OutputError(f"{error.filename or work}: cannot be read or written ({error.strerror or error}); free some "
                          "space or write elsewhere, and start again: what is painted is kept") from None
    if damage:
        raise damage


def clear(work: Path) -> None:
    """Remove everything from a work folder but its lock; what tells that it is ours, and how far it came, goes last."""
    for path in sorted(work.iterdir(), key=lambda path: LAST.index(path.name) if path.name in LAST else -1):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    part = path.with_name(PART)
    part.write_text(text)
    os.replace(part, path)


def publish(work: Path, job: Mapping[str, Any], files: Mapping[Path, Path]) -> None:
    """Move finished files, target -> where it lies now, to their names, the last one last of all.

    An old last one is removed first: a slide under its final name always has its own declaration beside it. What
    must go to another disk is copied there before anything is touched.
    """
    staged = {target: file if same_disk(file, target) else Path(shutil.copyfile(file, f"{target}.part"))
              for target, file in files.items()}
    for file in staged.values():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    record = {"job": stamp(job), "files": {str(target.absolute()): str(file.absolute()) for target, file in
                                           staged.items()}}
    write_whole(work / PUBLISHING, json.dumps(record))
    *_, last = files
    last.unlink(missing_ok=True)
    for target, file in staged.items():
        os.replace(file, target)


def same_disk(file: Path, target: Path) -> bool:
    return file.stat().st_dev == target.parent.stat().st_dev


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def bar(label: str, quiet: bool) -> Callable[[int, int], None]:
    """A progress callback (done, total) that draws on stderr where that is a terminal."""
    progress = tqdm(desc=label, unit="B", unit_scale=True, disable=quiet or None)

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)
        if done >= total:
            progress.close()

    return show
