"""Finished canvases on disk, and the slide with them painted in."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from artifusion.errors import OutputError
from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.mask.regions import Canvas
from artifusion.output.codecs.blocks import lay
from artifusion.slide.reader import Slide

CELL_PX = 1024                       # finished targets are looked up by squares of this side
HELD = 32                            # targets kept in memory


class Patches:
    """The painted pixels of finished canvases, one whole file each in a folder, so a killed run goes on from there.

    What a folder already holds counts as done: the caller keeps one folder per slide, mask and settings.
    Memory: HELD targets and what one read asks for.
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
        self._load = lru_cache(maxsize=HELD)(np.load)
        for path in sorted(self.folder.glob("*.npy")):
            wave, *numbers = (int(number) for number in path.stem.split("_"))
            if path.stat().st_size > 3 * Box(*numbers).area:                # else the machine died while writing it
                self._remember(Box(*numbers), wave, path)

    def done(self, canvas: Canvas) -> bool:
        """Whether this canvas was painted already, in this run or an earlier one."""
        return canvas.l0_target in self._targets

    def add(self, canvas: Canvas, image: np.ndarray) -> None:
        """Keep the target of a painted canvas: uint8 (h, w, 3), the pixels of canvas.l0_box."""
        if image.dtype != np.uint8 or image.shape != (canvas.l0_box.height, canvas.l0_box.width, 3):
            raise ValueError(f"a canvas of {canvas.size} needs uint8 {(*canvas.size[::-1], 3)}, "
                             f"got {image.dtype} {image.shape}")
        path = self.folder / ("_".join(map(str, (canvas.wave, *canvas.l0_target))) + ".npy")
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                np.save(file, np.ascontiguousarray(image[canvas.l0_target.slices(canvas.l0_box)]))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free some space, start again: "
                              "finished canvases are kept") from None
        self._load.cache_clear()
        self._remember(canvas.l0_target, canvas.wave, path)

    def read(self, l0_box: Box, before_wave: int | None = None) -> np.ndarray:
        """Return uint8 (H, W, 3): the slide's pixels with every painted masked pixel over them.

        With before_wave only what earlier waves painted: a canvas then sees the same whatever shared its batch.
        """
        pixels = self.slide.read(l0_box)
        if self._near(l0_box, before_wave):
            self.paint(pixels, l0_box, self.mask.read(l0_box), before_wave)
        return pixels

    def paint(self, pixels: np.ndarray, l0_box: Box, masked: np.ndarray, before_wave: int | None = None) -> None:
        """Lay what is painted over a box's pixels, uint8 (H, W, 3), where the mask, bool (H, W), is set there."""
        for target in self._near(l0_box, before_wave):
            part = target.intersection(l0_box)
            here = part.slices(l0_box)
            lay(pixels[here], self._load(self._targets[target][1])[part.slices(target)], masked[here])

    def remaining(self, l0_box: Box, before_wave: int | None = None) -> np.ndarray:
        """Return bool (H, W): masked pixels that no finished canvas (of the waves before) painted yet."""
        masked = self.mask.read(l0_box)
        for target in self._near(l0_box, before_wave):
            masked[target.intersection(l0_box).slices(l0_box)] = False
        return masked

    def _remember(self, target: Box, wave: int, path: Path) -> None:
        if target not in self._targets:
            for cell in _cells(target):
                self._cells.setdefault(cell, []).append(target)
        self._targets[target] = (wave, path)

    def _near(self, l0_box: Box, before_wave: int | None) -> list[Box]:
        found = {target for cell in _cells(l0_box) for target in self._cells.get(cell, ()) if target.overlaps(l0_box)}
        return sorted(target for target in found if before_wave is None or self._targets[target][0] < before_wave)


def _cells(box: Box) -> list[tuple[int, int]]:
    return [(x, y) for y in range(box.y // CELL_PX, (box.bottom - 1) // CELL_PX + 1)
            for x in range(box.x // CELL_PX, (box.right - 1) // CELL_PX + 1)]
