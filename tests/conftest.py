"""Slides made up by `made_slides`, and the real ones of ../shared where they are present."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile
from made_slides import EXACT, MAKERS, ODD, tissue, write_pyramid_tiff
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", params=sorted(MAKERS))
def copied_slide(request, tmp_path_factory) -> Path:
    """A slide whose container can be copied, one of each sort."""
    return MAKERS[request.param](tmp_path_factory.mktemp("copied"))


@pytest.fixture(scope="session")
def aperio_slide(tmp_path_factory) -> Path:
    return MAKERS["aperio"](tmp_path_factory.mktemp("aperio"))


@pytest.fixture(scope="session", params=sorted(EXACT))
def exact_slide(request, tmp_path_factory) -> Path:
    """A slide whose codec keeps every pixel beside the mask, one of each sort."""
    return MAKERS[request.param](tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="session")
def packbits_slide(tmp_path_factory) -> Path:
    """A tiled pyramid of a codec that is not copied."""
    return write_pyramid_tiff(tmp_path_factory.mktemp("packbits") / "packbits.tif", ODD, compression="packbits")


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
