import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artifusion.cli import main

COMMANDS = sorted(main.commands)
README = (Path(__file__).parents[1] / "README.md").read_text()


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and len(result.output) > 200
    assert f"artifusion {command}" in README


def test_help_imports_no_torch():
    code = "import sys; sys.argv = ['artifusion', '--help']\ntry:\n import artifusion.cli as c; c.main()\n" \
           "except SystemExit: pass\nassert 'torch' not in sys.modules and 'openslide' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("script", ["train.py", "restore.py"])
def test_the_scripts_at_the_top_are_the_commands(script):
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, root / script, "--help"], check=True, capture_output=True, text=True)
    assert f"Usage: artifusion {script.removesuffix('.py')}" in result.stdout


def test_damage_restore_verify_info(aperio_slide, tmp_path):
    damaged, restored = tmp_path / "damaged.svs", tmp_path / "restored.svs"
    result = invoke("damage", aperio_slide, damaged, "--share", "0.02", "-q")
    assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {f"damaged.svs{s}" for s in ("", ".json", ".geojson", ".mask.png")}
    assert invoke("verify", aperio_slide, damaged).exit_code == 0
    result = invoke("restore", damaged, "--mask", f"{damaged}.geojson", "-o", restored, "--steps", 2, "--device", "cpu",
                    "--preview", tmp_path / "look.png", "-q")
    assert result.exit_code == 0, result.output
    result = invoke("verify", damaged, restored, "--json")
    assert result.exit_code == 0 and json.loads(result.output)["ok"]
    classes = {region["class"] for region in json.loads(Path(f"{restored}.json").read_text())["regions"]}
    assert classes <= {"fold", "bubble", "pen"} and classes
    assert Image.open(tmp_path / "look.png").width > 300
    assert "um_per_px" in invoke("info", damaged).output
    assert json.loads(invoke("info", "he-small", "--json").output)["weights"] == "he-small"


def test_a_dry_run_paints_nothing(aperio_slide, tmp_path):
    mask = np.zeros((703, 901), np.uint8)
    mask[100:150, 100:150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = invoke("restore", aperio_slide, "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.svs", "--dry-run")
    assert result.exit_code == 0 and "1 canvases, 10 evaluations each" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_verify_finds_what_was_not_declared(aperio_slide, tmp_path):
    damaged = tmp_path / "damaged.svs"
    assert invoke("damage", aperio_slide, damaged, "-q").exit_code == 0
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(bytes(data))
    assert invoke("verify", aperio_slide, damaged).exit_code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["restore", "missing.svs", "--mask", "m.png"], "missing.svs: no such file"),
        (["restore", "SLIDE", "--mask", "missing.png"], "missing.png"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--weights", "./none"], "no such weights"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--config", "none"], "no such configuration"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--device", "tpu"], "use auto, cpu or cuda"),
        (["restore", "SLIDE", "--mask", "SLIDE", "--config", "."], "is a folder"),
        (["damage", "SLIDE", "out.png"], "choose one of these"),
        (["damage", "SLIDE", "SLIDE"], "source itself"),
        (["verify", "SLIDE", "missing.svs"], "missing"),
        (["damage", "SLIDE", "nowhere/out.svs"], "nowhere"),
        (["info", "nothing"], "no such"),
        (["train", "none", "--data", ".", "--run-dir", "run"], "no such configuration"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(aperio_slide, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*(str(aperio_slide) if arg == "SLIDE" else arg for arg in args))
    assert result.exit_code == 1
    assert message in result.output and result.output.count("\n") == 1 and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_exit_code_2():
    assert invoke("restore").exit_code == 2
    assert invoke("damage", "in.svs", "out.svs", "--kinds", "fold,hole").exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--steps", 0).exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--mpp", "nan").exit_code == 2
    assert invoke("restore", "x", "--mask", "y", "--grow", "inf").exit_code == 2
