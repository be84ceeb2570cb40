"""Finished canvases on disk, and the slide with them painted in."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from artifusion.errors import BROKEN_FILE, OutputError
from artifusion.files import REMEDY, sync, whole_file
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.regions import Canvas
from artifusion.output.codecs.block_arrays import copy_where
from artifusion.slide.reader import Slide

CELL_PX = 1024                       # side of the squares by which finished targets are looked up
CACHED = 32                          # targets kept in memory


class Patches:
    """The painted pixels of finished canvases, each in a file of its own, so that a killed run can go on.

    Every whole file that the folder already holds counts as finished: use one folder per slide, mask and settings.
    Memory: CACHED targets and the pixels of one read.
    """

    def __init__(self, folder: str | Path, slide: Slide, mask: Mask) -> None:
        self.folder, self.slide, self.mask = Path(folder), slide, mask
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror}); write somewhere else "
                              "with -o") from None
        self._targets: dict[Box, tuple[int, Path]] = {}                    # the wave and the file of each target
        self._cells: dict[tuple[int, int], list[Box]] = {}
        self._load = lru_cache(maxsize=CACHED)(np.load)
        for path in sorted(self.folder.glob("*.npy")):
            with suppress(*BROKEN_FILE):                                    # what cannot be read is painted again
                wave, *numbers = (int(number) for number in path.stem.split("_"))
                target = Box(*numbers)
                if np.load(path, mmap_mode="r").shape == (target.height, target.width, 3):
                    self._remember(target, wave, path)

    def done(self, canvas: Canvas) -> bool:
        """Return whether this canvas was painted, in this run or an earlier one."""
        return canvas.l0_target in self._targets

    def add(self, canvas: Canvas, image: np.ndarray) -> None:
        """Write the target of a painted canvas to its file.

        Args:
            image: uint8 (h, w, 3), the pixels of canvas.l0_box.

        Raises:
            OutputError: the file cannot be written.
        """
        if image.dtype != np.uint8 or image.shape != (canvas.l0_box.height, canvas.l0_box.width, 3):
            raise ValueError(f"a canvas of {canvas.size} needs uint8 {(*canvas.size[::-1], 3)}, "
                             f"got {image.dtype} {image.shape}")
        path = self.folder / ("_".join(map(str, (canvas.wave, *canvas.l0_target))) + ".npy")
        with whole_file(path, f"{REMEDY}: finished canvases are kept") as part:
            with part.open("wb") as file:
                np.save(file, np.ascontiguousarray(image[canvas.l0_target.slices(canvas.l0_box)]))
            sync(part)
        self._load.cache_clear()
        self._remember(canvas.l0_target, canvas.wave, path)

    def read(self, l0_box: Box, before_wave: int | None = None) -> np.ndarray:
        """Return uint8 (H, W, 3): the slide's pixels with every painted masked pixel over them.

        With before_wave only what earlier waves painted, so that a canvas never sees what shares its batch.
        """
        pixels = self.slide.read(l0_box)
        if self._overlapping(l0_box, before_wave):
            self.paint(pixels, l0_box, self.mask.read(l0_box), before_wave)
        return pixels

    def paint(self, pixels: np.ndarray, l0_box: Box, masked: np.ndarray, before_wave: int | None = None) -> None:
        """Copy what was painted into a box's pixels, uint8 (H, W, 3), where the mask, bool (H, W), is set."""
        for target in self._overlapping(l0_box, before_wave):
            part = target.intersection(l0_box)
            within = part.slices(l0_box)
            copy_where(pixels[within], self._load(self._targets[target][1])[part.slices(target)], masked[within])

    def remaining(self, l0_box: Box, before_wave: int | None = None) -> np.ndarray:
        """Return the masked pixels that no finished canvas painted yet, bool (H, W).

        With before_wave only canvases of earlier waves count.
        """
        masked = self.mask.read(l0_box)
        for target in self._overlapping(l0_box, before_wave):
            masked[target.intersection(l0_box).slices(l0_box)] = False
        return masked

    def _remember(self, target: Box, wave: int, path: Path) -> None:
        if target not in self._targets:
            for cell in _cells(target):
                self._cells.setdefault(cell, []).append(target)
        self._targets[target] = (wave, path)

    def _overlapping(self, l0_box: Box, before_wave: int | None) -> list[Box]:
        """Return the finished targets that overlap a box, in a fixed order."""
        found = {target for cell in _cells(l0_box) for target in self._cells.get(cell, ()) if target.overlaps(l0_box)}
        return sorted(target for target in found if before_wave is None or self._targets[target][0] < before_wave)


def _cells(box: Box) -> list[tuple[int, int]]:
    """Return the squares of CELL_PX that a box overlaps, by column and row."""
    return [(x, y) for y in range(box.y // CELL_PX, (box.bottom - 1) // CELL_PX + 1)
            for x in range(box.x // CELL_PX, (box.right - 1) // CELL_PX + 1)]
