"""The error of the denoiser's prediction and its weight."""

from __future__ import annotations

from torch import Tensor

from artifusion.diffusion.schedule import CosineSchedule


def velocity_loss(
    predicted: Tensor, x0: Tensor, level: Tensor, noise: Tensor, schedule: CosineSchedule, max_snr_weight: float
) -> Tensor:
    """Mean squared velocity error over the noisy pixels, weighted so that the x0 error counts min(SNR + 1, cap).

    Unweighted, fine noise would take most of the loss and structure and colour would starve (Hang et al. 2023,
    min-SNR weighting, in velocity form: ||v - v'||^2 = (SNR + 1) ||x0 - x0'||^2).
    """
    target = schedule.velocity(x0, level, noise)
    hole = (level > 0).to(x0.dtype)                                                   # (B, 1, H, W)
    snr = schedule.snr(level.clamp(min=1e-3))
    weight = hole * (max_snr_weight / (snr + 1)).clamp(max=1.0)
    return ((predicted - target).square() * weight).sum() / (3 * hole.sum().clamp(min=1))
