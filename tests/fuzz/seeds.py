"""Whole inputs that are broken afterwards: small slides, images, masks, weights, configurations, tiles, runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from made_masks import qupath_feature, ring, write_grandqc, write_histoqc, write_qupath
from made_slides import APERIO, RGB, YCBCR, YCBCR_444, jpeg2000_rgb, jpeg2000_ycbcr422, tissue, write_pyramid_tiff
from PIL import Image, PngImagePlugin

SIZE = (277, 203)
LEVELS = [SIZE, (138, 101)]
BOX = (100, 60, 140, 100)                               # left, top, right, bottom of what is restored
FAR = (225, 10, 255, 40)                                # a second region, on a canvas of its own
RESTORE_TOML = b"steps = 2\ngraft = 'off'\ncontext_px = 16\nmax_canvas_px = 512\nmerge_px = 8\nsampler = 'ddim'\n"
TRAIN_TOML = b"""name = "tiny"
crops = 4
batch_size = 2
warmup_crops = 4
checkpoint_minutes = 1e-9
[denoiser]
pixel_dim = 8
dims = [16, 32]
heads = [2, 2]
depths = [1, 1]
window_sizes = [4, 4]
time_dim = 16
[data]
crop_px = 32
validation = ["*/held.png"]
[data.weights]
tissue = 1.0
[targets.kinds]
band = 0.5
stroke = 0.5
"""


def make_seeds(folder: Path) -> None:
    """Write every seed into a folder per kind."""
    for kind in ("slides", "images", "masks", "geojson", "tissue"):
        (folder / kind).mkdir(parents=True)
    made_slides(folder / "slides")
    made_images(folder / "images")
    made_masks(folder)
    (folder / "restore.toml").write_bytes(RESTORE_TOML)
    (folder / "train.toml").write_bytes(TRAIN_TOML)
    for n, name in enumerate(("a.png", "held.png")):
        rng = np.random.default_rng(n)
        texture = np.kron(rng.normal(0, 25, (20, 20, 3)), np.ones((4, 4, 1))) + rng.normal(0, 5, (80, 80, 3))
        pixels = (np.array([190, 120, 170]) + texture).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "tissue" / name)


def made_slides(folder: Path) -> None:
    aperio = {"description": APERIO.format(w=SIZE[0], h=SIZE[1]), "thumbnail": True}

    def write(name: str, **codec) -> None:
        write_pyramid_tiff(folder / name, LEVELS, tile=64, **codec)

    write("ycbcr.tif", **YCBCR)
    write("aperio.svs", **aperio, **RGB)
    write("aperio-ycbcr.svs", **aperio, **YCBCR_444)
    write("big.tif", bigtiff=True, **YCBCR)
    write("motorola.tif", bigtiff=True, byteorder=">", **RGB)
    write("j2k.svs", **aperio, encode=jpeg2000_rgb, compression=33005)
    write("j2k-ycbcr.svs", **aperio, encode=jpeg2000_ycbcr422, compression=33003)
    write("lzw.tif", compression="lzw", predictor=True)
    write("deflate.tif", compression="adobe_deflate", byteorder=">")
    write("raw.tif", bigtiff=True)
    write("packbits.tif", compression="packbits")
    write("webp.tif", compression=50001, encode=lambda tile: imagecodecs.webp_encode(tile, level=80))


def made_images(folder: Path) -> None:
    pixels = tissue(*SIZE)
    image = Image.fromarray(pixels)
    image.save(folder / "rgb.png", dpi=(50800, 50800))
    image.quantize(64).save(folder / "palette.png", transparency=3)
    image.convert("RGBA").save(folder / "alpha.png")
    image.save(folder / "rgb.jpg", quality=90, exif=Image.Exif())
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    image.save(folder / "progressive.jpg", progressive=True)
    image.save(folder / "image.webp")
    image.save(folder / "image.bmp")
    tifffile.imwrite(folder / "strips.tif", pixels, photometric="rgb", rowsperstrip=32, metadata=None)
    tifffile.imwrite(folder / "gray.tif", pixels[..., 1], photometric="minisblack", compression="lzw", predictor=True)
    tifffile.imwrite(folder / "planes.tif", np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "jpeg.tif", pixels, photometric="ycbcr", rowsperstrip=16, **YCBCR)
    image.quantize(16).save(folder / "palette.tif")
    image.convert("1").save(folder / "fax.tif", compression="group4")


def made_masks(folder: Path) -> None:
    ids = np.zeros(SIZE[::-1], np.uint8)
    left, top, right, bottom = BOX
    ids[top:bottom, left:right] = 1
    ids[150:170, 20:60] = 3
    masks = folder / "masks"
    white = (ids > 0) * np.uint8(255)
    Image.fromarray(white).save(masks / "plain.png")
    Image.fromarray(white > 0).save(masks / "one-bit.png")
    Image.fromarray(white).resize((138, 101)).save(masks / "small.jpg")
    Image.fromarray(ids * np.uint16(1000)).save(masks / "labels.png")
    words = PngImagePlugin.PngInfo()
    words.add_text("artifusion.classes", json.dumps({"fold": 1, "pen": 3}))
    Image.fromarray(ids).save(masks / "classes.png", pnginfo=words)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(masks / "palette.png")
    Image.fromarray(np.dstack([white, white * 0, white * 0, white])).save(masks / "alpha.png")
    tifffile.imwrite(masks / "tiled.tif", white, tile=(64, 64), compression="lzw", photometric="minisblack")
    tifffile.imwrite(masks / "float.tif", white / np.float32(255), photometric="minisblack")
    grandqc = np.where(ids == 1, 2, np.where(ids == 3, 4, 1)).astype(np.uint8)
    write_grandqc(folder / "grandqc", "slide.tif", grandqc, scale=1)
    write_histoqc(folder / "histoqc", "slide.tif", SIZE, {"blurry": ids == 1, "pen_markings": ids == 3})
    features = [
        qupath_feature({"type": "Polygon", "coordinates": [ring(*BOX)]}, {"name": "Fold", "color": [255, 0, 0]}),
        qupath_feature({"type": "MultiPolygon", "coordinates": [[ring(20, 150, 60, 170), ring(30, 155, 40, 160)]]},
                       {"names": ["Artifact", "Pen"]}, name="pen 1", metadata={"score": 0.5})]
    for name in ("qupath.geojson", "qupath.geojson.gz", "qupath.zip"):
        write_qupath(folder / "geojson" / name, features)
    source = folder / "grandqc" / "geojson_qc" / "slide.tif.geojson"
    (folder / "geojson" / "grandqc.geojson").write_bytes(source.read_bytes())


def add_seeds(folder: Path, given: Sequence[Path]) -> None:
    """Add a folder's slides, images and GeoJSON, by their suffixes."""
    for path in (path for place in given for path in sorted(place.iterdir()) if path.is_file()):
        kind = {".tif": "slides", ".svs": "slides", ".scn": "slides", ".ndpi": "slides", ".geojson": "geojson",
                ".png": "masks" if "mask" in path.name else "images"}.get(path.suffix)
        if kind and path.stat().st_size < 1 << 20:
            (folder / kind / f"given-{path.name}").write_bytes(path.read_bytes())
