from __future__ import annotations

import math
import re
import struct

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from made_slides import tissue
from PIL import ExifTags, Image

from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.slide import reader as reader_module
from artifusion.slide.levels import missing_tiles
from artifusion.slide.pages import left_out
from artifusion.slide.reader import open_slide


def test_pixels_equal_openslide(copied_slide):
    with open_slide(copied_slide) as slide, openslide.OpenSlide(copied_slide) as reference:
        assert slide.size == reference.dimensions and slide.level_sizes == reference.level_dimensions
        expected = np.asarray(reference.read_region((100, 50), 0, (300, 200)).convert("RGB"))
        assert np.array_equal(slide.read(Box(100, 50, 300, 200)), expected)
        assert slide.mpp == pytest.approx(0.5) and slide.kind == "slide"


def test_outside_the_slide_is_white(copied_slide, png_image):
    for path in (copied_slide, png_image):
        with open_slide(path) as slide:
            pixels = slide.read(Box(-20, -10, 40, 30))
            assert pixels.shape == (30, 40, 3) and (pixels[:10] == 255).all() and (pixels[:, :20] == 255).all()
            assert not (pixels[10:, 20:] == 255).all()
            assert (slide.read(Box(10**6, 0, 5, 5)) == 255).all()


def test_big_reads_go_in_chunks_and_give_the_same(copied_slide, monkeypatch):
    with open_slide(copied_slide) as slide:
        whole = slide.read(Box(-5, -5, 920, 720))
        monkeypatch.setattr(reader_module, "CHUNK_PX", 100)
        assert np.array_equal(slide.read(Box(-5, -5, 920, 720)), whole)


def test_plain_images_read_as_their_pixels(png_image, jpeg_image, strip_image):
    for path in (png_image, jpeg_image, strip_image):
        with open_slide(path) as slide:
            assert slide.kind == "image"
            expected = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
            assert np.array_equal(slide.read(Box(0, 0, *slide.size)), expected)
    assert open_slide(png_image).mpp == pytest.approx(0.5, rel=1e-4)


def test_transparent_pixels_are_white_and_gray_becomes_rgb(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[2:, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(tmp_path / "gray.png")
    alpha = open_slide(tmp_path / "alpha.png").read(Box(0, 0, 4, 4))
    assert (alpha[:2] == 255).all() and (alpha[2:] == 0).all()
    assert (open_slide(tmp_path / "gray.png").read(Box(0, 0, 4, 4)) == 77).all()


def test_sixteen_bit_images_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "colour.png").write_bytes(imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint16)))
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "signed.tif", np.zeros((8, 8), np.int8))
    for name in ("deep.png", "colour.png", "deep.tif", "signed.tif"):
        with pytest.raises(SlideError, match="8 bit"):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("cut", [{"tile": (128, 128)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("photometric", "channels", "kinds"), [
    ("minisblack", 2, [0]), ("minisblack", 3, [0, 0]), ("minisblack", 3, [2, 0]), ("minisblack", 5, [0] * 4),
    ("rgb", 4, [0]), ("rgb", 5, [0, 0]), ("rgb", 5, [2, 0]), ("separated", 5, [0])])
def test_images_of_further_channels_than_colours_and_opacity_are_refused(photometric, channels, kinds, planar, cut,
                                                                         tmp_path):
    pixels = np.dstack([tissue(300, 200), tissue(300, 200, 1)])[..., :channels]
    pixels = pixels.copy() if planar == "contig" else np.moveaxis(pixels, -1, 0).copy()
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric=photometric, planarconfig=planar, extrasamples=kinds,
                     metadata=None, **cut)
    with pytest.raises(SlideError, match=f"has {channels} channels, of which . (is|are) shown; .* convert it to RGB"):
        open_slide(tmp_path / "in.tif")


def test_a_volume_in_one_page_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((3, 64, 80), np.uint8), volumetric=True, photometric="minisblack",
                     metadata=None)
    with pytest.raises(SlideError, match="holds a volume of 3 planes"):
        open_slide(tmp_path / "in.tif")


