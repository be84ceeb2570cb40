"""Work in progress beside an output, and its publication: a kill at any moment leaves no output or a whole one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artifusion.errors import OutputError


@contextmanager
def workspace(target: Path, job: dict[str, Any]) -> Iterator[Path]:
    """OUT.partial, holding what an interrupted run of the very same job left; gone when the block ends well.

    Raises:
        OutputError: it cannot be made.
    """
    work = target.with_name(target.name + ".partial")
    stamp = json.dumps(job, sort_keys=True)
    try:
        if work.is_dir() and not ((work / "job.json").is_file() and (work / "job.json").read_text() == stamp):
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        (work / "job.json").write_text(stamp)
    except OSError as error:
        raise OutputError(f"{work}: cannot be written: {error.strerror}") from None
    yield work
    shutil.rmtree(work)


def publish(file: Path, target: Path, content: dict[str, Any], declared: dict[str, Any]) -> None:
    """Sidecars first, the slide last: a slide under its final name always has its declaration beside it."""
    for suffix, document in ((".json", content), (".geojson", declared)):
        part = file.with_name(target.name + suffix)
        part.write_text(json.dumps(document, indent=2) + "\n")
        os.replace(part, target.with_name(target.name + suffix))
    os.replace(file, target)


def bar(label: str, quiet: bool) -> Callable[[int, int], None]:
    """A progress callback (done, total) that draws on stderr where that is a terminal."""
    progress = tqdm(desc=label, unit="segment", disable=quiet or None)

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)
        if done >= total:
            progress.close()

    return show
