"""Masks as HistoQC, GrandQC, QuPath and TRIDENT write them."""

from __future__ import annotations

import gzip
import json
import uuid
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

HISTOQC_TRAPS = ("mask_use", "small_fill", "bright", "fatlike", "spur", "areathresh", "small_remove")
HISTOQC_ARTIFACTS = ("blurry", "flat", "dark", "pen_markings", "coverslip_edge")


def rectangle(size, left, top, right, bottom):
    """bool (H, W) of a (width, height), set inside."""
    marked = np.zeros(size[::-1], bool)
    marked[top:bottom, left:right] = True
    return marked


def write_histoqc(run: Path, slide_name: str, size: tuple[int, int], marks: dict[str, np.ndarray]) -> Path:
    """The folder of a run with that of one slide in it; traps are full of white."""
    folder = run / slide_name
    folder.mkdir(parents=True)
    (run / "results.tsv").write_text("#start_time:\t2026-01-02 03:04:05\n#pipeline:\tpixelWise LightDarkModule\n"
                                     "#outdir:\t/out\n#dataset:filename\tcomments\twarnings\n"
                                     f"{slide_name}\t\t\n")
    (run / "error.log").write_text("")
    for member in HISTOQC_TRAPS + HISTOQC_ARTIFACTS:
        marked = marks.get(member, np.full(size[::-1], member in HISTOQC_TRAPS))
        Image.fromarray(marked.astype(np.uint8) * 255).save(folder / f"{slide_name}_{member}.png")
    Image.new("RGB", size, (230, 200, 220)).save(folder / f"{slide_name}_thumb.png")
    return folder


def write_grandqc(out: Path, slide_name: str, ids: np.ndarray, scale: float) -> Path:
    """The tree that GrandQC writes for a slide; returns the class mask. `scale`: level-0 pixels per mask pixel."""
    for folder in ("mask_qc", "tis_det_mask", "geojson_qc"):
        (out / folder).mkdir(parents=True)
    path = out / "mask_qc" / f"{slide_name}_mask.png"
    Image.fromarray(ids.astype(np.uint8)).save(path)
    tissue = (ids == 7) | (ids == 0)                       # inverted: 0 = tissue
    Image.fromarray(tissue.astype(np.uint8)).save(out / "tis_det_mask" / f"{slide_name}_MASK.png")
    names = {1: "Normal Tissue", 2: "Fold", 3: "Darkspot & Foreign Object", 4: "PenMarking", 5: "Edge & Air Bubble",
             6: "OOF", 7: "Background"}
    features = []
    for at in range(2, 7):
        labels, _ = ndimage.label(ids == at)
        # All are rectangles; OpenCV's contours run through the centres of the outermost pixels.
        for rows, columns in ndimage.find_objects(labels):
            left, right = columns.start * scale, (columns.stop - 1) * scale
            top, bottom = rows.start * scale, (rows.stop - 1) * scale
            geometry = {"type": "Polygon", "coordinates": [ring(left, top, right, bottom)]}
            features.append({"type": "Feature", "geometry": geometry,
                             "properties": {"class_id": at, "classification": names[at], "area": 0.0}})
    content = {"type": "FeatureCollection", "features": features,
               "metadata": {"class_mapping": {str(n): name for n, name in names.items()}, "scale_factor": scale}}
    (out / "geojson_qc" / f"{slide_name}.geojson").write_text(json.dumps(content, indent=2))
    return path


def ring(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def qupath_feature(geometry, classification=None, **extra):
    properties = {"objectType": "annotation", "isLocked": False}
    if classification is not None:
        properties["classification"] = classification
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": properties | extra}


def write_qupath(path: Path, features: list) -> Path:
    """An export of QuPath: plain, `.gz`, or `.zip` with one entry, by the suffix."""
    text = json.dumps({"type": "FeatureCollection", "features": features}, indent=2)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.with_suffix(".geojson").name, text)
    else:
        path.write_text(text)
    return path


def write_trident(path: Path) -> Path:
    features = [{"type": "Feature", "properties": {"tissue_id": n},
                 "geometry": {"type": "Polygon", "coordinates": [ring(10 + 50 * n, 10, 50 + 50 * n, 90)]}}
                for n in range(2)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
