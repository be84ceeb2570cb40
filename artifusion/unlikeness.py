"""The denoiser's evidence: trained on clean tissue alone, it does not find again what no clean tissue looks like."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from artifusion.device import autocast
from artifusion.diffusion.frame import Frame
from artifusion.geometry import Box, Size
from artifusion.pixels import tensor_from_images
from artifusion.restorer import Restorer, gaussian
from artifusion.slide.findings import UNIT
from artifusion.slide.survey import FULL_OD, enlarged
from artifusion.slide.tissue import GLASS_OD

LEVEL = 0.8                  # of noise: tissue's palette and layout are still seen, its nuclei are not
SEEN_UM = 2.0                # um per pixel that the denoiser is shown; the coarsest that it was trained on
SMOOTH_UM = 10.0
STRAY = 6.0                  # quartile distances above the slide's median disagreement: evidence 1
SCALE = 0.02                 # disagreement of one step of its map, before the slide's own distribution is known


def disagreement(
    restorer: Restorer, samples: list[np.ndarray], coarse_um: float
) -> Callable[[np.ndarray, Box], np.ndarray]:
    """How far the denoiser, trained on clean tissue alone, is from the scan: a function of pixels and their box.

    A tile is noised to LEVEL and predicted back; colours and layout that no clean tissue has are not found again.
    All tiles are relative to the same colours, those of the samples, so that a tile full of ink cannot hide its own.
    Its noise depends on the place alone.
    """
    pixels = np.concatenate([sample.reshape(-1, 3) for sample in samples])[None, None]        # (1, 1, N, 3)
    colours = tensor_from_images(pixels)
    frame = Frame.of_known(colours, torch.ones_like(colours[:, :1])).to(restorer.device)
    shown_um = max(SEEN_UM, coarse_um)

    @torch.inference_mode()
    def unlike(rgb: np.ndarray, box: Box) -> np.ndarray:
        """uint8 (H, W, 3) at the coarse scale -> float32 (H, W) >= 0, in units of the map of that name."""
        height, width = (max(1, round(side * coarse_um / shown_um)) for side in rgb.shape[:2])
        small = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX))
        pad = [(0, -side % restorer.multiple) for side in small.shape[:2]]
        x0 = frame.enter(tensor_from_images(np.pad(small, (*pad, (0, 0)), mode="symmetric")[None]).to(restorer.device))
        missed = (predicted(restorer, x0, (box.x, box.y)) - x0)[0, :, :height, :width]        # (3, h, w)
        off = missed.permute(1, 2, 0).float().cpu().numpy()                                  # (h, w, 3)
        sigma = max(0.5, SMOOTH_UM / shown_um)
        far = np.sqrt(np.square(ndimage.gaussian_filter(off, (sigma, sigma, 0))).sum(axis=2))
        return enlarged(far, Size(rgb.shape[1], rgb.shape[0])) / (SCALE * UNIT)

    return unlike


def predicted(restorer: Restorer, x0: Tensor, place: tuple[int, int]) -> Tensor:
    """What the denoiser makes of x0 (1, 3, H, W) noised to LEVEL: the same again, where it is clean tissue."""
    level = torch.full_like(x0[:, :1], LEVEL)
    noise = gaussian((0, *place), x0.shape[1:])[None].to(x0.device)
    x = restorer.schedule.add_noise(x0, level, noise)
    with autocast(restorer.device):
        said = restorer.denoiser(x, level, torch.ones_like(level), torch.full((1,), SEEN_UM, device=x0.device))
    return restorer.schedule.x0(x, level, said)


def against_own(unlike: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The map of disagreement in UNIT of the slide's own distribution over its tissue, uint8."""
    values = unlike[density > GLASS_OD * 255 / FULL_OD]
    if not len(values):
        return np.zeros_like(unlike)
    median, upper = np.percentile(values, (50, 75))
    table = (np.arange(256) - median) / (STRAY * max(1.0, upper - median)) * UNIT
    return np.clip(table, 0, 255).astype(np.uint8)[unlike]
