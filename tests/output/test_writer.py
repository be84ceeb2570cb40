from __future__ import annotations

import io
import threading

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from made_slides import MAKERS
from painted_slides import GREEN, raw, restore, spots
from PIL import Image

from artifusion.errors import OutputError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output import tiffwriter
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.segment_codecs import APERIO_YCBCR, JPEG_2000
from artifusion.output.container import container_of, default_output, why_not_copied
from artifusion.output.description import description_with_note
from artifusion.output.patches import Patches
from artifusion.output.pyramid import level_rows
from artifusion.output.segments import area_mean
from artifusion.output.stored import masked_segments
from artifusion.output.writer import write_slide
from artifusion.slide import tiff
from artifusion.slide.reader import open_slide

KEPT = {"CMU-1-Small-Region.svs": (2, 3)}                # label and macro


def check_copy(source, out, mask, report):
    """Untouched segments identical, touched ones changed, on every page; the same file otherwise."""
    before, after = raw(source), raw(out)
    assert len(before) == len(after)
    touched = 0
    for number, ((grid, old), (_, new)) in enumerate(zip(before, after, strict=True)):
        expected = set(masked_segments(grid, mask)) if number not in KEPT.get(source.name, ()) else set()
        changed = {i for i in range(len(old)) if old[i] != new[i]}
        assert changed <= expected
        touched += len(changed)
    assert touched and report.container == "copied"
    with openslide.OpenSlide(source) as one, openslide.OpenSlide(out) as other:
        assert one.level_dimensions == other.level_dimensions
        differing = {name for name in one.properties.keys() | other.properties.keys()
                     if one.properties.get(name) != other.properties.get(name)}
        assert differing <= {"openslide.quickhash-1", "openslide.comment", "tiff.ImageDescription", "aperio.artifusion"}
        assert one.level_downsamples == other.level_downsamples
        profiles = [slide.read_region((0, 0), 0, (1, 1)).info.get("icc_profile") for slide in (one, other)]
        assert profiles[0] == profiles[1]
        assert set(one.associated_images) == set(other.associated_images)
        for name in set(one.associated_images) - {"thumbnail"}:
            assert one.associated_images[name].tobytes() == other.associated_images[name].tobytes()


def test_untouched_segments_are_byte_identical(copied_slide, tmp_path):
    out = tmp_path / f"out{copied_slide.suffix}"
    mask, report = restore(copied_slide, out, tmp_path)
    check_copy(copied_slide, out, mask, report)
    before, after = tiff.read_tiff(copied_slide), tiff.read_tiff(out)
    assert (before.big, before.order) == (after.big, after.order)
    for number, (one, other) in enumerate(zip(before.pages, after.pages, strict=True)):
        changed = {code for code in one.tags.keys() | other.tags.keys() if one.tags.get(code) != other.tags.get(code)}
        assert changed <= {273, 279, 324, 325} | ({270} if number == 0 else set())


def test_untouched_segments_of_real_slides_are_byte_identical(wsi, tmp_path):
    for name in ("CMU-1-Small-Region.svs", "TCGA-CR-7395-TS1.svs", "CropBreastSlide.tiff"):
        folder = tmp_path / name
        folder.mkdir()
        mask, report = restore(wsi / name, folder / name, folder)
        check_copy(wsi / name, folder / name, mask, report)


def test_masked_pixels_are_painted_on_every_level_and_in_the_thumbnail(aperio_slide, tmp_path):
    out = tmp_path / "out.svs"
    restore(aperio_slide, out, tmp_path, mask=Mask.of([shapely.box(300, 200, 500, 420)], Size(901, 703)))
    with tifffile.TiffFile(out) as file:
        for page in file.pages:
            scale = page.imagewidth / 901
            x, y = int(400 * scale), int(310 * scale)
            assert np.abs(page.asarray()[y, x].astype(int) - GREEN).max() < 12
    with openslide.OpenSlide(out) as slide:
        thumbnail = np.asarray(slide.associated_images["thumbnail"].convert("RGB"))
        assert np.abs(thumbnail[62, 80].astype(int) - GREEN).max() < 12
        assert slide.properties["aperio.artifusion"] == "restored 6 regions"
        assert slide.properties["aperio.MPP"] == "0.5000"


def test_other_readers_decode_the_result_as_the_codec_does(copied_slide, tmp_path):
    out = tmp_path / f"out{copied_slide.suffix}"
    restore(copied_slide, out, tmp_path)
    file = tiff.read_tiff(out)
    ours = np.concatenate(list(level_rows(out, file.pages[0]))).astype(int)
    compression = file.pages[0].number(tiff.COMPRESSION)
    with open_slide(out) as slide:
        assert np.abs(slide.read(Box(0, 0, *slide.size)) - ours).max() <= 1
    if compression != APERIO_YCBCR:                        # which tifffile leaves as it is
        assert np.abs(tifffile.imread(out, key=0) - ours).max() <= 1
    if file.order == "<" and not file.big and compression not in JPEG_2000:
        with Image.open(out) as image:
            assert np.abs(np.asarray(image.convert("RGB")) - ours).max() <= 4


