"""Canvases -> painted patches. The next canvases are read and the last ones written while the denoiser paints."""

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

SAMPLE_PX = 512          # per side of a canvas: pixels from which the colours around a region are taken

CanvasBatch = tuple[Canvas, ...]
CanvasView = tuple[np.ndarray, np.ndarray]                        # uint8 (H, W, 3) and bool (H, W)


def paint(canvases: Sequence[Canvas], patches: Patches, restorer: Restorer, spacing_um: float, seed: int,
          grafts: Grafts | None = None) -> Generator[Canvas, None, None]:
    """Paint every canvas that is not painted yet, batch by batch; yields each canvas when it is on disk.

    What earlier waves painted is known tissue to a canvas; grafts are estimates at their noise levels; everything else
    under the mask is a hole. All canvases of a region are painted relative to the same colours. The batches are those
    of the plan and each is painted by one device, so that the number of devices changes no byte. One thread reads and
    writes, in turn. A batch that shows what is being painted now is read after that is written. An exception ends
    everything; what is on disk is kept.

    Memory: three batches for each device (read, being painted, being written) and one more; and the colours around
    regions of several canvases, until the last of these canvases is read.
    """
    todo: deque[CanvasBatch] = deque()
    for batch in batches(canvases, restorer.config.batch_size):
        if all(patches.done(canvas) for canvas in batch):
            yield from batch
        else:
            todo.append(batch)
    read = BatchReader(canvases, todo, patches, spacing_um, seed, grafts)

    def write(batch: CanvasBatch, images: list[np.ndarray]) -> None:
        for canvas, image in zip(batch, images, strict=True):
            patches.add(canvas, image)

    reading: deque[tuple[CanvasBatch, Future[Work]]] = deque()
    painting: list[CanvasBatch] = []
    writing: deque[tuple[CanvasBatch, Future[None]]] = deque()
    with painters_on(restorer, len(todo)) as painters, ThreadPoolExecutor(1, "patches") as disk:
        while todo or reading or painting or writing:
            unpainted = [canvas for batch in (*(batch for batch, _ in reading), *painting) for canvas in batch]
            if todo and len(reading) < painters.size and not any(sees(canvas, unpainted) for canvas in todo[0]):
                batch = todo.popleft()
                reading.append((batch, disk.submit(read, batch)))
            elif reading and painters.free:
                batch, work = reading.popleft()
                painters.start(batch, work.result())
                painting.append(batch)
            elif painting and not (writing and writing[0][1].done()) and len(writing) <= painters.size:
                batch, images = painters.finish()
                painting.remove(batch)
                writing.append((batch, disk.submit(write, batch, images)))
            else:
                batch, written = writing.popleft()
                written.result()
                yield from batch


def sees(canvas: Canvas, others: Iterable[Canvas]) -> bool:
    """Whether a canvas shows pixels that one of the others, of an earlier wave, paints."""
    return any(other.wave < canvas.wave and other.l0_target.overlaps(canvas.l0_box) for other in others)


class BatchReader:
    """Reads a batch: returns what the restorer needs to paint it. Batches are read in one thread."""

    def __init__(self, canvases: Sequence[Canvas], todo: Iterable[CanvasBatch], patches: Patches, spacing_um: float,
                 seed: int, grafts: Grafts | None = None) -> None:
        self._patches, self._spacing_um, self._seed, self._grafts = patches, spacing_um, seed, grafts
        self._members: dict[int, list[Canvas]] = {}
        for canvas in canvases:
            self._members.setdefault(canvas.region, []).append(canvas)
        self._left = Counter(canvas.region for batch in todo for canvas in batch)
        self._colours: dict[int, np.ndarray] = {}

    def __call__(self, batch: CanvasBatch) -> Work:
        views = {canvas: view(canvas, self._patches, canvas.wave) for canvas in batch}
        surroundings = [self._surroundings(canvas.region, views) for canvas in batch]
        levels = [hole.astype(np.float32) if self._grafts is None else self._grafts.apply(pixels, hole, canvas.l0_box)
                  for canvas, (pixels, hole) in views.items()]
        return {
            "images": [pixels for pixels, _ in views.values()],
            "masks": [level > 0 for level in levels],
            "keys": [(canvas.l0_box.x, canvas.l0_box.y) for canvas in batch],
            "surroundings": surroundings,
            "levels": levels,
            "mpp": self._spacing_um,
            "seed": self._seed,
        }

    def _surroundings(self, region: int, views: Mapping[Canvas, CanvasView]) -> np.ndarray:
        """The colours around a region; they are forgotten with its last canvas."""
        if region not in self._colours:
            self._colours[region] = known_around(self._members[region], self._patches, views)
        self._left[region] -= 1
        return self._colours[region] if self._left[region] else self._colours.pop(region)


def view(canvas: Canvas, patches: Patches, before_wave: int) -> CanvasView:
    """A canvas after earlier waves: its pixels, and which of them are still to be painted."""
    return patches.read(canvas.l0_box, before_wave), patches.remaining(canvas.l0_box, before_wave)


def known_around(canvases: Sequence[Canvas], patches: Patches, views: Mapping[Canvas, CanvasView]) -> np.ndarray:
    """Known pixels around a region as scanned, uint8 (N, 3), from at most SAMPLE_PX**2 pixels of each canvas.

    `views` saves reading canvases of the first wave, before which nothing is painted.
    """
    known = []
    for canvas in canvases:
        step = -(-max(canvas.size) // SAMPLE_PX)
        as_scanned = canvas.wave == 0 and canvas in views
        pixels, hole = views[canvas] if as_scanned else view(canvas, patches, before_wave=0)
        known.append(pixels[::step, ::step][~hole[::step, ::step]])
    return np.concatenate(known)
