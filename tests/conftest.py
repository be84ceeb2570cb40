"""Slides written by tifffile, and the real ones of ../shared where they are present."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

SHARED = Path(__file__).resolve().parents[2] / "shared"
APERIO = ("Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (128x128) JPEG/RGB Q=80"
          "|AppMag = 20|MPP = 0.5000|Filename = made-up")


def tissue(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Pink-violet noise with sharp light and smooth colour, like stained tissue: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    light = gaussian_filter(rng.normal(size=(height, width, 1)), (2, 2, 0))
    colour = gaussian_filter(rng.normal(size=(height, width, 3)), (12, 12, 0))
    noise = light / light.std() * 22 + colour / colour.std() * 12
    return np.clip(np.add(noise, (200, 140, 185)), 0, 255).astype(np.uint8)


def write_pyramid_tiff(path: Path, sizes: list[tuple[int, int]], tile: int = 128, bigtiff: bool = False,
                       description: str | None = None, thumbnail: bool = False, byteorder: str = "<", **codec) -> Path:
    """A pyramid of sequential directories; every level is the top one, resized."""
    base = Image.fromarray(tissue(*sizes[0]))
    icc = b"not a real profile, but carried all the same"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for number, size in enumerate(sizes):
            pixels = np.asarray(base.resize(size, Image.Resampling.BOX))
            writer.write(pixels, tile=(tile, tile), photometric="rgb", metadata=None, subfiletype=1 if number else 0,
                         description=description if not number else None, iccprofile=icc if not number else None,
                         resolution=(20000, 20000), resolutionunit="CENTIMETER", **codec)
            if thumbnail and number == 0:
                small = np.asarray(base.resize((size[0] // 5, size[1] // 5), Image.Resampling.BOX))
                writer.write(small, rowsperstrip=16, photometric="rgb", metadata=None, **codec,
                             description=f"Aperio Image Library\n{size[0]}x{size[1]} -> {size[0] // 5}x{size[1] // 5}")
    return path


YCBCR = {"compression": "jpeg", "compressionargs": {"level": 80}, "subsampling": (2, 2)}
RGB = {"compression": "jpeg", "compressionargs": {"level": 80, "outcolorspace": "rgb"}, "subsampling": (1, 1)}
ODD = [(901, 703), (450, 351), (224, 175)]               # ratios 2.002 and 4.02

MAKERS: dict[str, Callable[[Path], Path]] = {
    "ycbcr420": lambda folder: write_pyramid_tiff(folder / "ycbcr.tif", ODD, **YCBCR),
    "aperio": lambda folder: write_pyramid_tiff(folder / "aperio.svs", ODD, description=APERIO.format(w=901, h=703),
                                                thumbnail=True, **RGB),
    "bigtiff": lambda folder: write_pyramid_tiff(folder / "big.tiff", ODD[:2], bigtiff=True, **YCBCR),
    "bigendian": lambda folder: write_pyramid_tiff(folder / "motorola.tiff", ODD[:2], bigtiff=True, byteorder=">",
                                                   **RGB),
}


@pytest.fixture(scope="session", params=sorted(MAKERS))
def copied_slide(request, tmp_path_factory) -> Path:
    """A slide whose container can be copied, one of each sort."""
    return MAKERS[request.param](tmp_path_factory.mktemp("copied"))


@pytest.fixture(scope="session")
def aperio_slide(tmp_path_factory) -> Path:
    return MAKERS["aperio"](tmp_path_factory.mktemp("aperio"))


@pytest.fixture(scope="session")
def lzw_slide(tmp_path_factory) -> Path:
    return write_pyramid_tiff(tmp_path_factory.mktemp("lzw") / "lzw.tif", ODD, compression="lzw")


@pytest.fixture(scope="session")
def strip_image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("strips") / "strips.tif"
    tifffile.imwrite(path, tissue(700, 500), photometric="rgb", rowsperstrip=32, metadata=None)
    return path


@pytest.fixture(scope="session")
def png_image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("png") / "image.png"
    Image.fromarray(tissue(300, 260)).save(path, dpi=(25400 / 0.5, 25400 / 0.5))
    return path


@pytest.fixture(scope="session")
def jpeg_image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("jpeg") / "image.jpg"
    Image.fromarray(tissue(300, 260)).save(path, quality=90)
    return path


@pytest.fixture(scope="session")
def wsi() -> Path:
    """The folder of real slides."""
    folder = SHARED / "data" / "wsi"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder
