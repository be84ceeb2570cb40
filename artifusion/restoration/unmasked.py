"""Artifacts that nobody masked: what detection sees of them at low magnification is no donor."""

from __future__ import annotations

from math import ceil

import cv2
from shapely.affinity import scale

from artifusion.errors import MaskError, SlideError
from artifusion.evidence.index import DonorIndex
from artifusion.geometry import Size
from artifusion.mask.mask import Mask

SEEN_PX = 4_000_000         # of the picture that is looked at: some 8 s of a core at most, however large the slide


def unmasked_artifacts(index: DonorIndex) -> Mask:
    """What detection finds on the index's picture, reduced to SEEN_PX; nothing on a slide whose stain it does not know.

    At the usual scales (2 to 12 um per pixel) it sees ink, bubbles, folds and dark spots, and blur up to 2 um per
    pixel; the smaller ones show when a donor is fitted (`DonorFit.spoiled`, `.texture`).
    """
    from artifusion.detection.detect import detect  # torch, which planning does without

    factor = ceil((index.picture.shape[0] * index.picture.shape[1] / SEEN_PX) ** 0.5)
    size = Size(*(max(1, side // factor) for side in index.size))
    picture = cv2.resize(index.picture[: size.height * factor, : size.width * factor], size,
                         interpolation=cv2.INTER_AREA)
    step = index.step * factor
    try:
        found = detect(picture, mpp=step * index.mpp).mask
    except (SlideError, MaskError):                         # another stain, or noise
        return Mask((), index.slide.size)
    return Mask.of([scale(polygon, step, step, origin=(0, 0)) for polygon in found.polygons], index.slide.size)
