"""Ink on a slide: what shows through it is recovered and declared, the rest is painted."""

import json

import numpy as np
import pytest
from inked import error, tissue, under
from painters import PINK, Flat
from PIL import Image
from shapely import box

from artifusion.damage.artifacts import PenInk
from artifusion.evidence import recover as recover_module
from artifusion.geometry import Box, Size
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions
from artifusion.mask.writer import write_class_png
from artifusion.output.verify import verify_slide
from artifusion.restoration import recovering
from artifusion.restoration.pipeline import restore_slide
from artifusion.restoration.recovering import Recoveries, cut_into_pieces, recover_regions
from artifusion.slide.reader import in_memory, open_slide

SIDE = 512
PEN, OTHER = (60, 60, 200, 200), (330, 330, 400, 400)          # of the class pen, and of another


@pytest.fixture(scope="module")
def inked(tmp_path_factory):
    """A slide under a blue stroke, most of it thin and a part opaque, with a fold elsewhere: folder, truth, ids."""
    folder = tmp_path_factory.mktemp("inked")
    truth, ids = tissue(SIDE), np.zeros((SIDE, SIDE), np.uint8)
    for number, (left, top, right, bottom) in ((3, PEN), (1, OTHER)):
        ids[top:bottom, left:right] = number
    slide = under(PenInk("blue", 0.6), truth, ids == 3)
    slide[150:200, 60:200] = 2                                  # as good as no light
    slide[ids == 1] = 90
    Image.fromarray(slide).save(folder / "slide.png")
    write_class_png(folder / "mask.png", ids)
    return folder, truth, ids


def restored(inked, out, **options):
    folder, _, _ = inked
    return restore_slide(folder / "slide.png", folder / "mask.png", out, restorer=Flat(), mpp=0.5, **options)


def test_what_shows_through_is_recovered_the_rest_painted_and_every_pixel_declared(inked, tmp_path):
    folder, truth, ids = inked
    content = restored(inked, tmp_path / "out.png", recover=["pen"], preview=tmp_path / "look.png")
    out = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    before = np.asarray(Image.open(folder / "slide.png"))
    thin = np.zeros_like(ids, bool)
    thin[66:140, 66:194] = True
    assert error(out, truth, thin) < 0.3 * error(before, truth, thin)
    assert (out[160:190, 70:190] == PINK).all() and (out[ids == 1] == PINK).all()
    assert (out[ids == 0] == before[ids == 0]).all()
    pen, fold = content["regions"]
    assert pen["recovered_px"] > 0.9 * thin.sum() and "recovered_px" not in fold
    (ink,) = pen["inks"]
    assert ink["spectrum"][0] == 1 and ink["failed"] is None and ink["shares"]["painted"] > 0.3
    assert content["legend"].startswith("recovered: measured through ink")
    assert verify_slide(folder / "slide.png", tmp_path / "out.png").ok

    annotations = json.loads((tmp_path / "out.png.geojson").read_text())
    found = {feature["properties"]["classification"]["name"] for feature in annotations["features"]}
    assert {"Recovered: pen", "pen", "fold"} <= found
    polygons, names = geojson_polygons(annotations, tmp_path, (0, 0))
    mask = Mask.of(polygons, Size(SIDE, SIDE), names)
    assert (mask.read(Box(0, 0, SIDE, SIDE)) == (ids > 0)).all()
    seen = Mask.of([p for p, name in zip(polygons, names, strict=True) if name == "Recovered: pen"], Size(SIDE, SIDE))
    assert seen.area_px == pen["recovered_px"]


def test_nothing_is_recovered_unasked_of_a_given_mask(inked, tmp_path):
    content = restored(inked, tmp_path / "out.png")
    assert content["recover"] == [] and not any("recovered_px" in region for region in content["regions"])
    out = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    assert (out[100:130, 100:130] == PINK).all()


