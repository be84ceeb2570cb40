"""An output and the files beside it: checked before work begins, worked on in a folder beside it, published whole.

A kill at any moment leaves no output or a whole one, and the same command after it goes on with what was finished.
"""

from __future__ import annotations

import errno
import hashlib
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
from artifusion.files import REMEDY, move, remove_parts, sha256, sync, write_json, write_text

TOOL = "artifusion"
JOB, LOCK, PUBLISHING = "job.json", "lock", "publishing.json"
PART_SUFFIX = ".1234567.part"              # of a file while it is written
REMOVED_LAST = (JOB, PUBLISHING)           # by them a run knows that the folder is ours, and how far one came


class Output:
    """A file to be written with others beside it, all of one job.

    The calls of a command, in their order: `check()` before anything is read, `check(job)` when it is known what will
    be done, then `with output.work_on(job) as work`, and in there, at its end, `publish`. The sidecar `<target>.json`
    must hold `job_sha256`: by it and the target's own SHA-256 a job that is given again is known to be done.

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
        """Raise OutputError where a file may not be written.

        Files that a run of this job published may exist; before the job is known, those of any run. A work folder in
        which a kill left nothing is removed.
        """
        with suppress(OutputError, OSError):
            if not self._folder.is_symlink() and {path.name for path in self._folder.iterdir()} <= {LOCK}:
                with self._locked():
                    pass                                              # which removes an empty folder
        if not self._is_done(job):
            self._check_files(None if job is None else _text(job))

    def check_space(self, needed: int) -> None:
        """Raise OutputError where the disk has no room for so many bytes; what an interrupted run left counts in."""
        free = shutil.disk_usage(self.target.parent).free
        held = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        if needed > free + held:
            raise OutputError(f"{self.target}: needs about {needed / 1e6:,.0f} MB, and {(free + held) / 1e6:,.0f} MB "
                              "are free there; make room, or write somewhere else with -o")

    @contextmanager
    def work_on(self, job: Mapping[str, Any]) -> Iterator[Path | None]:
        """The work folder, with what an interrupted run of the same job left in it; None where that job is done.

        What a run of another job left there is removed. The folder is gone when the block ends well. It is gone as well
        after a SlideError or a DataError: a damaged source, or one without clean tissue, stays so, and a better one is
        another job.

        Raises:
            OutputError: it cannot be made, is not ours, another run is at work in it, an input went away meanwhile,
                or a run that has ended since `check` wrote a file that may not be overwritten.
        """
        self._job, failure = _text(job), None
        done = self._is_done(job) and self._is_whole()
        if done and not self._folder.exists():
            yield None
            return
        try:
            with self._locked():
                finished = done or self._is_finished()
                if not finished:
                    self._check_files(self._job)
                    if not self._resumes():
                        self._clear()
                        write_text(self._folder / JOB, self._job)
                        sync(self._folder / JOB)
                try:
                    yield None if finished else self._folder
                except (SlideError, DataError) as error:
                    self._check_inputs()
                    failure = error
                self._clear(keep=(LOCK, PUBLISHING))
                for name in (LOCK, PUBLISHING):         # up to the very last the job is known to be finished
                    (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._check_inputs()
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
        staged = {name: file if _same_disk(file, name) else Path(shutil.copyfile(file, beside(name, ".part")))
                  for name, file in sorted(finished.items(), key=lambda item: item[0] == self.target)}
        for file in staged.values():
            sync(file)
        write_json(self._folder / PUBLISHING, {
            "job": self._job, "files": {str(name.absolute()): str(file.absolute()) for name, file in staged.items()}})
        self.target.unlink(missing_ok=True)
        for name, file in staged.items():
            move(file, name)

    def _check_inputs(self) -> None:
        """Raise OutputError where an input went away meanwhile."""
        for path in self.inputs:
            if not path.exists():
                raise OutputError(f"{path}: is gone, and was there before; bring it back and start again: what is "
                                  "painted is kept")

    def _check_files(self, job: str | None) -> None:
        """`check`, and nothing is removed."""
        record = self._publication()
        ours = bool(record) and job in (None, record["job"])
        check_outputs(self.inputs, self.files, self.overwrite, set(map(Path, record["files"])) if ours else ())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the work folder, which is made where it is not there, and removed where it is empty at the end."""
        if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
            raise OutputError(f"{self._folder}: is in the way of the work folder; move it away")
        self._folder.mkdir(exist_ok=True)
        if not _is_job(self._folder / JOB) and not all(_is_ours(path.name) for path in self._folder.iterdir()):
            raise OutputError(f"{self._folder}: is in the way and was not made by artifusion; move it away")
        try:
            lock = FileLock(self._folder / LOCK, timeout=0).acquire()
        except Timeout:
            raise OutputError(f"{self.target}: another run is writing it; wait for it or stop it") from None
        try:
            with lock:
                try:
                    yield
                finally:
                    if {path.name for path in self._folder.iterdir()} == {LOCK}:
                        (self._folder / LOCK).unlink()
        finally:
            with suppress(OSError):
                self._folder.rmdir()                    # fails where work is left, or another run has begun: its lock

    def _is_done(self, job: Mapping[str, Any] | None) -> bool:
        """Whether all files are there and a run of this job, or, without a job, some run declared them."""
        declared = self._declared().get("job_sha256")
        return not self.overwrite and declared is not None and (job is None or declared == digest(job)) and all(
            file.is_file() for file in self.files)

    def _is_whole(self) -> bool:
        """Whether the target is the file that its sidecar declares."""
        try:
            return self._declared()["output"]["sha256"] == sha256(self.target)
        except (OSError, KeyError, TypeError):
            return False

    def _declared(self) -> dict[str, Any]:
        """The target's sidecar; empty where there is none."""
        try:
            return dict(json.loads(beside(self.target, ".json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def _resumes(self) -> bool:
        """Whether the folder holds the work of an interrupted run of this job."""
        try:
            return (self._folder / JOB).read_bytes() == self._job.encode()
        except OSError:
            return False

    def _publication(self) -> dict[str, Any]:
        """What a run wrote before it moved its first file: its job, and where each file comes from. Else nothing."""
        try:
            record = json.loads((self._folder / PUBLISHING).read_text())
        except (OSError, ValueError):
            return {}
        match record:
            case {"job": str(), "files": dict(files)} if all(isinstance(file, str) for file in files.values()):
                return record
        return {}

    def _is_finished(self) -> bool:
        """Whether a run of this job had published every file, and only its folder is left."""
        record = self._publication()
        return record.get("job") == self._job and all(
            Path(name).exists() and not Path(file).exists() for name, file in record["files"].items())

    def _clear(self, keep: Collection[str] = (LOCK,)) -> None:
        """Remove what the folder holds, but for these files."""
        for path in sorted(self._folder.iterdir(), key=_when_removed):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in keep:
                path.unlink()


def check_outputs(inputs: Sequence[Path], outputs: Sequence[Path], overwrite: bool, ours: Collection[Path] = ()
                  ) -> None:
    """Raise OutputError where an output is an input or a folder, exists without `overwrite`, or cannot lie there.

    `ours`: outputs that an interrupted run of the same job published; they may exist.
    """
    for out in outputs:
        if is_too_long(out):
            raise OutputError(f"{out}: the name is too long to be written; choose a shorter one (restore: with -o)")
        remove_parts(out)
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; name the file to write")
        if not out.parent.is_dir():
            raise OutputError(f"{out}: its folder does not exist; make {out.parent} first")
        if not os.access(out.parent, os.W_OK):
            raise OutputError(f"{out}: no permission to write in {out.parent}; choose a name in another folder")
        if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
            raise OutputError(f"{out}: is the source itself or the mask and never overwritten; choose another name")
        if os.path.lexists(out) and not overwrite and out.absolute() not in ours:      # also a link that leads nowhere
            raise OutputError(f"{out}: exists already; choose another name or pass --overwrite")
    for one, other in combinations([path.parent.resolve() / path.name for path in outputs], 2):
        if one == other:
            raise OutputError(f"{one}: named for two outputs; choose two names")


def is_too_long(out: Path) -> bool:
    """Whether the system takes no name as long as that of an output while it is written."""
    try:
        os.lstat(beside(out, PART_SUFFIX))
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def beside(target: Path, suffix: str) -> Path:
    """The file of that suffix that lies beside an output, named after it."""
    return target.parent / f"{target.name}{suffix}"


def digest(job: Mapping[str, Any]) -> str:
    """The SHA-256 of a job: the same for the same job."""
    return hashlib.sha256(_text(job).encode()).hexdigest()


def _text(job: Mapping[str, Any]) -> str:
    """A job as text: the same for the same job."""
    return json.dumps({"tool": TOOL, **job}, sort_keys=True)


def _is_job(path: Path) -> bool:
    """Whether a file holds a job of ours."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["tool"] == TOOL
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_ours(name: str) -> bool:
    """Whether a file of this name may lie in a work folder that holds no job yet, or no longer."""
    return name in (LOCK, PUBLISHING) or (name.endswith(".part") and name.startswith((f"{JOB}.", f"{PUBLISHING}.")))


def _when_removed(path: Path) -> int:
    """The rank of a file of a work folder in the order of removal."""
    return REMOVED_LAST.index(path.name) + 1 if path.name in REMOVED_LAST else 0


def _same_disk(file: Path, target: Path) -> bool:
    return file.stat().st_dev == target.parent.stat().st_dev
