"""What other tools write is read as they mean it, and refused where it means no artifact or could mean two things."""

from __future__ import annotations

import json
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import shapely
import tifffile
from made_masks import (
    qupath_feature,
    rectangle,
    ring,
    write_grandqc,
    write_histoqc,
    write_qupath,
    write_trident,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artifusion.errors import MaskError
from artifusion.geometry import Box, Size
from artifusion.mask.classes import CLASSES, is_tissue
from artifusion.mask.rasters import read_raster
from artifusion.mask.reading import fingerprint, read_mask
from artifusion.mask.selection import MaskSelection
from artifusion.mask.writer import write_class_png
from artifusion.slide.reader import open_slide

SMALL = (94, 81)                                          # of a slide of 300 x 260 px: 3.19 and 3.21 px per pixel


@pytest.fixture
def slide(png_image):
    with open_slide(png_image) as opened:
        yield opened


def classes_at_level0(mask):
    """uint8 (H, W): the class id of every level-0 pixel."""
    ids = np.zeros((mask.l0_size.height, mask.l0_size.width), np.uint8)
    for polygon, name in zip(mask.polygons, mask.classes, strict=True):
        ids[type(mask)((polygon,), mask.l0_size).read(Box(0, 0, *mask.l0_size))] = CLASSES[name]
    return ids


def enlarged(raster, slide):
    """A raster of the whole slide at level 0, by its size per axis."""
    height, width = raster.shape
    rows = [int(Fraction(2 * y + 1, 2) * height / slide.size.height) for y in range(slide.size.height)]
    columns = [int(Fraction(2 * x + 1, 2) * width / slide.size.width) for x in range(slide.size.width)]
    return raster[np.ix_(rows, columns)]


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


MARKS = {"flat": rectangle(SMALL, 5, 5, 15, 12), "pen_markings": rectangle(SMALL, 12, 10, 30, 20),
         "blurry": rectangle(SMALL, 40, 40, 60, 55), "dark": rectangle(SMALL, 70, 3, 75, 9),
         "coverslip_edge": rectangle(SMALL, 0, 75, 94, 81)}


@pytest.mark.parametrize("named", ["slide", "run"])
def test_a_histoqc_folder_is_the_union_of_its_artifacts_and_none_of_its_traps(tmp_path, slide, named):
    folder = write_histoqc(tmp_path / "run", slide.path.name, SMALL, MARKS)
    mask = read_mask(folder if named == "slide" else tmp_path / "run", slide)
    expected = np.zeros(SMALL[::-1], np.uint8)
    for member, name in {"coverslip_edge": "other", "dark": "dark", "blurry": "blur", "pen_markings": "pen",
                         "flat": "bubble"}.items():                   # the first of the vocabulary last: it stays
        expected[MARKS[member]] = CLASSES[name]
    assert np.array_equal(classes_at_level0(mask), enlarged(expected, slide))
    assert mask.summary == ("HistoQC flat + pen_markings + blurry + dark + coverslip_edge: 1 bubble, 1 pen mark, "
                            f"1 blurred area, 1 dark spot, 1 other area, {mask.area_px / 1e6:.2f} Mpx")


def test_a_single_member_of_histoqc_has_its_class_and_the_traps_are_refused(tmp_path, slide):
    folder = write_histoqc(tmp_path, slide.path.name, SMALL, MARKS)
    mask = read_mask(folder / f"{slide.path.name}_blurry.png", slide)
    assert set(mask.classes) == {"blur"} and np.array_equal(classes_at_level0(mask) > 0,
                                                            enlarged(MARKS["blurry"], slide))
    for member in ("mask_use", "small_fill", "bright", "fatlike", "spur", "areathresh", "small_remove"):
        with pytest.raises(MaskError, match="cannot tell what to restore"):
            read_mask(folder / f"{slide.path.name}_{member}.png", slide)
    with pytest.raises(MaskError, match="not named as HistoQC names"):
        read_mask(save(tmp_path / "flat.png", MARKS["flat"]), slide, form="histoqc")
    with pytest.raises(MaskError, match="background and artifacts alike"):
        read_mask(folder / f"{slide.path.name}_mask_use.png", slide, form="histoqc")


def test_a_histoqc_run_that_failed_on_the_slide_is_told(tmp_path, slide):
    folder = write_histoqc(tmp_path, "other.svs", SMALL, MARKS)
    with pytest.raises(MaskError, match=r"no folder for image.png"):
        read_mask(tmp_path, slide)
    with pytest.raises(MaskError, match=r"named after other.svs.*--mask-format histoqc"):
        read_mask(folder, slide)
    assert read_mask(folder, slide, form="histoqc").classes
    for path in folder.iterdir():
        if any(member in path.name for member in MARKS):
            path.unlink()
    with pytest.raises(MaskError, match="none of HistoQC's masks of artifacts"):
        read_mask(folder, slide, form="histoqc")


def test_histoqc_that_found_nothing_selects_nothing(tmp_path, slide):
    folder = write_histoqc(tmp_path, slide.path.name, SMALL, {})
    for path in (folder, folder / f"{slide.path.name}_flat.png"):
        with pytest.raises(MaskError, match=r"selects nothing, this HistoQC flat.* holds no artifact"):
            read_mask(path, slide)


def test_the_fingerprint_of_a_folder_follows_the_files_that_are_read(tmp_path, slide):
    folder = write_histoqc(tmp_path, slide.path.name, SMALL, MARKS)
    before = fingerprint(MaskSelection(folder), slide)
    (folder / f"{slide.path.name}_bright.png").unlink()
    assert fingerprint(MaskSelection(folder), slide) == before
    save(folder / f"{slide.path.name}_dark.png", np.zeros(SMALL[::-1]))
    assert fingerprint(MaskSelection(folder), slide) != before


def grandqc_ids(width=60, height=52):
    ids = np.full((height, width), 7)
    ids[5:40, 5:50] = 1
    ids[8:12, 8:20], ids[8:12, 30:40], ids[20:30, 10:14], ids[20, 20:30], ids[33:36, 6:40] = 2, 3, 4, 5, 6
    ids[30:31, 40:41] = 2
    ids[:, -2:] = ids[-1:] = 0                             # the margin
    return ids


def test_grandqc_class_ids_are_mapped_by_size_per_axis(tmp_path, slide):
    path = write_grandqc(tmp_path, slide.path.name, grandqc_ids(), 5.0)
    mask = read_mask(path, slide)
    ours = np.array([0, 0, CLASSES["fold"], CLASSES["dark"], CLASSES["pen"], CLASSES["bubble"], CLASSES["blur"], 0])
    assert np.array_equal(classes_at_level0(mask), np.kron(ours[grandqc_ids()], np.ones((5, 5), int)))
    assert mask.summary == ("GrandQC class mask: 2 folds, 1 bubble, 1 pen mark, 1 blurred area, 1 dark spot, 6,025 px")
    other = np.pad(grandqc_ids(), ((0, 0), (0, 1)))        # one column more than the scale asks for
    Image.fromarray(other.astype(np.uint8)).save(path)
    assert np.array_equal(classes_at_level0(read_mask(path, slide)), enlarged(ours[other], slide))


def test_the_geojson_of_grandqc_selects_what_its_png_does(tmp_path, slide):
    path = write_grandqc(tmp_path, slide.path.name, grandqc_ids(), 5.0)
    drawn = read_mask(tmp_path / "geojson_qc" / "image.png.geojson", slide)
    assert np.array_equal(classes_at_level0(drawn), classes_at_level0(read_mask(path, slide)))
    assert drawn.summary.startswith("GrandQC GeoJSON: 2 folds, 1 bubble")


def test_grandqc_tissue_masks_and_masks_without_artifacts_are_refused(tmp_path, slide):
    clean = np.where(grandqc_ids() == 7, 7, 1)
    path = write_grandqc(tmp_path, slide.path.name, clean, 5.0)
    with pytest.raises(MaskError, match="selects nothing, this GrandQC class mask holds no artifact"):
        read_mask(path, slide)
    with pytest.raises(MaskError, match=r"tissue mask.*mask_qc"):
        read_mask(tmp_path / "tis_det_mask" / "image.png_MASK.png", slide)
    with pytest.raises(MaskError, match=r"named after b.svs.*--mask-format grandqc"):
        read_mask(save(tmp_path / "b.svs_mask.png", grandqc_ids()), slide)
    assert "fold" in read_mask(tmp_path / "b.svs_mask.png", slide, form="grandqc").classes
    with pytest.raises(MaskError, match="holds 9, which are none of GrandQC's"):
        read_mask(save(tmp_path / "c.png", np.full((52, 60), 9)), slide, form="grandqc")


def box_of(*corners):
    return {"type": "Polygon", "coordinates": [ring(*corners)]}


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".geojson.gz", ".zip"])
def test_every_shape_and_class_that_qupath_writes_is_read(tmp_path, slide, suffix):
    holed = {"type": "Polygon", "coordinates": [ring(10, 10, 60, 60), ring(20, 20, 30, 30)]}
    several = {"type": "MultiPolygon", "coordinates": [[ring(100, 10, 110, 20)], [ring(120, 10, 130, 20)]]}
    ellipse = shapely.geometry.mapping(shapely.Point(200, 100).buffer(20)) | {"isEllipse": True}
    path = write_qupath(tmp_path / f"m{suffix}", [
        qupath_feature(holed, {"name": "Artifact: Fold", "color": [200, 0, 0]}, name="one", measurements={"Area": 1.0}),
        qupath_feature(several, {"names": ["Artifact", "Air bubbles"], "color": [0, 0, 200]}),
        qupath_feature(ellipse, {"name": "PEN", "colorRGB": -377282}),
        qupath_feature(box_of(5, 200, 25, 220), "Out of focus"),
        qupath_feature(box_of(50, 200, 70, 220), {"name": "Tear", "color": [9, 9, 9]}),
        qupath_feature(box_of(100, 200, 120, 220)),
    ])
    mask = read_mask(path, slide)
    expected = np.zeros((260, 300), np.uint8)
    expected[10:60, 10:60] = CLASSES["fold"]
    expected[20:30, 20:30] = 0
    expected[10:20, 100:110] = expected[10:20, 120:130] = CLASSES["bubble"]
    rows, columns = np.mgrid[:260, :300] + 0.5
    disk = shapely.contains_xy(shapely.geometry.shape(ellipse), columns, rows)
    expected[disk] = CLASSES["pen"]
    expected[200:220, 5:25] = CLASSES["blur"]
    expected[200:220, 50:70] = expected[200:220, 100:120] = CLASSES["other"]
    assert np.array_equal(classes_at_level0(mask), expected)
    assert mask.summary.startswith("QuPath GeoJSON (Tear as other): 1 fold, 2 bubbles, 1 pen mark, 1 blurred area, 2 ")


