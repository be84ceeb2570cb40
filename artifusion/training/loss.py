"""The error of the denoiser's prediction and its weight."""

from __future__ import annotations

from torch import Tensor

from artifusion.diffusion.schedule import Schedule


def prediction_loss(
    predicted: Tensor, x0: Tensor, level: Tensor, noise: Tensor, schedule: Schedule, max_snr_weight: float
) -> Tensor:
    """Mean over the crops of the squared error over their noisy pixels, weighted so that the x0 error counts at most
    max_snr_weight.

    Each crop counts the same, however small its hole. Unweighted, fine noise would take most of the loss and structure
    and colour would starve (Hang et al. 2023, min-SNR weighting: ||v - v'||^2 = (SNR + 1) ||x0 - x0'||^2 for velocity,
    SNR ||x0 - x0'||^2 for noise).
    """
    hole = (level > 0).to(x0.dtype)                                                   # (B, 1, H, W)
    snr = schedule.snr(level.clamp(min=1e-3))
    counts = snr + 1 if schedule.prediction == "velocity" else snr
    weight = hole * (max_snr_weight / counts).clamp(max=1.0)
    error = (predicted - schedule.target(x0, level, noise)).square()
    return ((error * weight).sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3)).clamp(min=1))).mean()
