"""Muon for all matrices of a network at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from artifusion.device import fast_dtype

QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal (Jordan et al. 2024), with the root mean square of AdamW's.

    The rule of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, whose own loop takes one matrix at a time in
    bfloat16: on a CPU without bfloat16 that is six times the work of the forward and backward pass together. Here
    matrices of one shape go through the Newton-Schulz iteration as one batch, in a number format that the device is
    fast in.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            like: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    like[min(matrix.shape), max(matrix.shape)].append(matrix)
            for matrices in like.values():
                self._step(matrices, group["lr"], group["weight_decay"], group["momentum"])

    def _step(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        """One step of matrices of one shape, tall and wide alike."""
        updates = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            gradient = matrix.grad
            assert gradient is not None
            average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            update = torch.lerp(gradient, average, momentum)                          # Nesterov
            updates.append(update if len(update) <= update.shape[1] else update.T)
        rate = 0.2 * lr * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
            matrix.mul_(1 - lr * weight_decay)
            matrix.sub_(update if update.shape == matrix.shape else update.T, alpha=rate)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Each of (B, rows, columns), rows <= columns, with its singular values near 1, by Newton-Schulz iteration."""
    a, b, c = QUINTIC
    x = matrices.to(fast_dtype(matrices.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT                                                               # (B, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
