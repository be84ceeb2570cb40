"""The seam between slides and diffusion: images and masks in, restored images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from artifusion.checkpoint import Weights, load_weights
from artifusion.config import RestoreConfig
from artifusion.device import autocast, keep_freed_memory, resolve_devices
from artifusion.diffusion.frame import Frame, colour_range
from artifusion.diffusion.inpainting import CleanKnown, NoisedKnown
from artifusion.diffusion.reuse import EverySecondStep
from artifusion.diffusion.sampling import (
    STEPS,
    Condition,
    Denoise,
    even_levels,
    log_snr_levels,
    sample,
    with_time_travel,
)
from artifusion.diffusion.schedule import Schedule
from artifusion.diffusion.views import in_views
from artifusion.errors import DeviceError, WeightsError
from artifusion.pixels import images_from_tensor, tensor_from_images
from artifusion.pretrained import DEFAULT_WEIGHTS

VIEW_PX, OVERLAP_PX = 1024, 128     # a larger canvas is denoised in views that overlap
CACHED_PX = 4 * 256**2              # that a CPU evaluates at once: more fall out of its caches


@dataclass(frozen=True)
class MaskedImage:
    """One image to repaint, and what its painting depends on; `Restorer.restore_batch` explains each part."""

    image: np.ndarray                   # uint8 (H, W, 3)
    mask: np.ndarray                    # bool (H, W), True = repaint
    key: tuple[int, ...]
    surroundings: np.ndarray | None     # uint8 (N, 3)
    guess: np.ndarray | None            # uint8 (H, W, 3)

    def __post_init__(self) -> None:
        image, mask, guess = self.image, self.mask, self.guess
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
            raise ValueError(f"a mask must be bool {image.shape[:2]} like its image, got {mask.dtype} {mask.shape}")
        if mask.all():
            raise ValueError("the mask covers the whole image: nothing is left to paint from")
        if min(self.key, default=0) < 0:
            raise ValueError(f"a key must not be negative, got {self.key}")
        if guess is not None and guess.shape != image.shape:
            raise ValueError(f"a guess must be {image.shape} like its image, got {guess.shape}")


class Restorer:
    """Repaints the masked part of images of tissue.

    Kept pixels come back exactly; masked pixels are generated from noise, whatever the image shows under the mask.
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
        guesses: Sequence[np.ndarray] | None = None,
        level: float = 0.5,
    ) -> list[np.ndarray]:
        """The images with their masked pixels repainted; every other pixel equals the input.

        Args:
            images: uint8 (H, W, 3) RGB; images of one size go through the denoiser together.
            masks: bool (H, W), True = restore.
            steps: noise levels from noise to clean (default: the configuration's); without time travel the
                evaluations of the denoiser per image.
            seed: same seed, same result.
            mpp: um per pixel (default: the configuration's).
            keys: non-negative numbers per image, such as its place on the slide, that give it a noise of its own
                (default: all images of one size get the same noise).
            surroundings: known pixels, uint8 (N, 3), to whose colours each image is relative (default: its own);
                images that are parts of one region share theirs, so that they agree.
            guesses: one image of the same size per image, which shows what its masked pixels may look like: painting
                begins from the guess with noise added, instead of from noise alone (Meng et al. 2022, SDEdit).
            level: the noise level to which noise is added to guesses, in (0, 1); only the steps below it are taken.

        Raises:
            ValueError: an argument has a wrong shape, dtype, length or value, or an image has no known pixel.
            WeightsError: the weights give no finite picture.
            DeviceError: not even one image fits into the GPU's memory; a batch that does not is halved.
        """
        batch = masked_images(images, masks, keys, surroundings, guesses)
        times = self._times(self.config.steps if steps is None else steps, None if guesses is None else level)
        spacing_um = self.config.default_spacing_um if mpp is None else mpp
        if not 0.01 <= spacing_um <= 100:
            raise ValueError(f"mpp must lie in 0.01 to 100 um per pixel, got {mpp}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        restored = [item.image.copy() for item in batch]
        for shape in dict.fromkeys(item.image.shape for item in batch):
            alike = [n for n, item in enumerate(batch) if item.image.shape == shape and item.mask.any()]
            if not alike:
                continue
            painted = self._paint_in_memory([batch[n] for n in alike], times, seed, spacing_um)
            for n, pixels in zip(alike, painted, strict=True):
                restored[n][batch[n].mask] = pixels[batch[n].mask]
        return restored

    def _times(self, steps: int, first: float | None) -> list[float]:
        """The noise levels along which images are painted: all of `steps`, or `first` and those below it."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        levels = log_snr_levels(steps, self.schedule) if self.config.spacing == "log-snr" else even_levels(steps)
        times = with_time_travel(levels, self.config.jump_length, self.config.jump_samples)
        if first is None:
            return times
        if not 0 < first < 1:
            raise ValueError(f"level must lie between 0 and 1, got {first}")
        return [first, *(time for time in times if time < first)]

    def _paint_in_memory(
        self, batch: Sequence[MaskedImage], times: Sequence[float], seed: int, spacing_um: float
    ) -> np.ndarray:
        """`_paint`, in halves where the device lacks the memory for the whole batch."""
        try:
            return self._paint(batch, times, seed, spacing_um)
        except torch.OutOfMemoryError:
            half = len(batch) // 2      # halves are painted after this block, whose end frees the tensors for them
        if not half:
            height, width = batch[0].mask.shape
            raise DeviceError(f"{self.device}: no memory for one canvas of {width} x {height} px; lower max_canvas_px "
                              "in a --config, or use --device cpu")
        return np.concatenate([self._paint_in_memory(part, times, seed, spacing_um)
                               for part in (batch[:half], batch[half:])])

    @torch.inference_mode()
    def _paint(self, batch: Sequence[MaskedImage], times: Sequence[float], seed: int, spacing_um: float) -> np.ndarray:
        """Images of one size -> uint8 (B, H, W, 3), meaningful where masked."""
        pixels = self._canvases([item.image for item in batch])                       # (B, 3, H, W)
        masks = padded([item.mask for item in batch], self.multiple)
        hole = torch.from_numpy(masks)[:, None].float().to(self.device)               # (B, 1, H, W)
        frame, darkest, lightest = self._palette(batch, pixels, hole)
        known = frame.enter(pixels) * (1 - hole)
        condition: Condition = CleanKnown(known, hole)
        if self.config.condition == "noised":
            condition = NoisedKnown(known, hole, self.schedule)

        def noise(number: int) -> Tensor:
            drawn = [gaussian((seed, number, *item.key), known.shape[1:]) for item in batch]
            return torch.stack(drawn).to(self.device)

        def noise_or_start(number: int) -> Tensor:
            guesses = [item.guess for item in batch if item.guess is not None]
            if number or not guesses:
                return noise(number)
            return self.schedule.add_noise(frame.enter(self._canvases(guesses)), torch.full_like(hole, times[0]),
                                           noise(number))

        denoise = self._denoise(torch.full((len(batch),), spacing_um, device=self.device), darkest, lightest)
        *_, x = sample(denoise, self.schedule, noise_or_start, times, STEPS[self.config.sampler], condition)
        if not torch.isfinite(x).all():
            raise WeightsError(f"{self.weights.name}: these weights paint no finite numbers; use others")
        height, width = batch[0].mask.shape
        return images_from_tensor(frame.leave(x))[:, :height, :width]

    def _canvases(self, images: Sequence[np.ndarray]) -> Tensor:
        """Images of one size on the device, their sides padded: (B, 3, H, W) in [-1, 1]."""
        return tensor_from_images(padded(images, self.multiple)).to(self.device)

    def _palette(self, batch: Sequence[MaskedImage], pixels: Tensor, hole: Tensor) -> tuple[Frame, Tensor, Tensor]:
        """The frame of each image, and in it the darkest and lightest colour that may be painted, (B, 3, 1, 1)."""
        around = [item.surroundings for item in batch if item.surroundings is not None]
        if around:
            colours = [tensor_from_images(known[None, None])[0, :, 0] for known in around]            # (3, N) each
            frame = Frame.of_colours(colours).to(self.device)
        else:
            colours = [image[:, outside[0]] for image, outside in zip(pixels, hole == 0, strict=True)]
            frame = Frame.of_known(pixels, 1 - hole)
        ranges = torch.stack([colour_range(known) for known in colours]).to(self.device)              # (B, 2, 3, 1, 1)
        return frame, frame.enter(ranges[:, 0]), frame.enter(ranges[:, 1])

    def _denoise(self, spacing_um: Tensor, darkest: Tensor, lightest: Tensor) -> Denoise:
        """The denoiser for canvases of any size, its predictions within the colours that may be painted."""
        recall = EverySecondStep()

        def predict(x: Tensor, level: Tensor) -> Tensor:
            at_once = max(1, CACHED_PX // level[0].numel()) if self.device.type == "cpu" else len(x)
            parts = (whole.split(at_once) for whole in (x, level, (level > 0).float(), spacing_um))
            with autocast(self.device):
                predicted = torch.cat([self.denoiser(*part, recall) for part in zip(*parts, strict=True)])
            return self.schedule.x0(x, level, predicted).clamp(darkest, lightest)

        predict_in_views = in_views(predict, VIEW_PX, OVERLAP_PX, self.multiple)

        def denoise(x: Tensor, level: Tensor) -> Tensor:
            recall.begin_step(self.config.reuse)
            return predict_in_views(x, level)

        return denoise


def masked_images(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]] | None,
    surroundings: Sequence[np.ndarray] | None,
    guesses: Sequence[np.ndarray] | None,
) -> list[MaskedImage]:
    """One object for each image. Raises ValueError where lists differ in length or a part does not fit its image."""
    nothing = [None] * len(images)
    lists = {"masks": [np.asarray(mask) for mask in masks],
             "keys": [(0, 0)] * len(images) if keys is None else [tuple(key) for key in keys],
             "surroundings": nothing if surroundings is None else surroundings,
             "guesses": nothing if guesses is None else guesses}
    for name, parts in lists.items():
        if len(parts) != len(images):
            raise ValueError(f"{len(images)} images but {len(parts)} {name}")
    return [MaskedImage(np.asarray(image), *parts) for image, *parts in zip(images, *lists.values(), strict=True)]


def padded(arrays: Sequence[np.ndarray], multiple: int) -> np.ndarray:
    """Arrays (H, W, ...) of one size as one (B, H, W, ...), mirrored beyond the edges to multiples of this many px."""
    height, width, *rest = arrays[0].shape
    beyond = [(0, 0), (0, -height % multiple), (0, -width % multiple), *[(0, 0) for _ in rest]]
    return np.pad(np.stack(arrays), beyond, mode="symmetric")


def gaussian(key: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise that is a function of the key alone, on every machine and device."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
