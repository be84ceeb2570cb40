"""Ten deliberate faults of the writer: `verify` must find each, in every container that it can befall."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from made_slides import APERIO, RGB, YCBCR, tissue, write_pyramid_tiff
from painted_slides import place_segment
from painters import Painter
from PIL import Image, ImageCms, PngImagePlugin

from artifusion.errors import OutputError
from artifusion.files import sha256
from artifusion.geometry import Box
from artifusion.output import pyramid, reencode, segments, writer
from artifusion.output.codecs.segment_codecs import codec_of
from artifusion.output.tiffwriter import TiffWriter
from artifusion.output.verify import verify_slide
from artifusion.restoration import pipeline
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide import tiff
from artifusion.slide.levels import Grid

SIZE = (900, 700)
BOX = Box(300, 200, 330, 300)                                # holds whole tiles of every level
SMALL = Box(60, 500, 90, 80)


class Tissue(Painter):
    """Paints other tissue than there was."""

    def paint(self, image):
        other = tissue(image.shape[1], image.shape[0], seed=7).astype(int) - (30, 20, 10)
        return other.clip(0, 255).astype(np.uint8)


SLIDES = {                                                   # the source, and what is written of it
    "copied": ("slide.svs", ".svs", [SIZE, (450, 350), (225, 175)],
               {"description": APERIO.format(w=900, h=700), "thumbnail": True, **RGB}),
    "copied, exact": ("slide.tif", ".tif", [SIZE, (450, 350)], {"compression": "lzw"}),
    "copied, 4:2:0": ("slide.tiff", ".tiff", [SIZE, (449, 349)], {"bigtiff": True, "byteorder": ">", **YCBCR}),
    "pyramid": ("slide.tif", ".tif", [SIZE], YCBCR),
    "pyramid, exact": ("slide.tif", ".tif", [SIZE], {"compression": "deflate"}),
    "re-encoded": ("slide.tif", ".tiff", [SIZE, (450, 350)], {"compression": "packbits"}),
}


@pytest.fixture(params=sorted(SLIDES))
def kind(request):
    return request.param


@pytest.fixture
def restored(kind, tmp_path):
    """Restores a slide of that kind; returns the source and the output."""
    name, suffix, sizes, options = SLIDES[kind]
    source = write_pyramid_tiff(tmp_path / name, sizes, **options)
    marked = np.zeros(SIZE[::-1], np.uint8)
    marked[BOX.slices()] = marked[SMALL.slices()] = 255
    Image.fromarray(marked).save(tmp_path / "mask.png")

    def run():
        out = tmp_path / f"out{suffix}"
        restore_slide(source, tmp_path / "mask.png", out, restorer=Tissue())
        return source, out

    return run


def check_found(restored, monkeypatch, words="verification failed"):
    """The fault ends the run, with nothing published; and where that is let pass, `verify` finds it later."""
    with pytest.raises(OutputError, match="verification failed") as found:
        restored()
    assert words in str(found.value)
    monkeypatch.setattr(pipeline, "verify_written", lambda patches, written, *_: {"output": {
        "name": written.name, "sha256": sha256(written)}})
    source, out = restored()
    report = verify_slide(source, out)
    assert not report.ok, "found only while it is known what was painted"


def test_without_a_fault_every_kind_is_verified(restored):
    source, out = restored()
    assert verify_slide(source, out).ok


@pytest.mark.parametrize("rows", [1, 2])
def test_a_level_that_is_shifted(rows, kind, restored, monkeypatch):
    """By half a pixel, and by a whole one."""
    def shifted(halved):
        return lambda pixels: halved(np.roll(pixels, rows, axis=0))

    def moved(area_mean):
        return lambda pixels, *frame: area_mean(np.roll(pixels, rows, axis=0), *frame)

    for module in (pyramid, reencode):
        monkeypatch.setattr(module, "halved", shifted(reencode.halved))
    monkeypatch.setattr(segments, "area_mean", moved(segments.area_mean))
    check_found(restored, monkeypatch, "aside")


def test_what_was_painted_in_the_wrong_place(kind, restored, monkeypatch):
    paint, real = segments.Patches.paint, pipeline.write_slide

    def misplaced(self, pixels, l0_box, masked, before_wave=None):
        there = Box(l0_box.x + 40, *l0_box[1:])
        whole = np.zeros_like(pixels)
        paint(self, whole, there, self.mask.read(there))
        pixels[masked] = np.where(whole.any(axis=2, keepdims=True), whole, pixels)[masked]

    def write_slide(patches, *arguments, **options):
        monkeypatch.setattr(segments.Patches, "paint", misplaced)
        try:
            return real(patches, *arguments, **options)
        finally:
            monkeypatch.setattr(segments.Patches, "paint", paint)

    monkeypatch.setattr(pipeline, "write_slide", write_slide)
    check_found(restored, monkeypatch)


def test_a_declaration_in_another_frame(kind, restored, monkeypatch):
    source, out = restored()
    declared = json.loads(out.with_name(f"{out.name}.geojson").read_text())
    for feature in declared["features"]:
        feature["geometry"]["coordinates"] = [[[x + 90, y] for x, y in ring]
                                              for ring in feature["geometry"]["coordinates"]]
    assert not verify_slide(source, out, geojson=declared).ok


def test_a_dropped_icc_profile(kind, restored, monkeypatch):
    add = TiffWriter.add

    def without(self, tags, *rest):
        return add(self, {code: tag for code, tag in tags.items() if code != tiff.ICC}, *rest)

    monkeypatch.setattr(TiffWriter, "add", without)
    check_found(restored, monkeypatch, "ICC")


def test_swapped_channels(kind, restored, monkeypatch):
    """Of what is painted alone: the rest of every tile is right."""
    swap = segments.copy_where
    monkeypatch.setattr(segments, "copy_where", lambda pixels, colours, where: swap(pixels, colours[..., ::-1], where))
    encode = reencode.encode_segment
    monkeypatch.setattr(reencode, "encode_segment", lambda pixels, lossless: encode(
        pixels[..., ::-1] if kind == "re-encoded" else pixels, lossless))
    check_found(restored, monkeypatch)


@pytest.mark.parametrize("kind", ["copied"])
def test_a_stale_thumbnail(kind, restored, monkeypatch):
    real = writer.restored_segments
    monkeypatch.setattr(writer, "restored_segments", lambda stored, *rest: real(stored, *rest)
                        if stored.name != "thumbnail" else (_ for _ in ()))
    check_found(restored, monkeypatch, "thumbnail")


def test_a_missing_note(kind, restored, monkeypatch):
    def without(description, software, note, vendor):
        return {tiff.DESCRIPTION: description.encode() or b"nothing", tiff.SOFTWARE: software.encode() or b"nothing"}

    monkeypatch.setattr(writer, "texts_with_note", without)
    monkeypatch.setattr(writer, "tags_with_note", lambda page, *_: without(
        page.text(tiff.DESCRIPTION), page.text(tiff.SOFTWARE), "", ""))
    check_found(restored, monkeypatch, "no note")


@pytest.mark.parametrize("level0", [True, False])
def test_a_wrong_scale(level0, kind, restored, monkeypatch):
    """Of the slide, and of a level below it alone."""
    add = TiffWriter.add

    def other(self, tags, *rest):
        width, height = (int(np.frombuffer(tags[code].raw, self.order + tiff.INTEGERS[tags[code].type])[0])
                         for code in (tiff.WIDTH, tiff.HEIGHT))
        wrong = (width, height) == SIZE if level0 else (width, height) in ((450, 350), (449, 349))
        both = (tiff.X_RESOLUTION, tiff.Y_RESOLUTION) if wrong else ()
        return add(self, {code: replace(tag, raw=tripled(tag.raw, self.order)) if code in both else tag
                          for code, tag in tags.items()}, *rest)

    def tripled(raw, order):
        numerator, denominator = struct.unpack(order + "II", raw)
        return struct.pack(order + "II", 3 * numerator, denominator)

    monkeypatch.setattr(TiffWriter, "add", other)
    check_found(restored, monkeypatch)


@pytest.mark.parametrize("masked", [True, False])
def test_one_tile_with_the_data_of_another(masked, kind, restored, tmp_path):
    """A tile that is masked as a whole, where nothing around it tells, and one that no mask touches."""
    source, out = restored()
    page = tiff.read_tiff(out).pages[0]
    grid = Grid.of(page)
    inside = [index for index in range(len(page.offsets)) if grid.box(index).intersection(BOX) == grid.box(index)]
    outside = [index for index in range(len(page.offsets)) if not grid.box(index).overlaps(BOX)
               and not grid.box(index).overlaps(SMALL)]
    place, other = (inside[0], outside[0]) if masked and inside else (outside[0], outside[2])
    with out.open("rb") as file:
        place_segment(out, place, tiff.read_segment(file, page, other))
    sidecar = json.loads(out.with_name(f"{out.name}.json").read_text())
    sidecar["output"]["sha256"] = sha256(out)
    assert not verify_slide(source, out, sidecar).ok


def test_a_region_that_was_not_painted(kind, restored, monkeypatch):
    real = pipeline.write_slide

    def write_slide(patches, *arguments, **options):
        held = {target: found for target, found in patches._targets.items() if target.overlaps(SMALL)}
        cells, patches._cells = patches._cells, {cell: [t for t in targets if t not in held]
                                                 for cell, targets in patches._cells.items()}
        try:
            return real(patches, *arguments, **options)
        finally:
            patches._cells = cells

    monkeypatch.setattr(pipeline, "write_slide", write_slide)
    check_found(restored, monkeypatch)


def test_a_kept_pixel_that_changed(kind, restored):
    """One in a tile that the mask touches; 24 x 24 of them where all is encoded anew."""
    side = 24 if kind == "re-encoded" else 1
    source, out = restored()
    page = tiff.read_tiff(out).pages[0]
    grid, codec = Grid.of(page), codec_of(page)
    index = next(grid.over(Box(BOX.x - 1, BOX.y - 1, 1, 1)))               # its lower right corner is masked
    with out.open("rb") as file:
        old = tiff.read_segment(file, page, index)
    samples, touched = codec.decode(old).copy(), np.zeros((grid.segment.height, grid.segment.width), bool)
    touched[40 : 40 + side, 8 : 8 + side] = True
    samples[touched] = 255 - samples[touched]
    assert not touched[BOX.y - grid.box(index).y :, BOX.x - grid.box(index).x :].any()
    place_segment(out, index, codec.encode(samples, old, touched))
    sidecar = json.loads(out.with_name(f"{out.name}.json").read_text())
    sidecar["output"]["sha256"] = sha256(out)
    assert not verify_slide(source, out, sidecar).ok


@pytest.mark.parametrize("chunk", [b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP"])
def test_a_dropped_chunk_that_says_how_the_numbers_of_a_png_are_to_be_shown(chunk, tmp_path, monkeypatch):
    """In a file that is otherwise as it should be."""
    contents = {b"gAMA": struct.pack(">I", 45_455), b"cHRM": struct.pack(">8I", *range(31000, 39000, 1000)),
                b"sRGB": b"\0", b"cICP": bytes([12, 13, 0, 1])}
    info, icc = PngImagePlugin.PngInfo(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content in contents.items():
        info.add(name, content)
    source = tmp_path / "slide.png"
    Image.fromarray(tissue(*SIZE)).save(source, pnginfo=info, icc_profile=icc if chunk == b"iCCP" else None)
    marked = np.zeros(SIZE[::-1], np.uint8)
    marked[SMALL.slices()] = 255
    Image.fromarray(marked).save(tmp_path / "mask.png")
    write = writer.write_image

    def without(path, *arguments, **options):
        write(path, *arguments, **options)
        at = (data := path.read_bytes()).index(chunk) - 4
        path.write_bytes(data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :])

    monkeypatch.setattr(writer, "write_image", without)

    def run():
        restore_slide(source, tmp_path / "mask.png", tmp_path / "out.png", restorer=Tissue())
        return source, tmp_path / "out.png"

    check_found(run, monkeypatch, "ICC" if chunk == b"iCCP" else chunk.decode())
