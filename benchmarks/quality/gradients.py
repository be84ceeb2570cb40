"""How much detail a place has, by its gradients."""

from __future__ import annotations

import numpy as np


def gradient_energy(image: np.ndarray, mask: np.ndarray) -> float:
    """Sum of squared differences of neighbouring grey values that both lie in the mask."""
    grey = image.astype(float).mean(2)
    across, down = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    return float(np.square(np.diff(grey, axis=1)[across]).sum() + np.square(np.diff(grey, axis=0)[down]).sum())
