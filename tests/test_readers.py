"""The readers' trial: what each reader sees, and how answers are scored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from made_slides import he_like
from painters import PINK
from PIL import Image

from benchmarks.quality import readers

HOLES = 4


def flat(image, mask, **_):
    return np.where(mask[..., None], np.uint8(PINK), image)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A trial of two images, restored in a flat colour."""
    monkeypatch.setattr(readers, "Restorer",
                        SimpleNamespace(from_pretrained=lambda: SimpleNamespace(restore=flat)))
    for name in "ab":
        Image.fromarray(he_like(400, 360, ord(name))).save(tmp_path / f"{name}.png")
    readers.draw([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "trial", HOLES, 2.0, 0)
    return tmp_path / "trial"


def place(one):
    return one["image"], one["left"], one["top"]


def test_a_reader_sees_each_place_once_and_half_of_them_restored(folder):
    key = json.loads((folder / "key.json").read_text())
    sheets = [{path.stem: key[path.stem] for path in (folder / sheet).glob("*.png")} for sheet in ("first", "second")]
    for sheet in sheets:
        assert len({place(one) for one in sheet.values()}) == len(sheet) == 2 * HOLES
        assert [one["answer"] for one in sheet.values()].count("restored") == HOLES
    first, second = ({place(one): one["answer"] for one in sheet.values()} for sheet in sheets)
    assert all(first[at] != second[at] for at in first)
    for sheet, names in zip(("first", "second"), sheets, strict=True):
        for name, one in names.items():
            pixels = np.asarray(Image.open(folder / sheet / f"{name}.png"))
            assert (pixels == PINK).all(axis=2).any() == (one["answer"] == "restored")


def test_answers_of_two_readers_are_scored_together(folder, tmp_path):
    key = json.loads((folder / "key.json").read_text())
    for number, sheet in enumerate(("first", "second")):
        given = {path.stem: key[path.stem]["answer"] if number else "restored" for path in (folder / sheet).glob("*")}
        (tmp_path / f"{sheet}.json").write_text(json.dumps(given))
    found = readers.score(folder, [tmp_path / "first.json", tmp_path / "second.json"])
    assert (found["pictures"], found["right"]) == (4 * HOLES, 0.75)
    assert (found["real_called_restored"], found["restored_called_restored"]) == (0.5, 1.0)
