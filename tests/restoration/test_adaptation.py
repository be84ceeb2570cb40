"""Adapting a tiny denoiser to a made-up slide."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_slides import tissue
from PIL import Image

from artifusion import Restorer
from artifusion.checkpoint import Weights, load_weights
from artifusion.cli.app import main
from artifusion.config import DataConfig, DenoiserConfig, RestoreConfig, TrainConfig, load_config
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import DataError
from artifusion.mask.classes import CLASSES
from artifusion.mask.reading import read_mask
from artifusion.mask.writer import write_class_png
from artifusion.restoration import adaptation
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide
from artifusion.training.corpus import Corpus, cut_crop
from artifusion.training.run import train
from artifusion.training.shards import read_shard, write_shard
from artifusion.training.state import Trainer

TINY = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)
GREEN = (0, 250, 0)


def tiny_restorer():
    torch.manual_seed(0)
    weights = Weights(SwinDenoiser(TINY), "tiny", "0" * 64, {"crops": 5000})
    return Restorer(weights, "cpu", RestoreConfig(steps=2))


@pytest.fixture
def slide(tmp_path):
    """An image of tissue with two masked places, painted green."""
    pixels, mask = tissue(900, 700), np.zeros((700, 900), np.uint8)
    mask[100:160, 200:280] = mask[600:640, 700:705] = 255
    pixels[mask > 0] = GREEN
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "slide.png", tmp_path / "mask.png"


def greenest(corpus, crops):
    """The largest excess of green over red and blue in crops."""
    data, rng = DataConfig(stain_jitter=0.0, max_zoom=1.0, degraded=False), np.random.default_rng(0)
    cut = np.stack([cut_crop(corpus, data, 128, rng)[0] for _ in range(crops)]).astype(int)
    return (cut[..., 1] - cut[..., [0, 2]].max(axis=-1)).max()


def test_no_crop_holds_a_pixel_under_the_mask(slide, tmp_path, monkeypatch):
    """Also where the judgement of clean tissue and of ink would let everything pass."""
    monkeypatch.setattr("artifusion.training.tiles.is_clean", lambda pixels: True)
    monkeypatch.setattr("artifusion.training.corpus.spoiled_blocks", lambda pixels: np.zeros((64, 64), bool))
    source, mask = slide
    with open_slide(source) as opened:
        adaptation.collect_tissue(opened, read_mask(mask, opened), 0.5, tmp_path / "adapted.tar")
    write_shard([source], tmp_path / "masked.tar", mask=mask)
    write_shard([source], tmp_path / "all.tar")
    corpora = {name: Corpus.of(list(read_shard(tmp_path / f"{name}.tar")), DataConfig())
               for name in ("adapted", "masked", "all")}
    assert greenest(corpora["adapted"], 200) < 60 and greenest(corpora["masked"], 200) < 60
    assert greenest(corpora["all"], 200) > 200


def test_tissue_beside_the_mask_is_learned_from(slide, tmp_path):
    source, mask = slide
    report = write_shard([source], tmp_path / "masked.tar", mask=mask)
    sides = {min(tile.pixels.shape[:2]) for tile in read_shard(tmp_path / "masked.tar")}
    assert report.tiles > 4 and {512, 256} < sides | {256} and min(sides) >= 128


def test_a_mask_of_several_images_is_refused(slide, tmp_path):
    source, mask = slide
    with pytest.raises(DataError, match="one slide"):
        write_shard([source, mask], tmp_path / "out.tar", mask=mask)
    result = CliRunner().invoke(main, ["tiles", "--data", str(tmp_path), "--mask", str(mask), "-o",
                                       str(tmp_path / "out.tar")])
    assert result.exit_code == 1 and "one slide" in result.output and not (tmp_path / "out.tar").exists()


def test_the_sidecar_declares_the_adapted_weights_and_its_crops_give_the_same_bytes(slide, tmp_path):
    source, mask = slide
    restorer = tiny_restorer()
    content = restore_slide(source, mask, tmp_path / "a.tif", restorer=restorer, adapt_minutes=1e-6)
    about, weights = content["adaptation"], content["weights"]
    assert about["crops"] == 8 and about["minutes"] == 1e-6 and about["tissue_px"] > 512 * 512
    assert about["from"] == {"name": "tiny", "sha256": "0" * 64}
    assert weights["name"] == "tiny adapted 8 crops" and len(weights["sha256"]) == 64
    assert json.loads((tmp_path / "a.tif.json").read_text()) == content
    with open_slide(tmp_path / "a.tif") as restored:
        assert f"tiny adapted 8 crops sha256:{weights['sha256'][:12]}" in str(restored.properties)
    assert not (tmp_path / "a.tif.partial").exists()
    again = restore_slide(source, mask, tmp_path / "b.tif", restorer=restorer, adapt_crops=8)
    assert again["weights"] == weights
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_an_interrupted_adaptation_goes_on_and_a_finished_one_is_used_again(slide, tmp_path, monkeypatch):
    source, mask = slide
    straight = restore_slide(source, mask, tmp_path / "straight.png", restorer=tiny_restorer(), adapt_crops=32)
    step, steps = Trainer.step, []

    def interrupted(self, *args):
        steps.append(self.record.crops)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    class Stopped(Restorer):
        def restore_batch(self, *args, **options):
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(source, mask, tmp_path / "out.png", restorer=tiny_restorer(), adapt_crops=32)
    assert steps == [0, 8] and not (tmp_path / "out.png").exists()
    monkeypatch.setattr(adaptation, "Restorer", Stopped)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(source, mask, tmp_path / "out.png", restorer=tiny_restorer(), adapt_crops=32)
    assert steps == [0, 8, 16, 24]
    monkeypatch.setattr(adaptation, "Restorer", Restorer)
    resumed = restore_slide(source, mask, tmp_path / "out.png", restorer=tiny_restorer(), adapt_crops=32)
    assert steps == [0, 8, 16, 24] and resumed["weights"] == straight["weights"]
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "straight.png").read_bytes()


def test_minutes_become_crops_once(slide, tmp_path, monkeypatch):
    """A resume takes what the interrupted run had measured, however fast the machine is now."""
    source, mask = slide
    work, crops_in = tmp_path / "out.png.partial" / "adaptation", adaptation.crops_in

    def interrupted(*args):
        crops_in(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "crops_in", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(source, mask, tmp_path / "out.png", restorer=tiny_restorer(), adapt_minutes=1e-6)
    assert json.loads((work / "crops.json").read_text()) == 8 and not (work / "trial").exists()
    (work / "crops.json").write_text("16")
    (work / "run" / "weights").mkdir(parents=True)          # what a kill within the first checkpoint leaves
    monkeypatch.setattr(adaptation, "crops_in", crops_in)
    content = restore_slide(source, mask, tmp_path / "out.png", restorer=tiny_restorer(), adapt_minutes=1e-6)
    assert content["adaptation"]["crops"] == 16


def test_the_average_follows_a_short_run_whatever_its_weights_had_seen():
    config = load_config(TrainConfig, "train", "adapt")
    for earlier in (0, 5000, 10_000_000):
        weights = Weights(SwinDenoiser(TINY), "tiny", "0" * 64, {"crops": earlier})
        run = adaptation.run_of(800, adaptation.settings_for(weights, config), weights)
        assert run.ema_halflife * (earlier + 800) == pytest.approx(80) and run.warmup_crops <= 160
        TrainConfig.model_validate(run.model_dump())


def test_a_slide_itself_is_training_data(aperio_slide, tmp_path):
    """`artifusion train --init WEIGHTS --data SLIDE`, without `restore`."""
    weights = tiny_restorer().weights
    config = adaptation.run_of(8, adaptation.settings_for(weights, load_config(TrainConfig, "train", "adapt")), weights)
    assert [progress.crops for progress in train(config, [aperio_slide], tmp_path, init=weights, quiet=True)] == [8]
    learned = load_weights(tmp_path / "weights")
    assert learned.training["crops"] == 5008


def test_too_little_clean_tissue_is_one_clear_error_and_leaves_nothing(png_image, tmp_path):
    mask = np.zeros((260, 300), np.uint8)
    mask[100:150, 100:150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["restore", str(png_image), "--mask", str(tmp_path / "mask.png"), "-o",
                                       str(tmp_path / "out.png"), "--adapt", "1", "--device", "cpu", "-q"])
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert "too little to adapt to" in result.output and sorted(tmp_path.iterdir()) == before


def test_what_is_not_restored_is_avoided_whatever_share_of_the_slide_it_covers(slide, tmp_path, monkeypatch):
    ids = np.full((700, 900), CLASSES["blur"], np.uint8)
    ids[:, 600:], ids[100:160, 700:780] = 0, CLASSES["pen"]
    write_class_png(tmp_path / "ids.png", ids)
    told = []
    monkeypatch.setattr(adaptation, "adapt", lambda restorer, slide, avoid, *_, **__: told.append(avoid.area_px) or (
        restorer, {"adaptation": {}}))
    restore_slide(slide[0], tmp_path / "ids.png", tmp_path / "out.png", restorer=tiny_restorer(), classes=["pen"],
                  adapt_crops=8)
    assert told == [700 * 600 + 60 * 80]


@pytest.mark.parametrize("wrong", [
    {"adapt_minutes": 0}, {"adapt_minutes": -1}, {"adapt_minutes": float("nan")}, {"adapt_minutes": float("inf")},
    {"adapt_crops": 0}, {"adapt_minutes": 1, "adapt_crops": 8}])
def test_a_wrong_length_is_refused_before_anything_is_read(wrong):
    with pytest.raises(ValueError, match="adapt_"):
        restore_slide("slide.svs", "mask.png", restorer=tiny_restorer(), **wrong)


@pytest.mark.parametrize("wrong", [["--adapt", "0"], ["--adapt", "nan"], ["--adapt-crops", "0"],
                                   ["--adapt", "1", "--adapt-crops", "8"]])
def test_a_wrong_length_is_a_usage_error(wrong):
    result = CliRunner().invoke(main, ["restore", "slide.svs", "--mask", "mask.png", *wrong])
    assert result.exit_code == 2 and "Traceback" not in result.output
