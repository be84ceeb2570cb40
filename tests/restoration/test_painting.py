"""Reading, denoising and writing at the same time, and on several devices: nothing about the pixels changes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import torch
from made_slides import tissue
from painters import Brighter, Painter
from PIL import Image

from artifusion.ahead import ahead
from artifusion.checkpoint import Weights
from artifusion.config import DenoiserConfig, RestoreConfig
from artifusion.device import resolve_devices
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import DeviceError, OutputError, WeightsError
from artifusion.mask.mask import Mask
from artifusion.mask.regions import batches, find_regions, plan_canvases
from artifusion.output.patches import Patches
from artifusion.restoration import workers
from artifusion.restoration.painting import BatchReader, paint
from artifusion.restoration.pipeline import restore_slide
from artifusion.restorer import Restorer
from artifusion.slide.reader import open_slide

TINY = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)
CONFIG = RestoreConfig(graft="off", steps=2, context_px=16, batch_size=1, merge_px=1)


class Seeing(Painter):
    """Paints a colour made from all it was shown."""

    def paint(self, image):
        return np.uint8(image.reshape(-1, 3).astype(np.int64).sum(axis=0) % 251)


@pytest.fixture
def spots(tmp_path):
    """An image, a mask of five small holes and one large one in several waves, and its canvases."""
    Image.fromarray(tissue(900, 700)).save(tmp_path / "image.png", compress_level=1)
    with open_slide(tmp_path / "image.png") as slide:
        boxes = [(20 + 170 * n, 20, 60 + 170 * n, 60) for n in range(5)] + [(300, 200, 860, 660)]
        mask = Mask.of([shapely.box(*box) for box in boxes], slide.size)
        yield slide, mask, plan_canvases(find_regions(mask, 1), slide.size, 64, 32, 256, mask)


def painted(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_canvas_sees_what_earlier_waves_painted_however_slow_the_disk_is(spots, tmp_path, monkeypatch):
    slide, mask, canvases = spots
    assert max(canvas.wave for canvas in canvases) > 2
    one_by_one, painter = Patches(tmp_path / "expected", slide, mask), Seeing(batch_size=2)
    todo = batches(canvases, 2)
    read = BatchReader(canvases, todo, one_by_one, 0.5, 0)
    for batch in todo:
        for canvas, image in zip(batch, painter.restore_batch(**read(batch)), strict=True):
            one_by_one.add(canvas, image)
    add = Patches.add
    monkeypatch.setattr(Patches, "add", lambda *given: (time.sleep(0.02), add(*given)))
    done = list(paint(canvases, Patches(tmp_path / "found", slide, mask), Seeing(batch_size=2), 0.5, 0))
    assert len(done) == len(canvases) and set(done) == set(canvases)
    assert painted(tmp_path / "found") == painted(tmp_path / "expected")


def test_the_next_batch_is_read_and_the_last_one_written_while_one_is_painted(spots, tmp_path, monkeypatch):
    slide, mask, canvases = spots
    small = [canvas for canvas in canvases if canvas.l0_target.y == 20]
    events = {name: threading.Event() for name in [*(f"read {n}" for n in range(5)), *(f"add {n}" for n in range(5))]}

    def signalling(what, name):
        def signalled(self, *given, **options):
            result = what(self, *given, **options)
            box = given[0].l0_target if name == "add" else given[0]
            events[f"{name} {(box.x + 64) // 170}"].set()
            return result
        return signalled

    for name in ("read", "add"):
        monkeypatch.setattr(Patches, name, signalling(getattr(Patches, name), name))

    class Waiting(Brighter):
        def restore_batch(self, images, masks, **options):
            number = self.calls
            assert number == 4 or events[f"read {number + 1}"].wait(20)
            assert number == 0 or events[f"add {number - 1}"].wait(20)
            assert number > 2 or not events[f"read {number + 2}"].is_set()          # and no more than that
            return super().restore_batch(images, masks)

    assert len(list(paint(small, Patches(tmp_path / "patches", slide, mask), Waiting(batch_size=1), 0.5, 0))) == 5


def test_an_error_in_the_thread_is_raised_and_what_was_painted_is_kept(spots, tmp_path, monkeypatch):
    slide, mask, canvases = spots
    add, count = Patches.add, iter(range(100))

    def full(self, canvas, image):
        if next(count) == 3:
            raise OutputError("no space")
        add(self, canvas, image)

    monkeypatch.setattr(Patches, "add", full)
    patches = Patches(tmp_path / "patches", slide, mask)
    with pytest.raises(OutputError, match="no space"):
        list(paint(canvases, patches, Brighter(batch_size=1), 0.5, 0))
    assert 3 <= len(painted(tmp_path / "patches")) < len(canvases)


def test_work_ahead_keeps_its_order_and_its_bound():
    begun = []

    def slow(number):
        begun.append(number)
        time.sleep(0.01 * (number % 3))
        return number * number

    results = ahead(slow, range(20), waiting=4, threads=3)
    assert next(results) == 0 and len(begun) <= 5
    assert list(results) == [number * number for number in range(1, 20)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda number: 1 / number, [1, 0, 1], waiting=2))


def restorer(devices, broken=False):
    torch.manual_seed(0)
    denoiser = SwinDenoiser(TINY)
    if broken:
        for parameter in denoiser.parameters():
            parameter.data.fill_(float("nan"))
    return Restorer(Weights(denoiser, "tiny", "0" * 64, {}), devices, CONFIG)


def holes(folder, png_image):
    with open_slide(png_image) as slide:
        mask = np.zeros((slide.size.height, slide.size.width), np.uint8)
    for x, y in ((20, 20), (140, 30), (240, 20), (60, 170), (200, 180)):
        mask[y : y + 20, x : x + 20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "mask.png"


def test_two_processes_paint_the_same_bytes_as_one_and_resume_after_one_was_killed(png_image, tmp_path, monkeypatch):
    mask = holes(tmp_path, png_image)
    restore_slide(png_image, mask, tmp_path / "one.png", restorer=restorer("cpu"))
    made, send, sent = [], workers.Worker.send, []

    def killing(self, what):
        if isinstance(what, dict):
            sent.append(what)
            made.append(self)
        if len(sent) == 4:
            self._process.kill()
            self._process.wait()
        send(self, what)

    monkeypatch.setattr(workers.Worker, "send", killing)
    with pytest.raises(DeviceError, match="SIGKILL"):
        restore_slide(png_image, mask, tmp_path / "two.png", restorer=restorer("cpu,cpu"))
    assert all(worker._process.poll() is not None for worker in made) and not (tmp_path / "two.png").exists()
    kept = len(list(tmp_path.glob("two.png.partial/patches/*.npy")))
    monkeypatch.setattr(workers.Worker, "send", send)
    restore_slide(png_image, mask, tmp_path / "two.png", restorer=restorer("cpu,cpu"))
    assert kept >= 2
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_a_process_raises_is_raised_here_and_an_interrupt_ends_them_all(png_image, tmp_path, monkeypatch):
    mask = holes(tmp_path, png_image)
    with pytest.raises(WeightsError, match="no finite numbers") as caught:
        restore_slide(png_image, mask, tmp_path / "out.png", restorer=restorer("cpu,cpu", broken=True))
    assert "on cpu" in caught.value.__notes__[0] and "\n" not in str(caught.value)
    seen = []

    def interrupted(self):
        seen.extend(worker for _, worker in self._busy.values())
        raise KeyboardInterrupt

    monkeypatch.setattr(workers.Workers, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(png_image, mask, tmp_path / "out.png", restorer=restorer("cpu,cpu"))
    assert len(seen) == 2 and all(worker._process.poll() is not None for worker in seen)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for a process in /proc")
def test_a_process_ends_when_its_parent_was_killed(tmp_path):
    script = ("import os, test_painting as t; w = t.workers.Worker('cpu'); "
              "print(w._process.pid, flush=True); os._exit(9)")
    paths = os.pathsep.join(map(str, Path(__file__).parents[:3]))
    script_run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": paths}, timeout=240)
    process = Path("/proc") / script_run.stdout.strip() / "stat"
    deadline = time.monotonic() + 120
    while process.exists() and process.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert script_run.stdout and (not process.exists() or process.read_text().split()[2] == "Z"), script_run.stderr


def test_a_process_that_ends_amid_its_answer_is_reported_as_ended(monkeypatch):
    def killed(command, pass_fds, **_):
        os.write(pass_fds[0], b"\0\0\xff\0part")               # of an answer of 65,280 bytes
        return SimpleNamespace(wait=lambda: -9, kill=lambda: None)

    monkeypatch.setattr(workers.subprocess, "Popen", killed)
    with workers.Worker("cuda:1") as worker, pytest.raises(DeviceError, match=r"cuda:1: .* has ended \(SIGKILL"):
        worker.receive()


def test_a_process_finds_what_is_found_in_the_folder_of_work(monkeypatch):
    popen = {}
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *_, **options: popen.update(options) or SimpleNamespace())
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    workers.Worker("cpu").channel.close()
    assert popen["env"]["PYTHONPATH"] == os.pathsep.join([os.curdir, "/elsewhere"])


def test_devices_are_a_list_of_one_model(monkeypatch):
    assert [device.type for device in resolve_devices("cpu, cpu")] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "AAB"[device.index])
    assert [str(device) for device in resolve_devices("auto")] == ["cuda:0", "cuda:1"]
    assert [str(device) for device in resolve_devices("cuda:1,cuda:0")] == ["cuda:1", "cuda:0"]
    for wrong in ("cuda:0,cuda:2", "cpu,cuda:0", "cuda:0,cuda:7", "cuda:0,", "tpu"):
        with pytest.raises(DeviceError):
            resolve_devices(wrong)
    with pytest.raises(DeviceError, match="an empty name: unknown device"):
        resolve_devices("cpu,")
