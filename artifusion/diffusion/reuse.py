"""What is computed in one step of the denoising loop and used again in the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

Recall = Callable[[Callable[[], Tensor]], Tensor]
"""Takes a computation; returns its result, or its result in an earlier step."""


def compute(computation: Callable[[], Tensor]) -> Tensor:
    """A `Recall` that always computes."""
    return computation()


class EverySecondStep:
    """Computes in one step and recalls in the next: what lies deep in a U-net changes little from step to step
    (DeepCache, Ma et al. 2024).

    Every step must call in the same order. Memory: the results of one step.
    """

    def __init__(self) -> None:
        self._kept: deque[Tensor] = deque()
        self._recalls = False

    def begin_step(self, may_recall: bool) -> None:
        """Begin a step; with `may_recall` False it computes anew."""
        self._recalls = may_recall and bool(self._kept)
        if not self._recalls:
            self._kept.clear()

    def __call__(self, computation: Callable[[], Tensor]) -> Tensor:
        if self._recalls:
            return self._kept.popleft()
        self._kept.append(computation())
        return self._kept[-1]
