"""Seconds inside functions and generators, and of work that is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any


class Stopwatch:
    """Adds up the seconds inside functions and generators."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def function(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **given: Any) -> Any:
            begin = time.monotonic()
            try:
                return inner(*args, **given)
            finally:
                self.seconds += time.monotonic() - begin

        return timed

    def generator(self, inner: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any) -> Iterator[Any]:
            items = iter(inner(*args))
            step = self.function(lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return timed
