"""Canvases -> painted patches: the next ones are read and finished ones written while the denoiser is at work."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from artifusion.mask.regions import Canvas, batches
from artifusion.output.patches import Patches
from artifusion.restoration.grafting import Grafts
from artifusion.restoration.workers import Work, painters_on

if TYPE_CHECKING:
    from artifusion.restorer import Restorer

SAMPLE_PX = 512          # per side of a canvas: pixels that tell the colours around a region

Batch = tuple[Canvas, ...]
View = tuple[np.ndarray, np.ndarray]                        # uint8 (H, W, 3) and bool (H, W)


def paint(canvases: Sequence[Canvas], patches: Patches, restorer: Restorer, mpp: float, seed: int,
          grafts: Grafts | None = None) -> Generator[Canvas, None, None]:
    """Paint every canvas that is not painted yet, batch by batch; yields each when it is on disk.

    A canvas sees what earlier waves painted as known tissue, grafts at their noise levels, and everything else that is
    masked as a hole. All canvases
    of a region are expressed relative to the same colours. Batches are those of the plan, each painted whole by one
    device, so their number changes no byte. One thread reads and writes, in turn; a batch that must see what is still
    being painted is read after that is written. An exception ends everything; what was painted before it is kept.

    Memory: for each device a batch that was read, one that is painted and one that is written, one more in all; and the
    colours around regions of several canvases, until the last of these is read.
    """
    todo: deque[Batch] = deque()
    for batch in batches(canvases, restorer.config.batch_size):
        if all(patches.done(canvas) for canvas in batch):
            yield from batch
        else:
            todo.append(batch)
    read = Reader(canvases, todo, patches, mpp, seed, grafts)

    def keep(batch: Batch, images: list[np.ndarray]) -> None:
        for canvas, image in zip(batch, images, strict=True):
            patches.add(canvas, image)

    coming: deque[tuple[Batch, Future[Work]]] = deque()
    at_work: list[Batch] = []
    kept: deque[tuple[Batch, Future[None]]] = deque()
    with painters_on(restorer, len(todo)) as painters, ThreadPoolExecutor(1, "patches") as disk:
        while todo or coming or at_work or kept:
            unpainted = [canvas for batch in (*(batch for batch, _ in coming), *at_work) for canvas in batch]
            if todo and len(coming) < painters.size and not any(sees(canvas, unpainted) for canvas in todo[0]):
                batch = todo.popleft()
                coming.append((batch, disk.submit(read, batch)))
            elif coming and painters.free:
                batch, work = coming.popleft()
                painters.start(batch, work.result())
                at_work.append(batch)
            elif at_work and not (kept and kept[0][1].done()) and len(kept) <= painters.size:
                batch, images = painters.finish()
                at_work.remove(batch)
                kept.append((batch, disk.submit(keep, batch, images)))
            else:
                batch, written = kept.popleft()
                written.result()
                yield from batch


def sees(canvas: Canvas, others: Iterable[Canvas]) -> bool:
    """Whether one of the others, of an earlier wave, paints what this one shows."""
    return any(other.wave < canvas.wave and other.l0_target.overlaps(canvas.l0_box) for other in others)


class Reader:
    """Batch -> what the restorer is asked; batches are read in one thread."""

    def __init__(self, canvases: Sequence[Canvas], todo: Iterable[Batch], patches: Patches, mpp: float, seed: int,
                 grafts: Grafts | None = None) -> None:
        self._patches, self._mpp, self._seed, self._grafts = patches, mpp, seed, grafts
        self._members: dict[int, list[Canvas]] = {}
        for canvas in canvases:
            self._members.setdefault(canvas.region, []).append(canvas)
        self._left = Counter(canvas.region for batch in todo for canvas in batch)
        self._colours: dict[int, np.ndarray] = {}

    def __call__(self, batch: Batch) -> Work:
        views = {canvas: view(canvas, self._patches, canvas.wave) for canvas in batch}
        surroundings = [self._surroundings(canvas.region, views) for canvas in batch]
        levels = [hole.astype(np.float32) if self._grafts is None else self._grafts.lay(pixels, hole, canvas.l0_box)
                  for canvas, (pixels, hole) in views.items()]
        return {
            "images": [pixels for pixels, _ in views.values()],
            "masks": [hole for _, hole in views.values()],
            "keys": [(canvas.l0_box.x, canvas.l0_box.y) for canvas in batch],
            "surroundings": surroundings,
            "levels": levels,
            "mpp": self._mpp,
            "seed": self._seed,
        }

    def _surroundings(self, region: int, views: Mapping[Canvas, View]) -> np.ndarray:
        """The colours around a region; forgotten when its last canvas asked."""
        if region not in self._colours:
            self._colours[region] = known_around(self._members[region], self._patches, views)
        self._left[region] -= 1
        return self._colours[region] if self._left[region] else self._colours.pop(region)


def view(canvas: Canvas, patches: Patches, before_wave: int) -> View:
    """A canvas with what earlier waves painted: its pixels, and which of them are still to be painted."""
    return patches.read(canvas.l0_box, before_wave), patches.remaining(canvas.l0_box, before_wave)


def known_around(canvases: Sequence[Canvas], patches: Patches, views: Mapping[Canvas, View]) -> np.ndarray:
    """Known pixels around a region as scanned, uint8 (N, 3), from at most SAMPLE_PX**2 pixels of each canvas.

    Views that are at hand serve, those of the first wave: nothing was painted before them.
    """
    known = []
    for canvas in canvases:
        step = -(-max(canvas.size) // SAMPLE_PX)
        at_hand = canvas.wave == 0 and canvas in views
        pixels, hole = views[canvas] if at_hand else view(canvas, patches, before_wave=0)
        known.append(pixels[::step, ::step][~hole[::step, ::step]])
    return np.concatenate(known)
