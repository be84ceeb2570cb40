"""Grafts in a restoration: found, kept on disk, declared, joined, and the same after a crash."""

import json

import numpy as np
import pytest
import shapely
from made_slides import he_like, tissue
from painters import Flat
from PIL import Image

from artifusion.geometry import Box
from artifusion.mask.mask import Mask
from artifusion.output.preview import GRAFTED, PAINTED, outlined
from artifusion.output.verify import verify_slide
from artifusion.restoration import pipeline
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide

MPP = 0.5


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """An image with a large hole, a small one, and one in glass; its mask."""
    folder = tmp_path_factory.mktemp("grafts")
    pixels = tissue(700, 520)
    pixels[:, 560:] = 244
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[100:180, 100:200] = mask[300:306, 60:160] = mask[330:400, 600:670] = 255
    Image.fromarray(pixels).save(folder / "image.png", dpi=(25400 / MPP, 25400 / MPP))
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "image.png", folder / "mask.png", mask > 0


def restored(masked, out):
    image, mask, _ = masked
    return restore_slide(image, mask, out, restorer=Flat(graft="auto", batch_size=1))


def test_a_large_hole_holds_real_pixels_and_only_its_band_is_painted(masked, tmp_path):
    content = restored(masked, tmp_path / "out.png")
    source, result = (np.asarray(Image.open(path)) for path in (masked[0], tmp_path / "out.png"))
    assert np.array_equal(source[~masked[2]], result[~masked[2]])
    large, thin, glass = content["regions"]
    assert large["grafted_px"] > 0.7 * large["area_px"] and large["verdict"] in ("good", "doubtful")
    assert thin["grafts"] == [] and thin["grafted_px"] == 0 and thin["score"] is None
    (graft,) = large["grafts"]
    assert not Box(*graft["donor"]).overlaps(Box(*large["l0_box"]))
    inside = result[340:390, 610:660].reshape(-1, 3)
    assert abs(inside.mean() - 244) < 1 and inside.std() < 1 and glass["grafted_px"] > 0   # glass gets glass
    assert verify_slide(masked[0], tmp_path / "out.png").ok


def test_the_polygons_declare_what_is_grafted_painted_and_where_it_comes_from(masked, tmp_path):
    content = restored(masked, tmp_path / "out.png")
    features = json.loads((tmp_path / "out.png.geojson").read_text())["features"]
    names = [feature["properties"]["name"] for feature in features]
    assert {"restored 1: grafted", "restored 1: painted", "restored 2", "donor of restored 1"} <= set(names)
    grafted = sum(feature["properties"]["measurements"]["Area px"] for feature in features
                  if feature["properties"]["name"].endswith("grafted"))
    assert grafted == sum(region["grafted_px"] for region in content["regions"])


def test_an_interrupted_run_goes_on_with_the_grafts_it_found_and_gives_the_same_bytes(masked, tmp_path, monkeypatch):
    restored(masked, tmp_path / "straight.png")
    image, mask, _ = masked
    with pytest.raises(KeyboardInterrupt):
        restore_slide(image, mask, tmp_path / "out.png", restorer=Flat(graft="auto", batch_size=1, fail_after=1))
    assert len(list((tmp_path / "out.png.partial/grafts").glob("*.npz"))) == 3
    monkeypatch.setattr("artifusion.restoration.grafting.fill", None)                  # nothing is found again
    restored(masked, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "straight.png").read_bytes()
    one, other = (json.loads((tmp_path / f"{name}.png.json").read_text())["regions"] for name in ("straight", "out"))
    assert one == other


def test_doubtful_regions_stay_as_scanned_and_are_listed_where_asked(masked, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.evidence.graft.verdict_of", lambda scores, areas: (
        0.1, "doubtful" if sum(areas) > 6000 else "good"))                           # of the largest region alone
    image, mask, holes = masked
    restored(masked, tmp_path / "painted.png")
    asked = {"graft": "auto", "doubtful": "keep", "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        restore_slide(image, mask, tmp_path / "out.png", restorer=Flat(fail_after=1, **asked))
    content = restore_slide(image, mask, tmp_path / "out.png", restorer=Flat(**asked), preview=tmp_path / "look.png")
    straight = restore_slide(image, mask, tmp_path / "straight.png", restorer=Flat(**asked))
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "straight.png").read_bytes()
    assert content["regions"] == straight["regions"] and [region["id"] for region in content["regions"]] == [2, 3]
    (kept,) = content["kept"]
    assert (kept["id"], kept["verdict"], kept["score"], kept["grafts"]) == (1, "doubtful", 0.1, [])
    source, result, painted = (np.asarray(Image.open(path)) for path in (
        image, tmp_path / "out.png", tmp_path / "painted.png"))
    assert np.array_equal(result[100:180, 100:200], source[100:180, 100:200])
    assert np.array_equal(result[200:], painted[200:]) and not np.array_equal(result[holes], source[holes])
    declared = {feature["properties"]["metadata"].get("region", "1") for feature in
                json.loads((tmp_path / "out.png.geojson").read_text())["features"]
                if "donor_of" not in feature["properties"]["metadata"]}
    assert declared == {"2", "3"} and verify_slide(image, tmp_path / "out.png").ok


