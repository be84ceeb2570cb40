"""One 256 x 256 tile: ours at the default against the published procedure, on the same machine in the same format.

The published network (configs/train/paper.toml) is untrained, for its cost alone. Of its 2,410 evaluations a walk of
the same kind (ancestral steps, known pixels noised, stretches walked again) is timed that makes some twenty; seconds
per evaluation times 2,410 is the whole. Both go through `Restorer.restore`.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from artifusion import Restorer
from artifusion.checkpoint import Weights
from artifusion.config import RestoreConfig, TrainConfig, load_config
from artifusion.diffusion.denoiser import SwinDenoiser
from benchmarks.speed.throughput import FORMATS, counted, in_format, name_of

SIDE_PX, HOLE_PX = 256, 128


def published(device: str, walk: tuple[int, int, int]) -> Restorer:
    """The published procedure on a shorter walk: steps, of which so many at a time are walked so often."""
    network = SwinDenoiser(load_config(TrainConfig, "train", "paper").denoiser)
    steps, jump_length, jump_samples = walk
    procedure = load_config(RestoreConfig, "restore", "paper", steps=steps, jump_length=jump_length,
                            jump_samples=jump_samples)
    return Restorer(Weights(network, "paper, untrained", "0" * 64, {}), device, procedure)


def timed(restorer: Restorer, tile: np.ndarray, mask: np.ndarray, dtype: torch.dtype) -> tuple[float, int]:
    """Seconds of restoring the tile, and the evaluations of the denoiser that were counted meanwhile."""
    evaluated: list[None] = []
    hook = restorer.denoiser.register_forward_hook(lambda *_: evaluated.append(None))
    begin = time.monotonic()
    with in_format(dtype):
        restorer.restore(tile, mask)
    seconds = time.monotonic() - begin
    hook.remove()
    return seconds, len(evaluated)


def flop_of_restoring(restorer: Restorer, tile: np.ndarray, mask: np.ndarray) -> int:
    """FLOP of restoring the tile."""
    with counted() as counter:
        restorer.restore(tile, mask)
    return counter.get_total_flops()


def measure(tile: np.ndarray, device: str, turns: int, walk: tuple[int, int, int], steps: int) -> dict[str, Any]:
    """Evaluations, GFLOP and seconds of both, in every format, in turn; ratios per turn, medians of the turns.

    tile: uint8 (256, 256, 3); a square in its middle, a quarter of it, is restored.
    """
    mask = np.zeros((SIDE_PX, SIDE_PX), bool)
    edge = (SIDE_PX - HOLE_PX) // 2
    mask[edge:-edge, edge:-edge] = True
    ours = Restorer.from_pretrained(device=device, config=RestoreConfig(steps=steps))
    theirs = published(device, walk)
    whole = load_config(RestoreConfig, "restore", "paper").evaluations
    taken: dict[str, list[dict[str, float]]] = {name_of(dtype): [] for dtype in FORMATS}
    for turn in range(-1, turns):                                    # the first is not counted: kernels are chosen
        for dtype in FORMATS:
            ours_s, ours_count = timed(ours, tile, mask, dtype)
            sample_s, count = timed(theirs, tile, mask, dtype)
            published_s = sample_s / count * whole
            if turn >= 0:
                taken[name_of(dtype)].append(
                    {"ours_s": ours_s, "published_s": published_s, "ratio": published_s / ours_s})
    flop = {"ours": flop_of_restoring(ours, tile, mask),
            "published": flop_of_restoring(theirs, tile, mask) / count * whole}
    evaluations = {"ours": ours_count, "published": whole}
    return {
        "side_px": SIDE_PX, "hole_share": HOLE_PX**2 / SIDE_PX**2, "weights": ours.weights.name, "turns": turns,
        "sampled_evaluations": count, "evaluations": evaluations,
        "gflop_per_evaluation": {who: flop[who] / evaluations[who] / 1e9 for who in flop},
        "gflop": {who: count / 1e9 for who, count in flop.items()},
        "seconds": {name: {key: statistics.median(turn[key] for turn in found) for key in found[0]}
                    | {"all_ratios": [turn["ratio"] for turn in found]} for name, found in taken.items()},
    }