def test_pixels_outside_the_mask_hardly_change(copied_slide, tmp_path):
    out = tmp_path / f"out{copied_slide.suffix}"
    _, report = restore(copied_slide, out, tmp_path, color=None)
    with open_slide(copied_slide) as before, open_slide(out) as after:
        difference = np.abs(before.read(Box(0, 0, *before.size)).astype(int) - after.read(Box(0, 0, *before.size)))
    assert difference.max() < 30 and difference.mean() < 0.5
    level = report.levels[0]
    assert level.touched and 0 <= level.outside_changed_share < 0.5 and level.outside_largest_change < 30
    assert isinstance(report.to_dict()["levels"][0]["touched"], int)


def test_exact_codecs_keep_every_pixel_beside_the_mask(exact_slide, tmp_path):
    out = tmp_path / f"out{exact_slide.suffix}"
    mask, report = restore(exact_slide, out, tmp_path)
    with open_slide(exact_slide) as before, open_slide(out) as after:
        whole = Box(0, 0, *before.size)
        masked = mask.read(whole)
        assert np.array_equal(before.read(whole)[~masked], after.read(whole)[~masked])
        assert np.abs(after.read(whole)[masked].astype(int) - GREEN).max() <= 2
    assert report.lossless
    for level in report.levels[:3]:
        assert level.touched and level.outside_changed_share == level.outside_largest_change == 0


def test_the_same_work_gives_the_same_bytes(copied_slide, packbits_slide, tmp_path):
    for source, suffix in ((copied_slide, copied_slide.suffix), (packbits_slide, ".tiff")):
        files = []
        for run in ("a", "b"):
            (tmp_path / run / source.stem).mkdir(parents=True)
            files.append(tmp_path / run / source.stem / f"out{suffix}")
            restore(source, files[-1], files[-1].parent)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_sparse_and_shared_segments_stay_so(copied_slide, tmp_path):
    odd = tmp_path / f"odd{copied_slide.suffix}"
    data = bytearray(copied_slide.read_bytes())
    with tifffile.TiffFile(copied_slide) as file:
        offsets, counts = (file.pages[0].tags[code] for code in (324, 325))
        order = {"<": "little", ">": "big"}[file.byteorder]
    for tag, at, value in ((offsets, 3, 0), (counts, 3, 0),                 # sparse
                           (offsets, 5, offsets.value[6]), (counts, 5, counts.value[6])):
        size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        data[tag.valueoffset + at * size : tag.valueoffset + (at + 1) * size] = value.to_bytes(size, order)
    odd.write_bytes(data)
    out = tmp_path / f"out{odd.suffix}"
    mask, report = restore(odd, out, tmp_path, mask=Mask.of([shapely.box(10, 400, 90, 500)], Size(901, 703)))
    page = tiff.read_tiff(out).pages[0]
    assert page.offsets[3] == page.counts[3] == 0 and page.offsets[5] == page.offsets[6] != 0
    check_copy(odd, out, mask, report)


@pytest.mark.parametrize("maker", ["aperio", "jpeg2000", "lzw"])
def test_a_file_that_grows_over_4_gib_becomes_a_bigtiff(maker, tmp_path, monkeypatch):
    source = MAKERS[maker](tmp_path)
    monkeypatch.setattr(tiffwriter, "CLASSIC_LIMIT", source.stat().st_size // 2)
    out = tmp_path / f"out{source.suffix}"
    mask, report = restore(source, out, tmp_path)
    assert tiff.read_tiff(out).big and not tiff.read_tiff(source).big
    check_copy(source, out, mask, report)


def test_a_pyramid_in_nested_directories_is_reencoded_with_the_reason(tmp_path):
    source = tmp_path / "nested.tif"
    with tifffile.TiffWriter(source) as writer:
        pixels = np.zeros((703, 901, 3), np.uint8)
        writer.write(pixels, subifds=1, tile=(128, 128), photometric="rgb", compression="lzw")
        writer.write(pixels[::2, ::2], tile=(128, 128), photometric="rgb", compression="lzw", subfiletype=1)
    with open_slide(source) as slide:
        assert container_of(slide, tmp_path / "out.tif") == ("re-encoded", "holds SubIFDs")


def test_a_level_pixel_is_the_mean_of_its_real_footprint():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (31, 45, 3), np.uint8)
    size, lv_size = Size(45, 31), Size(22, 7)
    mean = area_mean(pixels, Box(0, 0, 45, 31), Box(0, 0, 22, 7), lv_size, size)
    fine = np.kron(pixels, np.ones((7, 22, 1)))            # every level pixel is 31 x 45 of these
    expected = fine.reshape(7, 31, 22, 45, 3).mean(axis=(1, 3))
    assert np.abs(mean - expected).max() <= 0.5 + 1e-3


