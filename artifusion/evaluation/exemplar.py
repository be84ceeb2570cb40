"""The patch exemplar: a method that fills a hole with copies of visible patches and invents no pixel."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation

PATCHES_PX = (13, 9, 7, 5)      # the largest with enough places to paste from
MIN_PLACES = 200


def exemplar_fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image with its hole filled by visible patches  (Criminisi et al. 2004).

    uint8 (H, W, 3), bool (H, W) -> uint8 (H, W, 3). It begins where most pixels around are known and an edge of the
    tissue runs into the hole. Each patch is completed by the visible patch that is most like its known part.
    """
    import cv2

    out, known = image.copy(), ~hole
    out[hole] = 0
    confidence = known.astype(np.float32)
    side, places = sources(~hole)
    half = side // 2
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    while not known.all():
        front = ~known & binary_dilation(known)
        support = cv2.blur(confidence, (side, side), borderType=cv2.BORDER_CONSTANT)
        priority = np.where(front, support * (edge_strength(grey, known, side) + 0.001), -1)
        row, column = np.unravel_index(np.argmax(priority), priority.shape)
        y, x = (int(np.clip(at - half, 0, length - side)) for at, length in zip((row, column), hole.shape, strict=True))
        target = np.s_[y : y + side, x : x + side]
        visible = known[target].astype(np.uint8)
        score = cv2.matchTemplate(out, out[target], cv2.TM_SQDIFF, mask=np.repeat(visible[..., None], 3, axis=2))
        at_y, at_x = np.unravel_index(np.argmin(np.where(places, score, np.inf)), score.shape)
        missing = ~known[target]
        out[target][missing] = image[at_y : at_y + side, at_x : at_x + side][missing]
        grey[target][missing] = grey[at_y : at_y + side, at_x : at_x + side][missing]
        confidence[target][missing] = support[row, column]
        known[target] = True
    return out


def sources(visible: np.ndarray) -> tuple[int, np.ndarray]:
    """The side of the patches, and where the top left corners of fully visible patches are, bool."""
    import cv2

    for side in PATCHES_PX:
        whole = cv2.erode(visible.astype(np.uint8), np.ones((side, side), np.uint8), anchor=(0, 0),
                          borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
        places = whole[: visible.shape[0] - side + 1, : visible.shape[1] - side + 1]
        if places.sum() >= MIN_PLACES:
            break
    return side, places if places.any() else np.ones_like(places)


def edge_strength(grey: np.ndarray, known: np.ndarray, side: int) -> np.ndarray:
    """How strongly edges of the known part run into the unknown one: float (H, W), 0 to about 1."""
    import cv2

    inner = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    steps = [cv2.Sobel(grey, cv2.CV_32F, *order) / 1020 * inner for order in ((1, 0), (0, 1))]
    share = cv2.blur(inner, (side, side)) + 1e-6
    across, down = (cv2.blur(step, (side, side)) / share for step in steps)
    soft = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 2)
    normal = [cv2.Sobel(soft, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
    length = np.hypot(*normal) + 1e-6
    return np.abs(-down * normal[0] + across * normal[1]) / length
