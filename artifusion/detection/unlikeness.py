"""The denoiser's evidence: trained on clean tissue alone, it does not find again what no clean tissue looks like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from artifusion.detection.findings import UNIT
from artifusion.detection.signs import blurred
from artifusion.detection.survey import FULL_OD, Source
from artifusion.device import autocast
from artifusion.diffusion.frame import Frame
from artifusion.geometry import Box
from artifusion.pixels import tensor_from_images
from artifusion.restorer import Restorer, gaussian
from artifusion.slide.tissue import GLASS_OD

MIDDLE, ALMOST_NOISE = 0.65, 0.96      # levels: tissue's layout is still seen but not its nuclei; next to nothing is
COARSEST_UM = 2.0            # um per pixel; the coarsest that the denoiser was trained on
HUE_UM, GRAIN_UM, COLOUR_UM = 10.0, 3.0, 10.0         # over which its errors are averaged
STEPS = {"hue": 0.003, "grain": 0.006, "colour": 0.012}   # disagreement of one step of the maps
STRAY = {"hue": 6.6, "grain": 6.1, "colour": 6.25}    # quartile distances above the slide's median: evidence 1


def disagreement(restorer: Restorer, samples: list[np.ndarray], coarse_um: float) -> Source:
    """How far the denoiser, trained on clean tissue alone, is from the scan: a function of pixels and their box.

    A tile is noised to two levels and predicted back; colours and layout that no clean tissue has are not found again.
    All tiles are relative to the same colours, those of the samples, so that a tile full of ink cannot hide its own.
    Its noise depends on the place alone.
    """
    pixels = np.concatenate([sample.reshape(-1, 3) for sample in samples])[None, None]        # (1, 1, N, 3)
    colours = tensor_from_images(pixels)
    frame = Frame.of_known(colours, torch.ones_like(colours[:, :1])).to(restorer.device)

    @torch.inference_mode()
    def unlike(rgb: np.ndarray, box: Box) -> dict[str, np.ndarray]:
        """uint8 (H, W, 3) at the coarse scale -> float32 (H, W) >= 0 for each of STEPS, in units of their maps.

        "hue": how far hues are off over some cells; "grain": how much is off in detail, whatever way; "colour": how
        far the place is, hue and density, from what the slide's colours alone let expect.
        """
        height, width = rgb.shape[:2]
        pad = [(0, -side % restorer.multiple) for side in (height, width)]
        x0 = frame.enter(tensor_from_images(np.pad(rgb, (*pad, (0, 0)), mode="symmetric")[None]).to(restorer.device))

        def missed(level: float) -> np.ndarray:                                                     # (H, W, 3)
            off = (predicted(restorer, x0, level, (box.x, box.y), coarse_um) - x0)[0, :, :height, :width]
            return off.permute(1, 2, 0).float().cpu().numpy()

        middle, colour = missed(MIDDLE), missed(ALMOST_NOISE)
        hue = middle - middle.mean(axis=2, keepdims=True)      # clean tissue is denser or lighter, never another hue
        values = {"hue": np.linalg.norm(blurred(hue, HUE_UM / coarse_um), axis=2),
                  "grain": blurred(np.linalg.norm(middle, axis=2), GRAIN_UM / coarse_um),
                  "colour": np.linalg.norm(blurred(colour, COLOUR_UM / coarse_um), axis=2)}
        return {name: value / (STEPS[name] * UNIT) for name, value in values.items()}

    return unlike


def predicted(restorer: Restorer, x0: Tensor, noise_level: float, place: tuple[int, int], um: float) -> Tensor:
    """What the denoiser makes of x0 (1, 3, H, W) noised to a level: the same again, where it is clean tissue."""
    level = torch.full_like(x0[:, :1], noise_level)
    noise = gaussian((0, *place), x0.shape[1:])[None].to(x0.device)
    x = restorer.schedule.add_noise(x0, level, noise)
    with autocast(restorer.device):
        spacing = torch.full((1,), min(um, COARSEST_UM), device=x0.device)
        said = restorer.denoiser(x, level, torch.ones_like(level), spacing)
    return restorer.schedule.x0(x, level, said)


def against_own(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The strongest of the denoiser's maps, each in UNIT of the slide's own distribution over its tissue, uint8."""
    tissue = maps["density"] > GLASS_OD * 255 / FULL_OD
    unlike = np.zeros(tissue.shape, np.uint8)
    for name, stray in STRAY.items():
        values = maps[name][tissue]
        if len(values):
            median, upper = np.percentile(values, (50, 75))
            table = (np.arange(256) - median) / (stray * max(1.0, upper - median)) * UNIT
            np.maximum(unlike, np.clip(table, 0, 255).astype(np.uint8)[maps[name]], out=unlike)
    return unlike
