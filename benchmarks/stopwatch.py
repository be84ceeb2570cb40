"""Seconds inside functions and generators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any


class Stopwatch:
    """The seconds during which any thread was inside the functions and generators that are timed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside, self._since, self._lock = 0, 0.0, Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = time.monotonic()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self.seconds += time.monotonic() - self._since

    def function(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **given: Any) -> Any:
            with self:
                return inner(*args, **given)

        return timed

    def generator(self, inner: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any) -> Iterator[Any]:
            items = iter(inner(*args))
            step = self.function(lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return timed
