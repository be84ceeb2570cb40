"""The methods that are compared. Each takes a trial and returns its tile with the hole filled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from artifusion.config import RestoreConfig, load_config
from artifusion.evaluation.exemplar import exemplar_fill
from artifusion.evaluation.trials import Trial, partner
from artifusion.evidence.recover import PAINTED_ID
from artifusion.restorer import Restorer

Fill = Callable[[Trial], np.ndarray]

OURS = ("refined", "published", "paint", "graft", "recover")       # need weights
NAMES = ("mean", "telea", "navier-stokes", "biharmonic", "exemplar", *OURS)
USUAL = tuple(name for name in NAMES if name != "recover")         # which differs from "graft" under pen alone
LEFT_OUT = "discard"        # a reference without a picture: the hole is left out of every analysis
REFERENCES = ("real", "damaged", LEFT_OUT)
MIDDLE_LEVEL = 0.5          # noise level from which a pasted hole is painted again


@dataclass(frozen=True)
class Cost:
    evaluations: int        # of the denoiser, counted
    px: int                 # of all the canvases that it evaluated
    seconds: float


def make_methods(
    names: Sequence[str], steps: Sequence[int], trials: Sequence[Trial], restorer: Restorer | None, seed: int
) -> dict[str, Fill]:
    """The references with a picture, then the named methods in the order of NAMES.

    After "paint" comes the same with each number of `steps`.
    """
    fills: dict[str, Fill] = {"real": lambda trial: partner(trials, trial).truth,
                              "damaged": lambda trial: trial.damaged}
    fills |= {name: fill for name, fill in PLAIN.items() if name in names}
    if restorer is None:
        return fills
    if "refined" in names:
        fills["refined"] = partial(refined, restorer, seed)
    if "published" in names:
        fills["published"] = partial(repaint, other(restorer, load_config(RestoreConfig, "restore", "paper")), seed)
    if "paint" in names:
        painter = other(restorer, restorer.config.model_copy(update={"graft": "off"}))
        fills["paint"] = partial(restore, painter, seed)
        fills |= {f"paint-{count}": partial(restore, painter, seed, steps=count) for count in steps}
    if "graft" in names:
        fills["graft"] = partial(restore, other(restorer, restorer.config.model_copy(update={"graft": "auto"})), seed)
    if "recover" in names:
        fills["recover"] = partial(recovered, restorer, seed)
    return fills


def other(restorer: Restorer, config: RestoreConfig) -> Restorer:
    """The same denoiser with another configuration."""
    return Restorer(restorer.weights, restorer.device.type, config)


def restore(restorer: Restorer, seed: int, trial: Trial, steps: int | None = None) -> np.ndarray:
    """The damaged tile, restored as for a user; grafts come from the tile itself and from the rest of its image."""
    donors = trial.tile.donors() if trial.tile and restorer.config.graft == "auto" else ()
    return restorer.restore(trial.damaged, trial.hole, mpp=trial.spacing_um, donors=donors, seed=seed + trial.number,
                            steps=steps)


def recovered(restorer: Restorer, seed: int, trial: Trial) -> np.ndarray:
    """The damaged tile with what shows through its pen strokes recovered, and the rest restored as for a user."""
    if trial.artifact != "pen":
        return restore(restorer, seed, trial)
    reference = max(trial.tile.donors(), key=lambda part: part.size, default=None) if trial.tile else None
    found = restorer.recover(trial.damaged, trial.hole, reference, mpp=trial.spacing_um)
    left = found.classes == PAINTED_ID
    return restore(restorer, seed, replace(trial, damaged=found.image, hole=left)) if left.any() else found.image


def repaint(
    restorer: Restorer, seed: int, trial: Trial, estimate: np.ndarray | None = None, level: float = 1
) -> np.ndarray:
    """The tile, painted as one canvas; where there is an estimate, from it and from that noise level on."""
    (painted,) = restorer.restore_batch([trial.damaged if estimate is None else estimate], [trial.hole], seed=seed,
                                        keys=[(trial.number,)], mpp=trial.spacing_um,
                                        levels=None if estimate is None else [np.full(trial.hole.shape, level)])
    return painted


def refined(restorer: Restorer, seed: int, trial: Trial) -> np.ndarray:
    """The exemplar's tile as an estimate, painted again from a middle noise level."""
    return repaint(restorer, seed, trial, exemplar(trial), MIDDLE_LEVEL)


def exemplar(trial: Trial) -> np.ndarray:
    return exemplar_fill(trial.damaged, trial.hole)


def mean_fill(trial: Trial) -> np.ndarray:
    filled = trial.damaged.copy()
    filled[trial.hole] = np.rint(trial.damaged[~trial.hole].mean(0))
    return filled


def telea(trial: Trial) -> np.ndarray:
    import cv2

    return cv2.inpaint(trial.damaged, trial.hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def navier_stokes(trial: Trial) -> np.ndarray:
    import cv2

    return cv2.inpaint(trial.damaged, trial.hole.astype(np.uint8), 3, cv2.INPAINT_NS)


def biharmonic(trial: Trial) -> np.ndarray:
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(trial.damaged, trial.hole, channel_axis=-1, split_into_regions=True)
    return np.rint(np.clip(filled, 0, 1) * 255).astype(np.uint8)


PLAIN: dict[str, Fill] = {"mean": mean_fill, "telea": telea, "navier-stokes": navier_stokes, "biharmonic": biharmonic,
                          "exemplar": exemplar}


def timed(fill: Fill, trial: Trial, restorer: Restorer | None) -> tuple[np.ndarray, Cost]:
    """A method's tile, and its cost."""
    begin = time.perf_counter()
    with count_evaluations(restorer) as calls:
        painted = fill(trial)
    return painted, Cost(len(calls), sum(calls), time.perf_counter() - begin)


@contextmanager
def count_evaluations(restorer: Restorer | None) -> Iterator[list[int]]:
    """A list that gets the number of pixels whenever the denoiser is evaluated on one canvas."""
    calls: list[int] = []
    if restorer is None:
        yield calls
        return
    hook = restorer.denoiser.register_forward_hook(
        lambda module, inputs, output: calls.extend([inputs[0][0, 0].numel()] * len(inputs[0])))
    try:
        yield calls
    finally:
        hook.remove()


@torch.no_grad()
def gflop_per_evaluation(restorer: Restorer, side_px: int) -> float:
    """Matrix products and convolutions of one evaluation of a square canvas in GFLOP as torch counts them; it
    does not count fused attention on the CPU."""
    x = torch.zeros(1, 3, side_px, side_px, device=restorer.device)
    level = torch.full((1,), 0.5, device=restorer.device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        restorer.denoiser(x, level, torch.ones_like(x[:, :1]), level)
    return counter.get_total_flops() / 1e9