def test_tissue_is_no_artifact(tmp_path, slide):
    with pytest.raises(MaskError, match="TRIDENT's contours, which outline the tissue"):
        read_mask(write_trident(tmp_path / "image.geojson"), slide)
    path = write_qupath(tmp_path / "m.geojson", [qupath_feature(box_of(0, 0, 90, 90), {"name": "Tissue"}),
                                                 qupath_feature(box_of(100, 10, 110, 20), {"name": "Fold"})])
    with pytest.raises(MaskError, match=r"the class Tissue, which is no artifact.*--classes"):
        read_mask(path, slide)
    assert read_mask(path, slide, classes=["fold"]).area_px == 100


def test_what_is_not_wanted_takes_no_ground_from_what_is(tmp_path, slide):
    path = write_qupath(tmp_path / "m.geojson", [qupath_feature(box_of(0, 0, 200, 200), {"name": "Tissue: Region 1"}),
                                                 qupath_feature(box_of(50, 50, 80, 80), {"name": "Hair"}),
                                                 qupath_feature(box_of(60, 60, 70, 70), {"name": "Fold"})])
    assert read_mask(path, slide, classes=["fold"]).area_px == 100
    assert read_mask(path, slide, classes=["fold", "other"]).area_px == 900, "tissue is not among the others"
    folder = write_histoqc(tmp_path, slide.path.name, SMALL, MARKS)
    mask = read_mask(folder, slide, classes=["pen"])
    assert np.array_equal(classes_at_level0(mask) > 0, enlarged(MARKS["pen_markings"], slide))
    assert mask.origin == "HistoQC pen_markings"


