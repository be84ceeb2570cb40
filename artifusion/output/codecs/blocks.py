"""Blocks of pixels: what holds for a block, from its pixels and back."""

from __future__ import annotations

import numpy as np


def per_block(operation: np.ufunc, values: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) -> (rows, columns): each block's values put together; blocks that stick out are filled up with zeros."""
    padded = np.pad(values, ((0, -values.shape[0] % height), (0, -values.shape[1] % width)))
    rows = operation.reduce([padded[y::height] for y in range(height)])       # whole arrays: many times faster than
    return operation.reduce([rows[:, x::width] for x in range(width)])        # reducing axes of 8 pixels


def per_pixel(values: np.ndarray, width: int, height: int, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) -> (H, W): each block's value at all of its pixels."""
    return values.repeat(height, axis=0).repeat(width, axis=1)[: shape[0], : shape[1]]


def grown(where: np.ndarray, across: bool, down: bool) -> np.ndarray:
    """bool (H, W) with the neighbours to the left and right, above and below, and both: one pixel more."""
    if across:
        where = where | np.pad(where, ((0, 0), (1, 0)))[:, :-1] | np.pad(where, ((0, 0), (0, 1)))[:, 1:]
    if down:
        where = where | np.pad(where, ((1, 0), (0, 0)))[:-1] | np.pad(where, ((0, 1), (0, 0)))[1:]
    return where


def lay(pixels: np.ndarray, over: np.ndarray, where: np.ndarray) -> None:
    """pixels[where] = over[where] for (H, W, 3) and bool (H, W), eight times as fast as a boolean index."""
    np.copyto(pixels, over, where=where.repeat(3, axis=1).reshape(pixels.shape))


def cleared(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(H, W, 3) with zeros where bool (H, W) is set, faster than np.where."""
    return values * (~where).repeat(3, axis=1).reshape(values.shape)


def split(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) -> (rows, columns, height, width, 3); blocks that stick out repeat the last pixels."""
    across, down = -pixels.shape[1] % width, -pixels.shape[0] % height
    padded = np.pad(pixels, ((0, down), (0, across), (0, 0)), mode="edge")
    return padded.reshape(-1, height, padded.shape[1] // width, width, 3).swapaxes(1, 2)


def join(blocks: np.ndarray) -> np.ndarray:
    """(rows, columns, height, width, 3) -> (H, W, 3)."""
    rows, columns, height, width, _ = blocks.shape
    return blocks.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
