"""Forecasts how large a restored slide will be, before anything is painted."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from artifusion.geometry import Box
from artifusion.output.container import container_of
from artifusion.output.reencode import JPEG_IMAGE_QUALITY, SEGMENT_PX, encode_segment, pyramid_sizes
from artifusion.slide.reader import ImageSlide, Slide

SAMPLES = 6                          # boxes per side that are encoded to learn how many bytes a pixel takes


@dataclass(frozen=True)
class Forecast:
    """What the output will be."""

    container: str                       # as in `container_of`
    reason: str                          # why it gets this container
    size_bytes: int
    basis: str                           # what size_bytes was computed from
    whole: int = 0                       # touched segments that cannot be written in their own form

    def __str__(self) -> str:
        whole = f"; {self.whole} of the touched tiles encoded whole, not in place" if self.whole else ""
        return f"{self.container} ({self.reason}): about {self.size_bytes / 1e6:,.1f} MB, {self.basis}{whole}"


def forecast(slide: Slide, out: Path, lossless: bool = False) -> Forecast:
    """Return what writing a restored slide to `out` will give. Reads SAMPLES squared boxes at most.

    Raises:
        OutputError: a suffix that does not fit the source.
        SlideError: the source is damaged.
    """
    container, reason = container_of(slide, out)
    if container == "image":
        pixels, exact = slide.size.width * slide.size.height, out.suffix.lower() == ".png"
    elif container == "re-encoded":
        pixels = sum(size.width * size.height for size in pyramid_sizes(slide.size))
        exact = lossless or (isinstance(slide, ImageSlide) and slide.lossless)
    else:
        return Forecast(container, reason, slide.path.stat().st_size, "as the source")
    samples = _samples(slide)
    encode = _image_bytes if container == "image" else encode_segment
    per_px = (sum(len(encode(sample, exact)) for sample in samples)
              / sum(sample.shape[0] * sample.shape[1] for sample in samples))
    basis = f"{per_px:.2f} bytes per pixel in {len(samples)} sampled tiles"
    return Forecast(container, reason, round(per_px * pixels), basis)


def _samples(slide: Slide) -> list[np.ndarray]:
    """Read boxes of a segment's size, evenly spread over level 0: uint8 (h, w, 3) each."""
    columns, rows = (-(-length // SEGMENT_PX) for length in slide.size)
    middles = (np.arange(SAMPLES) + 0.5) / SAMPLES                 # of equal parts: edges are not typical
    xs, ys = (np.unique((middles * count).astype(int)).tolist() for count in (columns, rows))
    frame = Box(0, 0, *slide.size)
    boxes = [Box(x * SEGMENT_PX, y * SEGMENT_PX, SEGMENT_PX, SEGMENT_PX) for y in ys for x in xs]
    return [slide.read(box.intersection(frame)) for box in boxes]


def _image_bytes(pixels: np.ndarray, exact: bool) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if exact else "JPEG", quality=JPEG_IMAGE_QUALITY, subsampling=0)
    return file.getvalue()
