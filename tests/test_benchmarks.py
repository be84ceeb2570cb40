"""The benchmark runs end to end on its smallest sizes, draws its report, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from made_slides import he_like
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TEMPORARY = "artifusion-bench-*"
QUICK = (sys.executable, "-m", "benchmarks.speed.bench", "--quick")


def test_the_benchmark_measures_everything_and_draws_its_report(tmp_path):
    path, docs = tmp_path / "results/machine.json", tmp_path / "docs"
    subprocess.run([*QUICK, "--json", path, "--docs", docs], check=True, capture_output=True, cwd=ROOT,
                   env={**os.environ, "TMPDIR": str(tmp_path)})
    result = json.loads(path.read_text())
    (slide,) = result["parts"]["slides"]["figures"]
    assert slide["work_s"] > slide["stages_s"]["encode"] > 0 and slide["denoise_s"] > 0 and slide["reencode_s"] > 0
    assert abs(sum(slide["stages_s"].values()) - slide["work_s"]) < 0.01
    assert slide["identical"] == slide["segments"] - slide["touched"] and slide["peak_mb"] > 100
    seconds = result["parts"]["tile"]["figures"]["seconds"]
    assert {"float32", "bfloat16"} == set(seconds) and result["parts"]["commands"]["figures"]["help"]["seconds"] > 0
    page = (docs / "performance.md").read_text()
    assert "A quick run" in page and "| **no** |" in page and "| yes |" in page
    pictures = list((docs / "pictures").iterdir())
    assert len(pictures) == 2 and all(f"(pictures/{picture.name})" in page for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 150_000
    assert not list(tmp_path.glob(TEMPORARY))


def test_an_interrupted_benchmark_leaves_no_temporary_files(tmp_path):
    command = [*QUICK, "--parts", "slides", "--json", tmp_path / "never.json", "--docs", tmp_path / "docs"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob(f"{TEMPORARY}/out.svs.partial")):              # a slide is being restored
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM and not list(tmp_path.glob(TEMPORARY))


def test_the_benchmark_forces_the_format_in_which_the_denoiser_computes():
    import torch

    from artifusion.device import autocast
    from benchmarks.speed.throughput import FORMATS, in_format

    for dtype in FORMATS:
        with in_format(dtype), autocast(torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_commands_peak_memory_is_its_own_and_its_childrens():
    from benchmarks.memory import run

    grow = "held = bytearray({} << 20); held[::4096] = bytes(len(held[::4096]))"
    held = bytearray(400 << 20)                                 # ru_maxrss of a child would begin with this
    held[::4096] = bytes(len(held[::4096]))
    *_, small_mb = run([sys.executable, "-c", grow.format(20)])
    child = f"{grow.format(200)}; import time; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{child}'])"
    *_, large_mb = run([sys.executable, "-c", parent])
    assert small_mb < 100 and 200 < large_mb < 350


def test_the_network_that_sees_artifacts_learns_from_clean_tissue(tmp_path):
    from artifusion.detection.network import ArtifactNet

    for name in ("brecahad", "osteosarcoma", "tnbc", "her2st", "patolojiatlasi/keloid-scar", "liverquant_gtex",
                 "histolab_tcga", "patolojiatlasi/hodgkin"):
        path = tmp_path / "data" / name / "a.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(he_like(500, 500)).save(path)

    def run(*arguments):
        return subprocess.run([sys.executable, "-m", *arguments], check=True, capture_output=True, text=True, cwd=ROOT)

    run("tools.detector_samples", tmp_path / "data", tmp_path, tmp_path, "--parts", "images", "--count", "6")
    samples = np.load(tmp_path / "images-0.npz")
    assert samples["truth"].any() and "hodgkin" not in samples["slide"]
    run("tools.train_detector", tmp_path, tmp_path / "out.safetensors", "--seconds", "1")
    ArtifactNet().load_state_dict(load_file(tmp_path / "out.safetensors"))


def test_the_network_that_sees_folds_learns_from_clean_tissue(tmp_path):
    from artifusion.detection.folds import FoldNet

    for name in ("brecahad/a.png", "brecahad/10037.jpg", "osteosarcoma/a.png", "tnbc/a.png", "her2st/a.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(he_like(1000, 1000)).save(path)
    done = subprocess.run([sys.executable, ROOT / "tools/train_folds.py", tmp_path, tmp_path / "out.safetensors",
                           "--steps", "2", "--samples", "4"], check=True, capture_output=True, text=True)
    assert done.stdout.count("validation") == 3
    FoldNet().load_state_dict(load_file(tmp_path / "out.safetensors"))
