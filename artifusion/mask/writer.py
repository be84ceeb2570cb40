"""Write masks: as an image of class ids or black and white, as a pyramid, as QuPath annotations.

In an image of class ids 0 = keep and n = the class of that id; the vocabulary stands beside the pixels as JSON, name ->
id: in a PNG's text under `artifusion.classes`, in a TIFF's ImageDescription under the same key.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from artifusion.errors import OutputError
from artifusion.files import whole_file
from artifusion.geometry import ORIGIN, Box, Point, Size, fitted
from artifusion.mask.classes import CLASSES, CLASSES_KEY, COLORS, class_of
from artifusion.mask.mask import DRAWN_PX, Mask
from artifusion.mask.outlines import whole_edges
from artifusion.mask.polygons import draw, edge_table
from artifusion.mask.rasters import MOST_PX
from artifusion.slide.reader import Slide

TILE_PX = 512
MASK_PX = 8192                # longer side of a mask image at most, where no scale is given
SUFFIXES = (".png", ".tif", ".tiff", ".geojson", ".json")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://artifusion/annotation")


def check_mask_name(path: Path) -> None:
    """Raise OutputError unless the suffix is that of a mask."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: a mask is written as {', '.join(SUFFIXES)}; choose one of these")


def write_mask(mask: Mask, path: Path, slide: Slide, *, binary: bool = False, downsample: float | None = None,
               mpp: float | None = None) -> Size | None:
    """Write a mask of a slide in the form that the suffix names; returns the size in pixels, None for GeoJSON.

    Args:
        binary: images: white = restore instead of class ids.
        downsample: level-0 pixels per mask pixel, at least 1; by default as few as fit into 8192 px.
        mpp: um per mask pixel, instead.

    Raises:
        OutputError: another suffix, an impossible scale, or `path` cannot be written.
    """
    check_mask_name(path)
    if path.suffix.lower() in SUFFIXES[-2:]:
        write_geojson(path, mask_geojson(mask, slide.bounds_offset))
        return None
    if mpp is not None:
        if slide.mpp is None:
            raise OutputError(f"{path}: {slide.path.name} {slide.mpp_doubt or 'does not tell its um per pixel'}; pass "
                              "--downsample instead of --mpp")
        downsample = mpp / slide.mpp
        if downsample < 1:
            raise OutputError(f"{path}: {mpp:g} um per pixel are finer than the slide's {slide.mpp:g}; pass a larger "
                              "--mpp")
    size = fitted(slide.size, MASK_PX)
    if downsample is not None:
        size = Size(*(max(1, round(side / downsample)) for side in slide.size))
    if size.width * size.height > MOST_PX:
        raise OutputError(f"{path}: {size.width} x {size.height} px are more than readers of masks take; pass a larger "
                          "--downsample, or write GeoJSON")
    ids = class_ids(mask, size)
    pixels = ids > 0 if binary else ids
    if path.suffix.lower() != ".png":
        x, y = (l0_px / px for l0_px, px in zip(slide.size, size, strict=True))
        write_pyramid(path, pixels, (x * slide.mpp_xy[0], y * slide.mpp_xy[1]) if slide.mpp_xy else None)
    elif binary:
        write_binary_png(path, pixels)
    else:
        write_class_png(path, pixels)
    return size


