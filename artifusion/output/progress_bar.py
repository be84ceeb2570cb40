"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm


def byte_bar(label: str, quiet: bool) -> Callable[[int, int], None]:
    """A progress callback (done, total) that draws on stderr where that is a terminal."""
    progress = tqdm(desc=label, unit="B", unit_scale=True, disable=quiet or None)

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)
        if done >= total:
            progress.close()

    return show
