"""What is computed in one step of the denoising loop and used again in the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

Recall = Callable[[Callable[[], Tensor]], Tensor]
"""What a computation gives, or what it gave when it was last made."""


def compute(computation: Callable[[], Tensor]) -> Tensor:
    """Recall nothing."""
    return computation()


class EverySecondStep:
    """Computes in one step and recalls in the next: what lies deep in a U-net changes little in between (DeepCache,
    Ma et al. 2024).

    The calls of a step come in the order of the step before. Memory: the results of one step.
    """

    def __init__(self) -> None:
        self._kept: deque[Tensor] = deque()
        self._recalls = False

    def begin_step(self, near: bool) -> None:
        """`near`: this step is near enough to the one before to recall what that computed."""
        self._recalls = near and bool(self._kept)
        if not self._recalls:
            self._kept.clear()

    def __call__(self, computation: Callable[[], Tensor]) -> Tensor:
        if self._recalls:
            return self._kept.popleft()
        self._kept.append(computation())
        return self._kept[-1]