def test_segments_with_huffman_tables_of_their_own_are_written_safely():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    picture = noise.resize((128, 128), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=60, optimize=True, restart_marker_blocks=2)
    old = buffer.getvalue()
    known = jpeg.decode(old, b"", jpeg.YCBCR)
    new = jpeg.encode(known, old, b"", jpeg.YCBCR)
    assert np.abs(jpeg.decode(new, b"", jpeg.YCBCR).astype(int) - known).mean() < 3
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(new))), jpeg.decode(new, b"", jpeg.YCBCR))
    tables = old[: jpeg.markers(old)[-1][1]] + b"\xff\xd9"
    assert "Huffman" in jpeg.why_not(old, tables, jpeg.YCBCR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=True)
    assert "baseline" in jpeg.why_not(buffer.getvalue(), b"", jpeg.YCBCR)


def test_the_suffix_decides_between_copy_and_pyramid(aperio_slide, packbits_slide, png_image, tmp_path):
    with open_slide(aperio_slide) as slide:
        assert container_of(slide, tmp_path / "x.svs")[0] == "copied" and not why_not_copied(slide)
        assert container_of(slide, tmp_path / "x.tiff")[0] == "pyramid"
        assert default_output(aperio_slide, slide).name == "aperio.restored.svs"
        with pytest.raises(OutputError, match=r"\.svs.*\.tiff"):
            container_of(slide, tmp_path / "x.ndpi")
    with open_slide(packbits_slide) as slide:
        assert "compression" in why_not_copied(slide)
        assert default_output(packbits_slide, slide).name == "packbits.restored.tiff"
        with pytest.raises(OutputError, match=r"\.tiff"):
            container_of(slide, tmp_path / "x.svs")
    with open_slide(png_image) as slide, pytest.raises(OutputError, match=r"\.png"):
        container_of(slide, tmp_path / "x.svs")


def test_a_slide_whose_name_has_no_suffix_gets_the_usual_one(aperio_slide, tmp_path):
    for source, suffix in ((aperio_slide, ".svs"), (MAKERS["lzw"](tmp_path), ".tiff")):
        bare = tmp_path / "scan"
        bare.write_bytes(source.read_bytes())
        with open_slide(bare) as slide:
            assert default_output(bare, slide).name == f"scan.restored{suffix}"
            assert container_of(slide, default_output(bare, slide))[0] == "copied"
            with pytest.raises(OutputError, match=rf"written as \{suffix} "):
                container_of(slide, tmp_path / "out")


def test_a_plain_jpeg_becomes_a_png_by_default(jpeg_image, strip_image):
    with open_slide(jpeg_image) as slide:
        assert default_output(jpeg_image, slide).name == "image.restored.png"
    with open_slide(strip_image) as slide:
        assert default_output(strip_image, slide).name == "strips.restored.tiff"


def test_the_note_is_written_in_the_vendors_own_form():
    assert description_with_note("Aperio x|MPP = 0.5\0", "n", "aperio") == "Aperio x|MPP = 0.5|artifusion = n"
    assert description_with_note("Aperio x|artifusion = n", "m", "aperio").endswith("|artifusion = n|artifusion 2 = m")
    assert description_with_note("made by x", "n", "generic-tiff") == "made by x\nartifusion: n"
    assert description_with_note("", "n", "generic-tiff") == "artifusion: n"
    xml = description_with_note("<OME></OME>", "a -- b", "generic-tiff")
    assert xml.startswith("<OME><!--") and xml.endswith("--></OME>") and "--" not in xml[9:-9]


def test_a_note_of_two_lines_is_an_error(aperio_slide, tmp_path):
    with open_slide(aperio_slide) as slide:
        mask = spots(slide.size)
        patches = Patches(tmp_path / "p", slide, mask)
        for note in ("a|b", "a\nb"):
            with pytest.raises(ValueError, match="one line"):
                write_slide(patches, tmp_path / "x.svs", note=note, work=tmp_path)


def test_a_full_disk_is_an_output_error(aperio_slide, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiffwriter, "copy_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        restore(aperio_slide, tmp_path / "out.svs", tmp_path)


@pytest.mark.parametrize("suffix", [".svs", ".tiff"])
def test_no_thread_reads_the_slide_after_writing_failed(suffix, aperio_slide, tmp_path):
    def interrupted(done, total):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt) as kept:            # its traceback keeps alive what was at work
        restore(aperio_slide, tmp_path / f"out{suffix}", tmp_path, progress=interrupted)
    assert kept.tb and threading.active_count() == before
