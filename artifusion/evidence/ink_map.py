"""Smooth maps over a stroke, by their values in the middle of square cells, and pixels sampled under ink."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse

from artifusion.evidence.colours import Places
from artifusion.slide.tissue import optical_density


@dataclass(frozen=True)
class Cells:
    """Square cells over an image: rows and columns of them, and their side in pixels."""

    rows: int
    columns: int
    px: int

    @classmethod
    def over(cls, shape: tuple[int, ...], px: int) -> Cells:
        return cls(max(2, -(-shape[0] // px)), max(2, -(-shape[1] // px)), px)

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def full_size(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values of cells, interpolated to all pixels: float32 of that shape."""
        size = self.columns * self.px, self.rows * self.px
        values = values.reshape(self.rows, self.columns).astype(np.float32)
        return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)[: shape[0], : shape[1]]

    def part(self, values: np.ndarray, at: tuple[slice, slice], shape: tuple[int, ...]) -> np.ndarray:
        """The same for a part of the image that begins at `at`: float32 of that shape."""
        y, x = (np.clip((side.start + np.arange(length) + 0.5) / self.px - 0.5, 0, None).astype(np.float32)
                for side, length in zip(at, shape, strict=True))
        x, y = np.meshgrid(x, y)
        values = values.reshape(self.rows, self.columns).astype(np.float32)
        return cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def mean(self, image: np.ndarray) -> np.ndarray:
        """The mean of an image (H, W) in each cell; beyond its edges it goes on as it ends: (count,)."""
        beyond = self.rows * self.px - image.shape[0], self.columns * self.px - image.shape[1]
        whole = np.pad(image, ((0, beyond[0]), (0, beyond[1])), mode="edge")
        return cv2.resize(whole, (self.columns, self.rows), interpolation=cv2.INTER_AREA).ravel().astype(float)

    def interpolation(self, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_matrix:
        """The matrix (P, count) that takes the values of cells to pixels, bilinear."""
        y = np.clip((rows + 0.5) / self.px - 0.5, 0, self.rows - 1)
        x = np.clip((columns + 0.5) / self.px - 0.5, 0, self.columns - 1)
        top, left = np.minimum(y.astype(int), self.rows - 2), np.minimum(x.astype(int), self.columns - 2)
        y, x, first = y - top, x - left, top * self.columns + left
        weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], axis=1)
        cells = first[:, None] + np.array([0, 1, self.columns, self.columns + 1])
        ends = np.arange(0, 4 * len(rows) + 1, 4)
        return sparse.csr_matrix((weights.ravel(), cells.ravel(), ends), (len(rows), self.count))

    def differences(self) -> sparse.csr_matrix:
        """The matrix that takes values to the differences of neighbouring cells."""
        number = np.arange(self.count).reshape(self.rows, self.columns)
        pairs = np.concatenate([np.stack([number[1:].ravel(), number[:-1].ravel()], axis=1),
                                np.stack([number[:, 1:].ravel(), number[:, :-1].ravel()], axis=1)])
        ends = np.arange(0, 2 * len(pairs) + 1, 2)
        return sparse.csr_matrix((np.tile([1.0, -1.0], len(pairs)), pairs.ravel(), ends), (len(pairs), self.count))


@dataclass(frozen=True, eq=False)
class Sample:
    """Some pixels under ink: where they are, their grey levels and densities (3, P), and their places' colours."""

    rows: np.ndarray
    columns: np.ndarray
    light: np.ndarray
    density: np.ndarray
    log_shares: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray, places: Places, step: int) -> Sample:
        """Every so many masked pixels each way of an image."""
        rows, columns = (axis * step for axis in np.nonzero(mask[::step, ::step]))
        light = np.ascontiguousarray(image[rows, columns].T)
        return cls(rows, columns, light.astype(np.float32), optical_density(light), places.at(rows, columns))

    def some(self, part: slice | np.ndarray) -> Sample:
        return Sample(self.rows[part], self.columns[part], self.light[:, part], self.density[:, part],
                      self.log_shares[:, part])

    def __len__(self) -> int:
        return len(self.rows)
