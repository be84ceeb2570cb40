import os

import filelock
import pytest

from artifusion.errors import OutputError, SlideError
from artifusion.output.output import Output, check_outputs


def work_on(target, job):
    return Output(target, []).work_on(job)


def test_outputs_that_would_do_harm_are_refused(tmp_path):
    source, link, there = tmp_path / "source.png", tmp_path / "link.png", tmp_path / "there.png"
    source.write_bytes(b"source")
    os.link(source, link)
    there.write_bytes(b"x")
    for out, remedy in ((source, "source itself"), (link, "source itself"), (there, "--overwrite"),
                        (tmp_path / "no" / "x.png", "does not exist"), (tmp_path, "folder")):
        with pytest.raises(OutputError, match=remedy):
            check_outputs([source], [tmp_path / "new.png", out], overwrite=False)
    check_outputs([source], [there], overwrite=True)
    check_outputs([source], [there], overwrite=False, ours={there})
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "no" / "disk.png")
    with pytest.raises(OutputError, match="exists already"):
        check_outputs([source], [tmp_path / "nowhere.png"], overwrite=False)
    (tmp_path / "sub").mkdir()
    for outputs, remedy in (([link], "source itself"), ([there, tmp_path / "sub" / ".." / "there.png"], "two outputs")):
        with pytest.raises(OutputError, match=remedy):
            check_outputs([source], outputs, overwrite=True)


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.output.output.os.access",                           # the test may run as root
                        lambda path, mode: path != tmp_path / "closed")
    (tmp_path / "closed").mkdir()
    with pytest.raises(OutputError, match="no permission"):
        check_outputs([], [tmp_path / "out.png", tmp_path / "closed" / "look.png"], overwrite=True)


def test_a_foreign_folder_in_the_way_is_never_removed(tmp_path):
    foreign = tmp_path / "out.svs.partial"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="move it away"), work_on(tmp_path / "out.svs", {}):
        pass
    assert (foreign / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tool": "theirs"}', "\udcff"])
def test_a_foreign_folder_with_a_job_of_somebody_else_is_never_removed(tmp_path, text):
    foreign = tmp_path / "out.svs.partial"
    foreign.mkdir()
    (foreign / "job.json").write_text(text, errors="surrogateescape")
    (foreign / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="move it away"), work_on(tmp_path / "out.svs", {}):
        pass
    assert (foreign / "thesis.txt").read_text() == "precious"


def test_an_input_that_goes_away_costs_no_work(tmp_path):
    source, target = tmp_path / "slide.svs", tmp_path / "out.svs"
    for failure in (SlideError("damaged"), OSError(2, "No such file", str(source))):
        source.write_text("slide")
        with pytest.raises(OutputError, match="is gone"), Output(target, [source]).work_on({}) as work:
            (work / "patch").write_text("painted")
            source.unlink()
            raise failure
        assert (work / "patch").exists()


def test_two_runs_of_one_job_do_not_share_a_folder(tmp_path):
    with work_on(tmp_path / "out.svs", {"a": 1}) as work:
        with pytest.raises(OutputError, match="another run"), work_on(tmp_path / "out.svs", {"a": 1}):
            pass
        with pytest.raises(OutputError, match="another run"), work_on(tmp_path / "out.svs", {"a": 2}):
            pass
        assert (work / "job.json").is_file()
    assert not work.exists()


def test_what_a_failed_run_left_is_kept_for_the_same_job_and_removed_for_another(tmp_path):
    target = tmp_path / "out.svs"
    with pytest.raises(ZeroDivisionError), work_on(target, {"a": 1}) as work:
        (work / "patch").write_text("painted")
        raise ZeroDivisionError
    with work_on(target, {"a": 1}) as work:
        assert (work / "patch").exists()
    with pytest.raises(ZeroDivisionError), work_on(target, {"a": 1}) as work:
        (work / "patch").write_text("painted")
        raise ZeroDivisionError
    with work_on(target, {"a": 2}) as work:
        assert not (work / "patch").exists()


def test_a_damaged_source_leaves_nothing(tmp_path):
    with pytest.raises(SlideError, match="whole copy"), work_on(tmp_path / "out.svs", {"a": 1}) as work:
        (work / "patch").write_text("painted")
        raise SlideError("x.svs: get a whole copy of it")
    assert not list(tmp_path.iterdir())


def test_the_last_file_is_published_last_and_an_old_one_goes_first(tmp_path, monkeypatch):
    for name in ("a.new", "slide.new", "slide"):
        (tmp_path / name).write_text(name)
    output = Output(tmp_path / "slide", [], overwrite=True)
    moved = []
    replace = os.replace

    def watched(source, target):
        assert target.parent != tmp_path or not (tmp_path / "slide").exists()
        moved.append(target.name)
        replace(source, target)

    monkeypatch.setattr("artifusion.files.os.replace", watched)
    with output.work_on({}):
        output.publish({tmp_path / "slide": tmp_path / "slide.new", tmp_path / "a": tmp_path / "a.new"})
    assert moved[-2:] == ["a", "slide"] and (tmp_path / "slide").read_text() == "slide.new"


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(OutputError, match="written"), work_on(tmp_path / "out.svs", {}):
        raise OSError(28, "No space left on device", "patch.npy")


def published(tmp_path, job):
    """An output that was published, and whose run was killed before it removed its folder."""
    output, new = Output(tmp_path / "slide", []), tmp_path / "slide.new"
    new.write_text("new")
    with pytest.raises(KeyboardInterrupt), output.work_on(job) as work:
        (work / "patches").mkdir()
        output.publish({tmp_path / "slide": new})
        raise KeyboardInterrupt
    return output


@pytest.mark.parametrize("removed", [[], ["patches"], ["patches", "job.json"], ["patches", "job.json", "lock"]])
def test_a_finished_job_is_done_as_long_as_its_folder_is_there(tmp_path, removed):
    output = published(tmp_path, {"a": 1})
    for name in removed:
        path = tmp_path / "slide.partial" / name
        path.rmdir() if path.is_dir() else path.unlink()
    output.check()
    with pytest.raises(OutputError, match="exists already"):
        output.check({"a": 2})
    output.check({"a": 1})
    with output.work_on({"a": 1}) as work:
        assert work is None
    assert [path.name for path in tmp_path.iterdir()] == ["slide"]


def test_a_finished_job_whose_file_was_removed_is_done_again(tmp_path):
    output = published(tmp_path, {"a": 1})
    output.target.unlink()
    with output.work_on({"a": 1}) as work:
        assert work


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"job": 1, "files": {}}', '{"job": "x", "files": ["y"]}',
                                  '{"job": "x", "files": {"y": 1}}', "{", "\udcff"])
