"""Every real file of ../shared, the broken ones too: restored, or one clear line and nothing left."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from painters import Flat
from PIL import Image

from artifusion.cli.app import main
from artifusion.errors import SlideError
from artifusion.output.container import default_output
from artifusion.output.verify import verify_slide
from artifusion.slide.reader import open_slide

WSI = Path(__file__).resolve().parents[3] / "shared" / "data" / "wsi"
FILES = sorted(path for path in WSI.rglob("*") if path.is_file())


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(not FILES, reason="../shared is absent")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(WSI)))
def test_a_real_file_is_restored_or_refused_in_one_line(path, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    before, mask, suffix = digest(path), tmp_path / "mask.png", ".tiff"
    try:
        with open_slide(path) as slide:
            size, suffix = slide.size, default_output(path, slide).suffix
            pixels = np.zeros((max(1, size.height // 8), max(1, size.width // 8)), np.uint8)
    except SlideError:
        pixels = np.zeros((64, 64), np.uint8)
    pixels[len(pixels) // 3 : len(pixels) // 3 + 9, len(pixels[0]) // 3 :][:, :9] = 255
    Image.fromarray(pixels).save(mask)
    out = tmp_path / f"out{suffix}"
    result = CliRunner().invoke(main, ["restore", str(path), "--mask", str(mask), "-o", str(out), "-q"])
    assert result.exit_code == (1 if path.parent.name == "bad" else 0), result.output
    assert digest(path) == before and "Traceback" not in result.output
    if result.exit_code == 0:
        assert {file.name for file in tmp_path.iterdir()} == {"mask.png", out.name, f"{out.name}.json",
                                                              f"{out.name}.geojson"}
        assert verify_slide(path, out).ok
    else:
        assert result.output.count("\n") == 1 and path.name in result.output
        assert list(tmp_path.iterdir()) == [mask]
