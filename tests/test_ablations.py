"""The ablations train what they say, and their page shows whatever was run."""

import json
import sys
from functools import cache

import numpy as np
import pytest
import torch

from artifusion.training.batches import draw_batch
from artifusion.training.corpus import Corpus
from artifusion.training.tiles import Tile
from benchmarks.quality import ablation_page, ablations
from benchmarks.quality.gradients import gradient_energy

VARIANTS = list(ablations.VARIANTS)
SAMPLES = {"texture": 1.0, "stain": 0.5, "auc": 0.9, "kid": 1.0}


@pytest.fixture
def small(monkeypatch):
    """A tile to learn from and four crops to judge by; five crops of 64 px a batch, or one larger one."""
    monkeypatch.setattr(ablations, "BATCH_PX", 5 * 64**2)
    monkeypatch.setattr(ablations, "EVALUATIONS", 2)
    rng = np.random.default_rng(0)
    texture = np.kron(rng.normal(0, 25, (64, 64, 3)), np.ones((4, 4, 1)))
    pixels = (np.array([190, 120, 170]) + texture).clip(0, 255).astype(np.uint8)
    corpus = Corpus.of([Tile(pixels, "tnbc/01_1.png", 0.25)], ablations.VARIANTS["crop-192"].config(0).data)
    quarters = pixels.reshape(2, 128, 2, 128, 3).swapaxes(1, 2).reshape(4, 128, 128, 3)
    return corpus, (quarters, np.full(4, 0.25, np.float32))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_trains_every_parameter_of_every_variant(small, name):
    trainer = ablations.begin(name, 0)
    assert type(trainer.denoiser) is type(trainer.ema) is ablations.VARIANTS[name].network
    config = trainer.config
    batch = draw_batch(small[0], config, config.data.crop_px, range(config.batch_size))
    assert np.isfinite(trainer.step(batch, 1.0)["loss"])
    assert all(parameter.grad is not None for parameter in trainer.denoiser.parameters())


@cache
def gflop(name):
    weights = ablations.Weights(ablations.begin(name, 0).ema, name, "", {})
    return ablations.gflop_per_evaluation(ablations.Restorer(weights, "cpu"), 64)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_costs_what_ours_does_within_a_tenth(name):
    assert gflop(name) == pytest.approx(gflop("ours"), rel=0.1)


def test_the_token_alone_tells_the_level():
    """Without its tokens the variant paints the same at every level, and ours does not."""
    x, hole, scale = torch.randn(1, 3, 64, 64), torch.ones(1, 1, 64, 64), torch.tensor([0.5])
    for name, same in (("token", True), ("ours", False)):
        denoiser = ablations.begin(name, 0).ema
        torch.nn.init.normal_(denoiser.head[3].weight, std=0.1)
        for stage in (*denoiser.down_stages, denoiser.bottom, *denoiser.up_stages):
            for block in stage.blocks:
                block.time_token = None
        with torch.no_grad():
            low, high = (denoiser(x, torch.tensor([level]), hole, scale) for level in (0.1, 0.9))
        assert torch.equal(low, high) == same, name


@pytest.mark.parametrize("name", ["noise", *{variant.network: name for name, variant in
                                            reversed(ablations.VARIANTS.items())}.values()])
def test_a_run_of_every_network_is_judged_and_told_on_the_page(small, name):
    one = ablations.run(name, 0, 1e-9, *small)
    assert one["crops"] == ablations.VARIANTS[name].config(0).batch_size
    assert all(np.isfinite(value) for value in (*one["errors"].values(), *(one[name] for name in SAMPLES)))
    report = {"conditions": {"minutes": 3.5, "threads": 1}, "runs": [json.loads(json.dumps(one))],
              "references": {"mean fill": ablations.painted(ablations.fill("mean"), small[1])}}
    (row, _) = (line for line in ablations.page(report).splitlines() if f"| {one['answer']} |" in line)
    assert f"{one['gflop']:.2f}" in row and "**" not in row


def made_up(name, seed, error):
    variant, levels = ablations.VARIANTS[name], ablation_page.LEVELS
    return {"variant": name, "question": variant.question, "answer": variant.answer, "seed": seed, "parameters": 1,
            "gflop": 1.0, "crops": 9, "crops_per_second": 1.0, "errors": dict.fromkeys(levels, error),
            **SAMPLES}


def test_every_variant_has_a_row_of_its_own():
    report = {"conditions": {"minutes": 1, "threads": 1}, "references": {},
              "runs": [made_up(name, 0, 0.2) for name in VARIANTS]}
    lines = ablations.page(report).splitlines()
    assert all(any(f"| {ablations.VARIANTS[name].answer} |" in line for line in lines) for name in VARIANTS)


def test_a_sign_means_that_all_seeds_agree():
    report = {"conditions": {"minutes": 1, "threads": 1}, "references": {}, "runs": [
        made_up(name, seed, error) for name, errors in
        {"ours": (0.2, 0.3), "token": (0.4, 0.5), "adaln": (0.1, 0.25), "unet": (0.1, 0.15)}.items()
        for seed, error in enumerate(errors)]}
    lines = ablations.page(report).splitlines()
    for answer, sign in (("time token alone", "**-**"), ("adaptive", ""), ("U-Net |", "**+**")):
        cell = next(line for line in lines if answer in line and line.startswith("|")).split("|")[3]
        assert cell.strip().endswith(sign or ")"), answer


def test_a_run_that_is_there_is_not_repeated(tmp_path, monkeypatch):
    asked = []

    def run(name, seed, *_):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((name, seed))
        return made_up(name, seed, 0.2)

    held_out = np.zeros((1, 128, 128, 3), np.uint8), np.ones(1)
    monkeypatch.setattr(ablations, "run", run)
    monkeypatch.setattr(ablations, "read_folder", lambda _: (None, held_out))
    monkeypatch.setattr(ablations, "painted", lambda *_: SAMPLES)
    command = ["ablations.py", "folder", "--only", "ours", "unet", "--json", str(tmp_path / "runs.json"),
               "--docs", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(KeyboardInterrupt):
        ablations.main()
    assert asked == [("ours", 0), ("unet", 0), ("ours", 1)]
    asked.clear()
    ablations.main()
    assert asked == [("unet", 1)]
    monkeypatch.setattr(ablations, "read_folder", None)          # nothing is left to run
    ablations.main()
    assert "convolutional U-Net" in (tmp_path / "page.md").read_text()
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "9", "--seeds", "3"])
    with pytest.raises(SystemExit):                             # runs of another length do not mix
        ablations.main()


def test_the_energy_of_gradients_is_that_of_squared_differences_within_the_mask():
    image, hole = np.full((32, 32, 3), 20, np.uint8), np.ones((32, 32), bool)
    image[16:] += 7
    assert gradient_energy(image, hole) == 32 * 7**2
    hole[16:] = False
    assert gradient_energy(image, hole) == 0
