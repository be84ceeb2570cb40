"""Slides written by tifffile, in every form that is copied."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from artifusion.output.tiffwriter import TiffWriter, integers
from artifusion.slide import tiff

APERIO = ("Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (128x128) JPEG/RGB Q=80"
          "|AppMag = 20|MPP = 0.5000|Filename = made-up")


def tissue(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Pink-violet noise with sharp light and smooth colour, like stained tissue: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    light = gaussian_filter(rng.normal(size=(height, width, 1)), (2, 2, 0))
    colour = gaussian_filter(rng.normal(size=(height, width, 3)), (12, 12, 0))
    noise = light / light.std() * 22 + colour / colour.std() * 12
    return np.clip(np.add(noise, (200, 140, 185)), 0, 255).astype(np.uint8)


def he_like(width: int = 400, height: int = 360, seed: int = 0) -> np.ndarray:
    """Pink with violet nuclei some 6 px wide, dark enough for an artifact finder: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    nuclei = gaussian_filter((rng.random((height, width)) < 1 / 220).astype(np.float32), 2.4) > 0.012
    image = np.where(nuclei[..., None], np.float32((120, 85, 160)), np.float32((225, 165, 200)))
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def doubled(pixels: np.ndarray, rows: slice, columns: slice = np.s_[:]) -> tuple[np.ndarray, np.ndarray]:
    """The tissue of a strip laid upon itself, and that strip: light passes twice, densities double."""
    out, truth = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    out[rows, columns] = np.square(pixels[rows, columns] / 255) * 255
    truth[rows, columns] = True
    return out, truth


