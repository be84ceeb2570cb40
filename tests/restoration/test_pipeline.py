"""The whole way of a slide, painted through the seam with flat colours or an untrained denoiser."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_slides import MAKERS
from painters import PINK, Flat
from PIL import Image

from artifusion.config import RestoreConfig
from artifusion.errors import ConfigError, MaskError, OutputError
from artifusion.geometry import Box
from artifusion.mask.reading import read_mask
from artifusion.output.codecs.segment_codecs import codec_of
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide import tiff
from artifusion.slide.reader import open_slide


def mask_file(folder, slide_path, boxes, scale=1):
    with open_slide(slide_path) as slide:
        mask = np.zeros((slide.size.height // scale, slide.size.width // scale), np.uint8)
    for x, y, side in boxes:
        mask[y : y + side, x : x + side] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "mask.png"


def test_a_slide_comes_back_with_only_the_mask_painted_and_everything_declared(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(100, 100, 60), (500, 400, 90)])
    before, out = aperio_slide.read_bytes(), tmp_path / "out.svs"
    content = restore_slide(aperio_slide, mask, out, restorer=Flat())
    assert aperio_slide.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.png", "out.svs", "out.svs.geojson", "out.svs.json"]
    assert content == json.loads((tmp_path / "out.svs.json").read_text())
    assert content["written"]["container"] == "copied" and len(content["regions"]) == 2
    with open_slide(out) as slide:
        painted = slide.read(Box(110, 110, 40, 40)).reshape(-1, 3).mean(0)
        assert np.abs(painted - PINK).max() < 8
        assert "not for diagnosis" in slide.properties["openslide.comment"]
    assert verify_slide(aperio_slide, out).ok


def test_the_same_command_gives_the_same_bytes(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(100, 100, 200)])
    for name in ("a.svs", "b.svs"):
        restore_slide(aperio_slide, mask, tmp_path / name, restorer=Flat())
    assert (tmp_path / "a.svs").read_bytes() == (tmp_path / "b.svs").read_bytes()


def test_an_interrupted_run_leaves_no_output_and_goes_on_where_it_stopped(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(20, 20, 60), (300, 300, 60), (600, 500, 60)])
    straight = Flat(batch_size=1)
    restore_slide(aperio_slide, mask, tmp_path / "straight.svs", restorer=straight)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat(fail_after=2, batch_size=1))
    assert not (tmp_path / "out.svs").exists() and (tmp_path / "out.svs.partial").is_dir()
    resumed = Flat(batch_size=1)
    restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=resumed)
    assert resumed.calls == straight.calls - 2 == 1
    assert (tmp_path / "out.svs").read_bytes() == (tmp_path / "straight.svs").read_bytes()
    assert not (tmp_path / "out.svs.partial").exists()


def test_what_another_job_left_is_not_used(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(20, 20, 60), (300, 300, 60)])
    with pytest.raises(KeyboardInterrupt):
        restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat(fail_after=1, batch_size=1))
    other = Flat(batch_size=1)
    restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=other, seed=5)
    assert other.calls == 2


def test_a_region_larger_than_a_canvas_is_painted_whole(packbits_slide, tmp_path):
    mask = mask_file(tmp_path, packbits_slide, [(150, 100, 400)])
    painter = Flat(max_canvas_px=384)
    restore_slide(packbits_slide, mask, tmp_path / "out.tif", restorer=painter, lossless=True)
    assert painter.calls > 1
    with open_slide(tmp_path / "out.tif") as slide:
        assert (slide.read(Box(150, 100, 400, 400)) == PINK).all()


def test_a_png_keeps_every_pixel_outside_the_mask(png_image, tmp_path):
    mask = mask_file(tmp_path, png_image, [(40, 40, 30)])
    content = restore_slide(png_image, mask, tmp_path / "out.png", restorer=Flat())
    before, after = np.asarray(Image.open(png_image)), np.asarray(Image.open(tmp_path / "out.png"))
    inside = np.zeros(before.shape[:2], bool)
    inside[40:70, 40:70] = True
    assert np.array_equal(before[~inside], after[~inside]) and (after[inside] == PINK).all()
    assert content["written"]["lossless"]


def test_a_strip_tiff_is_streamed_into_a_pyramid(strip_image, tmp_path):
    mask = mask_file(tmp_path, strip_image, [(10, 10, 20)], scale=4)
    content = restore_slide(strip_image, mask, tmp_path / "out.tiff", restorer=Flat())
    assert content["written"]["container"] == "re-encoded" and content["verified"]["ok"]


def test_existing_outputs_and_the_source_are_never_overwritten(png_image, tmp_path):
    mask = mask_file(tmp_path, png_image, [(40, 40, 30)])
    (tmp_path / "out.png").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        restore_slide(png_image, mask, tmp_path / "out.png", restorer=Flat())
    with pytest.raises(OutputError, match="source"):
        restore_slide(png_image, mask, png_image, restorer=Flat(), overwrite=True)
    assert (tmp_path / "out.png").read_text() == "precious"


def test_nothing_that_lies_beside_the_output_is_overwritten_unasked(png_image, tmp_path):
    mask = mask_file(tmp_path, png_image, [(40, 40, 30)])
    for name in ("out.png.json", "out.png.geojson", "look.png"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(OutputError, match="--overwrite"):
            restore_slide(png_image, mask, tmp_path / "out.png", restorer=Flat(), preview=tmp_path / "look.png")
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
    for preview, remedy in ((png_image, "source itself"), (mask, "mask"), (tmp_path / "out.png", "two outputs"),
                            (tmp_path / "look.xyz", "preview")):
        with pytest.raises(OutputError, match=remedy):
            restore_slide(
                png_image, mask, tmp_path / "out.png", restorer=Flat(), preview=preview, overwrite=True
            )
    assert not (tmp_path / "out.png").exists()


def test_a_wrong_suffix_is_refused_before_anything_is_painted(aperio_slide, tmp_path):
    mask, painter = mask_file(tmp_path, aperio_slide, [(40, 40, 30)]), Flat()
    with pytest.raises(OutputError, match="choose one of these"):
        restore_slide(aperio_slide, mask, tmp_path / "out.png", restorer=painter)
    assert painter.calls == 0 and [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_a_kill_between_the_sidecars_and_the_slide_is_resumed(aperio_slide, tmp_path, monkeypatch):
    mask = mask_file(tmp_path, aperio_slide, [(40, 40, 30)])
    replace = os.replace

    def killed(source, target):
        if Path(target).name == "out.svs":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("artifusion.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat())
    assert (tmp_path / "out.svs.json").exists() and not (tmp_path / "out.svs").exists()
    monkeypatch.setattr("artifusion.files.os.replace", replace)
    again = Flat()
    restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=again)
    assert again.calls == 0 and verify_slide(aperio_slide, tmp_path / "out.svs").ok


def test_a_disk_that_cannot_take_the_slide_leaves_none_and_the_run_goes_on_later(aperio_slide, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    mask, out, painter = mask_file(tmp_path, aperio_slide, [(100, 100, 60)]), tmp_path / "out.svs", Flat()
    with monkeypatch.context() as patched:
        patched.setattr("artifusion.output.writer.os", SimpleNamespace(fsync=full))
        with pytest.raises(OutputError, match="No space left"):
            restore_slide(aperio_slide, mask, out, restorer=painter)
    assert not out.exists()
    restore_slide(aperio_slide, mask, out, restorer=painter)
    assert painter.calls == 1 and verify_slide(aperio_slide, out).ok


@pytest.mark.parametrize("kind", ["jpeg2000", "jpeg2000-ycbcr"])
def test_jpeg_2000_keeps_its_size_on_request(kind, tmp_path):
    slide, sizes = MAKERS[kind](tmp_path), {}
    mask = mask_file(tmp_path, slide, [(100, 100, 150), (500, 400, 90)])
    for same_size in (False, True):
        out = tmp_path / f"{same_size}.svs"
        content = restore_slide(slide, mask, out, restorer=Flat(), same_size=same_size)
        assert content["written"]["lossless"] is not same_size and verify_slide(slide, out).ok
        sizes[same_size] = out.stat().st_size
    assert sizes[True] < 1.02 * slide.stat().st_size and (kind != "jpeg2000" or sizes[True] < sizes[False])
    with open_slide(slide) as before, open_slide(out) as after:
        whole = Box(0, 0, *before.size)
        kept = ~read_mask(mask, before).read(whole)
        moved = np.abs(before.read(whole).astype(int) - after.read(whole))
        assert 0 < moved[kept].mean() < 3
        assert np.abs(after.read(Box(130, 130, 90, 90)).reshape(-1, 3).mean(0) - PINK).max() < 8
    with out.open("rb+") as file:                             # one touched tile gets what another one holds
        page = tiff.read_tiff(out).pages[0]
        first, other = (tiff.read_segment(file, page, index) for index in (0, 1))
        file.seek(int(page.offsets[0]))
        file.write(other[: len(first)].ljust(len(first), b"\0"))
    problems = verify_slide(slide, out).problems
    assert any("JPEG 2000" in problem or "encoding explains" in problem for problem in problems), problems


def test_jpeg_2000_beside_lossy_levels_must_be_exact_unless_the_same_size_was_asked_for(tmp_path):
    slide, out = MAKERS["jpeg2000"](tmp_path), tmp_path / "out.svs"
    content = restore_slide(slide, mask_file(tmp_path, slide, [(100, 100, 60)]), out, restorer=Flat())
    content["written"]["lossless"] = False                    # as where another level is JPEG
    page, old = tiff.read_tiff(out).pages[0], codec_of(tiff.read_tiff(slide).pages[0], same_size=True)
    with slide.open("rb") as source, out.open("rb+") as file:
        like, new = tiff.read_segment(source, tiff.read_tiff(slide).pages[0], 0), tiff.read_segment(file, page, 0)
        lossy = old.encode(old.decode(new), like, np.zeros(1, bool))
        file.seek(int(page.offsets[0]))
        file.write(lossy.ljust(len(new), b"\0"))
    assert any("keeps every pixel" in problem for problem in verify_slide(slide, out, content).problems)


def test_the_same_size_is_refused_where_nothing_is_jpeg_2000(aperio_slide, png_image, tmp_path):
    jpeg_2000 = MAKERS["jpeg2000"](tmp_path)
    for source, out in ((aperio_slide, None), (png_image, None), (jpeg_2000, tmp_path / "out.tiff")):
        mask = mask_file(tmp_path, source, [(100, 100, 60)])
        with pytest.raises(ConfigError, match="leave --same-size away"):
            restore_slide(source, mask, out, restorer=Flat(), same_size=True)


def test_a_given_scale_goes_into_the_pyramid_and_is_verified(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(40, 40, 30)])
    restore_slide(aperio_slide, mask, tmp_path / "out.tiff", restorer=Flat(), mpp=0.25)
    assert verify_slide(aperio_slide, tmp_path / "out.tiff").ok
    with open_slide(tmp_path / "out.tiff") as slide:
        assert slide.mpp == pytest.approx(0.25, rel=1e-3)


def test_a_canvas_without_room_for_its_context_is_refused(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(40, 40, 30)])
    with pytest.raises(ConfigError, match="max_canvas_px"):
        restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat(context_px=400))


def test_an_enlarged_declaration_is_found(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(40, 40, 30)])
    restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat())
    declared = json.loads((tmp_path / "out.svs.geojson").read_text())
    for side in (400, 10**9):                             # also far beyond the slide
        declared["features"][0]["geometry"] = {
            "type": "Polygon", "coordinates": [[[0, 0], [side, 0], [side, side], [0, side], [0, 0]]]}
        (tmp_path / "out.svs.geojson").write_text(json.dumps(declared))
        (problem, *_) = verify_slide(aperio_slide, tmp_path / "out.svs").problems
        assert "but the sidecar 900" in problem


def test_damage_resumed_after_a_kill_gives_the_same_bytes(aperio_slide, tmp_path, monkeypatch):
    from artifusion.damage import slide

    slide.damage_slide(aperio_slide, tmp_path / "straight.svs", share=0.05)
    paint, calls = slide.damage_spot, []

    def killed(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return paint(*args)

    monkeypatch.setattr(slide, "damage_spot", killed)
    with pytest.raises(KeyboardInterrupt):
        slide.damage_slide(aperio_slide, tmp_path / "out.svs", share=0.05)
    monkeypatch.setattr(slide, "damage_spot", paint)
    slide.damage_slide(aperio_slide, tmp_path / "out.svs", share=0.05)
    assert (tmp_path / "out.svs").read_bytes() == (tmp_path / "straight.svs").read_bytes()


def test_a_mask_without_a_gap_is_refused_by_name(png_image, tmp_path):
    with open_slide(png_image) as slide:
        Image.new("L", slide.size, 255).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match="nothing is left to paint from"):
        restore_slide(
            png_image, tmp_path / "mask.png", tmp_path / "out.png", restorer=Flat(), polarity="restore"
        )
    assert not (tmp_path / "out.png").exists()


def test_the_declaration_read_back_is_the_mask(aperio_slide, tmp_path):
    mask = mask_file(tmp_path, aperio_slide, [(100, 100, 60), (161, 161, 20)])
    restore_slide(aperio_slide, mask, tmp_path / "out.svs", restorer=Flat())
    with open_slide(aperio_slide) as slide:
        whole = Box(0, 0, *slide.size)
        declared = read_mask(tmp_path / "out.svs.geojson", slide).read(whole)
        assert np.array_equal(declared, read_mask(mask, slide).read(whole))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_moves_no_pixel_by_more_than_one_grey_level(png_image, tmp_path, monkeypatch, batch_size):
    from contextlib import nullcontext

    from artifusion.checkpoint import Weights
    from artifusion.config import DenoiserConfig
    from artifusion.diffusion.denoiser import SwinDenoiser
    from artifusion.restorer import Restorer

    monkeypatch.setattr("artifusion.restorer.autocast", lambda device: nullcontext())
    torch.manual_seed(0)
    tiny = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)
    weights = Weights(SwinDenoiser(tiny), "tiny", "0" * 64, {})
    with open_slide(png_image) as slide:
        side = min(slide.size) // 3
    mask = mask_file(tmp_path, png_image, [(5, 5, 20), (2 * side, 10, 20), (side, 2 * side, 20)])
    images = []
    for n, size in enumerate((batch_size, 2)):
        config = RestoreConfig(steps=3, context_px=16, batch_size=size, merge_px=1)
        restore_slide(png_image, mask, tmp_path / f"{n}.png", restorer=Restorer(weights, "cpu", config))
        images.append(np.asarray(Image.open(tmp_path / f"{n}.png")).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1


def test_the_canvases_of_a_region_share_the_colours_around_it(tmp_path):
    """Half of a region lies in pale tissue, half in dark: its canvases are painted relative to one frame."""
    image = np.random.default_rng(0).integers(0, 30, (400, 900, 3), dtype=np.uint8)
    image[:, :450] += 180
    Image.fromarray(image).save(tmp_path / "image.png")
    mask = mask_file(tmp_path, tmp_path / "image.png", [])
    selected = np.zeros((400, 900), np.uint8)
    selected[100:300, 50:850] = 255
    Image.fromarray(selected).save(mask)
    seen = []

    class Watching(Flat):
        def restore_batch(self, images, masks, *, surroundings, **options):
            seen.extend(surroundings)
            return super().restore_batch(images, masks)

    restore_slide(tmp_path / "image.png", mask, restorer=Watching(max_canvas_px=320, context_px=32))
    assert len(seen) > 2
    assert all(np.array_equal(known, seen[0]) for known in seen)
    assert 10 < seen[0].mean() - image[:, 450:].mean() < 170                 # both halves count
