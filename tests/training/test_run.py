"""Training on a folder of small images with a tiny denoiser."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_training import TINY, tiny_config

from artifusion.config import DataConfig, DistillConfig, TargetConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.diffusion.schedule import Schedule
from artifusion.errors import (
    ArtifusionError,
    ConfigError,
    DataError,
    DeviceError,
    OutputError,
    SlideError,
    WeightsError,
)
from artifusion.pixels import tensor_from_images
from artifusion.training.batches import batch_plan, draw_batch
from artifusion.training.corpus import Corpus
from artifusion.training.distributed import Group
from artifusion.training.loss import prediction_loss
from artifusion.training.run import learning_rate, train
from artifusion.training.shards import read_tiles
from artifusion.training.state import Trainer, optimizers
from artifusion.training.targets import draw_target
from artifusion.training.tiles import find_images

TINY_TOML = """
crops = 24
batch_size = 8
warmup_crops = 8
denoiser = { pixel_dim = 8, dims = [16, 32], heads = [2, 2], depths = [1, 1], window_sizes = [4, 4], time_dim = 16 }
data = { crop_px = 32, validation = ["*/held.png"] }
"""


def final(run_dir):
    return load_file(run_dir / "state.safetensors")


def record(run_dir):
    with safe_open(run_dir / "state.safetensors", "pt") as file:
        return json.loads(file.metadata()["record"])


def test_a_stopped_and_resumed_run_equals_a_straight_one_bit_for_bit(tissue, tmp_path):
    config = tiny_config()
    for _ in train(config, [tissue], tmp_path / "straight", device="cpu", quiet=True):
        pass
    config = tiny_config(checkpoint_minutes=1e-9)
    run = train(config, [tissue], tmp_path / "resumed", device="cpu", quiet=True)
    for _ in range(4):
        next(run)
    run.close()
    for _ in train(config, [tissue], tmp_path / "resumed", device="cpu", quiet=True):
        pass
    straight, resumed = final(tmp_path / "straight"), final(tmp_path / "resumed")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_finished_run_trains_no_further_and_leaves_usable_weights(tissue, tmp_path):
    from artifusion import Restorer

    run = tmp_path / "run"
    assert len(list(train(tiny_config(), [tissue], run, device="cpu", quiet=True))) == 8
    assert not list(train(tiny_config(), [tissue], run, device="cpu", quiet=True))
    restorer = Restorer.from_pretrained(run / "weights", device="cpu")
    assert restorer.weights.training["crops"] == 32
    assert (run / "preview.png").is_file() and "error_0.5" in (run / "log.csv").read_text()


def test_going_on_from_weights_adds_their_record_up(tissue, tmp_path):
    for _ in train(tiny_config(), [tissue], tmp_path / "one", device="cpu", quiet=True):
        pass
    for _ in train(tiny_config(), [tissue], tmp_path / "two", init=tmp_path / "one/weights", device="cpu", quiet=True):
        pass
    from artifusion.checkpoint import load_weights

    assert load_weights(tmp_path / "two/weights").training["crops"] == 64


def test_weights_are_called_after_their_run_and_name_their_parent(tissue, tmp_path):
    from artifusion.checkpoint import load_weights

    for name, init, given in (("one", None, ""), ("two", tmp_path / "one/weights", "mine")):
        for _ in train(tiny_config(), [tissue], tmp_path / name, init=init, name=given, device="cpu", quiet=True):
            pass
    one, two = (load_weights(tmp_path / name / "weights") for name in ("one", "two"))
    assert (one.name, one.parent) == ("one", None)
    assert two.named() == {"name": "mine", "sha256": two.sha256, "parent": {"name": "one", "sha256": one.sha256}}
    card = (tmp_path / "two/weights/README.md").read_text()
    assert card.startswith("# mine\n") and one.sha256 in card and two.sha256 in card and "not for diagnosis" in card
    with safe_open(tmp_path / "two/weights/model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["parent"]) == two.parent
    list(train(tiny_config(), [tissue], tmp_path / "two", init=tmp_path / "one/weights", device="cpu", quiet=True))
    assert record(tmp_path / "two")["name"] == "mine"                       # no other name was given
    for name, init in (("he-small", None), ("one", tmp_path / "one/weights"), ("a\nb", None)):
        with pytest.raises(ConfigError, match="--name"):
            next(train(tiny_config(), [tissue], tmp_path / "three", init=init, name=name, device="cpu", quiet=True))


def test_weights_that_go_by_the_name_of_embedded_ones_are_called_after_their_folder(tmp_path):
    from artifusion.checkpoint import load_weights, save_weights

    embedded = load_weights("he-small")
    save_weights(tmp_path / "run/weights", SwinDenoiser(TINY).state_dict(), TINY, "he-small", {})
    assert load_weights(tmp_path / "run/weights").name == "run (trained as he-small)"
    save_weights(tmp_path / "run/weights", SwinDenoiser(TINY).state_dict(), TINY, "other", {})
    assert load_weights(tmp_path / "run/weights").name == "other" and embedded.name == "he-small"


def test_a_student_is_resumed_bit_for_bit_and_its_weights_tell_the_teacher(tissue, tmp_path):
    from artifusion.checkpoint import load_weights

    teacher = tmp_path / "teacher/weights"
    for _ in train(tiny_config(), [tissue], teacher.parent, device="cpu", quiet=True):
        pass
    config = tiny_config(distill=DistillConfig(steps=2, substeps=2))
    for _ in train(config, [tissue], tmp_path / "straight", init=teacher, device="cpu", quiet=True):
        pass
    run = train(config, [tissue], tmp_path / "resumed", init=teacher, device="cpu", quiet=True)
    for _ in range(4):
        next(run)
    run.close()
    for _ in train(config, [tissue], tmp_path / "resumed", init=teacher, device="cpu", quiet=True):
        pass
    straight, resumed = final(tmp_path / "straight"), final(tmp_path / "resumed")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    record = load_weights(tmp_path / "resumed/weights").training
    assert record["distilled"] == {"teacher": "teacher", "sha256": load_weights(teacher).sha256, "steps": 2}


def test_on_one_batch_a_tiny_student_halves_its_teachers_error_and_the_teacher_stays_as_it_was(tissue, tmp_path):
    from artifusion.checkpoint import load_weights

    for _ in train(tiny_config(), [tissue], tmp_path / "teacher", device="cpu", quiet=True):
        pass
    config = tiny_config(distill=DistillConfig(steps=2, substeps=3),
                         learning_rate=5e-3)
    trainer = Trainer(config, tmp_path, Group(0, 1, torch.device("cpu")), load_weights(tmp_path / "teacher/weights"))
    batch = draw_batch(Corpus.of(list(read_tiles(find_images([tissue]))), config.data), config, 32, range(4))
    x0 = tensor_from_images(batch.pixels)
    level = trainer.teacher.student_level(batch.level)
    before = trainer.teacher.answer(x0, level, batch.noise, batch.spacing_um)
    losses = [trainer.step(batch, 1.0)["loss"] for _ in range(80)]    # the first is the teacher's own
    after = trainer.teacher.answer(x0, level, batch.noise, batch.spacing_um)
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_student_without_a_teacher_is_refused(tissue, tmp_path):
    config = tiny_config(distill=DistillConfig())
    with pytest.raises(ConfigError, match="--init"):
        next(train(config, [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_validation_images_are_never_trained_on(tissue, tmp_path):
    with pytest.raises(DataError, match="validation"):
        next(train(tiny_config(), [tissue / "held.png"], tmp_path / "run", device="cpu", quiet=True))


def test_a_run_folder_of_another_configuration_is_refused(tissue, tmp_path):
    list(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))
    with pytest.raises(ConfigError, match="another configuration"):
        next(train(tiny_config(learning_rate=1e-4), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_failed_start_does_not_bind_the_folder(tissue, tmp_path):
    with pytest.raises(DataError):
        next(train(tiny_config(learning_rate=1.0), [tmp_path / "typo"], tmp_path / "run", device="cpu", quiet=True))
    assert list(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_broken_or_impossible_run_folder_is_one_clear_error(tissue, tmp_path):
    with pytest.raises(OutputError, match="another --run-dir"):
        next(train(tiny_config(), [tissue], tissue / "a.png", device="cpu", quiet=True))
    list(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))
    with pytest.raises(ConfigError, match="other weights"):
        next(train(tiny_config(), [tissue], tmp_path / "run", init=tmp_path / "run/weights", device="cpu", quiet=True))
    (tmp_path / "run/state.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsError, match="broken"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_state_that_may_not_be_read_is_one_clear_error(tissue, tmp_path, monkeypatch):
    list(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))

    def refuse(*_, **__):
        raise FileNotFoundError("No such file or directory: state.safetensors")

    monkeypatch.setattr("artifusion.training.state.safe_open", refuse)     # also where permission is denied
    with pytest.raises(WeightsError, match="not to be read"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_loss_that_is_no_number_stops_with_the_remedy(tissue, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.training.state.prediction_loss", lambda *_:
                        torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ArtifusionError, match="learning_rate"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_batch_that_the_gpu_cannot_hold_is_one_clear_error(tissue, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("artifusion.training.state.prediction_loss", full)
    with pytest.raises(DeviceError, match="no memory for 4 crops of 32 px at once; lower batch_size"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_gradient_that_is_no_number_stops_before_anything_is_learned_from_it(tissue, tmp_path, monkeypatch):
    """The square root is finite at 0, its slope is not."""
    monkeypatch.setattr("artifusion.training.state.prediction_loss",
                        lambda predicted, *_: (predicted - predicted.detach()).abs().sqrt().mean())
    trainer = Trainer(tiny_config(), tmp_path, Group(0, 1, torch.device("cpu")), None)
    before = {name: value.clone() for name, value in trainer.denoiser.state_dict().items()}
    corpus = Corpus.of(list(read_tiles(find_images([tissue]), quiet=True)), trainer.config.data)
    with pytest.raises(ArtifusionError, match="gradient nan"):
        trainer.step(draw_batch(corpus, trainer.config, 32, range(4)), 1.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.denoiser.state_dict().items())


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_at_all_is_refused(tissue, tmp_path, minutes):
    with pytest.raises(ValueError, match="max_minutes must be above 0"):
        next(train(tiny_config(), [tissue], tmp_path / "run", max_minutes=minutes, device="cpu", quiet=True))


def test_a_run_goes_on_beside_another_log(tissue, tmp_path):
    """One that a full disk left empty, and one whose held-out images are no longer given."""
    run = tmp_path / "run"
    config = tiny_config(checkpoint_minutes=1e-9)
    first = train(config, [tissue], run, device="cpu", quiet=True)
    for _ in range(3):
        next(first)
    first.close()
    (run / "log.csv").write_text("")
    second = train(config, [tissue], run, device="cpu", quiet=True)
    for _ in range(3):
        next(second)
    second.close()
    assert (run / "log.csv").read_text().startswith("crops,minutes,loss")
    list(train(config, [tissue / "a.png", tissue / "b.png"], run, device="cpu", quiet=True))
    assert (run / "curves.png").is_file() and (run / "log.csv").read_text().count("\n") > 3


def test_missing_data_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        next(train(tiny_config(), [tmp_path / "nothing"], tmp_path / "run", device="cpu", quiet=True))


def test_a_broken_image_among_good_ones_is_named(tissue, tmp_path):
    whole = (tissue / "a.png").read_bytes()
    (tissue / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match=r"tissue/cut\.png"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def levels_of_crops(numbers, side_px, config):
    return torch.stack([torch.from_numpy(draw_target(side_px, config, n, np.random.default_rng([0, n])).level)[None]
                        for n in numbers])


def test_a_tiny_denoiser_overfits_one_tile():
    """After 200 steps on one tile it knows most of the tile under heavy noise."""
    torch.manual_seed(0)
    denoiser, schedule = SwinDenoiser(TINY), Schedule()
    steppers = optimizers(denoiser, tiny_config(learning_rate=1e-2))
    targets = TargetConfig(kinds={"islands": 1, "whole": 1})
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 4, 4, generator=generator)
    x0 = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(8, -1, -1, -1)
    spacing = torch.full((8,), 0.5)

    def predicted(level, noise):
        return denoiser(schedule.add_noise(x0, level, noise), level, (level > 0).float(), spacing)

    for step in range(200):
        level = levels_of_crops(range(8 * step, 8 * step + 8), 32, targets)
        noise = torch.randn(x0.shape, generator=generator)
        loss = prediction_loss(predicted(level, noise), x0, level, noise, schedule, 5.0)
        denoiser.zero_grad()
        loss.backward()
        for optimizer in steppers:
            optimizer.step()
    level, noise = torch.full((8, 1, 32, 32), 0.8), torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        known = schedule.x0(schedule.add_noise(x0, level, noise), level, predicted(level, noise))
    assert (known - x0).square().mean() < 0.2 * x0.var()


def test_a_crop_does_not_depend_on_the_batch_it_comes_in(tissue):
    config = tiny_config()
    corpus = Corpus.of(list(read_tiles(find_images([tissue]), quiet=True)), config.data)
    together = draw_batch(corpus, config, 32, range(8, 16))
    for i in range(8):
        alone = draw_batch(corpus, config, 32, range(8 + i, 9 + i))
        assert np.array_equal(together.pixels[i], alone.pixels[0])
        for name in ("spacing_um", "level", "noise"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0])


def test_batches_of_several_sides_have_about_equal_pixels_and_go_on_where_they_were():
    config = tiny_config(data=DataConfig(crop_px=64, other_crops_px={32: 0.5, 96: 0.2}), batch_size=8)
    plan = list(islice(batch_plan(config, 0), 200))
    sizes = {side: {len(numbers) for each, numbers in plan if each == side} for side in (32, 64, 96)}
    assert sizes == {32: {32}, 64: {8}, 96: {4}}
    shares = [np.mean([each == side for each, _ in plan]) for side in (32, 64, 96)]
    assert np.allclose(shares, (0.5, 0.3, 0.2), atol=0.1)
    assert list(islice(batch_plan(config, plan[50][1].start), 150)) == plan[50:]


def test_a_run_with_crops_of_several_sides_is_resumed_bit_for_bit(tissue, tmp_path):
    data = DataConfig(crop_px=32, other_crops_px={64: 0.5}, validation=("*/held.png",))
    config = tiny_config(data=data, checkpoint_minutes=1e-9)
    list(train(config, [tissue], tmp_path / "straight", device="cpu", quiet=True))
    run = train(config, [tissue], tmp_path / "resumed", device="cpu", quiet=True)
    for _ in range(4):
        next(run)
    run.close()
    list(train(config, [tissue], tmp_path / "resumed", device="cpu", quiet=True))
    straight, resumed = final(tmp_path / "straight"), final(tmp_path / "resumed")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_the_loss_sees_only_noisy_pixels():
    schedule, level = Schedule(), torch.zeros(1, 1, 8, 8)
    level[..., 4:] = 0.5
    x0, noise = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    predicted = schedule.target(x0, level, noise)
    predicted[..., :4] += 100
    assert prediction_loss(predicted, x0, level, noise, schedule, 5.0) < 1e-10


def test_every_crop_counts_the_same_in_the_loss_however_small_its_hole():
    schedule, level = Schedule(), torch.zeros(2, 1, 8, 8)
    level[0], level[1, :, :1, :1] = 0.5, 0.5
    x0, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    offsets = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    loss = prediction_loss(schedule.target(x0, level, noise) + offsets, x0, level, noise, schedule, 1e9)
    assert loss == pytest.approx((1 + 4) / 2, rel=1e-5)


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    config = tiny_config(warmup_crops=100, cooldown=0.2)
    assert learning_rate(50, 0.0, config) == 0.5
    assert learning_rate(1000, 0.5, config) == 1.0
    assert learning_rate(1000, 0.9, config) == pytest.approx(0.5)
    assert learning_rate(1000, 1.0, config) == 0.0


def test_a_second_run_in_one_folder_is_one_clear_error(tissue, tmp_path):
    first = train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True)
    next(first)
    with pytest.raises(OutputError, match="another run is at work"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))
    first.close()
    assert next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_other_images_on_resume_are_refused(tissue, tmp_path):
    list(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))
    (tissue / "b.png").unlink()
    with pytest.raises(ConfigError, match="other images"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_goes_on_bit_for_bit(tissue, tmp_path, number):
    list(train(tiny_config(), [tissue], tmp_path / "straight", device="cpu", quiet=True))
    with pytest.raises(KeyboardInterrupt):
        for progress in train(tiny_config(), [tissue], tmp_path / "stopped", device="cpu", quiet=True):
            if progress.crops == 12:
                os.kill(os.getpid(), number)
    assert len(list(train(tiny_config(), [tissue], tmp_path / "stopped", device="cpu", quiet=True))) == 8 - 3
    straight, stopped = final(tmp_path / "straight"), final(tmp_path / "stopped")
    assert all(torch.equal(straight[key], stopped[key]) for key in straight)


def test_two_processes_learn_what_one_learns(tissue, tmp_path):
    """Each from its half of every batch; equal up to the order in which fp32 sums are taken."""
    config = tmp_path / "tiny.toml"
    config.write_text(TINY_TOML)
    program = tmp_path / "in_fp32.py"                       # bfloat16 would round each half of a batch in its own way
    program.write_text("import torch, artifusion.device\nartifusion.device.fast_dtype = lambda device: torch.float32\n"
                       "from pathlib import Path\nfrom artifusion.cli.app import main\ntry:\n    main()\n"
                       "finally:\n    print(*(task.read_text() for task in Path('/proc/self/task').glob('*/comm')))\n")
    command = [str(program), "train", str(config), "--data", str(tissue), "--device", "cpu"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, "--run-dir", str(alone)], check=True, env=environment)
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
             "--nproc-per-node", "2"]                       # by address: a machine's name is not always found
    result = subprocess.run([*ranks, *command, "--run-dir", str(together)], env=environment,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("crops seen") == 1
    assert "gloo" not in result.stdout                      # no thread of the group is left when the interpreter ends
    one, two = final(alone), final(together)
    assert one.keys() == two.keys() and record(alone)["crops"] == record(together)["crops"] == 24
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-4)


def test_a_batch_that_processes_cannot_share_is_refused(tissue, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.training.run.process_group", lambda device: nullcontext(
        Group(0, 3, torch.device("cpu"))))
    with pytest.raises(ConfigError, match="3 processes"):
        next(train(tiny_config(), [tissue], tmp_path / "run", device="cpu", quiet=True))


def test_a_record_that_calls_crops_images_is_read(tissue, tmp_path):
    """As weights of up to 0.4.0 do."""
    from artifusion.checkpoint import load_weights

    list(train(tiny_config(), [tissue], tmp_path / "one", device="cpu", quiet=True))
    path = tmp_path / "one/weights/config.json"
    path.write_text(path.read_text().replace('"crops"', '"images"'))
    assert load_weights(path.parent).training["crops"] == 32
    list(train(tiny_config(), [tissue], tmp_path / "two", init=path.parent, device="cpu", quiet=True))
    assert load_weights(tmp_path / "two/weights").training["crops"] == 64
