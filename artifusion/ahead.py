"""Work that threads do before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], waiting: int, threads: int = 1
          ) -> Generator[Result, None, None]:
    """function(item) of every item, in order, up to `waiting` of them begun before they are asked for.

    Items are drawn in the caller's thread. What the function raises comes out in its result's place; then, and when
    the generator is closed, what has not begun is dropped and what has is waited for. Memory: one result more than
    `waiting`.
    """
    coming: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > waiting:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
