"""An output and the files beside it: checked before work begins, worked on in a folder beside it, published whole.

A kill at any moment leaves no output or a whole one, and the same command after it goes on with what was finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from artifusion.errors import DataError, OutputError, SlideError
from artifusion.files import REMEDY, move, part_of, sync, write_json, write_text

JOB, LOCK, PUBLISHING = "job.json", "lock", "publishing.json"
OWN = {LOCK, PUBLISHING, *(part_of(Path(name)).name for name in (JOB, PUBLISHING))}   # may lie there without a job
LAST = (JOB, PUBLISHING)                                                              # removed after everything else


class Output:
    """A file to be written with others beside it, all of one job.

    The calls of a command, in their order: `check()` before anything is read, `check(job)` when it is known what will
    be done, then `with output.work_on(job) as work`, and in there, at its end, `publish`.

    Attributes:
        target: the file, which gets its name last of all; until then work in progress lies in `<target>.partial`.
        files: the target, the files beside it (`<target><suffix>`) and any others that are written with it.
        inputs: files that are read and so never written.
    """

    def __init__(self, target: Path, inputs: Sequence[Path], *, suffixes: Sequence[str] = (),
                 others: Sequence[Path] = (), overwrite: bool = False) -> None:
        self.target, self.inputs, self.overwrite = target, list(inputs), overwrite
        self.files = [target, *(beside(target, suffix) for suffix in suffixes), *others]
        self._folder, self._job = beside(target, ".partial"), ""

    def check(self, job: Mapping[str, Any] | None = None) -> None:
        """Raise OutputError where a file may not be written; what an interrupted run of the job published may exist.

        Without a job that of any run may. What a kill left of a work folder that holds nothing is removed.
        """
        self._remove_empty_folder()
        record = self._publication()
        ours = bool(record) and (job is None or record["job"] == _text(job))
        check_outputs(self.inputs, self.files, self.overwrite, set(map(Path, record["files"])) if ours else ())

    @contextmanager
    def work_on(self, job: Mapping[str, Any]) -> Iterator[Path | None]:
        """The work folder, holding what an interrupted run of the very same job left; gone when the block ends well.

        None where such a run had published everything. What a run of another job left there is removed. After a
        SlideError or a DataError the folder is gone as well: a damaged source stays one, as does a source without
        clean tissue, and a better one is another job.

        Raises:
            OutputError: it cannot be made, is not ours, or another run is at work in it.
        """
        self._job, failure = _text(job), None
        finished = self._finished()
        try:
            with self._locked():
                if not self._resumes():
                    self._clear()
                    write_text(self._folder / JOB, self._job)
                try:
                    yield None if finished else self._folder
                except (SlideError, DataError) as error:
                    failure = error
                self._clear()
            shutil.rmtree(self._folder)
        except OSError as error:
            path = error.filename or self._folder
            raise OutputError(f"{path}: cannot be read or written ({error.strerror or error}); "
                              f"{REMEDY}: what is painted is kept") from None
        if failure:
            raise failure

    def publish(self, finished: Mapping[Path, Path]) -> None:
        """Give finished files, name -> where the file lies now, their names, the target's last of all.

        An old target is removed first: a slide under its final name always has its own sidecar beside it. What must go
        to another disk is copied there before anything is touched.
        """
        staged = {name: file if _same_disk(file, name) else Path(shutil.copyfile(file, part_of(name)))
                  for name, file in sorted(finished.items(), key=lambda item: item[0] == self.target)}
        for file in staged.values():
            sync(file)
        write_json(self._folder / PUBLISHING, {
            "job": self._job, "files": {str(name.absolute()): str(file.absolute()) for name, file in staged.items()}})
        self.target.unlink(missing_ok=True)
        for name, file in staged.items():
            move(file, name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The work folder, made where it is not there, and locked."""
        if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
            raise OutputError(f"{self._folder}: is in the way of the work folder; move it away")
        self._folder.mkdir(exist_ok=True)
        if {path.name for path in self._folder.iterdir()} - OWN and not (self._folder / JOB).is_file():
            raise OutputError(f"{self._folder}: is in the way and was not made by artifusion; move it away")
        try:
            lock = FileLock(self._folder / LOCK, timeout=0).acquire()
        except Timeout:
            raise OutputError(f"{self.target}: another run is writing it; wait for it or stop it") from None
        with lock:
            yield

    def _resumes(self) -> bool:
        """Whether an interrupted run of the very same job lies there."""
        try:
            return (self._folder / JOB).read_text() == self._job
        except OSError:
            return False

    def _publication(self) -> dict[str, Any]:
        """What an interrupted run wrote before it moved its first file: its job, and where each file comes from."""
        try:
            return json.loads((self._folder / PUBLISHING).read_text())
        except (OSError, ValueError):
            return {}

    def _finished(self) -> bool:
        """Whether an interrupted run of the very same job had published everything, and only its folder is left."""
        record = self._publication()
        return bool(record) and record["job"] == self._job and self.target.exists() and not any(
            Path(file).exists() for file in record["files"].values())

    def _remove_empty_folder(self) -> None:
        """Remove a work folder in which a kill left nothing but the lock, unless a run holds it."""
        folder = self._folder
        if folder.is_dir() and not folder.is_symlink() and {path.name for path in folder.iterdir()} <= {LOCK}:
            with suppress(Timeout, OSError), FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder)

    def _clear(self) -> None:
        """Remove everything but the lock; what tells that it is ours, and how far it came, goes last."""
        for path in sorted(self._folder.iterdir(), key=lambda path: LAST.index(path.name) if path.name in LAST else -1):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def check_outputs(inputs: Sequence[Path], outputs: Sequence[Path], overwrite: bool, ours: Collection[Path] = ()
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


def beside(target: Path, suffix: str) -> Path:
    """The file of that suffix that lies beside an output, named after it."""
    return target.parent / f"{target.name}{suffix}"


def _text(job: Mapping[str, Any]) -> str:
    """A job as text: the same for the same job."""
    return json.dumps(job, sort_keys=True)


def _same_disk(file: Path, target: Path) -> bool:
    return file.stat().st_dev == target.parent.stat().st_dev
