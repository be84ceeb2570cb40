"""Where a slide is unlike clean tissue: image evidence and the denoiser's, regions with classes and scores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.device import autocast
from artifusion.diffusion.frame import Frame
from artifusion.errors import OutputError, SlideError
from artifusion.geometry import Box, Size
from artifusion.outlines import draw_outlines
from artifusion.picture import check_picture_name
from artifusion.pixels import tensor_from_images
from artifusion.restorer import Restorer, gaussian
from artifusion.slide.classes import CLASSES
from artifusion.slide.findings import UNIT, find
from artifusion.slide.masks import Mask
from artifusion.slide.maskwriter import mask_geojson, write_class_png, write_geojson
from artifusion.slide.rasters import outlined
from artifusion.slide.reader import ImageSlide, Slide, open_slide
from artifusion.slide.survey import FULL_OD, Survey, enlarged
from artifusion.slide.tissue import GLASS_OD
from artifusion.workspace import beside, check_outputs

SOURCES = ("image", "denoiser")
THRESHOLD = 0.5
LEVEL = 0.8                  # of noise: tissue's palette and layout are still seen, its nuclei are not
SEEN_UM = 2.0                # um per pixel that the denoiser is shown; the coarsest that it was trained on
SMOOTH_UM = 10.0
STRAY = 6.0                  # quartile distances above the slide's median disagreement: evidence 1
SCALE = 0.02                 # disagreement of one step of its map, before the slide's own distribution is known


@dataclass(frozen=True)
class Region:
    """A place unlike clean tissue: its class, a score from 0 to 1 and its box in level-0 pixels."""

    kind: str
    score: float
    l0_box: Box


@dataclass(frozen=True)
class Detection:
    """What was found on a slide.

    ids: class ids (0 = keep) at mpp um per pixel, uint8 (H, W), an image of the whole slide; mask: the same as
    polygons in level-0 pixels; regions: one for each of its polygons, in their order.
    """

    ids: np.ndarray
    mpp: float
    mask: Mask
    regions: tuple[Region, ...]


def detect(
    source: str | Path | Slide | np.ndarray,
    *,
    mpp: float | None = None,
    threshold: float = THRESHOLD,
    sources: Collection[str] = SOURCES,
    restorer: Restorer | None = None,
    any_stain: bool = False,
    quiet: bool = True,
) -> Detection:
    """Find the artifacts of a slide or image. A function of its arguments: the same call finds the same.

    Args:
        source: a path, an open slide, or uint8 (H, W, 3).
        mpp: um per pixel, where the slide does not tell; without either 0.5 is taken.
        threshold: least score of a region; 0.5 leaves alone what is in doubt.
        sources: kinds of evidence: "image" (densities, colours and shapes), "denoiser", or both.
        restorer: whose denoiser serves; by default the embedded one.
        any_stain: look even at what is not H&E.

    Memory: some 20 bytes a pixel of the coarse scale (26 Mpx at most up to slides of 8 cm) and 2 of the fine one.

    Raises:
        SlideError: cannot be read, or is not H&E.
        ValueError: a threshold or sources that there are not.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    if not sources or set(sources) - set(SOURCES):
        raise ValueError(f"sources must be some of {SOURCES}, got {sources}")
    if not isinstance(source, Slide):
        opened = open_slide(source, mpp) if isinstance(source, str | Path) else (
            ImageSlide(Path("image"), source, "array", True, None, None, mpp))
        with opened as slide:
            return detect(slide, threshold=threshold, sources=sources, restorer=restorer, any_stain=any_stain,
                          quiet=quiet)
    survey = Survey.of(source, mpp or source.mpp or DEFAULT_SPACING_UM)
    tiles = survey.tiles()
    if not tiles:
        return nothing(survey)
    try:
        look, samples = survey.look(tiles, any_stain)
    except SlideError as error:
        raise SlideError(f"{source.path}: {error}") from None
    unlike = disagreement(restorer or Restorer.from_pretrained(), samples, survey.coarse_um) if (
        "denoiser" in sources) else None
    seen = tqdm(tiles, desc="looking", unit="tile", disable=quiet or None)
    maps = survey.maps(seen, look, "image" in sources, unlike)
    if unlike:
        maps["unlike"] = against_own(maps["unlike"], maps["density"])
    found = [finding for finding in find(maps, survey.coarse_um) if finding.score >= threshold]
    ids, scores = survey.outline(tqdm(found, desc="outlining", unit="region", disable=quiet or None), look)
    return described(survey, ids, scores)


