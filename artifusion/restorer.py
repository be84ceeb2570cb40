"""The seam between slides and diffusion: images and masks in, restored images out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artifusion.checkpoint import Weights, load_weights
from artifusion.config import RestoreConfig
from artifusion.device import autocast, keep_freed_memory, resolve_devices
from artifusion.diffusion.finish import match_fine_bands
from artifusion.diffusion.frame import MIN_KNOWN, Frame
from artifusion.diffusion.inpainting import Evidence, NoisedKnown, to_stops
from artifusion.diffusion.reuse import EverySecondStep
from artifusion.diffusion.sampling import STEPS, Condition, even_levels, log_snr_levels, sample, travelled
from artifusion.diffusion.schedule import Schedule
from artifusion.diffusion.views import in_views
from artifusion.errors import DeviceError, WeightsError
from artifusion.pixels import images_from_tensor, tensor_from_images
from artifusion.pretrained import DEFAULT_WEIGHTS

VIEW_PX, OVERLAP_PX = 1024, 128     # a larger canvas is denoised in views that overlap
CACHED_PX = 4 * 256**2              # that a CPU evaluates at once: more fall out of its caches
TINY = 1e-6                         # levels that differ by less are the same
RARE = 0.005                        # share of the known pixels that may be darker, or lighter, than all that is painted


class Restorer:
    """Repaints the masked part of images of tissue.

    Kept pixels come back exactly; masked pixels are generated from noise and never see what lay under the mask.
    The noise of an image depends on (seed, key) and its size alone, so neither batch size nor order changes it.
    Images are painted on `device`; slides (`restore_slide`) on all `devices`, of which it is the first.
    """

    def __init__(self, weights: Weights, device: str = "auto", config: RestoreConfig | None = None) -> None:
        self.weights = weights
        self.devices = resolve_devices(device)
        self.device = self.devices[0]
        if self.device.type == "cpu":
            keep_freed_memory()
        self.config = config or RestoreConfig()
        self.denoiser = weights.denoiser.eval().requires_grad_(False).to(self.device)
        self.schedule = Schedule(self.denoiser.config.schedule, self.denoiser.config.prediction)

    @classmethod
    def from_pretrained(
        cls, source: str | Path = DEFAULT_WEIGHTS, device: str = "auto", config: RestoreConfig | None = None
    ) -> Restorer:
        """A restorer with weights by embedded name, folder or hub id.

        Raises:
            WeightsError: no such weights, or broken ones.
            DeviceError: no such device.
        """
        return cls(load_weights(source), device, config)

    @property
    def multiple(self) -> int:
        """Canvas sides are padded to multiples of this many pixels."""
        return self.denoiser.multiple

    def restore(
        self, image: np.ndarray, mask: np.ndarray, *, steps: int | None = None, seed: int = 0, mpp: float | None = None
    ) -> np.ndarray:
        """The image with its masked pixels repainted; see `restore_batch`."""
        return self.restore_batch([image], [mask], steps=steps, seed=seed, mpp=mpp)[0]

    def restore_batch(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        *,
        steps: int | None = None,
        seed: int = 0,
        mpp: float | None = None,
        keys: Sequence[Sequence[int]] | None = None,
        surroundings: Sequence[np.ndarray] | None = None,
        levels: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """The images with their masked pixels repainted; every other pixel equals the input.

        Args:
            images: uint8 (H, W, 3) RGB; images of one size go through the denoiser together.
            masks: bool (H, W), True = restore.
            steps: noise levels from noise to clean (default: the configuration's); without time travel the
                evaluations of the denoiser per image.
            seed: same seed, same result.
            mpp: um per pixel (default: the configuration's).
            keys: non-negative numbers per image that tell its noise from the others', such as its place on the slide
                (default: all of one size get the same noise).
            surroundings: known pixels, uint8 (N, 3), to whose colours each image is relative (default: its own);
                images that are parts of one region share theirs, so that they agree.
            levels: float (H, W) in [0, 1], how little is known of each masked pixel. Where it is 1, the default, the
                image's own pixel is never seen; below, it is an estimate, which is noised to that level and painted
                from there (Meng et al. 2022, SDEdit); where it is 0 the pixel is known.

        Raises:
            ValueError: shapes, dtypes, lengths of lists, steps, a scale, levels, a seed or keys that do not fit, or an
                image without a known pixel.
            WeightsError: the weights give no finite picture.
            DeviceError: not even one image fits into the GPU's memory; a batch that does not is halved.
        """
        steps = self.config.steps if steps is None else steps
        mpp = self.config.default_spacing_um if mpp is None else mpp
        if not 0.01 <= mpp <= 100:
            raise ValueError(f"mpp must lie in 0.01 to 100 um per pixel, got {mpp}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        images, masks = [np.asarray(i) for i in images], [np.asarray(m) for m in masks]
        if len(images) != len(masks):
            raise ValueError(f"{len(images)} images but {len(masks)} masks")
        for image, mask in zip(images, masks, strict=True):
            check(image, mask)
        names = [tuple(k) for k in keys] if keys is not None else [(0, 0)] * len(images)
        for what, given in (("keys", names), ("surroundings", surroundings), ("levels", levels)):
            if given is not None and len(given) != len(images):
                raise ValueError(f"{len(images)} images but {len(given)} {what}")
        if min([seed, *chain(*names)]) < 0:
            raise ValueError(f"seed and keys must not be negative, got {seed} and {names}")
        times = self._times(steps)
        entered = [entry_levels(mask, None if levels is None else levels[n], times) for n, mask in enumerate(masks)]
        restored: list[np.ndarray] = [image.copy() for image in images]
        together: dict[tuple[Any, float], list[int]] = {}                  # one size, and one level to begin at
        for i, (image, level) in enumerate(zip(images, entered, strict=True)):
            if level.any():
                together.setdefault((image.shape, float(level.max())), []).append(i)
        for (_, highest), same in together.items():
            painted = self._paint_in_memory(
                np.stack([images[i] for i in same]),
                np.stack([entered[i] for i in same]),
                [names[i] for i in same],
                [surroundings[i] for i in same] if surroundings is not None else None,
                times[next(n for n, time in enumerate(times) if time <= highest + TINY):],
                seed,
                mpp,
            )
            for i, pixels in zip(same, painted, strict=True):
                restored[i][entered[i] > 0] = pixels[entered[i] > 0]
        return restored

    def _times(self, steps: int) -> list[float]:
        """The noise levels that the painting walks."""
        config = self.config
        levels = even_levels(steps)
        if config.spacing == "log-snr":
            levels = log_snr_levels(steps, self.schedule, config.end_half_log_snr)
        return travelled(levels, config.jump_length, config.jump_samples)

    def _paint_in_memory(
        self, images: np.ndarray, levels: np.ndarray, keys: list[tuple[int, ...]],
        surroundings: list[np.ndarray] | None, times: list[float], seed: int, mpp: float,
    ) -> np.ndarray:
        """`_paint`, in halves where the device has not the memory for all."""
        try:
            return self._paint(images, levels, keys, surroundings, times, seed, mpp)
        except torch.OutOfMemoryError:
            half = len(images) // 2     # halves are painted after this block, whose end frees the tensors for them
        if not half:
            height, width = levels.shape[1:]
            raise DeviceError(f"{self.device}: no memory for one canvas of {width} x {height} px; lower max_canvas_px "
                              "in a --config, or use --device cpu")
        return np.concatenate([
            self._paint_in_memory(images[part], levels[part], keys[part], surroundings and surroundings[part], times,
                                  seed, mpp)
            for part in (slice(None, half), slice(half, None))])

    @torch.inference_mode()
    def _paint(
        self, images: np.ndarray, levels: np.ndarray, keys: list[tuple[int, ...]],
        surroundings: list[np.ndarray] | None, times: list[float], seed: int, mpp: float,
    ) -> np.ndarray:
        """uint8 (B, H, W, 3), float32 (B, H, W) -> uint8 (B, H, W, 3), meaningful where levels are above 0."""
        height, width = levels.shape[1:]
        pad = ((0, 0), (0, -height % self.multiple), (0, -width % self.multiple))
        pixels = tensor_from_images(np.pad(images, (*pad, (0, 0)), mode="symmetric")).to(self.device)
        level = torch.from_numpy(np.pad(levels, pad, mode="symmetric"))[:, None].to(self.device)     # (B, 1, H, W)
        hole = (level > 0).float()
        if surroundings:
            colours = [tensor_from_images(near[None, None])[0, :, 0] for near in surroundings]            # (3, N) each
            frame = Frame.stack([Frame.of_known(near[None, :, None], torch.ones(1, 1, 1, near.shape[1]))
                                 for near in colours]).to(self.device)
        else:
            colours = [image[:, outside[0]] for image, outside in zip(pixels, hole == 0, strict=True)]
            frame = Frame.of_known(pixels, 1 - hole)
        limits = torch.stack([colour_range(near) for near in colours]).to(self.device)        # (B, 2, 3, 1, 1)
        darkest, lightest = frame.enter(limits[:, 0]), frame.enter(limits[:, 1])
        spacing = torch.full((len(images),), mpp, device=self.device)

        def noise(number: int) -> Tensor:
            return torch.stack([gaussian((seed, number, *key), pixels.shape[1:]) for key in keys]).to(self.device)

        estimate = frame.enter(pixels)                                                # (B, 3, H, W)
        condition: Condition = Evidence(self.schedule.add_noise(estimate, level, noise(0)), level)
        if self.config.condition == "noised":
            condition = NoisedKnown(estimate, hole, self.schedule)

        recall = EverySecondStep()

        def denoise(x: Tensor, level: Tensor) -> Tensor:
            at_once = max(1, CACHED_PX // level[0].numel()) if self.device.type == "cpu" else len(x)
            parts = (given.split(at_once) for given in (x, level, (level > 0).float(), spacing))
            with autocast(self.device):
                predicted = torch.cat([self.denoiser(*part, recall) for part in zip(*parts, strict=True)])
            return self.schedule.x0(x, level, predicted).clamp(darkest, lightest)

        in_parts = in_views(denoise, VIEW_PX, OVERLAP_PX, self.multiple)

        def everywhere(x: Tensor, level: Tensor) -> Tensor:
            recall.begin_step(self.config.reuse)
            return in_parts(x, level)

        *_, x = sample(everywhere, self.schedule, noise, times, STEPS[self.config.sampler], condition)
        if not torch.isfinite(x).all():
            raise WeightsError(f"{self.weights.name}: these weights paint no finite numbers; use others")
        result = torch.where(hole > 0, frame.leave(x), pixels)
        if self.config.match_bands:
            result = match_fine_bands(result, hole)
        return images_from_tensor(result)[:, :height, :width]


def colour_range(pixels: Tensor) -> Tensor:
    """Between which values each channel of known pixels (3, N) lies, but for the RARE ones at either end: (2, 3, 1, 1).

    Nothing is painted darker or lighter than the tissue around it. Fewer than MIN_KNOWN pixels limit nothing.
    """
    if pixels.shape[1] < MIN_KNOWN:
        return torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    ordered, rare = pixels.sort(dim=1).values, int(RARE * pixels.shape[1])
    return torch.stack([ordered[:, rare], ordered[:, -1 - rare]])[..., None, None]


def entry_levels(mask: np.ndarray, levels: np.ndarray | None, times: Sequence[float]) -> np.ndarray:
    """The noise level at which every pixel of an image enters the walk along `times`, 0 outside the mask: float32.

    Raises:
        ValueError: levels that are not like the mask or outside [0, 1].
    """
    if levels is None:
        return mask.astype(np.float32)
    if levels.shape != mask.shape or not (levels >= 0).all() or not (levels <= 1).all():
        raise ValueError(f"levels must be {mask.shape} like the mask and lie in 0 to 1, got {levels.shape}")
    return np.where(mask, to_stops(torch.from_numpy(levels.astype(np.float32)), times).numpy(), np.float32(0))


def gaussian(key: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise that is a function of the key alone, on every machine and device."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def check(image: np.ndarray, mask: np.ndarray) -> None:
    """Raise ValueError unless image is uint8 (H, W, 3), mask bool (H, W), and some pixel is known."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        raise ValueError(f"a mask must be bool {image.shape[:2]} like its image, got {mask.dtype} {mask.shape}")
    if mask.all():
        raise ValueError("the mask covers the whole image: nothing is left to paint from")
