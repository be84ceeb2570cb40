"""Exact to the block: what a JPEG segment keeps when some of its pixels are painted."""

from __future__ import annotations

import io

import numpy as np
import openslide
import pytest
import shapely
from made_slides import APERIO, RGB, YCBCR, YCBCR_444, tissue, write_pyramid_tiff
from painted_slides import facts, place_segment, restore
from PIL import Image
from scipy.ndimage import binary_dilation

from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output.codecs import jpeg, scan
from artifusion.output.codecs.segment_codecs import JpegCodec, codec_of
from artifusion.output.stored import masked_segments
from artifusion.output.verify import verify_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid

MCU = {0: (8, 8), 1: (16, 8), 2: (16, 16)}                  # width and height, by Pillow's subsampling
FORMS = [(0, True), (0, False), (1, False), (2, False)]      # subsampling, RGB without a transform
WHITE = (255, 255, 255)


def segment(size, subsampling, rgb=False, seed=0, **options):
    """A JPEG of tissue and its photometric interpretation."""
    buffer = io.BytesIO()
    Image.fromarray(tissue(*size, seed)).save(buffer, "JPEG", subsampling=subsampling, keep_rgb=rgb, **options)
    return buffer.getvalue(), jpeg.RGB if rgb else jpeg.YCBCR


def mcus(touched, width, height):
    """Pixels of every MCU that holds a touched one."""
    found = np.zeros_like(touched)
    for y in range(0, touched.shape[0], height):
        for x in range(0, touched.shape[1], width):
            found[y : y + height, x : x + width] = touched[y : y + height, x : x + width].any()
    return found


def ring(blocks, subsampled):
    """Blocks, one pixel wider where chroma is subsampled."""
    return binary_dilation(blocks, np.ones((3, 3))) if subsampled else blocks


def random_mask(rng, height, width):
    touched = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 5)):
        y, x, side = rng.integers(height), rng.integers(width), rng.integers(1, 40)
        touched[y : y + side, x : x + side] = True
    return touched


@pytest.mark.parametrize(("subsampling", "rgb", "options"), [
    *((*form, {"quality": 80}) for form in FORMS),
    *((*form, {"quality": 60, "restart_marker_blocks": 3}) for form in FORMS),
    *((*form, {"quality": 95, "optimize": True}) for form in FORMS[1:])])         # Huffman tables of its own
def test_only_pixels_of_touched_blocks_change(subsampling, rgb, options):
    rng = np.random.default_rng(0)
    for number, size in enumerate([(128, 128), (121, 77), (16, 16), (7, 50)]):
        old, photometric = segment(size, subsampling, rgb, number, **options)
        known = jpeg.decode(old, b"", photometric)
        touched = random_mask(rng, *known.shape[:2])
        painted = np.where(touched[..., None], WHITE, known).astype(np.uint8)
        new = jpeg.encode(painted, old, b"", photometric, touched)
        allowed = ring(mcus(touched, *MCU[subsampling]), subsampling)
        for decode in (lambda data, photometric=photometric: jpeg.decode(data, b"", photometric), pillow):
            before, after = decode(old), decode(new)
            assert np.array_equal(before[~allowed], after[~allowed])
            assert not np.array_equal(before[touched], after[touched])
        assert not (allowed & ~jpeg.reach(touched, old, b"")).any() or subsampling == 1       # sideways alone
        assert not (jpeg.reach(touched, old, b"") & ~allowed).any()
        assert np.abs(jpeg.decode(new, b"", photometric)[touched].astype(int) - 255).mean() < 12


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(("subsampling", "rgb"), FORMS)
def test_blocks_that_are_encoded_alone_are_those_of_the_whole(subsampling, rgb):
    old, photometric = segment((121, 77), subsampling, rgb, quality=80)
    pixels = tissue(121, 77, seed=1)
    touched = np.ones((77, 121), bool)
    touched[16:48, 32:64] = False
    parts = jpeg.decode(jpeg.encode(pixels, old, b"", photometric, touched), b"", photometric)
    whole = jpeg.decode(jpeg.encode(pixels, old, b"", photometric), b"", photometric)
    away = ~ring(~touched, subsampling)
    assert np.array_equal(parts[away], whole[away]) and not np.array_equal(parts, whole)