def detect_slide(
    source: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    overlay: str | Path | None = None,
    threshold: float = THRESHOLD,
    any_stain: bool = False,
    restorer: Restorer | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> Detection:
    """Write what `detect` finds: OUT, a PNG of class ids, OUT.geojson with a score per region, and an overlay.

    Raises:
        SlideError, OutputError: with what to do about it.
    """
    target = Path(out)
    pictures = [Path(overlay)] if overlay else []
    (annotations,) = beside(target, ".geojson")
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: the mask is written as PNG; give it a name that ends in .png")
    for picture in pictures:
        check_picture_name(picture)
    check_outputs([Path(source)], [target, annotations, *pictures], overwrite)
    with open_slide(source, mpp=mpp) as slide:
        if slide.mpp is None and not quiet:
            why = slide.mpp_doubt or "does not tell its scale"
            print(f"{slide.path.name} {why}; taking {DEFAULT_SPACING_UM} um/px (--mpp to say better)", file=sys.stderr)
        found = detect(slide, threshold=threshold, restorer=restorer, any_stain=any_stain, quiet=quiet)
        for picture in pictures:
            draw_outlines(slide, found.mask, picture)
        scores = [region.score for region in found.regions]
        write_geojson(annotations, mask_geojson(found.mask, slide.bounds_offset, scores))
        write_class_png(target, found.ids)
    return found


def detect_mask(
    slide: Slide, out: Path, classes: Collection[str], restorer: Restorer, any_stain: bool, overwrite: bool, quiet: bool
) -> bool:
    """Write what `detect` finds on a slide as class ids, where any of it is of these classes; whether there is.

    A mask that lies there already, the same to the byte, is one that an interrupted run left, and fine.

    Raises:
        SlideError: not H&E. OutputError: another mask lies there, without `overwrite`.
    """
    found = detect(slide, restorer=restorer, any_stain=any_stain, quiet=quiet)
    if not any(region.kind in classes for region in found.regions):
        return False
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / out.name
        write_class_png(fresh, found.ids)
        if out.exists() and out.read_bytes() == fresh.read_bytes():
            return True
    check_outputs([slide.path], [out], overwrite)
    write_class_png(out, found.ids)
    return True


def nothing(survey: Survey) -> Detection:
    return Detection(np.zeros(survey.fine[::-1], np.uint8), survey.fine_um, Mask((), survey.slide.size), ())


def described(survey: Survey, ids: np.ndarray, scores: np.ndarray) -> Detection:
    """The detection of class ids and scores at the fine scale."""
    if not ids.any():
        return nothing(survey)
    size = survey.slide.size
    polygons, classes = outlined(survey.slide.path, ids, size)
    x, y = survey.fine.width / size.width, survey.fine.height / size.height
    regions = []
    for polygon, kind in zip(polygons, classes, strict=True):
        left, top, right, bottom = polygon.bounds
        box = Box.from_edges(int(left * x), int(top * y), int(right * x + 0.999), int(bottom * y + 0.999))
        at = box.intersection(Box(0, 0, *survey.fine)).slices()
        best = int(scores[at][ids[at] == CLASSES[kind]].max(initial=0))
        l0_box = Box.from_edges(int(left), int(top), round(right), round(bottom))
        regions.append(Region(kind, best / 255, l0_box))
    mask = Mask(tuple(polygons), size, tuple(classes), "detected")
    return Detection(ids, survey.fine_um, mask, tuple(regions))


def disagreement(
    restorer: Restorer, samples: list[np.ndarray], coarse_um: float
) -> Callable[[np.ndarray, Box], np.ndarray]:
    """How far the denoiser, trained on clean tissue alone, is from the scan: a function of pixels and their box.

    A tile is noised to LEVEL and predicted back; colours and layout that no clean tissue has are not found again.
    All tiles are relative to the same colours, those of the samples, so that a tile full of ink cannot hide its own.
    Its noise depends on the place alone.
    """
    pixels = np.concatenate([sample.reshape(-1, 3) for sample in samples])[None, None]        # (1, 1, N, 3)
    colours = tensor_from_images(pixels)
    frame = Frame.of_known(colours, torch.ones_like(colours[:, :1])).to(restorer.device)
    shown_um = max(SEEN_UM, coarse_um)

    @torch.inference_mode()
    def unlike(rgb: np.ndarray, box: Box) -> np.ndarray:
        """uint8 (H, W, 3) at the coarse scale -> float32 (H, W) >= 0, in units of the map of that name."""
        height, width = (max(1, round(side * coarse_um / shown_um)) for side in rgb.shape[:2])
        small = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX))
        pad = [(0, -side % restorer.multiple) for side in small.shape[:2]]
        x0 = frame.enter(tensor_from_images(np.pad(small, (*pad, (0, 0)), mode="symmetric")[None]).to(restorer.device))
        missed = (predicted(restorer, x0, (box.x, box.y)) - x0)[0, :, :height, :width]        # (3, h, w)
        off = missed.permute(1, 2, 0).float().cpu().numpy()                                  # (h, w, 3)
        sigma = max(0.5, SMOOTH_UM / shown_um)
        far = np.sqrt(np.square(ndimage.gaussian_filter(off, (sigma, sigma, 0))).sum(axis=2))
        return enlarged(far, Size(rgb.shape[1], rgb.shape[0])) / (SCALE * UNIT)

    return unlike


def predicted(restorer: Restorer, x0: Tensor, place: tuple[int, int]) -> Tensor:
    """What the denoiser makes of x0 (1, 3, H, W) noised to LEVEL: the same again, where it is clean tissue."""
    level = torch.full_like(x0[:, :1], LEVEL)
    noise = gaussian((0, *place), x0.shape[1:])[None].to(x0.device)
    x = restorer.schedule.add_noise(x0, level, noise)
    with autocast(restorer.device):
        said = restorer.denoiser(x, level, torch.ones_like(level), torch.full((1,), SEEN_UM, device=x0.device))
    return restorer.schedule.x0(x, level, said)


def against_own(unlike: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The map of disagreement in UNIT of the slide's own distribution over its tissue, uint8."""
    values = unlike[density > GLASS_OD * 255 / FULL_OD]
    if not len(values):
        return np.zeros_like(unlike)
    median, upper = np.percentile(values, (50, 75))
    table = (np.arange(256) - median) / (STRAY * max(1.0, upper - median)) * UNIT
    return np.clip(table, 0, 255).astype(np.uint8)[unlike]


