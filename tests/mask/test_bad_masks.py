"""Masks that cannot be meant: each is one clear line and exit 1, and leaves nothing."""

import json
import struct
import zlib

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from painters import Flat
from PIL import Image

from artifusion.cli.app import main

WIDTH, HEIGHT = 300, 260                                 # of the slide


@pytest.fixture
def restore(monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    return lambda *args: CliRunner().invoke(main, ["restore", *map(str, args)])


def gray(make, **saving):
    """A mask file of the values that make(rows, columns) gives."""
    def write(path):
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        Image.fromarray(np.asarray(make(rows, columns)).astype(np.uint8)).save(path, **saving)
    return write


def values(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def raw(data):
    return lambda path: path.write_bytes(data)


def cut(make, share):
    """The file that another entry writes, without its end."""
    def write(path):
        make(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
    return write


def geo(*geometries):
    features = [{"type": "Feature", "geometry": geometry, "properties": {}} for geometry in geometries]
    return raw(json.dumps({"type": "FeatureCollection", "features": features}).encode())


def polygon(*corners):
    return {"type": "Polygon", "coordinates": [list(map(list, corners))]}


def box(x, y, width, height):
    return polygon((x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def disk(rows, columns):
    return 255 * ((rows - 100) ** 2 + (columns - 120) ** 2 < 900)


BAD = {                                                  # name.suffix -> (how it is written, what the line says)
    "black.png": (gray(lambda y, x: 0 * x), "selects nothing"),
    "white.png": (gray(lambda y, x: 0 * x + 255), "--mask-polarity keep"),
    "white-is-keep.png": (gray(lambda y, x: 255 - disk(y, x)), "--mask-polarity keep"),
    "over-half.png": (gray(lambda y, x: 255 * (x > 0.45 * WIDTH)), "covers 55%"),
    "label-everywhere.png": (gray(lambda y, x: 1 + 6 * (x > 150)), "covers 100%"),
    "square.png": (lambda path: Image.fromarray(noise(300, 300) // 255 * 255).save(path), "300x300"),
    "turned.png": (lambda path: Image.fromarray(np.zeros((WIDTH, HEIGHT), np.uint8)).save(path), "260x300"),
    "strip.png": (lambda path: Image.fromarray(np.zeros((HEIGHT, 1), np.uint8)).save(path), "not the shape"),
    "cut-out.png": (lambda path: Image.fromarray(np.zeros((100, 200), np.uint8)).save(path), "not the shape"),
    "gradient.png": (gray(lambda y, x: 255 * x / WIDTH), "looks like a picture"),
    "gradient.jpg": (gray(lambda y, x: 255 * x / WIDTH), "looks like a picture"),
    "photograph.png": (lambda path: Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path), "looks like a picture"),
    "probability.tif": (values(np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)), "picture"),
    "white-noise.png": (lambda path: Image.fromarray(noise(2600, 3000) > 127).save(path), "million corners"),
    "checkerboard.png": (lambda path: Image.fromarray((np.add.outer(range(1300), range(1500)) % 2).astype(bool)
                                                      ).save(path), "million corners"),
    "invisible.png": (lambda path: Image.fromarray(np.dstack([noise(HEIGHT, WIDTH, 3), np.zeros((HEIGHT, WIDTH), "u1")])
                                                   ).save(path), "selects nothing"),
    "not-a-number.tif": (values(np.full((HEIGHT, WIDTH), np.nan, np.float32)), "values from nan"),
    "negative.tif": (values(np.full((HEIGHT, WIDTH), -1, np.int16)), "values from -1"),
    "deep.tif": (values(noise(HEIGHT, WIDTH).astype(np.uint16) * 257), "looks like a picture"),
    "five-channels.tif": (values(np.zeros((HEIGHT, WIDTH, 5), np.uint8), photometric="minisblack"), "several images"),
    "complex.tif": (values(np.ones((HEIGHT, WIDTH), np.complex64)), "complex numbers"),
    "empty.png": (raw(b""), "not a mask image"),
    "text.png": (raw(b"white where the fold is"), "not a mask image"),
    "header-only.png": (raw(b"\x89PNG\r\n\x1a\n"), "not a mask image"),
    "huge-on-paper.png": (raw(b"\x89PNG\r\n\x1a\n" + png_header(10**6, 10**6) + b"\0\0\0\0IDAT"),
                          "too many pixels"),
    "cut-short.png": (cut(gray(disk), 0.5), "not a mask image"),
    "cut-short.jpg": (cut(gray(disk), 0.6), "not a mask image"),
    "cut-short.tif": (cut(values(noise(HEIGHT, WIDTH) // 200 * 255), 0.4), "not a mask image"),
    "drawing.svg": (raw(b"<svg xmlns='http://www.w3.org/2000/svg'><circle r='9'/></svg>"), "not a mask image"),
    "array.npy": (lambda path: np.save(path, np.zeros((HEIGHT, WIDTH), bool)), "not a mask image"),
    "polygons.png": (geo(box(10, 10, 50, 50)), "not a mask image"),
    "image.geojson": (lambda path: Image.fromarray(noise(9, 9)).save(path, "PNG"), "no JSON"),
    "empty.geojson": (raw(b""), "no JSON"),
    "cut-short.geojson": (cut(geo(box(10, 10, 50, 50)), 0.7), "no JSON"),
    "wide-text.geojson": (raw(json.dumps([box(10, 10, 50, 50)]).encode("utf-16")), "no JSON"),
    "too-deep.geojson": (raw(b"[" * 200_000 + b"]" * 200_000), "no JSON"),
    "null.json": (raw(b"null"), "no GeoJSON Feature"),
    "number.json": (raw(b"42"), "no GeoJSON Feature"),
    "no-features.geojson": (geo(), "holds no polygon"),
    "features-of-nothing.geojson": (raw(b'{"type": "FeatureCollection", "features": null}'), "holds no polygon"),
    "no-geometry.geojson": (geo(None), "without geometry"),
    "points.geojson": (geo({"type": "Point", "coordinates": [5, 5]}), "Point"),
    "line.geojson": (geo({"type": "LineString", "coordinates": [[5, 5], [50, 50]]}), "LineString"),
    "collection.geojson": (geo({"type": "GeometryCollection", "geometries": [box(9, 9, 9, 9)]}), "GeometryCollection"),
    "two-corners.geojson": (geo(polygon((1, 1), (9, 9))), "no valid polygon"),
    "flat.geojson": (geo(polygon((1, 1), (9, 9), (20, 20), (1, 1))), "has no area"),
    "empty-ring.geojson": (geo({"type": "Polygon", "coordinates": [[]]}), "entry 1"),
    "words.geojson": (geo(polygon("ab", "cd", "ef", "ab")), "no valid polygon"),
    "one-number.geojson": (geo({"type": "Polygon", "coordinates": [[[1], [2], [3], [1]]]}), "no valid polygon"),
    "not-a-number.geojson": (geo(polygon((1, 1), (9, float("nan")), (9, 9), (1, 1))), "no valid polygon"),
    "infinite.geojson": (geo(polygon((1, 1), (float("inf"), 1), (9, 9), (1, 1))), "no valid polygon"),
    "overflowing.geojson": (geo(polygon((1, 1), (10**400, 1), (9, 9), (1, 1))), "no valid polygon"),
    "endless-number.geojson": (raw(b'{"type": "Polygon", "coordinates": [[[1' + b"0" * 5000 + b", 2]]]}"), "no JSON"),
    "beyond-the-stars.geojson": (geo(polygon((1e300, 1e300), (2e300, 1e300), (2e300, 2e300), (1e300, 1e300))),
                                 "all of its area lies outside the slide"),
    "elsewhere.geojson": (geo(box(5000, 5000, 90, 90)), "outside the slide"),
    "left-of-it.geojson": (geo(box(-900, -900, 100, 100)), "outside the slide"),
    "of-a-larger-slide.geojson": (geo(box(100, 100, 50, 50), box(20_000, 9_000, 800, 800)), "outside the slide"),
    "whole-slide.geojson": (geo(box(0, 0, WIDTH, HEIGHT)), "covers 100%"),
    "between-pixels.geojson": (geo(box(10.6, 10.6, 0.2, 0.2)), "selects nothing"),
    "too-many-objects.json": (raw(b"[" + b"{}," * 1_000_000 + b"{}]"), "corners"),
    "too-many-numbers.json": (raw(b"[" + b"1," * 8_000_001 + b"1]"), "corners"),
    "too-many-corners.geojson": (geo({"type": "Polygon", "coordinates": [[[n % 300, n // 300] for n in range(10**6)]]}),
                                 "corners"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mask_is_one_line_and_leaves_nothing(name, restore, png_image, tmp_path):
    write, remedy = BAD[name]
    mask, before = tmp_path / name, png_image.read_bytes()
    write(mask)
    result = restore(png_image, "--mask", mask, "-o", tmp_path / "out.png", "-q")
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1 and remedy in result.output and name in result.output
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    assert list(tmp_path.iterdir()) == [mask] and png_image.read_bytes() == before


@pytest.mark.parametrize(("options", "remedy"), [
    ((), "--mask-polarity keep"), (("--mask-polarity", "restore"), "nothing is left to paint from"),
    (("--mask-polarity", "keep"), "--mask-polarity restore"),
])
def test_a_white_mask_is_refused_with_the_polarity_that_helps(options, remedy, restore, png_image, tmp_path):
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "mask.png")
    result = restore(png_image, "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 1 and remedy in result.output


@pytest.mark.parametrize("polarity", ["restore", "keep"])
def test_a_polarity_given_lifts_the_half_slide_rule(polarity, restore, png_image, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : int((0.7 if polarity == "restore" else 0.3) * WIDTH)] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    result = restore(png_image, "--mask", tmp_path / "mask.png", "-o", out, "--mask-polarity", polarity, "-q")
    assert result.exit_code == 0, result.output
    painted = (np.asarray(Image.open(out)) != np.asarray(Image.open(png_image))).any(axis=2)
    assert np.array_equal(painted, mask == (255 if polarity == "restore" else 0))


def test_a_missing_mask_a_folder_and_the_slide_itself_are_refused(restore, png_image, tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for mask, remedy in ((tmp_path / "none.png", "no such mask"), (tmp_path, "is a folder"),
                         (tmp_path / "gone.png", "no such mask"), (png_image, "looks like a picture")):
        result = restore(png_image, "--mask", mask, "-o", tmp_path / "out.png")
        assert result.exit_code == 1 and remedy in result.output and result.output.count("\n") == 1
