"""An evaluation on disk: its command, and for every tile and method a row of tiles.csv and a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from artifusion.errors import BROKEN_FILE, OutputError, SlideError, shortened
from artifusion.evaluation.measures import MEASURED
from artifusion.evaluation.methods import Cost
from artifusion.evaluation.trials import Trial
from artifusion.files import whole_file, write_json

JOB, TABLE, LOCK, PAINTED = "evaluation.json", "tiles.csv", ".lock", "painted"
FACTS = ("tile", "image", "source", "organ", "artifact", "hole_size", "hole_width", "hole_share", "method",
         "evaluations", "gflop", "seconds")
COLUMNS = (*FACTS, *MEASURED)


class Records:
    """A folder of results. Each row is appended after its picture: a kill loses one tile of one method at most."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(self, method: str, number: int) -> Path:
        return self.folder / PAINTED / method / f"{number:04d}.png"

    def painted(self, method: str, number: int) -> np.ndarray:
        """The tile that a method painted, uint8 (H, W, 3)."""
        try:
            return np.asarray(Image.open(self.picture(method, number)).convert("RGB"))
        except OSError:
            raise SlideError(f"{self.picture(method, number)}: is gone or broken; begin again in an empty "
                             "folder") from None

    def rows(self) -> dict[tuple[str, int], dict[str, str]]:
        """All rows by (method, tile). An incomplete last row, left by a kill, is removed from the file.

        Raises:
            OutputError: the table is broken.
        """
        table = self.folder / TABLE
        if not table.is_file():
            return {}
        try:
            text = table.read_text()
            whole = text[: text.rfind("\n") + 1]
            rows = {(row["method"], int(row["tile"])): row for row in csv.DictReader(whole.splitlines(), strict=True)}
            for row in rows.values():
                if None in row or None in row.values():
                    raise ValueError("a row has other columns")
                [float(row[name]) for name in MEASURED if name in row]
        except (*BROKEN_FILE, csv.Error) as error:
            raise OutputError(f"{table}: is broken ({shortened(error)}); begin again in an empty folder") from None
        if whole != text:
            os.truncate(table, len(whole.encode()))
        return rows

    def add(
        self, trial: Trial, method: str, painted: np.ndarray | None, cost: Cost, gflop: float,
        measured: Mapping[str, float],
    ) -> None:
        """Save the tile that a method painted, if it paints, then its row."""
        table = self.folder / TABLE
        if painted is not None:
            picture = self.picture(method, trial.number)
            picture.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(picture) as part:
                Image.fromarray(painted).save(part, format="png")
        facts = (trial.number, trial.image, trial.source, trial.organ, trial.artifact, trial.size, trial.width,
                 f"{trial.hole.mean():.4f}", method, cost.evaluations, f"{gflop:.6g}", f"{cost.seconds:.4f}")
        is_new = not table.is_file() or not table.stat().st_size
        with table.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerow([*facts, *(f"{measured[name]:.6g}" for name in MEASURED)])


@contextmanager
def open_records(folder: Path, job: Mapping[str, Any]) -> Iterator[Records]:
    """The records of a command in its folder, which may hold some from an earlier call. Locks the folder.

    Raises:
        OutputError: the folder holds something else or the results of another command, is being written by another
            process, or cannot be made.
    """
    check_folder(folder, job)
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            write_json(folder / JOB, job)
            yield Records(folder)
    except Timeout:
        raise OutputError(f"{folder}: another evaluation is writing there; choose another folder") from None


def check_folder(folder: Path, job: Mapping[str, Any]) -> None:
    """Raise OutputError unless the folder is new, empty or holds results of the same job, by the keys that it has."""
    if not folder.exists():
        if not folder.parent.is_dir():
            raise OutputError(f"{folder}: its folder does not exist; make {folder.parent} first")
        if not os.access(folder.parent, os.W_OK):
            raise OutputError(f"{folder}: no permission to write in {folder.parent}; choose another folder")
        return
    if not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: no permission to write there; choose another folder")
    if not any(path.name != LOCK for path in folder.iterdir()):
        return
    try:
        earlier = json.loads((folder / JOB).read_text())
    except (OSError, ValueError):
        raise OutputError(f"{folder}: holds something else; name a new or an empty folder") from None
    different = [key for key in job if earlier.get(key) != job[key]]
    if different:
        raise OutputError(f"{folder}: holds the results of another command ({', '.join(different)}); "
                          "choose another folder")