@pytest.mark.parametrize("cut", [{"tile": (128, 128)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_opacity_is_no_further_channel(photometric, cut, tmp_path):
    colours = tissue(300, 200)[..., : 1 if photometric == "minisblack" else 3]
    opaque = np.zeros((200, 300, 1), np.uint8)
    opaque[:, :150] = 255
    tifffile.imwrite(tmp_path / "in.tif", np.dstack([colours, opaque]), photometric=photometric, planarconfig="contig",
                     extrasamples=[2], metadata=None, **cut)
    with open_slide(tmp_path / "in.tif") as slide:
        pixels = slide.read(Box(0, 0, 300, 200))
    assert np.array_equal(pixels[:, :150], np.broadcast_to(colours[:, :150], (200, 150, 3)))
    assert (pixels[:, 150:] == 255).all()


def test_a_photograph_is_read_upright_as_viewers_show_it(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3                  # upside down: a mask drawn in a viewer has the same shape
    Image.fromarray(tissue(30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    with open_slide(tmp_path / "turned.jpg") as slide:
        stored = np.asarray(Image.open(tmp_path / "turned.jpg"))
        assert np.array_equal(slide.read(Box(0, 0, 30, 20)), stored[::-1, ::-1])


def test_mpp_is_overridden_and_implausible_values_are_unknown(png_image, jpeg_image):
    assert open_slide(png_image, mpp=0.25).mpp == 0.25
    assert open_slide(jpeg_image).mpp is None
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="mpp must lie"):
            open_slide(png_image, mpp=wrong)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"II*\0\xff\xff\xff\x00", b"\x89PNG\r\n\x1a\nrubbish"])
def test_bad_files_give_one_line(tmp_path, content):
    path = tmp_path / "bad.svs"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value) and "bad.svs" in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)


def test_decompression_bombs_are_refused(png_image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SlideError, match="too many pixels"):
        open_slide(png_image)


def test_real_slides_open_and_bad_ones_give_slide_errors(wsi):
    for path in sorted(path for path in wsi.iterdir() if path.is_file()):
        with open_slide(path) as slide:
            assert slide.read(Box(0, 0, 32, 32)).shape == (32, 32, 3)
            assert slide.mpp is None or 0.1 <= slide.mpp <= 4
    for path in sorted((wsi / "bad").iterdir()):
        with pytest.raises(SlideError) as caught:
            open_slide(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_copy_that_was_cut_short_is_refused_at_once(copied_slide, strip_image, tmp_path, share):
    for path in (copied_slide, strip_image):
        cut = tmp_path / path.name
        cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(SlideError, match="get a whole copy of it"):
            open_slide(cut)


def test_a_slide_with_a_segment_behind_its_end_is_refused_at_once(copied_slide, tmp_path):
    broken, data = tmp_path / copied_slide.name, bytearray(copied_slide.read_bytes())
    with tifffile.TiffFile(copied_slide) as file:
        offsets = file.pages[0].tags[324]
        width = {4: 4, 16: 8}[int(offsets.dtype)]
        at, order = offsets.valueoffset + 9 * width, {"<": "little", ">": "big"}[file.byteorder]
    data[at : at + width] = len(data).to_bytes(width, order)
    broken.write_bytes(data)
    with pytest.raises(SlideError, match="cut short"):
        open_slide(broken)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["rgb", "gray", "palette"])
def test_a_tiff_image_is_upright_as_viewers_show_it_and_masks_are_drawn(tmp_path, orientation, kind):
    pixels = tissue(90, 60)
    pixels[:20, :30] = 0                                   # a corner that tells where it is
    options = {"photometric": "rgb"}
    if kind == "gray":
        pixels, options = pixels[..., 0], {"photometric": "minisblack"}
    elif kind == "palette":
        pixels, ramp = pixels[..., 0], np.arange(256, dtype=np.uint16) * 257
        options = {"photometric": "palette", "colormap": np.stack([ramp] * 3)}
    tifffile.imwrite(tmp_path / "image.tif", pixels, rowsperstrip=16, metadata=None, compression="deflate",
                     resolution=(20000, 10000), resolutionunit="CENTIMETER",
                     extratags=[(274, "H", 1, orientation, True)], **options)
    with Image.open(tmp_path / "image.tif") as image:      # which Pillow turns
        expected = np.asarray(image.convert("RGB"))
    with open_slide(tmp_path / "image.tif") as slide:
        assert slide.size == expected.shape[1::-1] and np.array_equal(slide.read(Box(0, 0, *slide.size)), expected)
        assert slide.mpp_xy == ((0.5, 1.0) if orientation < 5 else (1.0, 0.5)) and "page" not in left_out(slide, ".tif")


@pytest.mark.parametrize("channels", [2, 4])
def test_colours_of_a_tiff_that_are_multiplied_by_their_opacity_are_not_multiplied_again(tmp_path, channels):
    opaque = np.full((60, 90, 1), 255, np.uint8)
    opaque[:, 30:60], opaque[:, 60:] = 128, 0
    colours = (tissue(90, 60)[..., : channels - 1].astype(int) * opaque // 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", np.dstack([colours, opaque]), rowsperstrip=16, metadata=None,
                     extrasamples=["assocalpha"], photometric="rgb" if channels == 4 else "minisblack")
    with open_slide(tmp_path / "image.tif") as slide:
        assert np.array_equal(slide.read(Box(0, 0, 90, 60)), np.broadcast_to(colours + (255 - opaque), (60, 90, 3)))


PLACES = [(1 + 256 * column, 1 + 256 * row) for row in range(3) for column in range(5)]


def as_sparse(data):
    kind = b"\x20\x00\x11\x93CS"
    return data.replace(kind + b"\x0a\0TILED_FULL", kind + b"\x0c\0TILED_SPARSE")


def placed(data, places):
    """A DICOM file in which each frame tells its place, or has a group that tells none."""
    def item(content):
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content

    def sequence(group, element, content):
        return struct.pack("<HH2sHI", group, element, b"SQ", 0, len(content)) + content

    def group(place):
        position = b"".join(struct.pack("<HH2sHi", 0x48, 0x21E + n, b"SL", 4, at) for n, at in enumerate(place))
        return sequence(0x48, 0x21A, item(position))

    groups = b"".join(item(group(place) if place else b"") for place in places)
    pixels = data.index(b"\xe0\x7f\x10\x00OB")
    return data[:pixels] + sequence(0x5200, 0x9230, groups) + data[pixels:]


def with_frames(data, numbers):
    """A DICOM file with some of its 15 frames, and without the table of where they lie."""
    start = data.index(b"\xe0\x7f\x10\x00OB") + 12
    items, at = [], start
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        items.append(data[at : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")])
        at += len(items[-1])
    table, *frames = items
    pixels = table[:4] + bytes(4) + b"".join(frames[number] for number in numbers) + data[at:]
    return data[:start].replace(b"\x28\0\x08\0IS\x02\x0015", b"\x28\0\x08\0IS\x02\0%2d" % len(numbers)) + pixels


def test_where_a_sparse_dicom_slide_has_no_tile_it_is_missing(wsi, tmp_path):
    data = as_sparse((wsi / "camelyon-jpeg.dcm").read_bytes())
    (tmp_path / "slide.dcm").write_bytes(placed(with_frames(data, range(7)), PLACES[:7]))
    with open_slide(tmp_path / "slide.dcm") as slide:
        missing = missing_tiles(slide, [Box(0, 0, *slide.size)], lambda box: True)
        assert sum(box.area for box in missing) == 1152 * 700 - (5 * 256 + 2 * 256) * 256 + 128 * 256
        assert slide.is_missing(Box(512, 256, 300, 100)) and not slide.is_missing(Box(511, 256, 300, 100))


@pytest.mark.parametrize(("places", "told"), [
    (PLACES, ""), (PLACES[::-1], ""), ([None] * 15, "does not tell where"), ([], "does not tell where"),
    (PLACES[:7], "does not tell where"), ([*PLACES[:14], None], "does not tell where"),
    ([*PLACES[:14], PLACES[0]], "holds several tiles for one place"),
    ([*PLACES[:14], (1281, 1)], "outside of the slide"), ([*PLACES[:14], (1, 769)], "outside of the slide"),
    ([(-255, 1), *PLACES[1:]], "outside of the slide")])
@pytest.mark.parametrize("sparse", [True, False])
def test_tiles_of_dicom_that_openslide_would_lose_or_hide_are_refused(places, told, sparse, wsi, tmp_path):
    data = (wsi / "camelyon-jpeg.dcm").read_bytes()
    (tmp_path / "full.dcm").write_bytes(data)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/slide.dcm").write_bytes(placed(as_sparse(data) if sparse else data, places))
    if not sparse:                                           # whose tiles need no places
        told = "other places of its tiles than their order" if places == PLACES[::-1] else told if any(places) else ""
    if told:
        with pytest.raises(SlideError, match=f"in/slide.dcm: .*{told}"):
            open_slide(tmp_path / "in/slide.dcm")
        return
    with open_slide(tmp_path / "in/slide.dcm") as slide, open_slide(tmp_path / "full.dcm") as full:
        if places == PLACES[::-1]:                           # the first tile lies in the last place
            assert np.array_equal(slide.read(Box(1024, 512, 128, 188)), full.read(Box(0, 0, 128, 188)))
        else:
            assert np.array_equal(slide.read(Box(0, 0, *slide.size)), full.read(Box(0, 0, *slide.size)))


def test_planes_of_dicom_that_are_left_out_are_told(wsi, tmp_path):
    data = (wsi / "camelyon-jpeg.dcm").read_bytes()
    (tmp_path / "slide.dcm").write_bytes(with_frames(data, [*range(15), *range(15)]))
    for path, said in ((wsi / "camelyon-jpeg.dcm", ""), (tmp_path / "slide.dcm", "2 pages of 1152 x 700 px: only the")):
        with open_slide(path) as slide:
            assert left_out(slide, ".tif").startswith(said) and "dicom's metadata left out" in left_out(slide, ".tif")
            assert ("pages" in left_out(slide, ".tif")) == bool(said)


@pytest.mark.parametrize("beside", [False, True])
def test_sparse_tiles_of_dicom_without_places_are_refused_where_openslide_would_end_the_process(wsi, tmp_path, beside):
    """In the file itself, and in that of another level of its series."""
    data = (wsi / "camelyon-jpeg.dcm").read_bytes()
    sparse = as_sparse(data)
    other = re.sub(rb"(\x20\x00\x0e\x00UI.\x00)[0-9]", rb"\g<1>9", sparse, flags=re.DOTALL)
    (tmp_path / "slide.dcm").write_bytes(data if beside else placed(sparse, PLACES))
    (tmp_path / "other series.dcm").write_bytes(other)
    with open_slide(tmp_path / "slide.dcm") as slide:
        assert slide.vendor == "dicom"
    (tmp_path / ("level.dcm" if beside else "slide.dcm")).write_bytes(sparse)
    with pytest.raises(SlideError, match=f"{'level' if beside else 'slide'}.dcm: does not tell where its"):
        open_slide(tmp_path / "slide.dcm")


def test_a_damaged_segment_names_the_place(wsi, tmp_path):
    cut = tmp_path / "cut.svs"
    data = bytearray((wsi / "CMU-1-Small-Region.svs").read_bytes())
    with tifffile.TiffFile(wsi / "CMU-1-Small-Region.svs") as tiff:
        offset, count = tiff.pages[0].dataoffsets[60], tiff.pages[0].databytecounts[60]
    data[offset : offset + count] = bytes(count)
    cut.write_bytes(data)
    with open_slide(cut) as slide, pytest.raises(SlideError, match=r"cannot read level 0 at \(0, 0\)"):
        slide.read(Box(0, 0, *slide.size))


def test_reading_at_a_scale_gives_the_means_of_the_footprints(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png", dpi=(25400 / 0.5, 25400 / 0.5))
    with open_slide(tmp_path / "image.png") as slide:
        got = slide.read(Box(0, 0, 160, 96), mpp=2.0)
        assert np.abs(got - pixels.reshape(24, 4, 40, 4, 3).mean((1, 3))).max() <= 1
        assert slide.read(Box(0, 0, 160, 95), mpp=1.25).shape == (38, 64, 3)
        assert np.array_equal(slide.read(Box(3, 4, 50, 60), mpp=slide.mpp), pixels[4:64, 3:53])


def test_reading_at_a_scale_uses_the_levels_in_pieces_and_is_white_outside(copied_slide, monkeypatch):
    with open_slide(copied_slide) as slide:
        l0_box, size = Box(-90, 0, slide.size.width + 90, slide.size.height), Size(99, 70)
        whole = slide.read_as(l0_box, size)
        monkeypatch.setattr(reader_module, "CHUNK_PX", 200)
        levels = []
        read_level = type(slide).read_level
        monkeypatch.setattr(type(slide), "read_level",
                            lambda self, level, box: (levels.append(level), read_level(self, level, box))[1])
        pieces = slide.read_as(l0_box, size)                # a level read elsewhere is interpolated otherwise
        assert np.abs(pieces.astype(int) - whole).mean() < 1 and set(levels) == {len(slide.level_sizes) - 1}
        assert (whole[:, :9] == 255).all() and not (whole[:, 10:] > 250).all(axis=2).any()
        fine = np.asarray(Image.fromarray(slide.read(l0_box)).resize(size, Image.Resampling.BOX))
        assert np.abs(whole.astype(int) - fine).mean() < 4


@pytest.mark.parametrize(("suffix", "dpi"), [(".png", 72), (".jpg", 72), (".tif", 72), (".tif", 96), (".png", 2.54e6)])
def test_an_implausible_scale_is_unknown_and_said(tmp_path, suffix, dpi):
    path, pixels = tmp_path / f"image{suffix}", np.full((40, 40, 3), 200, np.uint8)
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", resolution=(dpi, dpi), resolutionunit="INCH")
    else:
        Image.fromarray(pixels).save(path, dpi=(dpi, dpi))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_origin) == (None, "unknown")
        told = float(slide.mpp_doubt.split()[1])            # a PNG tells whole pixels per metre
        assert told == pytest.approx(25400 / dpi, rel=1e-3) and "um per pixel" in slide.mpp_doubt
        with pytest.raises(SlideError, match=r"implausible .* --mpp"):
            slide.read(Box(0, 0, 8, 8), mpp=1.0)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_origin, slide.mpp_doubt) == (0.5, "argument", "")


def test_a_slide_that_tells_a_wrong_scale_is_known_by_it(wsi):
    with open_slide(wsi / "CropBreastSlide.tiff") as slide:
        assert slide.mpp is None and "264.6 um per pixel" in slide.mpp_doubt