@pytest.mark.parametrize(("name", "tissue"), [
    ("Tissue", True), ("Normal Tissue", True), ("Tissue 1", True), ("Tumor: Positive", True), ("Immune cells", True),
    ("Background", True), ("Stroma", True), ("Necrosis", True), ("Glands", True), ("Tissue fold", False),
    ("Tissue tear", False), ("Artifact: Tissue", False), ("Region*", False), ("Ignore*", False), ("", False),
    ("necrosis_or_debris", True), ("Debris", False), ("Adipose tissue", True), ("Benign", True), ("In focus", True),
    ("Out of focus", False), ("no fold", True), ("Fold no. 3", False), ("Non-tissue", True), ("artifact-free", True),
    ("Gewebe 1", True), ("Gewebefalte", False), ("Tumeur", True), ("Vävnad", True), ("组织", True), ("腫瘍", True),
    ("опухоль", True), ("배경", True), ("折叠", False), ("Hülle", False),
])
def test_what_a_slide_consists_of_is_told_from_artifacts(name, tissue):
    assert is_tissue(name) == tissue


def test_an_archive_of_several_exports_is_refused(tmp_path, slide):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in ("a.geojson", "b.geojson"):
            archive.writestr(name, json.dumps(box_of(1, 1, 9, 9)))
    with pytest.raises(MaskError, match="holds 2 GeoJSON files; unpack it"):
        read_mask(tmp_path / "m.zip", slide)
    for name, data in (("cut.geojson.gz", b"\x1f\x8b\x08\0\0"), ("cut.zip", b"PK\3\4\0\0")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MaskError, match="no JSON that can be read"):
            read_mask(tmp_path / name, slide)