def write_pyramid_tiff(path: Path, sizes: list[tuple[int, int]], tile: int = 128, bigtiff: bool = False,
                       description: str | None = None, thumbnail: bool = False, byteorder: str = "<",
                       encode: Callable[[np.ndarray], bytes] | None = None, image: np.ndarray | None = None, **codec
                       ) -> Path:
    """A pyramid of sequential directories; every level is the top one, resized. `encode`: one tile to its bytes."""
    base = Image.fromarray(tissue(*sizes[0]) if image is None else image)
    icc = b"not a real profile, but carried all the same"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for number, size in enumerate(sizes):
            pixels = np.asarray(base.resize(size, Image.Resampling.BOX))
            stored = {"data": pixels}
            if encode:
                stored = {"data": map(encode, tiles_of(pixels, tile)), "shape": pixels.shape, "dtype": pixels.dtype}
            writer.write(**stored, tile=(tile, tile), photometric="rgb", metadata=None, subfiletype=1 if number else 0,
                         description=description if not number else None, iccprofile=icc if not number else None,
                         resolution=(20000, 20000), resolutionunit="CENTIMETER", **codec)
            if thumbnail and number == 0:
                small = np.asarray(base.resize((size[0] // 5, size[1] // 5), Image.Resampling.BOX))
                writer.write(small, rowsperstrip=16, photometric="rgb", metadata=None, **(RGB if encode else codec),
                             description=f"Aperio Image Library\n{size[0]}x{size[1]} -> {size[0] // 5}x{size[1] // 5}")
    return path


def write_tiled_tiff(path: Path, images: list[np.ndarray], tile: tuple[int, int], order: str = "<", big: bool = False
                     ) -> Path:
    """Levels in deflate tiles of any width and height, which tifffile does not write."""
    width, height = tile
    with path.open("wb") as file, TiffWriter(file, order, big) as writer:
        for number, image in enumerate(images):
            rows, columns = image.shape[:2]
            tags = {254: [int(number > 0)], 256: [columns], 257: [rows], 258: [8, 8, 8], 259: [8], 262: [2], 277: [3],
                    284: [1], 322: [width], 323: [height]}
            padded = np.pad(image, ((0, -rows % height), (0, -columns % width), (0, 0)), mode="edge")
            writer.add({code: integers(code, values, tiff.LONG if code < 258 or code > 300 else tiff.SHORT, order)
                        for code, values in tags.items()}, True,
                       [zlib.compress(np.ascontiguousarray(padded[y : y + height, x : x + width]).tobytes())
                        for y in range(0, rows, height) for x in range(0, columns, width)])
    return path


LEICA = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">
<collection name="c" uuid="urn:uuid:2" sizeX="{whole[0]}" sizeY="{whole[1]}">
<image name="macro" uuid="urn:uuid:3"><device model="Leica SCN400;Leica SCN" version="1"/><pixels sizeX="64" sizeY="64">
<dimension sizeX="64" sizeY="64" r="0" ifd="0"/></pixels>
<view sizeX="{whole[0]}" sizeY="{whole[1]}" offsetX="0" offsetY="0" spacingZ="0"/>{settings}</image>
<image name="i" uuid="urn:uuid:4"><device model="Leica SCN400;Leica SCN" version="1"/>
<pixels sizeX="{size[0]}" sizeY="{size[1]}">{dimensions}</pixels>
<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}" spacingZ="0"/>{settings}</image>
</collection></scn>"""
LEICA_SETTINGS = """<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings>"""


def write_leica(path: Path, whole: tuple[int, int], offset: tuple[int, int], size: tuple[int, int] = (448, 384),
                planes: int = 1) -> Path:
    """A Leica SCN of 0.5 um/px: one area of a whole slide, where OpenSlide's bounds lie, with its macro."""
    nm = [tuple(500 * number for number in pair) for pair in (whole, size, offset)]
    dimensions = "".join(f'<dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" z="{z}" ifd="{1 + z}"/>'
                         for z in range(planes))
    text = LEICA.format(whole=nm[0], view=nm[1], offset=nm[2], size=size, dimensions=dimensions,
                        settings=LEICA_SETTINGS)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, pixels in enumerate([tissue(64, 64), *(tissue(*size, seed) for seed in range(planes))]):
            writer.write(pixels, tile=(64, 64), photometric="rgb", metadata=None, resolution=(20000, 20000),
                         resolutionunit="CENTIMETER", description=None if number else text, **YCBCR)
    return path


def without_tiles(path: Path, box: tuple[int, int, int, int]) -> Path:
    """The file, its first page left sparse: nothing but the tiles from column, row to column, row is there."""
    with tifffile.TiffFile(path) as file:
        page, order = file.pages[0], {"<": "little", ">": "big"}[file.byteorder]
        columns = -(-page.imagewidth // page.tilewidth)
        places = [(tag.valueoffset, {3: 2, 4: 4, 16: 8}[int(tag.dtype)]) for tag in (page.tags[324], page.tags[325])]
        count = page.tags[324].count
    with path.open("r+b") as file:
        for index in range(count):
            row, column = divmod(index, columns)
            if not (box[0] <= column < box[2] and box[1] <= row < box[3]):
                for at, length in places:
                    file.seek(at + index * length)
                    file.write((0).to_bytes(length, order))
    return path


def tiles_of(pixels: np.ndarray, side: int):
    """Square tiles, row by row, padded at the right and lower edge."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield np.ascontiguousarray(padded[y : y + side, x : x + side])


def jpeg2000_rgb(pixels: np.ndarray) -> bytes:
    """A lossy tile of an Aperio 33005 slide."""
    return imagecodecs.jpeg2k_encode(pixels, level=35, codecformat="J2K", reversible=False, mct=True)


def jpeg2000_ycbcr422(pixels: np.ndarray) -> bytes:
    """A tile of an Aperio 33003 slide: YCbCr, no transform declared, chroma of half the width.

    No encoder at hand writes subsampled components, but three one-component streams put one behind the other are one:
    their packets in component order (progression CPRL), under a header that names three components.
    """
    ycbcr = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    planes = (ycbcr[..., 0], ycbcr[:, ::2, 1], ycbcr[:, ::2, 2])
    streams = [imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), level=0, codecformat="J2K", reversible=True,
                                         resolutions=3) for plane in planes]
    head, at = {}, 2
    while streams[0][at : at + 2] != b"\xff\x93":                           # start of data
        length = int.from_bytes(streams[0][at + 2 : at + 4], "big")
        head[streams[0][at : at + 2]] = streams[0][at + 4 : at + 2 + length]
        at += 2 + length
    packets = b"".join(stream[stream.index(b"\xff\x93") + 2 : -2] for stream in streams)
    size = head[b"\xff\x51"][:34] + b"\0\3" + b"\7\1\1" + b"\7\2\1" * 2
    style = bytearray(head[b"\xff\x52"])
    style[1:5] = b"\4" + style[2:4] + b"\0"                                # CPRL, no transform
    tile = struct.pack(">HIBB", 0, 14 + len(packets), 0, 1)
    marked = [(b"\x51", size), (b"\x52", bytes(style)), (b"\x5c", head[b"\xff\x5c"]), (b"\x90", tile)]
    markers = b"".join(b"\xff" + name + struct.pack(">H", len(body) + 2) + body for name, body in marked)
    return b"\xff\x4f" + markers + b"\xff\x93" + packets + b"\xff\xd9"


YCBCR = {"compression": "jpeg", "compressionargs": {"level": 80}, "subsampling": (2, 2)}
YCBCR_444 = YCBCR | {"subsampling": (1, 1)}
RGB = {"compression": "jpeg", "compressionargs": {"level": 80, "outcolorspace": "rgb"}, "subsampling": (1, 1)}
ODD = [(901, 703), (450, 351), (224, 175)]               # ratios 2.002 and 4.02

MAKERS: dict[str, Callable[[Path], Path]] = {
    "ycbcr420": lambda folder: write_pyramid_tiff(folder / "ycbcr.tif", ODD, **YCBCR),
    "aperio": lambda folder: write_pyramid_tiff(folder / "aperio.svs", ODD, description=APERIO.format(w=901, h=703),
                                                thumbnail=True, **RGB),
    "aperio-ycbcr": lambda folder: write_pyramid_tiff(
        folder / "aperio.svs", ODD, description=APERIO.format(w=901, h=703), thumbnail=True, **YCBCR_444),
    "bigtiff": lambda folder: write_pyramid_tiff(folder / "big.tiff", ODD[:2], bigtiff=True, **YCBCR),
    "bigendian": lambda folder: write_pyramid_tiff(folder / "motorola.tiff", ODD[:2], bigtiff=True, byteorder=">",
                                                   **RGB),
    "jpeg2000": lambda folder: write_pyramid_tiff(
        folder / "j2k.svs", ODD, description=APERIO.format(w=901, h=703), thumbnail=True, encode=jpeg2000_rgb,
        compression=33005),
    "jpeg2000-ycbcr": lambda folder: write_pyramid_tiff(
        folder / "j2k.svs", ODD, description=APERIO.format(w=901, h=703), thumbnail=True, encode=jpeg2000_ycbcr422,
        compression=33003),
    "lzw": lambda folder: write_pyramid_tiff(folder / "lzw.tif", ODD, compression="lzw", predictor=True),
    "deflate": lambda folder: write_pyramid_tiff(folder / "deflate.tif", ODD, compression="adobe_deflate"),
    "old-deflate": lambda folder: write_pyramid_tiff(folder / "old.tiff", ODD, bigtiff=True, byteorder=">",
                                                     compression="deflate", predictor=True),
    "uncompressed": lambda folder: write_pyramid_tiff(folder / "raw.tif", ODD, bigtiff=True),
}
EXACT = {"jpeg2000", "jpeg2000-ycbcr", "lzw", "deflate", "old-deflate", "uncompressed"}