@pytest.mark.parametrize(("subsampling", "rgb"), FORMS)
def test_a_scan_taken_apart_is_written_to_the_same_bytes(subsampling, rgb):
    for options in ({"quality": 30}, {"quality": 98}, {"quality": 80} if rgb else {"quality": 80, "optimize": True}):
        data, _ = segment((121, 77), subsampling, rgb, **options)
        header = jpeg.parse(data, b"")
        assert scan.write(scan.read(data[header.end :], header.layout), header.huffman) == data[header.end :]


@pytest.mark.parametrize("quality", [30, 80, 100])
def test_blocks_are_found_in_leaps_as_they_are_symbol_by_symbol(quality):
    """Of noise at quality 100 every block is full and has no symbol for its end, which a leap may go beyond."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    for pixels in (tissue(121, 77), noise):
        forms = []
        for optimize in (True, False):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2, optimize=optimize)
            header = jpeg.parse(buffer.getvalue(), b"")
            forms.append((buffer.getvalue()[header.end :], header.layout))
        (own, layout), (standard, known) = forms
        leaps = scan.read(own, layout)
        steps = scan.read(own, layout, known.huffman)        # into other tables: every symbol is looked at
        assert np.array_equal(leaps.dc, steps.dc)
        assert scan.write(leaps, layout.huffman) == own and scan.write(steps, known.huffman) == standard
        assert scan.write(scan.read(standard, known, layout.huffman), layout.huffman) == own


def test_the_header_stays_and_nothing_changes_where_nothing_is_touched():
    old, photometric = segment((128, 128), 2, quality=80)
    known, nothing = jpeg.decode(old, b"", photometric), np.zeros((128, 128), bool)
    assert jpeg.encode(known, old, b"", photometric, nothing) == old
    touched = nothing.copy()
    touched[50:60, 70:90] = True
    end = jpeg.parse(old, b"").end
    assert jpeg.encode(255 - known, old, b"", photometric, touched)[:end] == old[:end]


def test_a_damaged_scan_is_encoded_whole_or_refused():
    old, photometric = segment((128, 128), 2, quality=80)
    header, codec = jpeg.parse(old, b""), JpegCodec(b"", photometric, Size(128, 128))
    touched = np.zeros((128, 128), bool)
    touched[:30, :30] = True
    for broken in (old[:-500] + b"\xff\xd9", old[: header.end + 900] + b"\xff\0" * 9 + old[header.end + 918 :],
                   old[:-2] + b"\xff\xd0\xff\xd9"):          # cut, no such code, a restart that nobody announced
        with pytest.raises(SlideError):
            scan.read(broken[header.end :], header.layout)
        known = codec.decode(broken)
        with pytest.raises(SlideError):
            jpeg.encode(known, broken, b"", photometric, touched)
        assert codec.encode(known, broken, touched) == jpeg.encode(known, broken, b"", photometric)
    with pytest.raises(SlideError, match="damaged"):
        codec.decode(old[:200])
    with pytest.raises(SlideError, match="too many codes"):
        scan.write(scan.read(old[header.end :], header.layout), ((bytes([3] + [0] * 15 + [1] * 3),) * 2,) * 3)
    with pytest.raises(SlideError, match="lack a symbol"):
        scan.read(old[header.end :], header.layout, ((bytes([0, 1] + [0] * 14 + [1]),) * 2,) * 3)


def discs(size, seed=0):
    rng = np.random.default_rng(seed)
    return Mask.of([shapely.Point(rng.uniform(0, size[0]), rng.uniform(0, size[1])).buffer(rng.uniform(2, 60))
                    for _ in range(6)], size)


SLIDES = {
    "4:4:4 RGB": (".svs", RGB | {"description": APERIO.format(w=521, h=390)}, (8, 8)),
    "4:4:4": (".tif", YCBCR_444, (8, 8)),
    "4:2:2": (".tif", YCBCR | {"subsampling": (2, 1)}, (16, 8)),
    "4:2:0": (".tif", YCBCR, (16, 16)),
}


def check_by_openslide(source, out, mask, mcu):
    """What OpenSlide shows of level 0 differs in touched blocks alone."""
    shown = []
    for path in (source, out):
        with openslide.OpenSlide(path) as slide:
            shown.append(np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3])
    allowed = ring(mcus(mask.read(Box(0, 0, *mask.l0_size)), *mcu), mcu != (8, 8))
    assert np.array_equal(shown[0][~allowed], shown[1][~allowed])
    assert not np.array_equal(shown[0], shown[1])


@pytest.mark.parametrize("form", SLIDES)
def test_openslide_shows_the_same_pixels_outside_the_touched_blocks(form, tmp_path):
    suffix, options, mcu = SLIDES[form]
    source = write_pyramid_tiff(tmp_path / f"slide{suffix}", [(521, 390), (260, 195)], **options)
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        out = folder / f"out{suffix}"
        mask, report = restore(source, out, folder, WHITE, mask=discs((521, 390), seed))
        check_by_openslide(source, out, mask, mcu)
        assert all(level.touched and level.encoded_whole == 0 for level in report.levels)
        assert all("keep their coefficients" in level.reason for level in report.levels)
        verified = verify_slide(source, out, *facts(source, out, mask, report))
        assert verified.ok and verified.compared.whole == 0 < verified.compared.touched, verified.problems


def test_openslide_shows_the_same_pixels_of_a_real_slide(wsi, tmp_path):
    out = tmp_path / "out.svs"
    mask, report = restore(wsi / "CMU-1-Small-Region.svs", out, tmp_path)
    check_by_openslide(wsi / "CMU-1-Small-Region.svs", out, mask, (8, 8))
    assert report.levels[0].encoded_whole == 0


def whole(self, samples, like, touched):
    return jpeg.encode(samples, like, self.tables, self.photometric)


def test_verify_finds_a_segment_that_was_encoded_whole(tmp_path, monkeypatch):
    source = write_pyramid_tiff(tmp_path / "slide.tif", [(521, 390)], **YCBCR)
    out = tmp_path / "out.tif"
    with monkeypatch.context() as patched:
        patched.setattr(JpegCodec, "encode", whole)
        mask, report = restore(source, out, tmp_path)
    sidecar, declared = facts(source, out, mask, report)
    level = sidecar["written"]["levels"][0]
    assert level["encoded_whole"] and "encoded whole" in level["reason"]
    found = verify_slide(source, out, sidecar, declared)
    assert not found.ok and "blocks keep their coefficients" in found.problems[0]
    del level["encoded_whole"]                               # as sidecars were before blocks were kept
    found = verify_slide(source, out, sidecar, declared)
    assert found.ok and found.compared.whole, found.problems


def test_a_segment_that_cannot_be_taken_apart_is_named_and_passes(tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", [(521, 390)], **YCBCR)
    mask = Mask.of([shapely.box(150, 150, 180, 190)], (521, 390))
    page = tiff.read_tiff(source).pages[0]
    index = masked_segments(Grid.of(page), mask)[0]
    with source.open("rb") as file:
        place_segment(source, index, tiff.read_segment(file, page, index)[:-2] + b"\xff\xd0\xff\xd9")
    out = tmp_path / "out.tif"
    mask, report = restore(source, out, tmp_path, mask=mask)
    assert report.levels[0].encoded_whole == 1 and "1 could not be written in place" in report.levels[0].reason
    found = verify_slide(source, out, *facts(source, out, mask, report))
    assert found.ok and found.compared.whole == 1, found.problems
    assert "0 of 1" in found.lines()[1]


def test_verify_finds_one_coefficient_that_changed_outside_the_touched_blocks(tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", [(521, 390)], **YCBCR)
    out = tmp_path / "out.tif"
    mask, report = restore(source, out, tmp_path, mask=Mask.of([shapely.box(150, 150, 180, 190)], (521, 390)))
    page = tiff.read_tiff(out).pages[0]
    codec, index = codec_of(page), masked_segments(Grid.of(page), mask)[0]
    with out.open("rb") as file:
        data = tiff.read_segment(file, page, index)
    header = jpeg.parse(data, codec.tables)
    blocks = scan.read(data[header.end :], header.layout)
    blocks.dc[-6] += 1                                      # one luma block of the last MCU
    place_segment(out, index, data[: header.end] + scan.write(blocks, header.huffman))
    found = verify_slide(source, out, *facts(source, out, mask, report))
    assert not found.ok and "blocks keep their coefficients" in found.problems[0]
