"""The only place where uint8 (H, W, 3) images become float (3, H, W) tensors in [-1, 1], and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tensor_from_images(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def images_from_tensor(pixels: Tensor) -> np.ndarray:
    """float (B, 3, H, W) in [-1, 1] -> uint8 (B, H, W, 3), rounded to nearest; values outside are clipped."""
    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()
