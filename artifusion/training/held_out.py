"""What a run is judged by at its checkpoints: crops of images that it never learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from artifusion.checkpoint import Weights
from artifusion.config import TrainConfig
from artifusion.device import autocast
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.diffusion.schedule import Schedule
from artifusion.restorer import Restorer
from artifusion.training.corpus import Corpus, cut_crop
from artifusion.training.state import Trainer, entered
from artifusion.training.tiles import Tile

HELD_OUT = 48               # crops
PROBE_BATCH = 8
PREVIEWS = 12               # held-out restorations in the picture
PROBE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

HeldOut = tuple[np.ndarray, np.ndarray]
"""Crops, uint8 (N, side, side, 3), and um per pixel (N,)."""


def held_out_crops(tiles: Sequence[Tile], config: TrainConfig) -> HeldOut | None:
    """The fixed validation crops, without stain jitter; None where no image belongs to the validation split."""
    if not tiles:
        return None
    data = config.data.model_copy(update={"stain_jitter": 0.0, "spacing_jitter": {}})
    corpus, rng = Corpus.of(tiles, data), np.random.default_rng(0)
    pixels, spacings = zip(*(cut_crop(corpus, data, data.crop_px, rng) for _ in range(HELD_OUT)), strict=True)
    return np.stack(pixels), np.array(spacings, np.float32)


@torch.inference_mode()
def level_errors(denoiser: SwinDenoiser, schedule: Schedule, held_out: HeldOut) -> dict[float, float]:
    """Per noise level, a denoiser's squared x0 error in held-out holes over the mean fill's.

    Below 1 the denoiser knows more than the mean colour of the surroundings. The hole is the inner half.
    """
    pixels, spacing_um = held_out
    device = next(denoiser.parameters()).device
    errors: dict[float, list[float]] = {level: [] for level in PROBE_LEVELS}
    fills: list[float] = []
    generator = torch.Generator().manual_seed(0)
    side = pixels.shape[1]
    hole = torch.zeros(1, 1, side, side, device=device)
    hole[..., side // 7 : -(side // 7), side // 7 : -(side // 7)] = 1
    for start in range(0, len(pixels), PROBE_BATCH):
        spacing = torch.from_numpy(spacing_um[start : start + PROBE_BATCH]).to(device)
        inside = hole.expand(len(spacing), -1, -1, -1)
        x0 = entered(pixels[start : start + PROBE_BATCH], inside)
        fills.append((x0.square() * inside).mean().item())      # the frame's origin is the mean of the known
        for level in PROBE_LEVELS:
            levels = inside * level
            noise = torch.randn(x0.shape, generator=generator).to(device)
            x = schedule.add_noise(x0, levels, noise)
            with autocast(device):
                predicted = schedule.x0(x, levels, denoiser(x, levels, inside, spacing))
            errors[level].append(((predicted - x0).square() * inside).mean().item())
    return {level: float(np.mean(values) / np.mean(fills)) for level, values in errors.items()}


def preview(trainer: Trainer, held_out: HeldOut) -> Image.Image:
    """Rows of held-out crops: clean, hole, restored by what the run has come to."""
    pixels, spacing_um = held_out
    side = pixels.shape[1]
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    mask = np.hypot(rows, columns) < 0.33
    averaged = Weights(trainer.outcome(), trainer.config.name, "", {}, walk=trainer.config.walk)
    restorer = Restorer(averaged, str(trainer.device))
    strips = []
    for image, spacing in list(zip(pixels, spacing_um, strict=True))[:PREVIEWS]:
        hole = np.where(mask[..., None], np.uint8(255), image)
        restored = restorer.restore(image, mask, mpp=float(spacing))
        framed = [np.pad(part, ((2, 2), (2, 2), (0, 0)), constant_values=255) for part in (image, hole, restored)]
        strips.append(np.pad(np.concatenate(framed, axis=1), ((0, 0), (0, 10), (0, 0)), constant_values=255))
    halves = np.concatenate(strips[: PREVIEWS // 2]), np.concatenate(strips[PREVIEWS // 2 :])
    return Image.fromarray(np.concatenate(halves, axis=1))
