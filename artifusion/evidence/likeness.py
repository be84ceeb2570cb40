"""How alike pieces of tissue are: in colour and in the grain of their fibres, weighted, in eight orientations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
from scipy import fft

from artifusion.geometry import Size

MIRRORED = ((0, 0), (1, 0), (1, 1), (0, 1), (0, 1), (1, 1), (1, 0), (0, 0))     # top down, left to right: what makes
                            # each orientation of a template, transposed first where its number is odd
FEATURE_UM = 4.0            # blur of what a search compares
EDGES = 2.0                 # how much the strength of edges counts in it, in grey levels of colour
COLOUR = 3.0                # a squared difference of colour counts so often against one of brightness
FINE_PX = 0.6, 1.2          # blurs between which the two finest bands lie
LEAST_ENERGY = 0.05         # of a band, in squared grey levels: what rounding has
LEAST_SHARE = 1e-3          # of known pixels under a blur, below which nothing is known there


def opponent(rgb: np.ndarray) -> np.ndarray:
    """RGB (..., 3) as brightness and two differences of colour, float32 (..., 3), in grey levels.

    A rotation of RGB, but for the two differences, whose squares count COLOUR times: equal greys differ by what
    their grey levels differ.
    """
    turn = np.array([[1, 1, 1], [1.5**0.5, 0, -(1.5**0.5)], [0.5**0.5, -(2**0.5), 0.5**0.5]], np.float32) / 3
    turn[1:] *= COLOUR**0.5
    return rgb.astype(np.float32) @ turn.T


def reduced(values: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of `step` pixels: (H, W, ...) -> float32 (H / step, W / step, ...); what is left over is cut.

    uint8 goes through rounded means, in a fifth of the time.
    """
    if step > 1:
        size = Size(max(1, values.shape[1] // step), max(1, values.shape[0] // step))
        cut = np.ascontiguousarray(values[: size.height * step, : size.width * step])
        values = cv2.resize(cut, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(values, np.float32)


def filled_up(values: np.ndarray, step: int) -> np.ndarray:
    """An array (H, W, ...) with zeros below and at the right of it, to sides that are multiples of `step`."""
    height, width = values.shape[:2]
    if height % step == width % step == 0:
        return values
    return cv2.copyMakeBorder(values, 0, -height % step, 0, -width % step, cv2.BORDER_CONSTANT)


def blurred(values: np.ndarray, known: np.ndarray, sigma_px: float) -> np.ndarray:
    """Means (H, W, ...) of the known pixels around, under a Gaussian; 0 where none is near.

    Up to 3 values a pixel. Wide Gaussians go over means of squares, at least two to a sigma.
    """
    weight = known.astype(np.float32)
    both = np.dstack([values.astype(np.float32) * (weight if values.ndim == 2 else weight[..., None]), weight])
    step = max(1, int(sigma_px / 2))
    both = cv2.GaussianBlur(reduced(filled_up(both, step), step), (0, 0), sigma_px / step)
    if step > 1:
        both = cv2.resize(both, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    both = both[: known.shape[0], : known.shape[1]]
    return (both[..., :-1] / np.maximum(both[..., -1:], LEAST_SHARE)).reshape(values.shape)


def carried(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values (H, W, C) with those of known pixels carried smoothly to all others: float32. 0 where none is known.

    Pulled up a pyramid of means and pushed down again  (Gortler et al. 1996).
    """
    values, weight = values.astype(np.float32), known.astype(np.float32)
    if known.all() or max(known.shape) == 1:
        return values * weight[..., None]
    share = reduced(filled_up(weight, 2), 2)
    half = reduced(filled_up(values * weight[..., None], 2), 2) / np.maximum(share, LEAST_SHARE)[..., None]
    coarse = carried(half, share > 0)
    size = Size(2 * share.shape[1], 2 * share.shape[0])
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)[: known.shape[0], : known.shape[1]]
    return np.where(known[..., None], values, fine.reshape(values.shape))


def slopes(light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much brightness, float32 (H, W), rises to the right and downwards, in grey levels a pixel."""
    across, down = (cv2.Sobel(light, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return across, down


def grain(light: np.ndarray, known: np.ndarray, sigma_px: float) -> np.ndarray:
    """How strong edges are and which way they run, around every pixel: float32 (H, W, 3), in grey levels.

    The structure tensor's trace, difference and twice its mixed term, over the root of the trace  (Bigun & Granlund
    1987). Brightness (H, W); pixels that are not known, and their neighbours, are left out.
    """
    across, down = slopes(light)
    tensor = np.dstack([across**2 + down**2, across**2 - down**2, 2 * across * down])
    tensor = blurred(tensor, shrunk(known), sigma_px)
    return tensor / np.sqrt(tensor[..., :1] + 1.0)


def strength(light: np.ndarray, known: np.ndarray, sigma_px: float) -> np.ndarray:
    """How strong edges are alone, the first of `grain`: float32 (H, W)."""
    across, down = slopes(light)
    trace = blurred(across**2 + down**2, shrunk(known), sigma_px)
    return trace / np.sqrt(trace + 1.0)


def focus(rgb: np.ndarray, weight: np.ndarray) -> float:
    """How sharp pixels, uint8 (H, W, 3), are: the natural logarithm of the energy of the finest band of brightness over
    that of the next, under a weight (H, W)."""
    light = rgb.astype(np.float32) @ np.full(3, 1 / 3, np.float32)
    bands = [light, *(cv2.GaussianBlur(light, (0, 0), sigma) for sigma in FINE_PX)]
    least = LEAST_ENERGY * max(1e-9, float(weight.sum()))
    finest, coarser = (float((np.square(fine - coarse) * weight).sum()) + least for fine, coarse in pairwise(bands))
    return float(np.log(finest / coarser))


def shrunk(known: np.ndarray) -> np.ndarray:
    """Which pixels are known with all their neighbours: bool (H, W)."""
    return cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def features(values: np.ndarray, known: np.ndarray, um: float) -> np.ndarray:
    """What places are compared by in a search: blurred colours and the strength of edges, float32 (H, W, 4).

    Squared differences of the pixels themselves would put smooth tissue before any that is as rough as the hole's
    surroundings, since no detail of a donor lies where a detail around the hole lies.

    values: opponent colours (H, W, 3) of so many um per pixel; known: bool (H, W); elsewhere the strength is carried.
    """
    sigma_px = max(0.5, FEATURE_UM / um)
    low = cv2.GaussianBlur(values, (0, 0), sigma_px)
    edges = strength(np.ascontiguousarray(values[..., 0]), known, sigma_px)
    return np.dstack([low, EDGES * carried(np.repeat(edges[..., None], 3, axis=2), known)[..., 0]])


class Picture:
    """A picture under which templates are moved: float32 (H, W, C), what of it is usable, bool (H, W), transformed.

    Memory: about C + 2 times its pixels in complex64, halved, three times while a template is moved.
    """

    def __init__(self, values: np.ndarray, usable: np.ndarray) -> None:
        self.size = Size(values.shape[1], values.shape[0])
        self._shape = [fft.next_fast_len(length, True) for length in values.shape[:2]]
        self.centre = values.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        planes = np.moveaxis(values - self.centre, 2, 0)
        self._planes = fft.rfft2(np.concatenate([planes, np.square(planes).sum(axis=0)[None]]), self._shape)
        self._barred = None if usable.all() else fft.rfft2((~usable).astype(np.float32), self._shape)

    def differences(self, template: np.ndarray, weight: np.ndarray, support: np.ndarray) -> Iterator[np.ndarray]:
        """For each orientation of a template (h, w, C) its sums of weighted squared differences at every place where
        it fits: float32.

        inf where a pixel of the support, bool (h, w), would lie on one that is not usable. One product of transforms
        serves all channels; a mirrored template's transform is the template's, read backwards.
        """
        values = template - self.centre
        constant = float((np.square(values) * weight[..., None]).sum())
        kernels = np.concatenate([np.moveaxis(-2 * values * weight[..., None], 2, 0), weight[None], support[None]])
        transformed = [self._transformed(kernels), self._transformed(kernels.swapaxes(1, 2))]
        for orientation, (down, right) in enumerate(MIRRORED):
            height, width = weight.shape[::-1] if orientation % 2 else weight.shape
            if height > self.size.height or width > self.size.width:
                yield np.full((0, 0), np.inf, np.float32)
                continue
            kernel = transformed[orientation % 2]
            if down != right:
                kernel = np.roll(kernel[:, ::-1], 1, axis=1)
            if not right:
                kernel = kernel.conj()
            y, x = down * (height - 1), right * (width - 1)
            places = np.s_[y : y + self.size.height - height + 1, x : x + self.size.width - width + 1]
            product = self._planes[0] * kernel[0]
            for plane, part in zip(self._planes[1:], kernel[1:-1], strict=True):
                product += plane * part
            found = fft.irfft2(product, self._shape)[places] + constant
            np.maximum(found, 0, out=found)
            if self._barred is not None:
                found[fft.irfft2(self._barred * kernel[-1], self._shape)[places] > 0.5] = np.inf
            yield found

    def _transformed(self, kernels: np.ndarray) -> np.ndarray:
        """The transforms of kernels that are small against the picture: their rows first, which are few."""
        return fft.fft(fft.rfft(kernels.astype(np.float32), self._shape[1], axis=-1), self._shape[0], axis=-2)


def best_shift(area: np.ndarray, template: np.ndarray, weight: np.ndarray) -> tuple[int, int, float]:
    """Where in an area a template (h, w, C) fits best: row, column and weighted sum of squared differences there."""
    root = np.repeat(np.sqrt(weight)[..., None], template.shape[2], axis=2)      # OpenCV squares its mask
    found = cv2.matchTemplate(area, template, cv2.TM_SQDIFF, mask=np.ascontiguousarray(root, np.float32))
    row, column = np.unravel_index(int(np.argmin(found)), found.shape)
    return int(row), int(column), max(0.0, float(found[row, column]))
