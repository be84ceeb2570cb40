"""How far pixels beside the mask may move in a segment that was encoded again, and where they moved further.

Every function returns the reason as one phrase, empty where nothing is wrong. `shift` is by how much the pixels of a
segment moved, int16 (H, W, 3); `touched` is where the mask touches them, bool (H, W); `lv_box` is the box in the level
that both cover.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from artifusion.geometry import Box
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.block_arrays import per_block, with_neighbours, zeroed

# Blocks away from the mask in JPEG segments that were encoded whole: they hold what they held, or what encoding the
# source's own pixels gives, to the last bit on one machine. Another machine's libjpeg may round a few coefficients
# otherwise; these limits are shares of the quantisation error (see jpeg_reason).
FAR_MEAN, FAR_PEAK = 0.1, 0.5
REENCODED_LIMITS = {64: 12.0, 1024: 3.0} # grey levels by which a second lossy encoding usually moves the pixels of a
#                                          block on average, by the side of the block in pixels
AGAIN = 1.5                              # times what encoding the source's own pixels again moves them by
SPARE = 2.0                              # grey levels of rounding on top of these limits
CLIPPED = 6.0                            # brightness that clipping moves where colours bleed (saturated noise: 5.2)


def reencoded_reason(shift: np.ndarray, touched: np.ndarray, lv_box: Box, again: Callable[[], np.ndarray] | None = None
                     ) -> str:
    """Return why a second lossy encoding does not explain the change beside the mask.

    Args:
        again: returns by how much encoding the source's own pixels once more moves them, int16 (H, W, 3). It is called
            where more moved than usual: noise moves further than tissue.
    """
    for side, usual in REENCODED_LIMITS.items():
        moved = block_means(shift, touched, side)
        limits = np.full_like(moved, usual)
        if again and (moved > usual).any():
            limits = np.maximum(usual, AGAIN * block_means(again(), touched, side))
        row, column = np.unravel_index(int((moved - limits).argmax()), moved.shape)
        if moved[row, column] > limits[row, column]:
            corner = (lv_box.x + int(column) * side, lv_box.y + int(row) * side)
            return (f"pixels beside the regions moved by {moved[row, column]:.1f} grey levels on average in the "
                    f"{side}-px block at {corner}; encoding explains {limits[row, column]:.1f}")
    return ""


def block_means(shift: np.ndarray, touched: np.ndarray, side: int) -> np.ndarray:
    """Return by how many grey levels the pixels of each block moved on average: (rows, columns).

    Touched pixels, and those of the block beyond the array, count as unmoved.
    """
    return per_block(np.add, np.abs(zeroed(shift, touched)).sum(axis=2), side, side) / (3 * side * side)


def moved_reason(shift: np.ndarray, lv_box: Box, what: str) -> str:
    """Return `what`, how far and where the pixel that moved most did; empty where none moved."""
    moved = largest_channel(np.abs(shift))
    if not moved.any():
        return ""
    y, x = np.unravel_index(int(moved.argmax()), moved.shape)
    return f"{what} changed, by {moved.max()} grey levels at {(lv_box.x + int(x), lv_box.y + int(y))}"


def jpeg_reason(headers: tuple[jpeg.Header, jpeg.Header], shift: np.ndarray, reencoded_shift: np.ndarray,
                touched: np.ndarray, lv_box: Box, photometric: int, passes: int = 1,
                reached: np.ndarray | None = None) -> str:
    """Return why a touched JPEG segment is wrong where encoding does not explain a change outside the mask.

    Args:
        headers: of the source's segment and of the new one.
        reencoded_shift: by how much the new segment differs from the source's own pixels encoded again, int16
            (H, W, 3), or `shift` once more.
        passes: how many times the segment may have been encoded again.
        reached: pixels whose blocks count as touched although they are compared, bool (H, W).

    Quantising a coefficient moves it by at most half a step, so (Parseval) a block's brightness moves by at most the
    root of the summed squares of all half steps, divided by 8, root mean square: the quantisation error. That is the
    limit for blocks that the mask touches and for their neighbours, into which chroma bleeds. All other blocks are
    known exactly: they hold what they held or, in a segment that was encoded whole, what encoding the source's own
    pixels gives (FAR_*).
    """
    old, new = headers
    if (new.quantisation, new.sampling) != (old.quantisation, old.sampling):
        return "its quantisation tables or sampling changed"
    shift = zeroed(shift, touched)
    width, height = (8 * factor for factor in new.sampling)
    reached = touched if reached is None else touched | reached
    beside = with_neighbours(per_block(np.logical_or, reached, width, height), across=True, down=True)
    error = quantisation_error(new)
    smaller = np.minimum(largest_channel(np.abs(reencoded_shift)), largest_channel(np.abs(shift)))
    light = shift @ (np.array([0.299, 0.587, 0.114]) if photometric == jpeg.YCBCR else np.full(3, 1 / 3))
    peak = np.where(beside, 0, per_block(np.maximum, smaller, width, height))
    mean = np.where(beside, 0, per_block(np.add, smaller, width, height) / (width * height))
    brightness = np.sqrt(per_block(np.add, np.square(light), width, height) / (width * height))
    for what, moved, limit in (
        ("a pixel changed away from the regions", peak, FAR_PEAK * error + SPARE),
        ("a block changed away from the regions", mean, FAR_MEAN * error + SPARE),
        ("a block changed beside a region", brightness, passes * (error + CLIPPED)),
    ):
        if moved.max(initial=0) > limit:
            row, column = np.unravel_index(int(moved.argmax()), moved.shape)
            corner = (lv_box.x + int(column) * width, lv_box.y + int(row) * height)
            return f"{what}, by {moved.max():.1f} grey levels at {corner}; encoding explains {limit:.1f}"
    return ""


def quantisation_error(header: jpeg.Header) -> float:
    """Return the grey levels, root mean square over a block, by which quantising with a segment's tables moves it."""
    return max(float(np.sqrt(np.square(table).sum())) for table in map(np.array, header.quantisation)) / 2 / 8


def largest_channel(pixels: np.ndarray) -> np.ndarray:
    """Return the largest channel of each pixel: (H, W, 3) -> (H, W), much faster than max over the last axis."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
