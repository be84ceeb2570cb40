"""Faults that other people met with other tools: places, scales, classes, colours and names as they really come."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from made_masks import qupath_feature, ring, write_grandqc, write_qupath
from made_slides import (
    APERIO,
    RGB,
    YCBCR,
    tissue,
    without_tiles,
    write_leica,
    write_pyramid_tiff,
)
from painters import Flat
from PIL import Image, ImageCms, PngImagePlugin

from artifusion.cli.app import main
from artifusion.errors import ArtifusionError, MaskError, SlideError
from artifusion.geometry import Box
from artifusion.mask.classes import CLASSES
from artifusion.mask.reading import read_mask, read_selection
from artifusion.mask.selection import MaskSelection
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide
from artifusion.training.tiles import find_images

FAULTS = Path(__file__).resolve().parents[2] / "shared" / "faults"
WHOLE, OFFSET = (1000, 1300), (400, 700)


def invoke(*args, **options):
    return CliRunner(**options).invoke(main, [str(arg) for arg in args])


def masked(size, box, path):
    """A black-and-white mask of the whole slide, white in x, y, width, height."""
    marked = np.zeros(size[::-1], np.uint8)
    marked[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 255
    Image.fromarray(marked).save(path)
    return path


def geojson(path, left, top, right, bottom, classification="Fold", **properties):
    geometry = {"type": "Polygon", "coordinates": [ring(left, top, right, bottom)]}
    return write_qupath(path, [qupath_feature(geometry, classification, **properties)])


def box_of(mask):
    drawn = np.argwhere(mask.read(Box(0, 0, *mask.l0_size)))
    (top, left), (bottom, right) = drawn.min(axis=0), drawn.max(axis=0) + 1
    return left, top, right, bottom


def painted(source, mask, out, **options):
    return restore_slide(source, mask, out, restorer=Flat(), **options)


def refused(slide, mask, tmp_path, match):
    """Neither a run nor a dry run writes anything, and one line says why."""
    before = sorted(tmp_path.iterdir())
    for dry in ([], ["--dry-run"]):
        result = invoke("restore", slide, "--mask", mask, "--device", "cpu", "-q", *dry)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1 and match in result.stderr, result.output
    assert sorted(tmp_path.iterdir()) == before


# Places: declared regions count as the output's readers do, the masks of tools as the tools do


@pytest.fixture
def scn(tmp_path):
    return write_leica(tmp_path / "slide.scn", WHOLE, OFFSET)


def test_declared_regions_count_from_the_bounds_of_the_output(scn, tmp_path):
    content = painted(scn, geojson(tmp_path / "marks.geojson", 200, 150, 260, 200), tmp_path / "out.tiff")
    assert content["regions"][0]["l0_box"] == [600, 850, 60, 50]
    declared = json.loads((tmp_path / "out.tiff.geojson").read_text())["features"]
    assert shapely.geometry.shape(declared[0]["geometry"]).bounds == (600, 850, 660, 900)
    with open_slide(tmp_path / "out.tiff") as slide:
        assert slide.size == WHOLE and not any(slide.bounds_offset)
        assert box_of(read_mask(tmp_path / "out.tiff.geojson", slide)) == (600, 850, 660, 900)
    assert invoke("verify", scn, tmp_path / "out.tiff").exit_code == 0
    painted(tmp_path / "out.tiff", tmp_path / "out.tiff.geojson", tmp_path / "again.tiff")
    assert invoke("verify", tmp_path / "out.tiff", tmp_path / "again.tiff").exit_code == 0


@pytest.mark.parametrize("sizes", [[(768, 768), (384, 384)], [(1300, 1300)]])     # copied, and with levels built below
@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}])
def test_an_output_that_is_sparse_itself_counts_from_its_own_bounds(tmp_path, sizes, options):
    source = without_tiles(write_pyramid_tiff(tmp_path / "sparse.tif", sizes, **options, **RGB), (2, 1, 6, 5))
    content = painted(source, masked(sizes[0], (300, 300, 60, 50), tmp_path / "m.png"), tmp_path / "out.tif")
    assert content["written"]["container"] == ("copied" if len(sizes) == 2 else "pyramid")
    declared = json.loads((tmp_path / "out.tif.geojson").read_text())["features"]
    with open_slide(tmp_path / "out.tif") as slide:
        assert slide.bounds_offset == (256, 128)
        assert shapely.geometry.shape(declared[0]["geometry"]).bounds == (44, 172, 104, 222)
        assert box_of(read_mask(tmp_path / "out.tif.geojson", slide)) == (300, 300, 360, 350)
    assert invoke("verify", source, tmp_path / "out.tif").exit_code == 0


def test_what_was_not_scanned_is_not_declared(tmp_path):
    """Outside of the area of a Leica slide; that of a TIFF is in `test_faults_writer.py`."""
    source = write_leica(tmp_path / "in.scn", (1024, 1280), (384, 640), (512, 384))
    content = painted(source, masked((1024, 1280), (300, 700, 200, 40), tmp_path / "m.png"), tmp_path / "out.tif")
    assert [region["l0_box"] for region in content["regions"]] == [[384, 700, 116, 40]]
    with open_slide(tmp_path / "out.tif") as restored, open_slide(source) as slide:
        assert np.array_equal(restored.read(Box(300, 700, 68, 40)), slide.read(Box(300, 700, 68, 40)))
    with pytest.raises(MaskError, match=r"in\.scn: the mask marks only places of which the file holds no tiles"):
        painted(source, masked((1024, 1280), (100, 100, 60, 60), tmp_path / "m.png"), tmp_path / "none.tif")


@pytest.mark.parametrize("sparse", [False, True])
def test_both_masks_of_a_damaged_slide_mark_the_same_pixels_of_it(scn, tmp_path, sparse):
    source, out = scn, tmp_path / "damaged.tiff"
    if sparse:
        source = without_tiles(write_pyramid_tiff(tmp_path / "s.tif", [(768, 768)], **RGB), (2, 1, 6, 5))
    result = invoke("damage", source, out, "--kinds", "bubble", "--share", "0.02", "-q")
    assert result.exit_code == 0, result.output
    with open_slide(out) as slide:
        assert any(slide.bounds_offset) == sparse
        picture, outlines = (read_mask(f"{out}{suffix}", slide) for suffix in (".mask.png", ".geojson"))
        whole = Box(0, 0, *slide.size)
        assert np.array_equal(picture.read(whole), outlines.read(whole)) and picture.area_px > 1000
        for number, suffix in enumerate((".mask.png", ".geojson")):
            painted(out, f"{out}{suffix}", tmp_path / f"{number}.tiff")
            with open_slide(tmp_path / f"{number}.tiff") as restored:
                changed = (restored.read(whole) != slide.read(whole)).any(axis=2)
            assert changed[picture.read(whole)].mean() > 0.9


@pytest.mark.parametrize("metadata", [True, False])
def test_the_geojson_of_grandqc_counts_from_the_first_pixel_of_the_file(scn, tmp_path, metadata):
    ids = np.full((325, 250), 1)
    ids[200:214, 130:149] = 2
    png = write_grandqc(tmp_path / "qc", "slide.scn", ids, 4)
    path = tmp_path / "qc" / "geojson_qc" / "slide.scn.geojson"
    content = json.loads(path.read_text())
    if not metadata:
        path.write_text(json.dumps({key: value for key, value in content.items() if key != "metadata"}))
    with open_slide(scn) as slide:
        box, truth = box_of(read_mask(path, slide)), box_of(read_mask(png, slide))
        assert truth == (520, 800, 596, 856)
        assert np.abs(np.subtract(box, truth)).max() <= (0 if metadata else 4)
        assert read_mask(path, slide).classes == ("fold",)


@pytest.mark.parametrize(("name", "named", "known"), [
    ("slide.scn_pen_markings.geojson", None, "pen"), ("slide.scn_flat.geojson.gz", None, "bubble"),
    ("slide.scn_dark.json", "Fold", "fold"), ("slide.scn_my_own_step.geojson", None, "other")])
def test_the_geojson_of_histoqc_counts_from_the_first_pixel_and_has_the_class_of_its_name(scn, tmp_path, name, named,
                                                                                        known):
    with open_slide(scn) as slide:
        mask = read_mask(geojson(tmp_path / name, 520, 800, 600, 860, named), slide)
        assert box_of(mask) == (520, 800, 600, 860) and mask.classes == (known,)
        assert mask.origin.startswith("HistoQC GeoJSON")


@pytest.mark.parametrize(("name", "named"), [
    ("slide.scn.geojson", "Fold"), ("flat.geojson", None), ("slide.scn_marks.geojson", "Fold"), ("slide.json", None)])
def test_any_other_geojson_counts_from_the_bounds(scn, tmp_path, name, named):
    with open_slide(scn) as slide:
        mask = read_mask(geojson(tmp_path / name, 120, 100, 200, 160, named), slide)
        assert box_of(mask) == (520, 800, 600, 860) and mask.classes == ("fold" if named else "other",)


def test_the_geojson_of_histoqc_for_another_slide_is_refused(scn, tmp_path):
    path = geojson(tmp_path / "other.scn_dark.geojson", 520, 800, 600, 860, None)
    with open_slide(scn) as slide:
        with pytest.raises(MaskError, match=r"named after other\.scn"):
            read_mask(path, slide)
        assert read_mask(path, slide, form="histoqc").classes == ("dark",)


# Classes: wherever tools write them


@pytest.fixture
def slide(png_image):
    with open_slide(png_image) as opened:
        yield opened


@pytest.mark.parametrize("name", [
    "image.png_mask_use.geojson", "other.svs_mask_use.json", "tissue.geojson", "background.geojson.gz",
    "image_tissue.geojson", "image.png_tissue_mask.geojson", "tissue-contours.json",
    "TISSUE_regions.geojson.zip", "image.png_small_fill.geojson"])
def test_where_no_annotation_has_a_class_the_name_of_the_file_tells_that_it_is_tissue(slide, tmp_path, name):
    path = geojson(tmp_path / name, 10, 10, 60, 50, None, name="Annotation 1")
    with pytest.raises(MaskError, match=r"tissue|usable|consists of"):
        read_mask(path, slide)
    assert read_mask(path, slide, form="binary").classes == ("other",)
    assert read_mask(geojson(tmp_path / f"x_{name}", 10, 10, 60, 50, "Fold"), slide, form="binary").classes == ("fold",)
    assert read_mask(geojson(tmp_path / "marks.json", 10, 10, 60, 50, None), slide).classes == ("other",)


@pytest.mark.parametrize("key", ["type", "label", "class", "name", "category", "className", "annotation_type",
                                 "PartOfGroup", "Label"])
@pytest.mark.parametrize("form", [str, lambda name: {"name": name}])
def test_a_class_may_stand_under_any_key_that_tools_use(slide, tmp_path, key, form):
    with pytest.raises(MaskError, match="Tumour"):
        read_mask(geojson(tmp_path / "m.geojson", 10, 10, 60, 50, None, **{key: form("Tumour")}), slide)
    assert read_mask(geojson(tmp_path / "m.geojson", 10, 10, 60, 50, None, **{key: form("Pen marks")}),
                     slide).classes == ("pen",)
    first = geojson(tmp_path / "m.geojson", 10, 10, 60, 50, "Fold", **{key: form("Tissue")})
    assert read_mask(first, slide).classes == ("fold",)
    both = [qupath_feature({"type": "Polygon", "coordinates": [ring(*box)]}, **{key: form(name)})
            for name, box in (("Stroma", (10, 10, 80, 80)), ("air bubble", (40, 40, 60, 60)))]
    mask = read_mask(write_qupath(tmp_path / "m.geojson", both), slide, classes=["bubble"])
    assert box_of(mask) == (40, 40, 60, 60) and mask.classes == ("bubble",)


def test_cells_of_qupath_and_a_file_of_tissue_are_tissue_whatever_neutral_class_they_have(slide, tmp_path):
    for classification in (None, "Negative", "Region*"):
        cells = geojson(tmp_path / "m.geojson", 10, 10, 60, 50, classification, objectType="cell")
        with pytest.raises(MaskError, match="the class cell"):
            read_mask(cells, slide)
    assert read_mask(geojson(tmp_path / "m.geojson", 10, 10, 60, 50, "Fold", objectType="cell"), slide).area_px == 2000
    with pytest.raises(MaskError, match="consists of"):
        read_mask(geojson(tmp_path / "tissue.geojson", 10, 10, 60, 50, "Region*"), slide)


def test_a_name_that_means_nothing_is_no_class(slide, tmp_path):
    path = geojson(tmp_path / "m.json", 10, 10, 60, 50, None, name="Annotation 7", type="area", label=3)
    mask = read_mask(path, slide)
    assert mask.classes == ("other",) and mask.origin == "QuPath GeoJSON"


@pytest.mark.parametrize("geometry", [
    {"type": "Point", "coordinates": [5, 5]}, {"type": "LineString", "coordinates": [[5, 5], [9, 9]]}, None,
    {"type": "Polygon", "coordinates": [ring(5, 5, 5, 40)]}, {"type": "Polygon", "coordinates": [[[1, 2]]]}])
def test_what_has_no_area_counts_only_where_its_class_is_picked(slide, tmp_path, geometry):
    features = [qupath_feature(geometry, {"name": "Hair"}),
                qupath_feature({"type": "Polygon", "coordinates": [ring(20, 15, 26, 20)]}, {"name": "Fold"})]
    path = write_qupath(tmp_path / "m.geojson", features)
    assert box_of(read_mask(path, slide, classes=["fold"])) == (20, 15, 26, 20)
    assert box_of(read_selection(MaskSelection(path, classes=tuple(CLASSES)), slide, to_avoid=True)) == (20, 15, 26, 20)
    for classes in (None, ["other"], ["fold", "other"]):
        with pytest.raises(MaskError, match="entry 1"):
            read_mask(path, slide, classes=classes)


@pytest.mark.parametrize(("geometry", "area"), [
    ({"type": "Polygon", "coordinates": [ring(20, 15, 80, 65), ring(100, 90, 140, 120)]}, 3000),
    ({"type": "Polygon", "coordinates": [ring(20, 15, 80, 65), ring(80, 15, 90, 65)]}, 3000),
    ({"type": "Polygon", "coordinates": [ring(20, 15, 80, 65), ring(70, 15, 100, 65)]}, 2500),
    ({"type": "MultiPolygon", "coordinates": [[ring(20, 15, 80, 65), ring(100, 90, 140, 120)],
                                              [ring(160, 15, 170, 25)]]}, 3100),
    ({"type": "MultiPolygon", "coordinates": [[ring(20, 15, 80, 65), ring(160, 15, 170, 25)],
                                              [ring(160, 15, 170, 25)]]}, 3100)])
def test_a_hole_beside_its_shell_is_no_area(slide, tmp_path, geometry, area):
    assert read_mask(write_qupath(tmp_path / "m.json", [qupath_feature(geometry)]), slide).area_px == area


# Scales: um per pixel along x is not that along y


ANISOTROPIC = (0.5, 0.25)
PER_CM = tuple(1e4 / mpp for mpp in ANISOTROPIC)


def write_strips(path, unit="CENTIMETER", **options):
    per_unit = tuple(number * (2.54 if unit == "INCH" else 1) for number in PER_CM)
    tifffile.imwrite(path, tissue(700, 540), photometric="rgb", rowsperstrip=32, metadata=None, resolution=per_unit,
                     resolutionunit=unit, **options)
    return path


def write_anisotropic(path, size=(700, 540), **options):
    """One level, tiled; it lacks those below."""
    tifffile.imwrite(path, tissue(*size), photometric="rgb", tile=(128, 128), metadata=None, resolution=PER_CM,
                     resolutionunit="CENTIMETER", **options)
    return path


@pytest.mark.parametrize(("name", "make", "container"), [
    ("copied.tif", lambda path: write_anisotropic(path, (300, 200), **YCBCR), "copied"),
    ("built.tif", lambda path: write_anisotropic(path, **YCBCR), "pyramid"),
    ("odd.tif", lambda path: write_anisotropic(path, (1203, 607), byteorder=">", bigtiff=True, **RGB), "pyramid"),
    ("packbits.tif", lambda path: write_anisotropic(path, compression="packbits"), "re-encoded"),
    ("strips.tif", write_strips, "re-encoded"),
    ("inches.tif", lambda path: write_strips(path, "INCH", byteorder=">", bigtiff=True), "re-encoded")])
def test_the_scales_of_both_axes_are_kept_on_every_level(tmp_path, name, make, container):
    source = make(tmp_path / name)
    with open_slide(source) as slide:
        size, mpp = slide.size, slide.mpp_xy
        assert mpp == pytest.approx(ANISOTROPIC) and slide.mpp == pytest.approx(0.375)
    out = tmp_path / "out.tif"
    content = painted(source, masked(size, (20, 20, 40, 30), tmp_path / "m.png"), out)
    assert content["written"]["container"] == container and content["mpp"] == pytest.approx(0.375)
    with openslide.OpenSlide(out) as opened:
        stated = [float(opened.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
        assert stated == pytest.approx(ANISOTROPIC, rel=1e-4)
    with tifffile.TiffFile(out) as file:
        for page in file.pages:
            scale = np.divide(size, (page.imagewidth, page.imagelength))
            assert [1e4 / number for number in page.get_resolution("CENTIMETER")] == pytest.approx(
                scale * ANISOTROPIC, rel=1e-4)
    assert invoke("verify", source, out).exit_code == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
@pytest.mark.parametrize("quarter", [False, True])
def test_the_scales_of_a_plain_image_are_kept_and_turn_with_it(tmp_path, suffix, quarter):
    exif = Image.Exif()
    exif[274] = 6 if quarter else 1
    dpi = tuple(25400 / mpp for mpp in ANISOTROPIC)
    Image.fromarray(tissue(300, 200)).save(tmp_path / "in.png", dpi=dpi, exif=exif)
    size, truth = ((200, 300), ANISOTROPIC[::-1]) if quarter else ((300, 200), ANISOTROPIC)
    out = tmp_path / f"out{suffix}"
    painted(tmp_path / "in.png", masked(size, (20, 20, 40, 30), tmp_path / "m.png"), out)
    with open_slide(out) as slide:
        assert slide.size == size and slide.mpp_xy == pytest.approx(truth, rel=1e-4)


def test_one_scale_alone_holds_for_both_axes_and_each_must_be_plausible(tmp_path):
    for dpi, expected in (((50800, 0), None), ((25400 / 0.5, 25400 / 0.05), "0.5 x 0.05")):
        Image.fromarray(tissue(90, 80)).save(tmp_path / "in.jpg", dpi=tuple(map(int, dpi)))
        tifffile.imwrite(tmp_path / "in.tif", tissue(90, 80), photometric="rgb", metadata=None, resolutionunit="INCH",
                         resolution=dpi)
        with open_slide(tmp_path / "in.tif") as slide:
            assert (slide.mpp_xy == pytest.approx((0.5, 0.5))) if expected is None else expected in slide.mpp_doubt


@pytest.mark.parametrize("mpp", [0.0123, 0.05, 50])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_any_scale_that_is_given_can_be_written(tmp_path, mpp, suffix):
    Image.fromarray(tissue(90, 80)).save(tmp_path / "in.png")
    painted(tmp_path / "in.png", masked((90, 80), (20, 20, 40, 30), tmp_path / "m.png"), tmp_path / f"out{suffix}",
            mpp=mpp)


def test_a_mask_grows_by_as_many_um_along_both_axes(tmp_path):
    source = write_anisotropic(tmp_path / "s.tif", **YCBCR)
    with open_slide(source) as slide:
        mask = read_mask(masked((700, 540), (200, 200, 40, 30), tmp_path / "m.png"), slide, grow_um=5)
    assert box_of(mask) == (190, 180, 250, 250)


def test_a_converted_mask_has_the_scales_of_its_slide(tmp_path):
    source = write_anisotropic(tmp_path / "s.tif", **YCBCR)
    result = invoke("mask", "convert", masked((700, 540), (20, 20, 40, 30), tmp_path / "m.png"), tmp_path / "m.tif",
                    "--slide", source, "--downsample", 2)
    assert result.exit_code == 0, result.output
    with open_slide(tmp_path / "m.tif") as mask:
        assert mask.mpp_xy == pytest.approx((1, 0.5))
    assert "0.5 x 0.25" in invoke("info", source).output


# Samples of more than 8 bits


def write_deep(path, dtype, **options):
    pixels = (tissue(300, 200) // 2).astype(dtype)
    tifffile.imwrite(path, pixels, metadata=None, **{"photometric": "rgb", "tile": (128, 128), **options})
    return path


@pytest.mark.parametrize(("name", "dtype", "options"), [
    ("deep.tif", "uint16", {"compression": "adobe_deflate"}),
    ("big.tif", "uint16", {"bigtiff": True, "byteorder": ">"}),
    ("float.tif", "float32", {}), ("half.tif", "float16", {"compression": "lzw"}), ("signed.tif", "int8", {}),
    ("long.tif", "uint32", {}), ("deep.svs", "uint16", {"description": APERIO.format(w=300, h=200)}),
    ("strips.tif", "uint16", {"tile": None, "rowsperstrip": 16}), ("strips-signed.tif", "int8", {"tile": None})])
def test_tiffs_of_more_than_8_bits_are_refused_before_anything_is_painted(tmp_path, name, dtype, options):
    source = write_deep(tmp_path / name, dtype, **options)
    refused(source, masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png"), tmp_path, "8 bits (uint8)")
    assert "damaged" not in invoke("info", source).output


def test_other_images_of_more_than_8_bits_are_refused(tmp_path):
    deep = (tissue(64, 48) * np.uint16(257)).astype(np.uint16)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, level=0))
    (tmp_path / "b.j2k").write_bytes(imagecodecs.jpeg2k_encode(deep, level=0, codecformat="J2K"))
    (tmp_path / "c.ppm").write_bytes(b"P6 64 48 65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "d.png").write_bytes(imagecodecs.png_encode(deep))
    (tmp_path / "e.avif").write_bytes(imagecodecs.avif_encode(deep >> 6, bitspersample=10))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(SlideError, match="over 8 bits"):
            open_slide(path)
    (tmp_path / "f.jp2").write_bytes(imagecodecs.jpeg2k_encode(tissue(64, 48), level=0))
    (tmp_path / "g.ppm").write_bytes(b"P6 64 48 255\n" + tissue(64, 48).tobytes())
    (tmp_path / "h.avif").write_bytes(imagecodecs.avif_encode(tissue(64, 48), level=95))
    for name in ("f.jp2", "g.ppm", "h.avif"):
        with open_slide(tmp_path / name) as slide:
            moved = np.abs(slide.read(Box(0, 0, 64, 48)).astype(int) - tissue(64, 48))
            assert moved.mean() < (3 if name == "h.avif" else 0.01)


# Pages that are left out


def write_pages(path, pages, description=None, thumbnail=False, **options):
    """Pages of (width, height, SubFileType, stored in strips)."""
    with tifffile.TiffWriter(path, **options) as writer:
        for number, (width, height, kind, strips) in enumerate(pages):
            writer.write(tissue(width, height, number), photometric="rgb", metadata=None, subfiletype=kind,
                         description=None if number else description, resolution=(20000, 20000),
                         resolutionunit="CENTIMETER", rowsperstrip=16 if strips else None,
                         tile=None if strips else (128, 128), **RGB)
            if thumbnail and not number:
                writer.write(tissue(90, 80), photometric="rgb", metadata=None, rowsperstrip=16, **RGB)
    return path


L, S, TILED, STRIPS = (448, 384), (224, 192), False, True
PLANES = "2 pages of 448 x 384 px: only the first plane is kept"


@pytest.mark.parametrize(("name", "pages", "said"), [
    ("planes.tif", [(*L, 0, TILED), (*L, 0, TILED), (*S, 1, TILED)], PLANES),
    ("unreduced.tif", [(*L, 0, TILED), (*S, 0, TILED)], "1 page of 224 x 192 px left out"),
    ("strips.tif", [(*L, 0, STRIPS), (*L, 0, STRIPS), (*S, 1, STRIPS)], f"{PLANES}; 1 page of 224 x 192 px left out"),
    ("small-first.tif", [(*S, 0, STRIPS), (*L, 0, STRIPS)], "1 page of 448 x 384 px left out"),
    ("label.tif", [(1000, 700, 0, TILED), (60, 50, 0, STRIPS)], "1 page of 60 x 50 px left out"),
    ("planes.svs", [(*L, 0, TILED), (*S, 0, TILED), (*L, 0, TILED), (*S, 0, TILED)], PLANES)])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}])
def test_pages_that_are_left_out_are_named(tmp_path, name, pages, said, options, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    aperio = name.endswith(".svs")
    source = write_pages(tmp_path / name, pages, APERIO.format(w=448, h=384) if aperio else None, aperio, **options)
    with open_slide(source) as slide:
        mask = masked(slide.size, (20, 20, 40, 30), tmp_path / "m.png")
    result = invoke("restore", source, "--mask", mask, "-o", tmp_path / "out.tif")
    assert result.exit_code == 0, result.output
    reason = json.loads((tmp_path / "out.tif.json").read_text())["written"]["reason"]
    assert said in result.stderr and said in reason
    quiet = invoke("restore", source, "--mask", mask, "-o", tmp_path / "quiet.tif", "-q")
    assert quiet.exit_code == 0 and not quiet.stderr


def test_directories_within_others_are_named_unless_they_are_levels(tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    source = tmp_path / "nested.tif"
    with tifffile.TiffWriter(source) as writer:
        for number, size in enumerate([L, S, (600, 500), L]):
            writer.write(tissue(*size, number), photometric="rgb", metadata=None, subifds=0 if number else 3,
                         tile=(128, 128), **RGB)
    result = invoke("restore", source, "--mask", masked(L, (20, 20, 40, 30), tmp_path / "m.png"))
    assert result.exit_code == 0, result.output
    assert f"nested.tif: {PLANES}; 1 page of 600 x 500 px left out" in result.stderr


def test_label_and_macro_and_focal_planes_of_other_vendors_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    source = write_leica(tmp_path / "planes.scn", WHOLE, OFFSET, planes=2)
    result = invoke("restore", source, "--mask", masked(WHOLE, (520, 800, 40, 30), tmp_path / "m.png"))
    assert result.exit_code == 0, result.output
    assert "2 pages of 1000 x 1300 px: only the first plane is kept; macro left out" in result.stderr
    assert "left out" in invoke("damage", source, tmp_path / "d.tif", "--share", "0.02").stderr


def test_an_animation_is_said_to_lose_its_other_pictures(tmp_path):
    frames = [Image.fromarray(tissue(90, 80, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    content = painted(tmp_path / "a.png", masked((90, 80), (20, 20, 30, 30), tmp_path / "m.png"), tmp_path / "o.png")
    assert "3 pages of 90 x 80 px: only the first plane is kept" in content["written"]["reason"]


def test_nothing_is_said_where_nothing_is_left_out(aperio_slide, tmp_path):
    with open_slide(aperio_slide) as slide:
        size = slide.size
    content = painted(aperio_slide, masked(size, (20, 20, 40, 30), tmp_path / "m.png"), tmp_path / "out.svs")
    assert content["written"]["reason"] == "untouched segments are byte-identical"


@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}])
def test_a_slide_whose_first_page_is_not_its_largest_is_refused(tmp_path, options):
    source = write_pages(tmp_path / "reversed.tif", [(*S, 1, TILED), (*L, 0, TILED)], **options)
    refused(source, masked(S, (20, 20, 40, 30), tmp_path / "m.png"), tmp_path, "448 x 384 px behind a smaller first")
    ordered = write_pages(tmp_path / "reduced.tif", [(*S, 0, TILED), (*L, 1, TILED)], **options)
    with open_slide(ordered) as slide:                         # which OpenSlide puts into order
        assert slide.level_sizes == (L, S)


# Colour profiles


def profile(space):
    """The header of an ICC profile of a colour space."""
    return bytes(16) + space + b"XYZ " + bytes(12) + b"acsp" + bytes(88)


@pytest.mark.parametrize("space", [b"GRAY", b"CMYK", b"Lab ", b"4CLR"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_no_output_has_the_profile_of_other_colours_than_its_own(tmp_path, space, suffix):
    gray = Image.fromarray(tissue(300, 200)).convert("L")
    gray.save(tmp_path / "in.png", icc_profile=profile(space))
    painted(tmp_path / "in.png", masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png"), tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.mode == "RGB" and not image.info.get("icc_profile")


@pytest.mark.parametrize("make", [
    lambda path, icc: tifffile.imwrite(path, np.dstack([tissue(300, 200), tissue(300, 200)[..., :1]]), iccprofile=icc,
                                       photometric="separated", tile=(128, 128), compression="deflate", metadata=None),
    lambda path, icc: tifffile.imwrite(path, tissue(300, 200)[..., 0], photometric="minisblack", tile=(128, 128),
                                       iccprofile=icc, compression="lzw", metadata=None),
    lambda path, icc: Image.fromarray(tissue(300, 200)).convert("CMYK").save(path, icc_profile=icc),
    lambda path, icc: tifffile.imwrite(path, tissue(300, 200)[..., 0], photometric="minisblack", rowsperstrip=32,
                                       iccprofile=icc, metadata=None)])
def test_tiffs_that_become_rgb_lose_the_profile_of_what_they_were(tmp_path, make):
    for space in (b"GRAY", b"CMYK", b"RGB "):
        make(tmp_path / "in.tif", profile(space))
        content = painted(tmp_path / "in.tif", masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png"),
                          tmp_path / "out.tif", overwrite=True)
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            assert file.pages[0].samplesperpixel == 3 and content["written"]["container"] == "re-encoded"
            stored = file.pages[0].iccprofile
        assert stored == (profile(space) if space == b"RGB " else None)


def test_a_profile_of_rgb_is_kept_byte_for_byte(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(tissue(300, 200)).save(tmp_path / "in.png", icc_profile=icc)
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    for suffix in (".png", ".jpg", ".tiff"):
        painted(tmp_path / "in.png", mask, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as image:
            assert image.info["icc_profile"] == icc


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_a_profile_of_megabytes_is_kept_and_one_that_an_output_cannot_hold_is_told_before_any_work(suffix, tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    for number, length in enumerate((3 << 20, 17 << 20)):
        large = length.to_bytes(4, "big") + icc[4:] + np.random.default_rng(0).bytes(length - len(icc))
        source, out = tmp_path / f"in{number}.tif", tmp_path / f"out{number}{suffix}"
        tifffile.imwrite(source, tissue(300, 200), photometric="rgb", rowsperstrip=32, iccprofile=large, metadata=None)
        if number and suffix != ".tiff":
            result = invoke("restore", source, "--mask", mask, "-o", out, "--dry-run")
            assert result.exit_code == 1 and "holds no ICC profile of 17,825,792 bytes" in result.stderr
        else:
            painted(source, mask, out)
            with open_slide(out) as slide:
                assert slide.icc == large


def test_an_image_that_no_jpeg_holds_is_refused_before_any_work(tmp_path):
    Image.new("RGB", (66_000, 16), "white").save(tmp_path / "wide.png")
    mask = masked((66_000, 16), (20, 2, 40, 8), tmp_path / "m.png")
    result = invoke("restore", tmp_path / "wide.png", "--mask", mask, "-o", tmp_path / "out.jpg", "--dry-run")
    assert result.exit_code == 1 and "at most 65,500 px a side; choose .png" in result.stderr


@pytest.mark.parametrize("chunks", [
    {b"gAMA": struct.pack(">I", 100_000)}, {b"sRGB": b"\1"},
    {b"gAMA": struct.pack(">I", 45_455),
     b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)},
    {b"cICP": bytes([12, 13, 0, 1]), b"gAMA": struct.pack(">I", 45_455)},
])
def test_how_a_png_says_its_numbers_are_to_be_shown_is_kept_through_every_pass(chunks, tmp_path):
    info = PngImagePlugin.PngInfo()
    for name, content in chunks.items():
        info.add(name, content)
    Image.fromarray(tissue(300, 200)).save(tmp_path / "in.png", pnginfo=info)
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    painted(tmp_path / "in.png", mask, tmp_path / "out.png")
    painted(tmp_path / "out.png", mask, tmp_path / "twice.png")
    for name in ("out.png", "twice.png"):
        data = (tmp_path / name).read_bytes()
        assert [chunk for chunk in (b"gAMA", b"sRGB", b"cHRM", b"cICP") if chunk in data] == [
            chunk for chunk in (b"gAMA", b"sRGB", b"cHRM", b"cICP") if chunk in chunks]
        assert all(chunk + content in data[: data.index(b"IDAT")] for chunk, content in chunks.items())
        assert "left out" not in json.loads((tmp_path / f"{name}.json").read_text())["written"]["reason"]
    for suffix in (".jpg", ".tif"):
        reason = painted(tmp_path / "in.png", mask, tmp_path / f"out{suffix}")["written"]["reason"]
        told = reason.rpartition("; ")[2].removesuffix(" left out")
        assert set(told.split(", ")) == {chunk.decode() for chunk in chunks}


def test_what_else_an_image_tells_is_said_to_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    exif, pixels = Image.Exif(), Image.fromarray(tissue(300, 200))
    exif[0x010F], exif[0x011A] = "a scanner", 100.0
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    pixels.save(tmp_path / "told.jpg", exif=exif, xmp=b"<x/>")
    pixels.convert("L").save(tmp_path / "gray.png", icc_profile=profile(b"GRAY"))
    tifffile.imwrite(tmp_path / "tags.tif", np.asarray(pixels), photometric="rgb", rowsperstrip=32, metadata=None,
                     extratags=[(318, "f", 2, (0.3127, 0.329), True), (700, "B", 4, b"<x/>", True)])
    told, scanners = (tmp_path / "told.jpg").read_bytes(), b"\xff\xec\0\x0ascanners"
    (tmp_path / "segment.jpg").write_bytes(told[:2] + scanners + told[2:])
    info = PngImagePlugin.PngInfo()
    for value in ("one", "another"):
        info.add_text("Comment", value)
    info.add_text("Raw profile type iptc", "\n  iptc\n  1\n00")
    info.add(b"paRt", bytes(9))
    pixels.save(tmp_path / "chunks.png", pnginfo=info)
    deep = np.asarray(pixels)
    tifffile.imwrite(tmp_path / "ImageJ.tif", deep, imagej=True, metadata={"Info": "x"}, photometric="rgb",
                     datetime="2020:01:01 00:00:00", extratags=[(65420, "I", 1, 1, True)])
    tifffile.imwrite(tmp_path / "palette.tif", deep[..., 0], photometric="minisblack", description="stained",
                     rowsperstrip=32, metadata=None)
    tifffile.imwrite(tmp_path / "turned.tif", deep, photometric="rgb", tile=(128, 128), metadata=None,
                     compression="zstd", extratags=[(274, "H", 1, 6, True)])
    for name, said in (("told.jpg", "EXIF, XMP"), ("gray.png", "ICC profile of GRAY colours"),
                       ("tags.tif", "WhitePoint, XMP"), ("segment.jpg", "EXIF, XMP, APP12"),
                       ("chunks.png", "paRt, raw profiles, further texts"),
                       ("ImageJ.tif", "ImageDescription, Software, DateTime, IJMetadataByteCounts, IJMetadata, "
                                      "1 private tag"),
                       ("palette.tif", "ImageDescription, Software"), ("turned.tif", "Orientation")):
        source, out = tmp_path / name, tmp_path / f"{name}.tif"
        result = invoke("restore", source, "--mask", mask, "-o", out)
        assert result.exit_code == 0 and f"{name}: {said} left out" in result.stderr, result.output
        assert f"; {said} left out" in invoke("restore", source, "--mask", mask, "-o", out, "--dry-run",
                                             "--overwrite").output
        assert said in json.loads(out.with_name(f"{out.name}.json").read_text())["written"]["reason"]


def test_text_that_a_jpeg_does_not_hold_is_said_to_be_left_out_and_the_rest_is_there(tmp_path):
    """Whether of one comment, of several or of the keywords of a PNG, and whatever bytes the cut goes through."""
    pixels, info = Image.fromarray(tissue(300, 200)), PngImagePlugin.PngInfo()
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    info.add_text("Author", "a" + "\u00e4" * 29_000)
    info.add_text("Description", "the end")
    pixels.save(tmp_path / "held.png", pnginfo=info)
    info.add_text("Software", "a" + "\u00e4" * 1_000)
    pixels.save(tmp_path / "long.png", pnginfo=info)
    pixels.save(tmp_path / "held.jpg", comment=b"first")
    data, second = (tmp_path / "held.jpg").read_bytes(), b"\xff\xfe\xff\xf0" + 65_518 * b"b"
    (tmp_path / "long.jpg").write_bytes(data[:2] + second + data[2:])
    for name, end in (("held.png", "the end"), ("long.png", "\u00e4"), ("held.jpg", "first"), ("long.jpg", "first")):
        content = painted(tmp_path / name, mask, tmp_path / f"out of {name}.jpg")
        told = "text but for its last 60,000 bytes left out" in content["written"]["reason"]
        with Image.open(tmp_path / f"out of {name}.jpg") as image:
            kept, _, note = image.info["comment"].decode().rpartition("\nartifusion: restored 1 region")
        assert told == ("long" in name) == (len(kept.encode()) > 59_990) and note and kept.endswith(end)
        for suffix in (".png", ".tif"):
            content = painted(tmp_path / name, mask, tmp_path / f"out of {name}{suffix}")
            assert "left out" not in content["written"]["reason"]


def test_what_a_vendor_tells_is_said_to_be_left_out_of_other_containers(tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    source = write_pages(tmp_path / "told.svs", [(*L, 0, TILED)], APERIO.format(w=448, h=384), True)
    mask = masked(L, (20, 20, 40, 30), tmp_path / "m.png")
    result = invoke("restore", source, "--mask", mask, "-o", tmp_path / "out.tif", "--dry-run")
    assert result.exit_code == 0 and "ImageDescription, Software left out" in result.output
    assert "left out" not in invoke("restore", source, "--mask", mask, "-o", tmp_path / "out.svs", "--dry-run").output


# Texts and names


def test_what_an_image_says_in_words_is_kept(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "my slide")
    info.add_itxt("Comment", "Pr\u00e4parat \u5207\u7247", lang="de")
    info.add_text("Description", "a section of kidney", zip=True)
    Image.fromarray(tissue(300, 200)).save(tmp_path / "in.png", pnginfo=info)
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    painted(tmp_path / "in.png", mask, tmp_path / "out.png")
    painted(tmp_path / "out.png", mask, tmp_path / "twice.png")
    for name, notes in (("out.png", 1), ("twice.png", 2)):
        with Image.open(tmp_path / name) as image:
            assert image.text["Title"] == "my slide" and image.text["Comment"] == "Pr\u00e4parat \u5207\u7247"
            described = image.text["Description"]
            assert described.startswith("a section of kidney\nartifusion: ")
            assert described.count("artifusion: ") == notes
    painted(tmp_path / "in.png", mask, tmp_path / "out.jpg")
    painted(tmp_path / "out.jpg", mask, tmp_path / "back.jpg")
    painted(tmp_path / "out.jpg", mask, tmp_path / "back.png")
    painted(tmp_path / "in.png", mask, tmp_path / "out.tiff")
    with openslide.OpenSlide(tmp_path / "out.tiff") as opened:
        described = opened.properties["tiff.ImageDescription"]
        assert described.startswith("Title: my slide\n") and "Pr\u00e4parat" in described
        assert "\nartifusion: restored" in described
    with Image.open(tmp_path / "back.jpg") as image:
        comment = image.info["comment"].decode()
        assert "Title: my slide\n" in comment and "Pr\u00e4parat" in comment and comment.count("artifusion: ") == 2
    with Image.open(tmp_path / "back.png") as image:
        assert "Title: my slide" in image.text["Comment"] and image.text["Description"].startswith("artifusion: ")


@pytest.mark.parametrize("form", [
    {"metadata": {}}, {"metadata": {"Objective": 20}}, {"description": "shape=(768, 896, 3)", "metadata": None},
    {"description": '{"Objective": 20}', "metadata": None}, {"ome": True}, {"imagej": True, "metadata": {"Info": "x"}}])
@pytest.mark.parametrize(("container", "cut"), [
    ("copied", {"tile": (128, 128)}), ("pyramid", {"tile": (128, 128)}), ("re-encoded", {"rowsperstrip": 64})])
def test_a_description_of_any_form_is_written_in_any_container_and_still_read(container, cut, form, tmp_path):
    """Also that of every file of tifffile, which tells its shape."""
    kind = {name: value for name, value in form.items() if name in ("ome", "imagej")}
    options = {name: value for name, value in form.items() if name not in kind}
    width, height = L if container == "copied" else (896, 768)
    with tifffile.TiffWriter(tmp_path / "in.tif", **kind) as writer:
        writer.write(tissue(width, height), photometric="rgb", **({} if "imagej" in kind else cut), **options)
    mask = masked((width, height), (20, 20, 40, 30), tmp_path / "m.png")
    content = painted(tmp_path / "in.tif", mask, tmp_path / "out.tif")
    assert content["written"]["container"] == ("re-encoded" if "imagej" in kind else container)
    with tifffile.TiffFile(tmp_path / "in.tif") as source, tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert tifffile.imread(tmp_path / "out.tif").shape == source.series[0].shape == (height, width, 3)
        assert file.is_ome == source.is_ome and not file.is_imagej
        assert any("artifusion: " in text or "artifusion" in json.loads(text) for text in (
            file.pages[0].description, file.pages[0].software) if text.startswith("{") or "artifusion" in text)


@pytest.mark.parametrize("name", ["in.jpg", "in.gif", "in.jp2"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_comment_of_any_encoding_and_format_is_kept(name, encoding, tmp_path):
    Image.fromarray(tissue(300, 200)).save(tmp_path / name, comment="Pr\u00e4parat".encode(encoding))
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    painted(tmp_path / name, mask, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.text["Comment"] == "Pr\u00e4parat"


def test_text_behind_the_pixels_is_kept_and_long_text_does_not_break_a_jpeg(tmp_path):
    Image.fromarray(tissue(300, 200)).save(tmp_path / "in.png")
    data = (tmp_path / "in.png").read_bytes()
    chunk = b"tEXt" + b"Comment\0" + b"long " * 20_000
    late = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "in.png").write_bytes(data[:-12] + late + data[-12:])
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    painted(tmp_path / "in.png", mask, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.text["Comment"] == "long " * 20_000
    painted(tmp_path / "in.png", mask, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert b"artifusion: " in image.info["comment"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "utf-8"])
def test_a_name_that_the_terminal_cannot_show_is_written_escaped(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    source = tmp_path / "\u5207\u7247.png"
    Image.fromarray(tissue(300, 200)).save(source)
    mask = masked((300, 200), (20, 20, 40, 30), tmp_path / "m.png")
    for command in (["restore", source, "--mask", mask, "-q"], ["info", source],
                    ["damage", source, tmp_path / "\u5207.png", "--share", "0.05", "-q"],
                    ["mask", "convert", mask, tmp_path / "\u5207.tif", "--slide", source],
                    ["restore", source, "--mask", mask, "--dry-run", "-o", tmp_path / "\u7247.png"],
                    ["verify", source, tmp_path / "\u5207\u7247.restored.png"]):
        result = invoke(*command, charset=encoding)
        assert result.exit_code == 0, (command, result.output, result.exception)
    shown = invoke("info", source, charset=encoding).stdout_bytes.decode(encoding)
    assert ("\u5207\u7247" if encoding == "utf-8" else "\\u5207\\u7247") in shown


def test_bytes_that_are_no_text_in_a_name_are_written_escaped(tmp_path):
    source = tmp_path / os.fsdecode(b"\xff\xfe.png")
    Image.fromarray(tissue(90, 80)).save(source)
    result = subprocess.run([sys.executable, "-m", "artifusion", "info", source], capture_output=True)
    assert result.returncode == 0 and b"\\udcff\\udcfe.png" in result.stdout, result.stderr


@pytest.mark.parametrize("letter", ["s", "\u5207"])
def test_a_name_too_long_for_the_output_is_refused_before_any_work(tmp_path, letter, monkeypatch):
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: Flat())
    source = tmp_path / f"{letter * (236 // len(letter.encode()))}.png"
    Image.fromarray(tissue(90, 80)).save(source)
    mask = masked((90, 80), (20, 20, 40, 30), tmp_path / "m.png")
    refused(source, mask, tmp_path, "too long")
    short = invoke("restore", source, "--mask", mask, "-o", tmp_path / "short.png", "-q")
    assert short.exit_code == 0, short.output
    with pytest.raises(ArtifusionError, match="too long"):
        painted(source, mask, None)
    assert invoke("damage", source, tmp_path / f"{'x' * 240}.png").exit_code == 1


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("name", ["pipe.png", "pipe.geojson", "pipe.tif", "pipe"])
def test_a_mask_or_slide_from_a_pipe_is_refused_at_once(tmp_path, png_image, name, fed):
    os.mkfifo(tmp_path / name)
    end = os.open(tmp_path / name, os.O_RDWR) if fed else None            # open at both ends: nobody waits
    if end:
        os.write(end, b"some bytes")
    with open_slide(png_image) as slide, pytest.raises(MaskError, match="pipe"):
        read_mask(tmp_path / name, slide)
    with pytest.raises(SlideError, match="pipe"):
        open_slide(tmp_path / name)
    if end:
        os.close(end)


def test_what_macos_leaves_beside_files_is_passed_over(tmp_path, png_image, slide):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("x.png", "._x.svs", "._x.png", "._.tif"):
        (folder / name).write_bytes(png_image.read_bytes() if name == "x.png" else b"\0\5\26\7" + bytes(90))
    assert [path.name for path in find_images([folder])] == ["x.png"]
    result = invoke("tiles", "--data", folder, "-o", tmp_path / "tiles.tar", "-q")
    assert result.exit_code == 0, result.output
    assert list(find_images([folder / "._x.png"]))                          # named, it is taken for what it says
    histoqc = tmp_path / slide.path.name
    histoqc.mkdir()
    masked(slide.size, (20, 20, 40, 30), histoqc / f"{slide.path.name}_flat.png")
    (histoqc / f"._{slide.path.name}_flat.png").write_bytes(b"\0\5\26\7")
    assert read_mask(histoqc, slide).classes == ("bubble",)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("m.geojson", geojson(tmp_path / "m.geojson", 20, 20, 60, 50).read_text())
        archive.writestr("._m.geojson", b"\0\5\26\7")
    assert read_mask(tmp_path / "m.zip", slide).classes == ("fold",)


# The inputs themselves


@pytest.mark.skipif(not FAULTS.is_dir(), reason="../shared is absent")
@pytest.mark.parametrize(("mask", "slide", "options", "box", "at"), [
    ("b-bounds.scn.geojson", "b-bounds.scn", [], (520, 800, 600, 860), 1),
    ("n-points.geojson", "n-plain.tif", ["--classes", "fold"], (200, 150, 260, 200), 1),
    ("n-hole.geojson", "n-plain.tif", ["--binary"], (200, 150, 260, 200), 255),
    ("a-bounds.geojson", "a-bounds.scn", [], (600, 850, 660, 900), 1)])
def test_the_shared_masks_convert_to_the_right_place(tmp_path, mask, slide, options, box, at):
    result = invoke("mask", "convert", FAULTS / mask, tmp_path / "out.png", "--slide", FAULTS / slide, "--downsample",
                    1, *options)
    assert result.exit_code == 0, result.output
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box and drawn.max() == at
    assert (drawn > 0).sum() == (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.skipif(not FAULTS.is_dir(), reason="../shared is absent")
@pytest.mark.parametrize(("mask", "slide", "said"), [
    ("g-tissue.tif_mask_use.geojson", "g-tissue.tif", "usable"), ("g-type.geojson", "g-tissue.tif", "Tumour"),
    ("n-points.geojson", "n-plain.tif", "the class Nucleus"), ("i-mask.png", "i-deep.tif", "bit"),
    ("mask.png", "m-reversed.tif", "page")])
def test_the_shared_inputs_that_cannot_be_right_are_refused(tmp_path, mask, slide, said):
    result = invoke("mask", "convert", FAULTS / mask, tmp_path / "out.png", "--slide", FAULTS / slide)
    assert result.exit_code == 1 and said in result.stderr and not list(tmp_path.iterdir())
