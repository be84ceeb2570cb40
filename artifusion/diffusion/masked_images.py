"""Images to repaint, checked, padded to whole windows of a denoiser, and the noise that each begins from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artifusion.diffusion.inpainting import to_stops


@dataclass(frozen=True)
class MaskedImage:
    """One image to repaint, and what its painting depends on; `Restorer.restore_batch` explains each part."""

    image: np.ndarray                   # uint8 (H, W, 3)
    mask: np.ndarray                    # bool (H, W), True = repaint
    key: tuple[int, ...]
    surroundings: np.ndarray | None     # uint8 (N, 3)
    levels: np.ndarray | None           # float (H, W) in 0 to 1

    def __post_init__(self) -> None:
        image, mask, levels = self.image, self.mask, self.levels
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
            raise ValueError(f"a mask must be bool {image.shape[:2]} like its image, got {mask.dtype} {mask.shape}")
        if mask.all():
            raise ValueError("the mask covers the whole image: nothing is left to paint from")
        if min(self.key, default=0) < 0:
            raise ValueError(f"a key must not be negative, got {self.key}")
        if levels is not None and (levels.shape != mask.shape or not ((levels >= 0) & (levels <= 1)).all()):
            raise ValueError(f"levels must be {mask.shape} like the mask and lie in 0 to 1, got {levels.shape}")

    def entering(self, times: Sequence[float]) -> np.ndarray:
        """The noise level at which every pixel enters a walk along `times`, 0 outside the mask: float32 (H, W)."""
        if self.levels is None:
            return self.mask.astype(np.float32)
        levels = to_stops(torch.from_numpy(self.levels.astype(np.float32)), times).numpy()
        return np.where(self.mask, levels, np.float32(0))


def masked_images(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]] | None,
    surroundings: Sequence[np.ndarray] | None,
    levels: Sequence[np.ndarray] | None,
) -> list[MaskedImage]:
    """One object for each image. Raises ValueError where lists differ in length or a part does not fit its image."""
    nothing = [None] * len(images)
    lists = {"masks": [np.asarray(mask) for mask in masks],
             "keys": [(0, 0)] * len(images) if keys is None else [tuple(key) for key in keys],
             "surroundings": nothing if surroundings is None else surroundings,
             "levels": nothing if levels is None else levels}
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