def blob(value):
    return value * rectangle((30, 26), 5, 5, 12, 15).astype(np.uint8)


@pytest.mark.parametrize(("name", "values"), [
    ("a.png", blob(1)), ("scan7.png", blob(1)), ("a.png", blob(7)), ("a.png", 7 - blob(5)),
    ("label.tif", blob(3) + rectangle((30, 26), 20, 20, 22, 22)),
])
def test_numbers_that_could_be_two_things_are_refused_with_the_flag_that_settles_it(tmp_path, slide, name, values):
    path = save(tmp_path / name, values)
    with pytest.raises(MaskError, match=r"can mean two things.*--mask-format binary, classes or grandqc"):
        read_mask(path, slide)
    for form, selected in (("binary", values > 0), ("classes", values > 0), ("grandqc", (values > 1) & (values < 7))):
        if not selected.any():
            with pytest.raises(MaskError, match="selects nothing"):
                read_mask(path, slide, form=form)
        elif not selected.all():
            mask = read_mask(path, slide, form=form)
            assert np.array_equal(classes_at_level0(mask) > 0, enlarged(selected, slide))


@pytest.mark.parametrize(("name", "values"), [
    ("mask.png", blob(1)), ("fold.png", blob(1)), ("my-artifacts.tif", blob(1)), ("pen_marks.png", blob(7)),
    ("a.png", blob(4)), ("a.png", blob(12)), ("a.png", blob(255)), ("x_mask.png", blob(255)), ("x_mask.png", blob(4)),
])
def test_a_name_or_the_numbers_themselves_settle_it(tmp_path, slide, name, values):
    mask = read_mask(save(tmp_path / name, values), slide)
    assert np.array_equal(classes_at_level0(mask) > 0, enlarged(values > 0, slide))


@pytest.mark.parametrize("name", ["image_mask.png", "image.png_mask.png"])
def test_label_1_is_not_dropped_as_the_tissue_of_grandqc(tmp_path, slide, name):
    values = blob(1) + 2 * rectangle((30, 26), 20, 20, 22, 22).astype(np.uint8)
    with pytest.raises(MaskError, match="can mean two things"):
        read_mask(save(tmp_path / name, values), slide)


