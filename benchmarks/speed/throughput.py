"""How fast the denoiser learns and paints here, and what share of the machine's matrix-multiply peak that is.

    python -m benchmarks.speed.throughput [--config he-small] [--device auto] [--seconds 4]

peak       GFLOP/s of a 2048 x 2048 matrix product in the same number format, best of ten
training   crops per second of whole steps (drawing crops, forward, backward, optimisers, average), one after the other,
           median of the steps, in the format that is the default here; a run draws the next crops meanwhile
sampling   evaluations per second by canvas, batch and format, median
share      (FLOP of matrix products and convolutions, counted by torch) x rate / peak; a training step counts as three
           forward passes
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from artifusion.config import TrainConfig, load_config
from artifusion.device import autocast, fast_dtype, keep_freed_memory, resolve_device
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.training.batches import draw_batch
from artifusion.training.corpus import Corpus
from artifusion.training.distributed import Group
from artifusion.training.state import Trainer
from artifusion.training.tiles import TILE_PX, Tile

FORMATS = (torch.float32, torch.bfloat16)
CANVASES = ((256, 1), (256, 4), (256, 16), (512, 1), (512, 4), (1024, 1))
PEAK_PX = 2048


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def in_format(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Inside, the denoiser computes in this format, whatever the default for the machine is."""
    return patch("artifusion.device.fast_dtype", lambda device: dtype)


def seconds_of(work: Callable[[], object], device: torch.device, budget: float, runs: int = 3) -> float:
    """Median seconds of `work`, repeated for `budget` seconds and at least so often, after one run unmeasured."""
    times: list[float] = []
    begin = time.monotonic()
    while len(times) < 1 + runs or time.monotonic() - begin < budget:
        start = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def peak(device: torch.device, dtype: torch.dtype, products: int) -> float:
    """FLOP/s of the best of so many matrix products."""
    a, b = torch.randn(2, PEAK_PX, PEAK_PX, device=device).to(dtype)
    return 2 * PEAK_PX**3 / min(seconds_of(lambda: a @ b, device, 0, 1) for _ in range(products))


def inputs(side: int, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """What the denoiser is given: x, noise level, hole (a quarter, in the middle), spacing."""
    hole = torch.zeros(batch, 1, side, side, device=device)
    hole[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    half = torch.full((batch,), 0.5, device=device)
    return torch.randn(batch, 3, side, side, device=device), half, hole, half


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Counts FLOP: matrix products, attention's among them, and convolutions."""
    # torch does not count attention that is fused on the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        yield counter


def flop_of(denoiser: torch.nn.Module, side: int, device: torch.device) -> int:
    """FLOP of one evaluation."""
    with counted() as counter:
        denoiser(*inputs(side, 1, device))
    return counter.get_total_flops()


def measure(config_name: str, device_name: str, seconds: float, canvases: Sequence[tuple[int, int]] = CANVASES,
            runs: int = 3, crops: int | None = None, products: int = 10) -> dict[str, Any]:
    """Throughput of the denoiser of a training configuration.

    seconds, runs: per figure, at least.
    crops: per training step (default: the configuration's).
    products: of matrices, of which the best is the peak.
    """
    config, device = load_config(TrainConfig, "train", config_name), resolve_device(device_name)
    config = config.model_copy(update={"batch_size": crops or config.batch_size})
    if device.type == "cpu":
        keep_freed_memory()                                          # as painting does
    denoiser = SwinDenoiser(config.denoiser).to(device).eval().requires_grad_(False)
    flop = flop_of(denoiser, 256, device)
    peaks = {dtype: peak(device, dtype, products) for dtype in FORMATS}
    rows = []
    for side, batch in canvases:
        given = inputs(side, batch, device)
        for dtype in FORMATS:
            def evaluate(given: tuple[torch.Tensor, ...] = given, dtype: torch.dtype = dtype) -> None:
                with torch.inference_mode(), in_format(dtype), autocast(device):
                    denoiser(*given)

            rate = batch / seconds_of(evaluate, device, seconds, runs)
            rows.append({"canvas_px": side, "batch": batch, "format": name_of(dtype), "evaluations_per_second": rate,
                         "share_of_peak": rate * flop * (side / 256) ** 2 / peaks[dtype]})
    return {"config": config.name, "device": device.type, "threads": torch.get_num_threads(),
            "default_format": name_of(fast_dtype(device)), "gflop_per_evaluation_256": flop / 1e9,
            "peak_gflops": {name_of(dtype): best / 1e9 for dtype, best in peaks.items()}, "sampling": rows,
            "training": training(config, device, 2 * seconds, runs, flop, peaks[fast_dtype(device)])}


def training(config: TrainConfig, device: torch.device, seconds: float, runs: int, flop: int, best: float
             ) -> dict[str, Any]:
    """Crops per second of whole training steps."""
    crop = config.data.crop_px
    tile = np.random.default_rng(0).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)
    corpus, numbers = Corpus.of([Tile(tile, "made-up/tile", 0.5)], config.data), range(config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), Group(0, 1, device), None)
        rate = config.batch_size / seconds_of(
            lambda: trainer.step(draw_batch(corpus, config, crop, numbers), 1.0), device, seconds, runs)
    return {"crop_px": crop, "batch": config.batch_size, "crops_per_second": rate,
            "share_of_peak": 3 * rate * flop * (crop / 256) ** 2 / best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="he-small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=4, help="per figure")
    given = parser.parse_args()
    print(json.dumps(measure(given.config, given.device, given.seconds), indent=2))


if __name__ == "__main__":
    main()