def lighter(image, mask, *_, **__):
    """Instead of a recovery, which takes its time: a grey level more, and a corner that stays unknown."""
    classes = np.where(mask, recover_module.RECOVERED_ID, recover_module.KEPT_ID).astype(np.uint8)
    classes[:90, :90][mask[:90, :90]] = recover_module.PAINTED_ID
    return recover_module.Recovery(image + mask[..., None].astype(np.uint8), np.zeros(mask.shape, np.float32), classes,
                                   {"spectrum": None, "failed": None})


def test_a_run_killed_after_a_piece_goes_on_byte_for_byte(inked, tmp_path, monkeypatch):
    monkeypatch.setattr(recovering, "PIECE_PX", 80)
    monkeypatch.setattr(recovering, "recover", lighter)
    restored(inked, tmp_path / "straight.png", recover=["pen"])
    recover, calls = recovering.recover, []

    def killed(*args, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return recover(*args, **options)

    monkeypatch.setattr(recovering, "recover", killed)
    with pytest.raises(KeyboardInterrupt):
        restored(inked, tmp_path / "killed.png", recover=["pen"])
    assert not (tmp_path / "killed.png").exists()
    monkeypatch.setattr(recovering, "recover", lambda *args, **options: calls.append(args) or recover(*args, **options))
    restored(inked, tmp_path / "killed.png", recover=["pen"])
    assert len(calls) == 4                                      # each piece once
    assert (tmp_path / "killed.png").read_bytes() == (tmp_path / "straight.png").read_bytes()


def test_where_the_fit_fails_the_region_is_painted_and_says_why(inked, tmp_path, monkeypatch):
    monkeypatch.setattr(recover_module, "MOST_ODD", -1.0)
    content = restored(inked, tmp_path / "out.png", recover=["pen"])
    pen = content["regions"][0]
    assert pen["recovered_px"] == 0 and "no clean tissue" in pen["inks"][0]["failed"]
    out = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    assert (out[100:130, 100:130] == PINK).all()


def test_what_others_of_the_mask_cover_is_neither_recovered_nor_taken_for_clean(inked, tmp_path, monkeypatch):
    folder, _, ids = inked
    seen = []
    monkeypatch.setattr(recovering, "recover", lambda image, mask, reference, mpp, known:
                        seen.append((mask, known)) or lighter(image, mask))
    mask = Mask.of([box(*PEN), box(*OTHER)], Size(SIDE, SIDE), ["pen", "fold"])
    with open_slide(folder / "slide.png") as slide:
        regions = find_regions(mask, 16)
        assert len(list(recover_regions(slide, mask, regions, ["pen"], 0.5, Recoveries(tmp_path)))) == 2
    assert len(seen) == 1
    wide = Box.from_edges(*PEN).expanded(recovering.AROUND_PX).intersection(Box(0, 0, SIDE, SIDE)).slices()
    assert (seen[0][0] == (ids == 3)[wide]).all() and (seen[0][1] == (ids == 0)[wide]).all()


def test_pieces_cover_a_box_once(monkeypatch):
    monkeypatch.setattr(recovering, "PIECE_PX", 100)
    count = np.zeros((450, 320), int)
    for piece in cut_into_pieces(Box(10, 20, 250, 333)):
        assert max(piece[2:]) <= 100
        count[piece.slices()] += 1
    assert (count[20:353, 10:260] == 1).all() and count.sum() == 250 * 333


def test_reference_squares_are_clean_and_unmasked():
    truth = tissue(768)
    mask = Mask.of([box(0, 0, 768, 400)], Size(768, 768))
    squares = recovering.clean_squares(in_memory(truth), mask)
    assert squares is not None and squares.shape[1:] == (256, 3)
    half = truth[400:]
    windows = np.lib.stride_tricks.sliding_window_view(half[:, :, 0], (1, 256))
    assert (windows == squares[0, :, 0]).all(axis=(2, 3)).any()