def test_a_plain_mask_of_0_and_1_is_read_by_its_name_and_one_named_as_grandqc_names_its_own_is_not(tmp_path, slide):
    assert read_mask(save(tmp_path / "image_mask.png", blob(1)), slide).area_px == 7000
    with pytest.raises(MaskError, match="can mean two things"):
        read_mask(save(tmp_path / "image.png_mask.png", blob(1)), slide)


def test_a_mask_that_is_named_after_tissue_is_refused(tmp_path, slide):
    for name in ("tissue.png", "image_tissue_mask.png", "Background.png", "tumor_segmentation.tif"):
        path = save(tmp_path / name, blob(255))
        with pytest.raises(MaskError, match=r"would repaint it.*--mask-format binary"):
            read_mask(path, slide)
        assert read_mask(path, slide, form="binary").area_px == 7000
    assert read_mask(save(tmp_path / "tissue_fold.png", blob(255)), slide).area_px == 7000


def test_numbers_of_classes_beside_255_are_not_dropped_in_silence(tmp_path, slide):
    values = np.kron(blob(1) + 255 * rectangle((30, 26), 20, 20, 22, 22), np.ones((10, 10), np.uint8))
    with pytest.raises(MaskError, match=r"neither black nor white \(brightness 1\)"):
        read_mask(save(tmp_path / "m.png", values), slide)


def test_a_file_of_several_masks_is_refused_and_a_pyramid_is_not(tmp_path, slide):
    one = Image.fromarray(blob(255))
    one.save(tmp_path / "m.tif", save_all=True, append_images=[one.resize((15, 13))])
    assert read_mask(tmp_path / "m.tif", slide).area_px == 7000
    one.save(tmp_path / "several.tif", save_all=True, append_images=[one])
    with pytest.raises(MaskError, match="several images of one size"):
        read_mask(tmp_path / "several.tif", slide)


def test_a_label_image_is_said_to_be_one(tmp_path, slide):
    values = blob(4) + 9 * rectangle((30, 26), 20, 20, 22, 22)
    assert read_mask(save(tmp_path / "a.png", values), slide).summary == "label image: 2 other areas, 7,400 px"
    assert read_mask(save(tmp_path / "b.png", blob(4)), slide).summary == "black-and-white mask: 1 other area, 7,000 px"


def test_an_outline_of_grandqc_grows_by_half_a_mask_pixel_even_at_its_tips(tmp_path, slide):
    tip = [[50.0, 50.0], [150.0, 55.0], [50.0, 60.0], [50.0, 50.0]]
    content = {"type": "FeatureCollection", "metadata": {"class_mapping": {}, "scale_factor": 10}, "features": [
        {"type": "Feature", "properties": {"class_id": 2, "classification": "Fold"},
         "geometry": {"type": "Polygon", "coordinates": [tip]}}]}
    (tmp_path / "m.geojson").write_text(json.dumps(content))
    left, top, right, bottom = read_mask(tmp_path / "m.geojson", slide).polygons[0].bounds
    assert (left, top, bottom) == pytest.approx((50, 50, 70), abs=2.5) and 160 <= right <= 165


def test_a_class_png_is_read_by_the_vocabulary_that_it_carries(tmp_path, slide):
    ids = np.zeros((26, 30), np.uint8)
    ids[3:5, 3:5], ids[10:12, 10:12] = CLASSES["fold"], CLASSES["dust"]
    write_class_png(tmp_path / "x_mask.png", ids)
    assert np.array_equal(classes_at_level0(read_mask(tmp_path / "x_mask.png", slide)), enlarged(ids, slide))
    text = PngInfo()
    text.add_text("artifusion.classes", json.dumps({"Air bubble": 1, "Tumor": 6}))
    mask = read_mask(save(tmp_path / "a.png", ids, pnginfo=text), slide)
    assert mask.classes == ("bubble", "other") and mask.summary.startswith("class mask: 1 bubble, 1 other area")
    text = PngInfo()
    text.add_text("artifusion.classes", json.dumps({"fold": 1}))
    with pytest.raises(MaskError, match=r"holds 6, which are none of our class ids \(0, 1\)"):
        read_mask(save(tmp_path / "b.png", ids, pnginfo=text), slide)


