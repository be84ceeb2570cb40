import os

import pytest

from artifusion.errors import OutputError
from artifusion.files import again, remove_parts, whole_file


def test_two_processes_that_write_one_file_do_not_share_a_part(tmp_path):
    path = tmp_path / "mask.png"
    with whole_file(path) as part:
        part.write_text("parent")
        child = os.fork()
        if child == 0:
            try:
                with whole_file(path) as other:
                    other.write_text("child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert path.read_text() == "child" and part.read_text() == "parent"
    assert path.read_text() == "parent" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_tells_its_cause_even_where_the_part_cannot_be_removed(tmp_path):
    with pytest.raises(OutputError, match="No space left"), whole_file(tmp_path / "mask.png") as part:
        part.unlink()
        part.mkdir()                                                    # unlink raises
        raise OSError(28, "No space left on device")


def test_what_killed_processes_left_of_a_file_is_removed(tmp_path):
    for name in ("state.1.part", "state.22.part", "state", "state2.1.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path / "state")
    assert {path.name for path in tmp_path.iterdir()} == {"state", "state2.1.part"}


def test_what_a_process_is_writing_is_not_removed(tmp_path):
    with whole_file(tmp_path / "mask.png") as part:
        part.write_text("half")
        remove_parts(tmp_path / "mask.png")
        assert part.read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_a_file_that_comes_out_again_is_done_and_another_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    path.write_text("mask")
    with again(path, "remove it") as place:
        place.write_text("mask")
    with pytest.raises(OutputError, match="exists already; remove it"), again(path, "remove it") as place:
        place.write_text("another")
    assert path.read_text() == "mask" and list(tmp_path.iterdir()) == [path]
