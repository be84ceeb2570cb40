from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from shapely import Polygon

from artifusion.errors import MaskError
from artifusion.geometry import Box, Point, Size
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.mask.outlines import rectilinear
from artifusion.mask.reading import read_mask
from artifusion.slide.reader import open_slide


@pytest.fixture
def slide(png_image):
    with open_slide(png_image) as opened:                # 300 x 260 px
        yield opened


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def blob(width=300, height=260, value=255):
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 3 : width // 2] = value
    return mask


def geo(path, *geometries, **properties):
    features = [{"type": "Feature", "geometry": g, "properties": properties} for g in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


SQUARE = {"type": "Polygon", "coordinates": [[[10, 10], [60, 10], [60, 60], [10, 60], [10, 10]],
                                             [[20, 20], [30, 20], [30, 30], [20, 30], [20, 20]]]}


@pytest.mark.parametrize("seed", range(40))
def test_reading_the_outline_of_a_raster_gives_the_raster(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr("artifusion.geometry.STRIP_PX", int(rng.integers(1, 400)))
    height, width = rng.integers(1, 50, 2)
    size = Size(*(int(n) for n in rng.integers(1, 160, 2)))
    raster = rng.random((height, width)) < rng.random()
    polygons = rectilinear(raster, Fraction(size.width, int(width)), Fraction(size.height, int(height)))
    mask = Mask(tuple(polygons), size)
    rows = (2 * np.arange(size.height) + 1) * height // (2 * size.height)
    columns = (2 * np.arange(size.width) + 1) * width // (2 * size.width)
    expected = raster[np.ix_(rows, columns)]
    assert all(polygon.is_valid for polygon in polygons)
    assert np.array_equal(mask.read(Box(0, 0, *size)), expected)
    assert mask.area_px == expected.sum()
    around = np.pad(expected, 7)
    assert np.array_equal(mask.read(Box(-7, -7, size.width + 14, size.height + 14)), around)


def test_polygons_are_read_by_pixel_centres():
    polygon = shapely.Point(20.3, 18.8).buffer(11.7).difference(shapely.Point(22, 19).buffer(4))
    mask = Mask((polygon,), Size(50, 40))
    expected = np.array([[polygon.contains(shapely.Point(x + 0.5, y + 0.5)) for x in range(50)] for y in range(40)])
    assert np.array_equal(mask.read(Box(0, 0, 50, 40)), expected)
    assert mask.area_px == expected.sum()


def test_coverage_is_any_masked_pixel_in_the_real_footprint():
    rng = np.random.default_rng(0)
    raster = rng.random((203, 151)) < 0.01
    mask = Mask(tuple(rectilinear(raster)), Size(151, 203))
    lv_size = Size(75, 50)                                # ratios 2.013 and 4.06
    expected = np.array([[raster[y * 203 // 50 : -(-(y + 1) * 203 // 50), x * 151 // 75 : -(-(x + 1) * 151 // 75)].any()
                          for x in range(75)] for y in range(50)])
    assert np.array_equal(mask.coverage(lv_size, Box(0, 0, 75, 50)), expected)
    assert np.array_equal(mask.coverage(lv_size, Box(-3, 7, 60, 50))[:43, 3:], expected[7:, :57])


@pytest.mark.parametrize("form", ["0/255", "bool", "0/1", "label", "palette", "rgba", "rgb", "jpeg", "uint16", "float"])
def test_every_form_of_raster_mask_gives_the_same_mask(tmp_path, slide, form):
    raster = blob()
    path = tmp_path / ("mask.jpg" if form == "jpeg" else "mask.tif" if form in ("uint16", "float") else "mask.png")
    selected = raster > 0
    if form == "palette":
        image = Image.fromarray(selected.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.save(path)
    elif form == "rgba":
        save(path, np.dstack([np.full((*raster.shape, 3), 255, np.uint8), raster]))
    elif form == "jpeg":
        save(path, raster, quality=70)
    else:
        save(path, {"0/255": raster, "bool": selected, "0/1": selected.astype(np.uint8), "rgb": np.dstack([raster] * 3),
                    "label": selected * np.uint8(4), "uint16": selected * np.uint16(65535),
                    "float": selected.astype(np.float32)}[form])
    mask = read_mask(path, slide)
    assert np.array_equal(mask.read(Box(0, 0, *slide.size)), selected)


def test_a_mask_may_have_any_scale(tmp_path, slide):
    mask = read_mask(save(tmp_path / "m.png", blob(30, 26)), slide)
    assert np.array_equal(mask.read(Box(0, 0, 300, 260)), np.kron(blob(30, 26) > 0, np.ones((10, 10), bool)))
    read_mask(save(tmp_path / "n.png", blob(43, 37)), slide)           # rounded sizes


def test_keep_is_the_complement_and_lifts_the_half_rule(tmp_path, slide):
    path = save(tmp_path / "m.png", 255 - blob())
    with pytest.raises(MaskError, match="--mask-polarity keep"):
        read_mask(path, slide)
    assert np.array_equal(read_mask(path, slide, "keep").read(Box(0, 0, 300, 260)), blob() > 0)
    assert read_mask(path, slide, "restore").area_px == (blob() == 0).sum()


@pytest.mark.parametrize(("make", "remedy"), [
    (lambda folder: save(folder / "m.png", np.zeros((260, 300), np.uint8)), "polarity keep"),
    (lambda folder: save(folder / "m.png", np.full((260, 300), 255, np.uint8)), "polarity keep"),
    (lambda folder: save(folder / "m.png", blob(300, 300)), "300x300.*300x260"),
    (lambda folder: save(folder / "m.png", np.random.default_rng(0).integers(0, 255, (260, 300), np.uint8)), "picture"),
    (lambda folder: folder / "missing.png", "no such mask"),
    (lambda folder: folder, "folder"),
    (lambda folder: write(folder / "m.png", b"rubbish"), "not a mask image"),
    (lambda folder: write(folder / "m.geojson", b"{rubbish"), "no JSON"),
    (lambda folder: write(folder / "m.geojson", b"[]"), "holds no polygon"),
    (lambda folder: write(folder / "m.geojson", b"[3]"), "no GeoJSON Feature"),
    (lambda folder: geo(folder / "m.geojson", {"type": "Point", "coordinates": [1, 2]}), "Point"),
    (lambda folder: geo(folder / "m.json", {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}), "LineString"),
    (lambda folder: geo(folder / "m.json", None), "without geometry"),
    (lambda folder: geo(folder / "m.json", {"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}), "no valid polygon"),
    (lambda folder: geo(folder / "m.json", {"type": "Polygon", "coordinates": "abc"}), "no valid polygon"),
    (lambda folder: geo(folder / "m.json", square(5000, 5000, 9)), "outside the slide"),
    (lambda folder: geo(folder / "m.json", square(10.6, 10.6, 0.2)), "selects nothing"),
])
def test_masks_that_cannot_be_right_are_refused_with_the_remedy(tmp_path, slide, make, remedy):
    with pytest.raises(MaskError, match=remedy) as caught:
        read_mask(make(tmp_path), slide)
    assert "\n" not in str(caught.value)


def write(path, data):
    path.write_bytes(data)
    return path


def square(x, y, side):
    return shapely.geometry.mapping(shapely.box(x, y, x + side, y + side))


def test_geojson_polygons_keep_holes_and_classes(tmp_path, slide):
    mask = read_mask(geo(tmp_path / "m.geojson", SQUARE, classification={"name": "fold", "color": [1, 2, 3]}), slide)
    expected = np.zeros((260, 300), bool)
    expected[10:60, 10:60] = True
    expected[20:30, 20:30] = False
    assert np.array_equal(mask.read(Box(0, 0, 300, 260)), expected)
    assert set(mask.classes) == {"fold"} and mask.area_px == 2400


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: f["geometry"],
                                  lambda f: {"type": "FeatureCollection", "features": [f]}])
def test_every_wrapping_of_geojson_is_read(tmp_path, slide, wrap):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(wrap({"type": "Feature", "geometry": SQUARE, "properties": {"classification": "pen"}})))
    assert read_mask(path, slide).area_px == 2400


def test_invalid_rings_are_mended_and_polygons_clipped(tmp_path, slide):
    bow = {"type": "Polygon", "coordinates": [[[10, 10], [50, 50], [50, 10], [10, 50], [10, 10]]]}
    mask = read_mask(geo(tmp_path / "m.json", bow, square(290, 250, 30)), slide)
    assert all(polygon.is_valid for polygon in mask.polygons)
    assert mask.read(Box(0, 0, 300, 260))[255, 295] and mask.area_px == mask.read(Box(0, 0, 300, 260)).sum()


def test_overlapping_polygons_count_once_and_the_earlier_class_stays(tmp_path, slide):
    mask = Mask.of([shapely.box(0, 0, 50, 50), shapely.box(25, 25, 75, 75)], slide.size, ["fold", "pen"])
    assert mask.area_px == mask.read(Box(0, 0, 300, 260)).sum() == 2500 + 2500 - 625
    areas = dict(zip(mask.classes, mask.areas_px, strict=True))
    assert areas == {"fold": 2500, "pen": 1875}


def test_geojson_counts_from_the_bounds_of_the_slide(tmp_path):
    path = geo(tmp_path / "m.json", SQUARE)
    polygons, _ = geojson_polygons(json.loads(path.read_text()), path, Point(1000, 2000))
    assert polygons[0].bounds == (1010, 2010, 1060, 2060)


def test_growing_needs_the_scale_and_widens_by_it(tmp_path, slide, jpeg_image):
    path = geo(tmp_path / "m.json", square(100, 100, 50))
    grown = read_mask(path, slide, grow_um=5)             # 0.5 um/px: 10 px
    assert grown.read(Box(0, 0, 300, 260))[125, 91] and not grown.read(Box(0, 0, 300, 260))[125, 89]
    with open_slide(jpeg_image) as unknown, pytest.raises(MaskError, match="--mpp"):
        read_mask(path, unknown, grow_um=5)


@pytest.mark.parametrize("strip_px", [1, 700, 1 << 22])
def test_strips_do_not_show_in_what_is_read(tmp_path, slide, monkeypatch, strip_px):
    monkeypatch.setattr("artifusion.geometry.STRIP_PX", strip_px)
    image = Image.fromarray((blob() > 0).astype(np.uint8) * 2)
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 200])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", slide).read(Box(0, 0, 300, 260)), blob() > 0)
    gray = blob()
    gray[200:208, 200:300], gray[200:209, 100:109] = 90, 91   # 8 px high is still an edge, 9 px square an area
    with pytest.raises(MaskError, match=r"brightness 91\)"):
        read_mask(save(tmp_path / "gray.png", gray), slide)


def test_numbers_of_every_size_are_read(tmp_path, slide):
    selected = blob() > 0
    for dtype, value in ((np.int16, 9), (np.int32, 100_000), (np.uint32, 255), (">u2", 65535), (np.int8, 1),
                         (np.float64, 255.0), (np.float16, 1.0), (np.float32, 70_000.0)):
        tifffile.imwrite(tmp_path / "mask.tif", (selected * value).astype(dtype))
        assert np.array_equal(read_mask(tmp_path / "mask.tif", slide).read(Box(0, 0, 300, 260)), selected), dtype
    values = selected.astype(np.float32)
    values[5, 5] = np.nan
    tifffile.imwrite(tmp_path / "mask.tif", values)
    with pytest.raises(MaskError, match="values from nan"):
        read_mask(tmp_path / "mask.tif", slide)


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
def test_a_mask_is_read_upright_as_slides_are(tmp_path, slide, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = read_mask(save(tmp_path / "m.png", np.ascontiguousarray(np.rot90(blob(), turns)), exif=exif), slide)
    assert np.array_equal(mask.read(Box(0, 0, 300, 260)), blob() > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_a_tiff_whose_white_is_0_is_read_as_it_looks_or_refused(tmp_path, slide, dtype):
    stored = ~(blob() > 0) if dtype is bool else (blob() == 0) * np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "m.tif", stored.astype(dtype), photometric="miniswhite")
    if dtype is np.uint16:
        with pytest.raises(MaskError, match="save it in 8 bits"):
            read_mask(tmp_path / "m.tif", slide)
    else:
        assert np.array_equal(read_mask(tmp_path / "m.tif", slide).read(Box(0, 0, 300, 260)), blob() > 0)


def test_names_of_classes_are_fit_to_be_printed(tmp_path, slide):
    for name in ("\ud800\x1b[31mred\nline", "a" * 5000):
        summary = read_mask(geo(tmp_path / "m.json", SQUARE, classification=name), slide).summary
        assert summary.isprintable() and len(summary) < 200 and summary.encode()


def test_the_empty_mask_reads_as_nothing():
    assert not Mask((), Size(10, 10)).read(Box(0, 0, 10, 10)).any()
    with pytest.raises(ValueError):
        Mask((Polygon([(0, 0), (1, 0), (1, 1)]),), Size(10, 10), ("a", "b"))
