from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from made_slides import APERIO, YCBCR, jpeg2000_rgb, write_pyramid_tiff
from painted_slides import GREEN, place_segment, restore
from painters import Flat
from PIL import Image

from artifusion.geometry import Box, Size
from artifusion.output.reencode import Metadata, encode_segment, halved, pyramid_sizes, write_pyramid
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide.reader import open_slide

NOISE = np.random.default_rng(0).integers(0, 256, (620, 540, 3), np.uint8)


@pytest.mark.parametrize("size", [(700, 500), (1, 1), (256, 256), (1300, 1537), (2049, 300), (1152, 700)])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_pyramid_holds_what_was_streamed(tmp_path, size, lossless):
    width, height = size
    yy, xx = np.mgrid[:height, :width]
    pixels = np.stack([xx % 251, yy % 251, (xx + yy) // 16 % 251], axis=2).astype(np.uint8)
    out = tmp_path / "p.tiff"
    write_pyramid(out, lambda box: pixels[box.slices()], Metadata(Size(*size), (0.25, 0.25), None, "d"), work=tmp_path,
                  lossless=lossless)
    assert [path.name for path in tmp_path.iterdir()] == ["p.tiff"]
    with tifffile.TiffFile(out) as file:
        assert [page.shape[1::-1] for page in file.pages] == list(pyramid_sizes(Size(*size)))
        expected = pixels
        for page in file.pages:
            difference = np.abs(page.asarray().astype(int) - expected)
            assert difference.max() == 0 if lossless else difference.mean() < 6
            expected = halved(expected)
    with openslide.OpenSlide(out) as slide:
        assert slide.level_count == len(pyramid_sizes(Size(*size)))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)


def test_other_formats_become_a_pyramid_with_scale_and_profile(packbits_slide, tmp_path):
    out = tmp_path / "out.tiff"
    mask, report = restore(packbits_slide, out, tmp_path)
    assert report.container == "re-encoded" and "compression 32773" in report.reason
    with open_slide(packbits_slide) as before, open_slide(out) as after:
        assert after.size == before.size and after.mpp == pytest.approx(before.mpp)
        whole = Box(0, 0, *before.size)
        masked = mask.read(whole)
        difference = np.abs(before.read(whole).astype(int) - after.read(whole))
        assert difference[~masked].mean() < 3
        assert np.abs(np.median(after.read(whole)[masked], axis=0) - GREEN).max() <= 3
    profiles = [tifffile.TiffFile(path).pages[0].tags[34675].value for path in (packbits_slide, out)]
    assert profiles[0] == profiles[1]


def test_lossless_keeps_every_kept_pixel(packbits_slide, strip_image, tmp_path):
    for source, options in ((packbits_slide, {"lossless": True}), (strip_image, {})):
        folder = tmp_path / source.stem
        folder.mkdir()
        mask, report = restore(source, folder / "out.tiff", folder, **options)
        assert report.lossless
        with open_slide(source) as before, open_slide(folder / "out.tiff") as after:
            whole = Box(0, 0, *before.size)
            expected = np.where(mask.read(whole)[..., None], np.uint8(GREEN), before.read(whole))
            assert np.array_equal(after.read(whole), expected)


def test_image_in_image_out(png_image, jpeg_image, tmp_path):
    for source, suffix, exact in ((png_image, ".png", True), (jpeg_image, ".png", True), (jpeg_image, ".jpg", False)):
        folder = tmp_path / f"{source.stem}{source.suffix}{suffix}"
        folder.mkdir()
        mask, report = restore(source, folder / f"out{suffix}", folder)
        assert report.container == "image" and report.lossless == exact
        before, after = (np.asarray(Image.open(path)) for path in (source, folder / f"out{suffix}"))
        masked = mask.read(Box(0, 0, 300, 260))
        assert np.array_equal(before[~masked], after[~masked]) == exact
        assert np.abs(after[~masked].astype(int) - before[~masked]).mean() < 3
    with open_slide(tmp_path / "image.png.png" / "out.png") as slide:
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)


def test_real_slides_of_other_formats_are_streamed(wsi, tmp_path):
    for name in ("TCGA-CR-7395-TS1.svs", "kidney-strips.tif", "camelyon-jpeg.dcm"):
        folder = tmp_path / name
        folder.mkdir()
        _, report = restore(wsi / name, folder / "out.tiff", folder)
        with open_slide(wsi / name) as before, open_slide(folder / "out.tiff") as after:
            assert report.container == "re-encoded" and before.size == after.size and before.icc == after.icc


def noisy(kind, folder):
    """A source that is nothing but noise, the suffix of its output, and options."""
    path, sizes = folder / "slide.tif", [NOISE.shape[1::-1]]
    if kind == "image":
        Image.fromarray(NOISE).save(folder / "image.jpg", quality=95)
        return folder / "image.jpg", ".jpg", {}
    if kind == "same size":
        return write_pyramid_tiff(folder / "slide.svs", sizes, image=NOISE, encode=jpeg2000_rgb, compression=33005,
                                  description=APERIO.format(w=sizes[0][0], h=sizes[0][1])), ".svs", {"same_size": True}
    codec = {"re-encoded": {"compression": "packbits"}, "pyramid": YCBCR,
             "another form": YCBCR | {"compressionargs": {"level": 30}}}[kind]
    write_pyramid_tiff(path, sizes, image=NOISE, **codec)
    if kind == "another form":
        Image.fromarray(NOISE[:128, 128:256]).save(folder / "tile.jpg", quality=95, progressive=True)
        place_segment(path, 1, (folder / "tile.jpg").read_bytes())
    return path, ".tiff" if kind == "re-encoded" else ".tif", {}


@pytest.mark.parametrize("kind", ["re-encoded", "image", "pyramid", "another form", "same size"])
def test_noise_which_encoding_moves_furthest_is_written_and_verified(kind, tmp_path):
    source, suffix, options = noisy(kind, tmp_path)
    mask = np.zeros(NOISE.shape[:2], np.uint8)
    mask[40:90, 130:180] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / f"out{suffix}"
    content = restore_slide(source, tmp_path / "mask.png", out, restorer=Flat(), **options)
    assert content["verified"]["ok"] and verify_slide(source, out).ok
    if kind == "re-encoded":
        place_segment(out, 4, encode_segment(NOISE[::-1][:256, :256], lossless=False))
        assert any("encoding explains" in problem for problem in verify_slide(source, out).problems)