def test_a_publication_that_no_run_wrote_counts_for_nothing(tmp_path, text):
    output = Output(tmp_path / "slide", [])
    (tmp_path / "slide.partial").mkdir()
    (tmp_path / "slide.partial" / "publishing.json").write_text(text, errors="surrogateescape")
    output.check()
    with output.work_on({}) as work:
        assert work
    (tmp_path / "slide").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        output.check()


def test_what_a_run_wrote_since_the_check_is_not_overwritten_unasked(tmp_path):
    output = Output(tmp_path / "slide", [])
    output.check({})
    (tmp_path / "slide").write_text("precious")
    with pytest.raises(OutputError, match="exists already"), output.work_on({}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["slide"]


def test_a_run_that_begins_while_another_ends_keeps_its_folder(tmp_path, monkeypatch):
    target, release = tmp_path / "slide", filelock.FileLock.release
    begun = []

    def begin(lock, *args, **kwargs):
        release(lock, *args, **kwargs)
        if not begun:
            begun.append(work_on(target, {"a": 2}))
            (begun[0].__enter__() / "patch").write_text("painted")

    monkeypatch.setattr(filelock.FileLock, "release", begin)
    with work_on(target, {"a": 1}):
        pass
    assert (tmp_path / "slide.partial" / "patch").read_text() == "painted"
    begun[0].__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["job.json.17.part", "publishing.json.17.part", "lock"])
def test_what_a_kill_leaves_before_the_job_is_written_is_ours(tmp_path, name):
    (tmp_path / "slide.partial").mkdir()
    (tmp_path / "slide.partial" / name).write_text("{")
    with work_on(tmp_path / "slide", {}) as work:
        assert sorted(path.name for path in work.iterdir()) == ["job.json", "lock"]
    assert not list(tmp_path.iterdir())
