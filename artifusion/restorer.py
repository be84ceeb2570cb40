"""The seam between slides and diffusion: images and masks in, restored images out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from artifusion.checkpoint import Weights, load_weights
from artifusion.config import RestoreConfig
from artifusion.device import (
    autocast,
    keep_freed_memory,
    machine,
    resolve_devices,
    return_freed_memory,
    threads_tell,
)
from artifusion.diffusion.finish import match_fine_bands, match_steps
from artifusion.diffusion.frame import Frame, colour_range
from artifusion.diffusion.inpainting import Evidence, NoisedKnown
from artifusion.diffusion.masked_images import MaskedImage, gaussian, masked_images, padded
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
from artifusion.evidence.donors import Hole
from artifusion.evidence.filling import fill, region_hole
from artifusion.evidence.index import DonorIndex
from artifusion.evidence.likeness import reduced
from artifusion.evidence.recover import Recovery, recover
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.regions import batches, find_regions, plan_canvases
from artifusion.pixels import images_from_tensor, tensor_from_images
from artifusion.pretrained import DEFAULT_WEIGHTS
from artifusion.slide.reader import in_memory
from artifusion.slide.spacing import check_spacing

VIEW_PX, OVERLAP_PX = 1024, 128     # a larger canvas is denoised in views that overlap
IMAGINED_UM = 1.0                   # per pixel of a canvas whose expectation is asked for, where it is finer
TINY = 1e-6                         # levels that differ by less are the same
CACHED_PX = 4 * 256**2              # that a CPU evaluates at once: more fall out of its caches


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
        self.config = (config or RestoreConfig()).along(weights.walk)
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
    def machine(self) -> dict[str, Any]:
        """What decides how pixels are rounded here; the number of threads is part of it where it tells."""
        facts: dict[str, Any] = machine(self.device)
        return facts | self.threads if threads_tell(self.device) else facts

    @property
    def threads(self) -> dict[str, int]:
        """How many threads a CPU paints with here."""
        return {"threads": torch.get_num_threads()}

    @property
    def multiple(self) -> int:
        """Canvas sides are padded to multiples of this many pixels."""
        return self.denoiser.multiple

    def restore(
        self, image: np.ndarray, mask: np.ndarray, *, mpp: float | None = None,
        donors: Sequence[np.ndarray] = (), steps: int | None = None, seed: int = 0,
    ) -> np.ndarray:
        """The image with its masked pixels restored; every other pixel equals the input.

        Large holes are filled with tissue from elsewhere in the image or in the donors, joined by a painted band;
        small and thin ones are painted, as all are with `graft = "off"` in the configuration. With `doubtful = "keep"`
        regions that grafts fill ill equal the input too. Work is done on canvases around the holes, as on a slide.

        Args:
            image: uint8 (H, W, 3) RGB.
            mask: bool (H, W), True = restore.
            mpp: um per pixel (default: the configuration's).
            donors: more images, uint8 (H, W, 3), without artifacts and of the same scale, to take tissue from.
            steps, seed: as for `restore_batch`.

        Raises:
            As `restore_batch`.
        """
        MaskedImage(image, mask, (0, 0), None, None)                            # raises where they do not fit
        spacing_um = self._checked(steps, seed, mpp)
        slide = in_memory(image)
        holes = Mask(tuple(rectilinear(mask)), slide.size)
        restored, levels = image.copy(), mask.astype(np.float32)
        regions = find_regions(holes, self.config.merge_px)
        if self.config.graft == "auto" and regions:
            indices = [DonorIndex.of(slide, spacing_um, [holes]), *DonorIndex.of_images(donors, spacing_um)]
            good = []
            for region in regions:
                hole = region_hole(slide, holes, region, spacing_um)
                found = fill(hole, indices, lambda part: self.imagine(part, spacing_um, seed), seed)
                at = hole.l0_box.slices()
                if found.verdict == "good" or self.config.doubtful == "paint":
                    restored[at][hole.hole], levels[at][hole.hole] = found.pixels[hole.hole], found.levels[hole.hole]
                    good.append(region)
            regions = tuple(good)
        canvases = plan_canvases(regions, slide.size, self.multiple, self.config.context_px, self.config.max_canvas_px,
                                 holes)
        for batch in batches(canvases, self.config.batch_size):
            boxes = [canvas.l0_box.slices() for canvas in batch]
            painted = self.restore_batch([restored[box] for box in boxes], [levels[box] > 0 for box in boxes],
                                         steps=steps, seed=seed, mpp=spacing_um, levels=[levels[box] for box in boxes],
                                         keys=[canvas.l0_box[:2] for canvas in batch])
            for canvas, pixels in zip(batch, painted, strict=True):
                target = canvas.l0_target.slices()
                restored[target] = pixels[canvas.l0_target.slices(canvas.l0_box)]
                levels[target] = 0
        return restored

    def recover(self, image: np.ndarray, mask: np.ndarray, reference: np.ndarray | None = None, *,
                mpp: float | None = None) -> Recovery:
        """What is still there under ink: `artifusion.recover` at the configuration's scale. Nothing is painted."""
        return recover(image, mask, reference, self._checked(None, 0, mpp))

    def imagine(self, part: Hole, spacing_um: float, seed: int) -> np.ndarray:
        """What a hole may look like by one evaluation of the denoiser: its expectation, uint8 (H, W, 3).

        An expectation has no detail: canvases finer than IMAGINED_UM per pixel are reduced.
        """
        step = max(1, min(round(IMAGINED_UM / spacing_um), min(part.known.shape) // self.multiple))
        pixels = reduced(part.pixels, step).round().astype(np.uint8)
        known = reduced(part.known.astype(np.float32), step) > 1 - TINY
        if not known.any():
            return part.pixels
        found = self.restore_batch([pixels], [~known], steps=1, mpp=spacing_um * step, seed=seed,
                                   keys=[part.l0_box[:2]])[0]
        pad = [(0, max(0, whole - step * small)) for whole, small in zip(part.known.shape, known.shape, strict=True)]
        found = cv2.resize(found, (found.shape[1] * step, found.shape[0] * step), interpolation=cv2.INTER_LINEAR)
        return np.pad(found, (*pad, (0, 0)), mode="edge")

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
            keys: non-negative numbers per image, such as its place on the slide, that give it a noise of its own
                (default: all images of one size get the same noise).
            surroundings: known pixels, uint8 (N, 3), to whose colours each image is relative (default: its own);
                images that are parts of one region share theirs, so that they agree.
            levels: float (H, W) in 0 to 1 per image, how little is known of each masked pixel. At 1, the default, the
                image's own pixel is never seen; below, it is an estimate, to which noise of the walk's nearest level
                is added and which is painted from there (Meng et al. 2022, SDEdit); at 0 it is known.

        Raises:
            ValueError: an argument has a wrong shape, dtype, length or value, or an image has no known pixel.
            WeightsError: the weights give no finite picture.
            DeviceError: not even one image fits into the GPU's memory; a batch that does not is halved.
        """
        batch = masked_images(images, masks, keys, surroundings, levels)
        spacing_um = self._checked(steps, seed, mpp)
        times = self._times(self.config.steps if steps is None else steps)
        restored = [item.image.copy() for item in batch]
        entering = [item.entering(times) for item in batch]
        alike: dict[tuple[tuple[int, ...], float], list[int]] = {}        # of one size, and of one level to begin at
        for n, level in enumerate(entering):
            alike.setdefault((level.shape, float(level.max())), []).append(n)
        for (_, highest), members in alike.items():
            if not highest:
                continue
            begin = next(n for n, time in enumerate(times) if time <= highest + TINY)
            painted = self._paint_in_memory([batch[n] for n in members], times[begin:], seed, spacing_um)
            for n, pixels in zip(members, painted, strict=True):
                restored[n][entering[n] > 0] = pixels[entering[n] > 0]
        if self.device.type == "cpu":
            return_freed_memory()
        return restored

    def _checked(self, steps: int | None, seed: int, mpp: float | None) -> float:
        """The um per pixel to restore at. Raises ValueError for numbers that cannot be meant."""
        check_spacing(mpp)
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        return self.config.default_spacing_um if mpp is None else mpp

    def _times(self, steps: int) -> list[float]:
        """The noise levels along which images are painted."""
        levels = even_levels(steps)
        if self.config.spacing == "log-snr":
            levels = log_snr_levels(steps, self.schedule, self.config.end_half_log_snr)
        return with_time_travel(levels, self.config.jump_length, self.config.jump_samples)

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
        levels = padded([item.entering(times) for item in batch], self.multiple)
        level = torch.from_numpy(levels)[:, None].to(self.device)                     # (B, 1, H, W)
        hole = (level > 0).float()
        frame, darkest, lightest = self._palette(batch, pixels, hole)

        def noise(number: int) -> Tensor:
            drawn = [gaussian((seed, number, *item.key), pixels.shape[1:]) for item in batch]
            return torch.stack(drawn).to(self.device)

        estimate = frame.enter(pixels)
        condition: Condition = Evidence(self.schedule.add_noise(estimate, level, noise(0)), level)
        if self.config.condition == "noised":
            condition = NoisedKnown(estimate, hole, self.schedule)
        denoise = self._denoise(torch.full((len(batch),), spacing_um, device=self.device), darkest, lightest)
        *_, x = sample(denoise, self.schedule, noise, times, STEPS[self.config.sampler], condition)
        if not torch.isfinite(x).all():
            raise WeightsError(f"{self.weights.name}: these weights paint no finite numbers; use others")
        height, width = batch[0].mask.shape
        expectation = len(times) == 2 and times[0] == 1             # what one evaluation makes of noise stays as it is
        if self.config.match_bands and not expectation:
            x = match_fine_bands(torch.where(hole > 0, x, estimate), hole).clamp(darkest, lightest)
            x = match_steps(torch.where(hole > 0, x, estimate), hole)
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

        def predict(x: Tensor, level: Tensor) -> Tensor:
            at_once = max(1, CACHED_PX // level[0].numel()) if self.device.type == "cpu" else len(x)
            parts = (whole.split(at_once) for whole in (x, level, (level > 0).float(), spacing_um))
            with autocast(self.device):
                predicted = torch.cat([self.denoiser(*part) for part in zip(*parts, strict=True)])
            return self.schedule.x0(x, level, predicted).clamp(darkest, lightest)

        return in_views(predict, VIEW_PX, OVERLAP_PX, self.multiple)
