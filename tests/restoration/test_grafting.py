"""Grafts in a restoration: found, kept on disk, declared, joined, and the same after a crash."""

import json

import numpy as np
import pytest
from made_slides import tissue
from painters import Flat
from PIL import Image

from artifusion.geometry import Box
from artifusion.output.verify import verify_slide
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


def test_without_grafts_everything_is_painted(masked, tmp_path):
    content = restored(masked, tmp_path / "out.png")
    image, mask, _ = masked
    plain = restore_slide(image, mask, tmp_path / "plain.png", restorer=Flat())
    assert all(region["grafts"] for region in content["regions"] if region["area_px"] > 4000)
    assert not any("grafts" in region for region in plain["regions"])
    with open_slide(tmp_path / "plain.png") as slide:
        assert (slide.read(Box(110, 110, 50, 50)) == np.uint8((230, 120, 180))).all()
