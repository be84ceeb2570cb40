"""What overlapping gives by the clock: a made-up slide restored with its threads and without, in turns.

    python -m benchmarks.speed.overlap [TISSUE] [--gigapixels 1.6] [--turns 5]

Painting is timed with a denoiser that sleeps, as one on a GPU would leave the CPU alone; the seconds are those of
`paint`. Encoding is the touched segments of all levels, seconds of `restored_segments`. "In turn" does the same work in
the caller's thread. The first turn warms up and does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from artifusion.config import RestoreConfig
from artifusion.output import segments, writer
from artifusion.restoration import painting, pipeline
from benchmarks.speed.whole_slide import DISC_PX, SampledPainter, make_masked
from benchmarks.stopwatch import Stopwatch
from benchmarks.synthetic import tissue_tiles

PAUSES_S = (0.08, 0.32)             # of a canvas of 1,024 px: 200 and 50 tiles of 256 px per second


class InTurn:
    """An executor that does at once what it is given."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*given))
        return done


def one_by_one(function: Callable[[Any], Any], items: Iterable[Any], waiting: int, threads: int = 1) -> Iterator[Any]:
    yield from map(function, items)


class Sleeper(SampledPainter):
    """A painter that sleeps `pause_s` for every 1,024 x 1,024 px."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(0, RestoreConfig().steps, "cpu")
        self.pause_s, self.slept_s = pause_s, 0.0

    def restore_batch(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], **given: Any
                      ) -> list[np.ndarray]:
        seconds = self.pause_s * sum(mask.size for mask in masks) / 1024**2
        time.sleep(seconds)
        self.slept_s += seconds
        return super().restore_batch(images, masks, **given)


def restored(source: Path, mask: Path, pause_s: float) -> tuple[float, float, float]:
    """Seconds of painting, of these asleep, and of encoding, in one pipeline."""
    paint, encode, painter = Stopwatch(), Stopwatch(), Sleeper(pause_s)
    with (patch.object(pipeline, "paint", paint.generator(pipeline.paint)),
          patch.object(writer, "restored_segments", encode.generator(writer.restored_segments))):
        pipeline.restore_slide(source, mask, source.with_name("out.svs"), restorer=painter, overwrite=True)
    return paint.seconds, painter.slept_s, encode.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tissue", type=Path, nargs="?", help="folder of images to make the slide from")
    parser.add_argument("--gigapixels", type=float, default=1.6)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    tiles = tissue_tiles(given.tissue)
    with tempfile.TemporaryDirectory(prefix="artifusion-bench-") as name:
        source, mask, _ = make_masked(Path(name), tiles, given.gigapixels, DISC_PX)
        for pause_s in PAUSES_S:
            overlapped, in_turn = [], []
            for _ in range(given.turns + 1):
                overlapped.append(restored(source, mask, pause_s))
                with (patch.object(painting, "ThreadPoolExecutor", InTurn),
                      patch.object(segments, "ahead", one_by_one)):
                    in_turn.append(restored(source, mask, pause_s))
            for what, runs in (("in turn", in_turn), ("overlapped", overlapped)):
                paint, asleep, encode = zip(*runs[1:], strict=True)
                print(f"{pause_s} s a canvas, {what}: paint {statistics.median(paint):.2f} s ({min(paint):.2f} to "
                      f"{max(paint):.2f}), of it asleep {asleep[0] / statistics.median(paint):.0%}; encode "
                      f"{statistics.median(encode):.2f} s ({min(encode):.2f} to {max(encode):.2f})", flush=True)


if __name__ == "__main__":
    main()
