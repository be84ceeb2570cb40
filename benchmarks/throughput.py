"""How fast the denoiser learns and paints here, and what share of the machine's matrix-multiply peak that is.

    python benchmarks/throughput.py [--config he-small] [--seconds 20] [--json FILE]

peak       GFLOP/s of a 2048 x 2048 matrix product in the format the denoiser runs in, best of ten
training   crops per second of whole steps (drawing crops, forward, backward, optimisers, average), one after the other,
           median of the steps; a run draws the next crops meanwhile
sampling   evaluations per second by canvas and batch, median
share      (FLOP of matrix products and convolutions, counted by torch) x rate / peak; a training step counts as three
           forward passes
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from artifusion.batches import draw_batch
from artifusion.config import TrainConfig, load_config
from artifusion.corpus import Corpus
from artifusion.device import autocast, keep_freed_memory, resolve_device
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.distributed import Group
from artifusion.tiles import TILE_PX, Tile
from artifusion.trainer import Trainer

CANVASES = ((256, 1), (256, 4), (256, 16), (512, 1), (512, 4), (1024, 1))


def seconds_of(work: Callable[[], object], device: torch.device, budget: float) -> float:
    """Median seconds of `work`, repeated for `budget` seconds and at least three times, after one run unmeasured."""
    times: list[float] = []
    begin = time.monotonic()
    while len(times) < 4 or time.monotonic() - begin < budget:
        start = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def peak(device: torch.device) -> float:
    """FLOP/s of the best of ten matrix products."""
    with autocast(device):
        a, b = torch.randn(2, 2048, 2048, device=device)
        dtype = (a @ b).dtype
    a, b = a.to(dtype), b.to(dtype)
    return 2 * 2048**3 / min(seconds_of(lambda: a @ b, device, 0) for _ in range(10))


def inputs(side: int, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    hole = torch.zeros(batch, 1, side, side, device=device)
    hole[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    return torch.randn(batch, 3, side, side, device=device), torch.full((batch,), 0.5, device=device), hole, torch.full(
        (batch,), 0.5, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="he-small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config, device = load_config(TrainConfig, "train", given.config), resolve_device(given.device)
    keep_freed_memory()                 # as painting does
    best = peak(device)
    denoiser = SwinDenoiser(config.denoiser).to(device).eval().requires_grad_(False)
    # torch does not count fused attention on the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        denoiser(*inputs(256, 1, device))
    flop = counter.get_total_flops()
    report: dict[str, object] = {
        "config": config.name, "device": device.type, "threads": torch.get_num_threads(),
        "gflop_per_evaluation_256": round(flop / 1e9, 2), "peak_gflops": round(best / 1e9, 1), "sampling": []}
    for side, batch in CANVASES:
        given_inputs = inputs(side, batch, device)

        def evaluate(x: tuple[torch.Tensor, ...] = given_inputs) -> None:
            with torch.inference_mode(), autocast(device):
                denoiser(*x)

        rate = batch / seconds_of(evaluate, device, given.seconds)
        row = {"canvas_px": side, "batch": batch, "evaluations_per_second": round(rate, 2),
               "share_of_peak": round(rate * flop * (side / 256) ** 2 / best, 3)}
        report["sampling"].append(row)  # type: ignore[attr-defined]
        print(row, flush=True)
    crop = config.data.crop_px
    tile = np.random.default_rng(0).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)
    corpus, numbers = Corpus.of([Tile(tile, "made-up/tile", 0.5)], config.data), range(config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), Group(0, 1, device), None)
        rate = config.batch_size / seconds_of(
            lambda: trainer.step(draw_batch(corpus, config, numbers, 0.0), 1.0), device, 2 * given.seconds)
    report["training"] = {"crop_px": crop, "batch": config.batch_size, "crops_per_second": round(rate, 2),
                          "share_of_peak": round(3 * rate * flop * (crop / 256) ** 2 / best, 3)}
    print(json.dumps(report, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