def test_areas_of_gray_are_not_dropped_in_silence(tmp_path, slide):
    values = np.zeros((260, 300), np.uint8)
    values[100:120, 100:120], values[30:50, 40:60] = 100, 255
    with pytest.raises(MaskError, match=r"neither black nor white \(brightness 100\)"):
        read_mask(save(tmp_path / "m.png", values), slide)
    image = Image.fromarray((values > 0).astype(np.uint8) * 3 + (values > 200))
    image.putpalette([0, 0, 0] * 3 + [90, 0, 0, 0, 255, 0])
    image.save(tmp_path / "palette.png")
    with pytest.raises(MaskError, match="--mask-format classes if its palette numbers"):
        read_mask(tmp_path / "palette.png", slide)
    assert set(read_mask(tmp_path / "palette.png", slide, form="classes").classes) == {"pen", "blur"}


@pytest.mark.parametrize("numbers", [np.float32, np.float64, np.int32, np.uint16])
def test_whole_numbers_mean_the_same_whatever_they_are_stored_as(tmp_path, slide, numbers):
    values = np.zeros((260, 300), numbers)
    for low, high, told in ((1, 255, r"neither black nor white \(brightness 1\)"), (1, 2, "can mean two things"),
                            (300, 40_000, r"neither black nor white \(brightness 300, 40000\)")):
        values[100:120, 100:120], values[30:50, 40:60] = low, high
        tifffile.imwrite(tmp_path / "m.tif", values)
        with pytest.raises(MaskError, match=told):
            read_mask(tmp_path / "m.tif", slide)
    values[100:120, 100:120] = values[30:50, 40:60] = 255
    tifffile.imwrite(tmp_path / "m.tif", values)
    assert read_mask(tmp_path / "m.tif", slide).area_px


def test_classes_pick_by_any_of_their_names_and_nothing_is_refused(tmp_path, slide):
    path = write_grandqc(tmp_path, slide.path.name, grandqc_ids(), 5.0)
    mask = read_mask(path, slide, classes=["Folds", "air bubble"])
    assert set(mask.classes) == {"fold", "bubble"}
    expected = np.kron(np.isin(grandqc_ids(), (2, 5)), np.ones((5, 5), bool))
    assert np.array_equal(mask.read(Box(0, 0, 300, 260)), expected)
    with pytest.raises(MaskError, match=r"this GrandQC class mask holds fold, bubble.*--classes dust selects nothing"):
        read_mask(path, slide, classes=["dust"])
    with pytest.raises(ValueError, match="hole is no class of artifact"):
        read_mask(path, slide, classes=["hole"])


def test_the_polarity_of_a_mask_that_names_artifacts_cannot_be_turned(tmp_path, slide):
    path = write_grandqc(tmp_path, slide.path.name, grandqc_ids(), 5.0)
    with pytest.raises(MaskError, match=r"marks artifacts .*would repaint everything else"):
        read_mask(path, slide, "keep")
    everywhere = np.where(grandqc_ids() == 7, 2, grandqc_ids())
    with pytest.raises(MaskError, match=r"covers .* with fold.*--mask-polarity restore"):
        read_mask(save(path, everywhere), slide)


def test_a_mask_larger_than_pillow_likes_is_read_and_its_limit_stays(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_mask(save(tmp_path / "m.png", blob(255)), slide).area_px
    assert Image.MAX_IMAGE_PIXELS == 100


def test_probabilities_that_resampling_lifted_over_one_are_probabilities(tmp_path):
    values = np.zeros((40, 60), np.float32)
    values[10:30, 20:40] = 1
    values[10, 20] = np.nextafter(np.float32(1), np.float32(2))
    tifffile.imwrite(tmp_path / "mask.tif", values)
    assert (read_raster(tmp_path / "mask.tif", Size(60, 40)).white() == (values > 0.5)).all()
