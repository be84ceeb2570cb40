import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from artifusion.checkpoint import Weights
from artifusion.cli.app import main
from artifusion.config import DenoiserConfig, RestoreConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.evaluation import figures, measures, probe, run, trials
from artifusion.evaluation.records import COLUMNS, TABLE
from artifusion.restorer import Restorer

TINY = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, _cheap_artifacts):
    """An untrained tiny denoiser, and few resamples."""
    monkeypatch.setattr(figures, "RESAMPLES", 20)
    monkeypatch.setattr(probe, "HALVES", 4)
    monkeypatch.setattr(measures, "MAX_WINDOWS", 2)
    torch.manual_seed(0)
    restorer = Restorer(Weights(SwinDenoiser(TINY), "tiny", "0" * 64, {}), "cpu", RestoreConfig(steps=4))
    monkeypatch.setattr(run.Restorer, "from_pretrained", lambda weights, device, config: restorer)


def invoke(*args):
    return CliRunner().invoke(main, ["evaluate", *map(str, args)])


def table(folder, timed=False):
    rows = list(csv.DictReader((folder / TABLE).open()))
    return [{key: value for key, value in row.items() if timed or key != "seconds"} for row in rows]


OPTIONS = ("--tiles", 4, "--methods", "telea,paint,graft", "--steps", 2, "--device", "cpu", "-q")


def test_an_evaluation_leaves_a_table_a_report_and_pictures(images, tmp_path, monkeypatch):
    out, docs = tmp_path / "out", tmp_path / "results.md"
    result = invoke("--data", images, "-o", out, "--docs", docs, *OPTIONS)
    assert result.exit_code == 0, result.output
    methods = ["real", "damaged", "telea", "paint", "paint-2", "graft"]
    rows = table(out, timed=True)
    assert [(row["tile"], row["method"]) for row in rows] == [
        *((str(n), m) for n in range(4) for m in methods), *((str(n), "discard") for n in range(4))]
    assert tuple(rows[0]) == COLUMNS and {row["organ"] for row in rows} == {"colon", "bladder"}
    assert all(float(row["outside"]) == 0 for row in rows if row["method"] not in ("real", "discard"))
    assert {row["evaluations"] for row in rows if row["method"] in ("real", "damaged", "telea", "discard")} == {"0"}
    four, two = ((int(row["evaluations"]), float(row["gflop"])) for row in rows[3:5])
    assert four[0] == 2 * two[0] > 0 and four[1] == pytest.approx(2 * two[1], rel=1e-5)
    painted = np.asarray(Image.open(out / "painted" / "telea" / "0001.png"))
    assert painted.shape == (256, 256, 3)
    sheet = Image.open(out / "sheet-01.jpg")
    assert sheet.width >= 8 * 256 and sheet.height >= 4 * 256 and Image.open(out / "measures.png").width > 500
    report = (out / "report.md").read_text()
    for heading in ("## Aims", "## Methods", "### Cost", "## Across data", "## Where it fails", "## Do the measures"):
        assert heading in report
    assert str(tmp_path) not in report + (out / "evaluation.json").read_text()
    assert json.loads((out / "evaluation.json").read_text())["weights"] == "tiny 000000000000"
    assert "| telea |" in report and "paint-2" in report and docs.read_text() in report
    assert "Of *graft*" in report and "probe AUC, JPEG" in report and "copied windows" in report
    assert report.count("| discard |") == 1             # of what is measured downstream, and nowhere else

    whole = table(out)                                    # a run that is killed, its last row cut short, and goes on
    lines = (out / TABLE).read_text().splitlines(keepends=True)
    (out / TABLE).write_text("".join(lines[:16]) + lines[16][:20])
    calls = []
    measure = run.measure
    monkeypatch.setattr(run, "measure", lambda *args, **given: calls.append(args) or measure(*args, **given))
    assert invoke("--data", images, "-o", out, *OPTIONS).exit_code == 0
    assert table(out) == whole and len(calls) == 4 * len(methods) - 15

    before = (out / TABLE).read_bytes()
    for other in (("--seed", 1), ("--steps", 1)):
        result = invoke("--data", images, "-o", out, *OPTIONS, *other)
        assert result.exit_code == 1 and "another command" in result.output and result.output.count("\n") == 1
    assert (out / TABLE).read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "EMPTY"], "no slides or images there"),
        (["--data", "missing"], "no such file or folder"),
        (["--data", "DATA", "--methods", "mean,magic"], "magic: no such method; choose from mean, telea"),
        (["--data", "DATA", "--methods", ","], "no such method"),
        (["--data", "DATA", "--docs", "nowhere/results.md"], "make nowhere first"),
        (["--data", "DATA", "--tiles", 100], "ask for --tiles 8"),
    ])
def test_a_mistake_is_one_line_and_leaves_nothing(images, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"DATA": images, "EMPTY": "empty"}
    result = invoke("-o", "out", *(places.get(arg, arg) for arg in args))
    assert result.exit_code == 1 and message in result.output, result.output
    assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(images, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = invoke("--data", images, "-o", tmp_path, *OPTIONS)
    assert result.exit_code == 1 and "holds something else" in result.output
    (tmp_path / "file").write_text("")
    assert "is a file" in invoke("--data", images, "-o", tmp_path / "file", *OPTIONS).output
    assert invoke("--data", images, "-o", tmp_path / "out", "--steps", "0,x").exit_code == 2


def test_without_the_extra_the_command_says_what_to_install(images, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LIBRARIES", ("no_such_library",))
    result = invoke("--data", images, "-o", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 1 and "pip install 'artifusion[evaluation]'" in result.output


def test_pen_strokes_of_known_inks_are_recovered_and_have_a_table_of_their_own(images, tmp_path, monkeypatch):
    monkeypatch.setitem(trials.ARTIFACTS, "thick", {"pen": (150, 250)})
    result = invoke("--data", images, "-o", tmp_path / "out", "--tiles", 4, "--methods", "mean,recover", "-q",
                    "--ink", "blue:0.5:0", "--ink", "red:0.5:0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    psnr = {method: [float(row["psnr"]) for row in table(tmp_path / "out") if row["method"] == method]
            for method in ("mean", "damaged", "recover")}
    assert min(psnr["recover"]) > max(psnr["damaged"]) and np.mean(psnr["recover"]) > np.mean(psnr["mean"])
    assert {row["artifact"] for row in table(tmp_path / "out")} == {"pen"}
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## By ink" in page and "| blue 0.5 | 2 | recover |" in page and "| red 0.5 | 2 | recover |" in page
    assert invoke("--data", images, "-o", tmp_path / "x", "--ink", "violet:1").exit_code == 2