def class_ids(mask: Mask, size: Size) -> np.ndarray:
    """Draw a mask as class ids, 0 = keep: uint8 (height, width), an image of the whole slide, no larger than it.

    A pixel stands for the level-0 pixels whose centres fall into it, and is set where any of them is masked: nothing
    gets lost, and no edge moves by a whole pixel. Where several classes meet in one, the first of the vocabulary
    gets it. A mask that was read from an image of that size gives exactly that image again.
    """
    if not (0 < size.width <= mask.l0_size.width and 0 < size.height <= mask.l0_size.height):
        raise ValueError(f"a mask of {mask.l0_size} cannot be drawn as {size}")
    ids = np.zeros((size.height, size.width), np.uint8)
    xs, ys = (whole_edges(count, Fraction(length, count)) for count, length in zip(size, mask.l0_size, strict=True))
    step = max(1, DRAWN_PX * size.width // mask.l0_size.width)
    edge_list, begins = edge_table(mask.polygons)
    named = [CLASSES[class_of(name)] for name in mask.classes]
    for index in sorted(range(len(named)), key=lambda i: -named[i]):
        left, top, right, bottom = mask.polygons[index].bounds
        (x0, x1), (y0, y1) = _span(xs, left, right), _span(ys, top, bottom)
        for y in range(y0, y1, step):
            for x in range(x0, x1, step):
                columns, rows = xs[x : min(x + step, x1) + 1], ys[y : min(y + step, y1) + 1]
                drawn = draw(edge_list[begins[index] : begins[index + 1]],
                             Box.from_edges(columns[0], rows[0], columns[-1], rows[-1]))
                some = np.logical_or.reduceat(drawn, rows[:-1] - rows[0], axis=0)
                some = np.logical_or.reduceat(some, columns[:-1] - columns[0], axis=1)
                ids[y : y + len(rows) - 1, x : x + len(columns) - 1][some] = named[index]
    return ids


def write_class_png(path: str | Path, ids: np.ndarray) -> None:
    """Write class ids, uint8 (H, W), as a gray PNG with the vocabulary in its text; whole or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    text = PngInfo()
    text.add_text(CLASSES_KEY, json.dumps(CLASSES))
    with whole_file(Path(path)) as part:
        Image.fromarray(_checked(ids)).save(part, "PNG", pnginfo=text)


def write_binary_png(path: str | Path, masked: np.ndarray) -> None:
    """Write bool (H, W) as a gray PNG, white (255) = restore; whole or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    with whole_file(Path(path)) as part:
        Image.fromarray(np.asarray(masked, bool).astype(np.uint8) * np.uint8(255)).save(part, "PNG")


def write_pyramid(path: str | Path, ids: np.ndarray, mpp_xy: tuple[float, float] | None) -> None:
    """Write class ids, uint8 (H, W), or bool (H, W) as 0 and 255, as a pyramidal TIFF; whole or not at all.

    Levels lie in sequence, since OpenSlide ignores SubIFDs; each is half of the one before, and a pixel of it the
    largest of its four. Class ids go with a palette, in which viewers show our colours. `mpp_xy`: um per pixel of `ids`
    along x and y.

    Raises:
        OutputError: it cannot be written there.
    """
    binary = ids.dtype == np.bool_
    pixels = ids.astype(np.uint8) * np.uint8(255) if binary else _checked(ids)
    palette = np.zeros((3, 256), np.uint16)
    for name, at in CLASSES.items():
        palette[:, at] = np.multiply(COLORS[name], 257)
    colours: dict[str, Any] = {"photometric": "minisblack"} if binary else {"photometric": "palette",
                                                                            "colormap": palette}
    with whole_file(Path(path)) as part, tifffile.TiffWriter(part, bigtiff=True) as writer:
        level, per_cm = pixels, (1e4 / mpp_xy[0], 1e4 / mpp_xy[1]) if mpp_xy else None
        while True:
            first = level is pixels
            writer.write(level, tile=(TILE_PX, TILE_PX), compression="adobe_deflate", metadata=None,
                         subfiletype=0 if first else 1,
                         description=json.dumps({CLASSES_KEY: CLASSES}) if first and not binary else None,
                         resolution=per_cm, resolutionunit="CENTIMETER" if per_cm else None, **colours)
            if max(level.shape) <= TILE_PX:
                break
            level, per_cm = _halved(level), per_cm and (per_cm[0] / 2, per_cm[1] / 2)


def mask_geojson(mask: Mask, bounds_offset: Point = ORIGIN, scores: Sequence[float] | None = None) -> dict[str, Any]:
    """Return a mask as QuPath GeoJSON: an annotation per polygon, with area, our class and its colour.

    Args:
        bounds_offset: the slide's; QuPath counts from there.
        scores: one per polygon, kept as the measurement "Score".

    Ids follow from the polygons, so the same mask gives the same text.
    """
    features = []
    for index, (polygon, given) in enumerate(zip(mask.polygons, mask.classes, strict=True)):
        name = class_of(given)
        measurements: dict[str, float] = {"Area px": mask.areas_px[index]}
        if scores is not None:
            measurements["Score"] = round(float(scores[index]), 4)
        features.append(annotation(polygon, bounds_offset, f"{name}:{polygon.wkb_hex}", f"{name} {index + 1}", name,
                                   measurements))
    return {"type": "FeatureCollection", "features": features}


def annotation(geometry: BaseGeometry, bounds_offset: Point, key: str, title: str, name: str,
               measurements: Mapping[str, float], **properties: Any) -> dict[str, Any]:
    """Return an annotation of QuPath in level-0 pixels, with a class and its colour; its id follows from the key."""
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, key)),
        "geometry": shapely.geometry.mapping(translate(geometry, -bounds_offset.x, -bounds_offset.y)),
        "properties": {
            "objectType": "annotation",
            "name": title,
            "classification": {"name": name, "color": list(COLORS[class_of(name)])},
            "isLocked": False,
            "measurements": dict(measurements),
            **properties,
        },
    }


def write_geojson(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write GeoJSON, whole or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    with whole_file(Path(path)) as part:
        part.write_text(json.dumps(content, allow_nan=False) + "\n")


def _checked(ids: np.ndarray) -> np.ndarray:
    if ids.dtype != np.uint8 or ids.ndim != 2 or ids.max(initial=0) > max(CLASSES.values()):
        raise ValueError(f"class ids must be uint8 (H, W) up to {max(CLASSES.values())}, got {ids.dtype} {ids.shape} "
                         f"up to {ids.max(initial=0)}")
    return ids


def _span(edges: np.ndarray, start: float, stop: float) -> tuple[int, int]:
    """First and one-past-last mask pixel that a stretch of level 0 meets."""
    first = int(np.searchsorted(edges, start, side="right")) - 1
    return max(0, first), min(len(edges) - 1, int(np.searchsorted(edges, stop, side="left")))


def _halved(pixels: np.ndarray) -> np.ndarray:
    """Half the size, rounded up; the largest of each four pixels."""
    padded = np.pad(pixels, [(0, side % 2) for side in pixels.shape])
    return padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).max(axis=(1, 3))