def test_where_every_region_is_doubtful_and_kept_nothing_is_written(masked, tmp_path, monkeypatch):
    monkeypatch.setattr("artifusion.evidence.graft.verdict_of", lambda scores, areas: (0.1, "unrestorable"))
    image, mask, _ = masked
    large = np.asarray(Image.open(mask)).copy()
    large[300:306] = 0                                                               # the thin one is painted
    Image.fromarray(large).save(tmp_path / "mask.png")
    painter = Flat(graft="auto", doubtful="keep")
    assert restore_slide(image, tmp_path / "mask.png", tmp_path / "out.png", restorer=painter) is None
    assert painter.calls == 0 and not list(tmp_path.glob("out*"))


def test_canvases_of_other_regions_never_see_a_kept_artifact_as_tissue(masked, tmp_path, monkeypatch):
    image, mask, _ = masked
    pixels = np.asarray(Image.open(image)).copy()
    pixels[100:180, 100:200] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "image.png", dpi=(25400 / MPP, 25400 / MPP))
    beside = np.asarray(Image.open(mask)).copy()
    beside[:] = 0
    beside[100:180, 100:200] = beside[100:180, 270:275] = 255
    Image.fromarray(beside).save(tmp_path / "mask.png")
    monkeypatch.setattr("artifusion.evidence.graft.verdict_of", lambda scores, areas: (0.3, "doubtful"))
    seen = []

    class Looking(Flat):
        def restore_batch(self, images, masks, **given):
            seen.extend((image[~mask] == (0, 0, 255)).all(axis=1).any() for image, mask in
                        zip(images, masks, strict=True))
            return super().restore_batch(images, masks, **given)

    content = restore_slide(tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "out.png",
                            restorer=Looking(graft="auto", doubtful="keep", context_px=128))
    assert len(content["kept"]) == 1 and seen == [False]


def test_the_preview_outlines_grafted_and_painted_areas_in_two_colours():
    masked, grafted = np.zeros((2, 40, 60), bool)
    masked[4:36, :50], grafted[10:30, 6:44] = True, True
    image = np.full((40, 60, 3), 99, np.uint8)
    found = outlined(image, masked, {"grafted": grafted})
    green, yellow = ((found == colour).all(axis=2) for colour in (PAINTED, GRAFTED))
    assert green.any() and yellow.any() and not (green & grafted).any() and not (yellow & ~grafted).any()
    assert (found[~masked] == 99).all() and yellow[10, 20] and green[4, 20] and green[20, 0]
    assert (found[20, 20] == 99).all() and (found[30, 20] == PAINTED).all()


@pytest.mark.parametrize("seen", [True, False])
def test_a_pen_stroke_that_nobody_masked_is_no_donor(tmp_path, monkeypatch, seen):
    """Two strokes, one masked: what is imagined under it looks like ink, so the other would be the best donor."""
    pixels = (he_like(1000, 800) * 0.85).astype(np.uint8)
    ink = (pixels * np.array([0.15, 0.5, 0.9])).astype(np.uint8)
    strokes = (Box(100, 150, 300, 70), Box(560, 560, 320, 90))
    for stroke in strokes:
        pixels[stroke.slices()] = ink[stroke.slices()]
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[strokes[0].slices()] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png", dpi=(25400 / MPP, 25400 / MPP))
    Image.fromarray(mask).save(tmp_path / "mask.png")
    if not seen:
        monkeypatch.setattr(pipeline, "unmasked_artifacts", lambda index: Mask((), index.slide.size))
    restore_slide(tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "out.png", restorer=Flat(graft="auto"))
    donors = [shapely.geometry.shape(feature["geometry"]) for feature in
              json.loads((tmp_path / "out.png.geojson").read_text())["features"]
              if "donor_of" in feature["properties"]["metadata"]]
    stroke = shapely.box(strokes[1].x, strokes[1].y, strokes[1].right, strokes[1].bottom)
    assert donors and any(donor.intersects(stroke) for donor in donors) != seen


def test_without_grafts_everything_is_painted(masked, tmp_path):
    content = restored(masked, tmp_path / "out.png")
    image, mask, _ = masked
    plain = restore_slide(image, mask, tmp_path / "plain.png", restorer=Flat())
    assert all(region["grafts"] for region in content["regions"] if region["area_px"] > 4000)
    assert not any("grafts" in region for region in plain["regions"])
    with open_slide(tmp_path / "plain.png") as slide:
        assert (slide.read(Box(110, 110, 50, 50)) == np.uint8((230, 120, 180))).all()
