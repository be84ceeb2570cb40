"""Slides that are not as a writer expects: descriptions of any form, odd tiles, missing ones, what a file lacks."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
import zlib
from itertools import pairwise

import imagecodecs
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from made_slides import APERIO, RGB, YCBCR, YCBCR_444, tissue, write_pyramid_tiff, write_tiled_tiff
from painted_slides import hide_tag, place_segment, point_segment
from painters import PINK, Flat
from PIL import Image

from artifusion.errors import MaskError, SlideError
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.segment_codecs import JpegCodec, codec_of
from artifusion.output.description import description_with_note, only_noted
from artifusion.output.lookover import look_over
from artifusion.output.reencode import halved
from artifusion.output.verify import verify_slide
from artifusion.restoration.pipeline import restore_slide
from artifusion.slide import tiff
from artifusion.slide.reader import open_slide

SIZES = [(300, 260), (150, 130)]
BOX = Box(120, 90, 40, 30)
PACKERS = [("deflate", zlib.compress), ("lzw", imagecodecs.lzw_encode), (None, bytes)]
OME = ('<{0}OME xmlns{1}="http://www.openmicroscopy.org/Schemas/OME/2016-06"><{0}Image ID="Image:0"><{0}Pixels '
       'ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="300" SizeY="260" SizeC="3" SizeZ="1" SizeT="1"><{0}Channel '
       'ID="C:0" SamplesPerPixel="3"/><{0}TiffData IFD="0" PlaneCount="1"/></{0}Pixels></{0}Image></{0}OME>')


def box_mask(folder, size=(300, 260), box=BOX):
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box.slices()] = 255
    Image.fromarray(pixels).save(folder / "mask.png")
    return folder / "mask.png"


def repaired(source, folder, box=BOX, size=(300, 260), **options):
    """Restore a box of a slide in pink, verified; returns the written slide and its sidecar."""
    out = options.pop("out", None) or folder / f"out{source.suffix}"
    return out, restore_slide(source, box_mask(folder, size, box), out, restorer=Flat(), **options)


def described(path, description, patch=None, **options):
    """A slide with this description; `patch` maps bytes of it to others of the same length."""
    write_pyramid_tiff(path, SIZES, description=description, **{**YCBCR_444, **options})
    if patch:
        path.write_bytes(path.read_bytes().replace(*patch))
    return path


def levels_of(path):
    """What OpenSlide shows of every level: uint8 arrays."""
    with open_slide(path) as slide:
        return [slide.read_level(level, Box(0, 0, *size)) for level, size in enumerate(slide.level_sizes)]


def check_painted(source, out, box=BOX, levels=2, near=3):
    """The box is pink on every level, and what lies a block beside it is within encoding of what it was."""
    for before, after in zip(levels_of(source)[:levels], levels_of(out), strict=False):
        scale = before.shape[1] / levels_of(source)[0].shape[1]
        inside = Box(*(round(value * scale) for value in box))
        assert np.abs(after[inside.expanded(-2).slices()].astype(int) - PINK).mean() < 8
        beside = np.ones(before.shape[:2], bool)
        beside[inside.expanded(18).intersection(Box(0, 0, *before.shape[1::-1])).slices()] = False
        assert np.abs(before.astype(int) - after)[beside].mean() < near


@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}, {"byteorder": ">"}])  # no OpenSlide
@pytest.mark.parametrize("text", [
    '{"shape": [260, 300, 3]}', '{"shape": [260, 300, 3], "axes": "YXS", "nested": {"a": [1.50, "}"]}}\n', "{}",
    ' {"other": "object", "empty": {}} '])
def test_a_description_that_is_a_json_object_stays_one_with_all_it_held(text, options, tmp_path):
    out, _ = repaired(described(tmp_path / "slide.tif", text, **options), tmp_path)
    assert tifffile.imread(out).shape == (260, 300, 3)
    with tifffile.TiffFile(out) as file:
        content = json.loads(file.pages[0].description)
        assert file.is_bigtiff == bool(options)
    assert "restored 1 region" in content.pop("artifusion") and content == json.loads(text)
    with tifffile.TiffFile(repaired(out, tmp_path, out=tmp_path / "again.tif")[0]) as file:
        assert {"artifusion", "artifusion 2"} <= set(json.loads(file.pages[0].description))


@pytest.mark.parametrize("text", ["shape=(260,300,3)", '[{"a": 1}]', '"a string"', "<OME/>", "<no xml"])
def test_a_description_without_a_place_for_a_note_stays_and_software_holds_it(text, tmp_path):
    out, _ = repaired(described(tmp_path / "slide.tif", text, software="scanner 3"), tmp_path)
    assert tifffile.imread(out).shape == (260, 300, 3)
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].description == text
        assert file.pages[0].software.startswith("scanner 3; artifusion: restored 1 region")


@pytest.mark.parametrize(("text", "reads"), [
    ('{"shape": [260, 300, 3]} and more', False), ("shape=none", False), ('{"\\u0061rtifusion": "mine"}', True)])
def test_what_only_resembles_a_form_of_metadata_is_no_reason_to_fail(text, reads, tmp_path):
    source = described(tmp_path / "slide.tif", text, software="scanner?of old")
    source.write_bytes(source.read_bytes().replace(b"scanner?", b"scanner\0"))
    out, _ = repaired(source, tmp_path)
    page = tiff.read_tiff(out).pages[0]
    assert "restored 1 region" in page.text(tiff.DESCRIPTION) + page.text(tiff.SOFTWARE).partition("\0")[0]
    assert page.text(tiff.SOFTWARE).endswith("\0of old")
    assert not reads or json.loads(page.text(tiff.DESCRIPTION))["artifusion"] == "mine"


@pytest.mark.parametrize("sizes", [SIZES, [(700, 640)]], ids=["copied", "pyramid"])
@pytest.mark.parametrize("prefix", ["", "ome:"])
@pytest.mark.parametrize("around", ["{}", '<?xml version="1.0" encoding="UTF-16"?>\n<!-- </OME> -->\n{}',
                                    " \r\n{}\r\n "])
def test_ome_xml_stays_well_formed_and_known(sizes, prefix, around, tmp_path):
    text = around.format(OME.format(prefix, ":ome" if prefix else "").replace("300", str(sizes[0][0])).replace(
        "260", str(sizes[0][1])))
    source = write_pyramid_tiff(tmp_path / "slide.tif", sizes, description=text, **YCBCR)
    out, content = repaired(source, tmp_path, size=sizes[0])
    assert content["written"]["container"] == ("copied" if len(sizes) == 2 else "pyramid")
    with tifffile.TiffFile(out) as file:
        assert file.is_ome and "artifusion: restored 1 region" in file.pages[0].description
        assert "Pixels" in json.dumps(tifffile.xml2dict(file.ome_metadata.strip().replace('encoding="UTF-16"', "")))
        assert file.series[0].levels[0].shape == (*sizes[0][::-1], 3)


OWN, OTHER = "urn:uuid:11111111-2222-3333-4444-555555555555", "urn:uuid:99999999-2222-3333-4444-555555555555"
PLANES = """<{0}TiffData IFD="0" PlaneCount="1"><{0}UUID FileName={1}>{2}</{0}UUID></{0}TiffData>"""


@pytest.mark.parametrize("sizes", [SIZES, [(700, 640)]], ids=["copied", "pyramid"])
@pytest.mark.parametrize("prefix", ["", "ome:"])
@pytest.mark.parametrize(("root", "file"), [("", "'a &amp; b.ome.tif'"), ("", '"./A &amp; B.ome.TIF"'),
                                            (f' UUID="{OWN}"', '"a &amp; b.ome.tif"'), (f' UUID="{OWN}"', '"old.tif"')])
def test_planes_of_ome_xml_lie_in_the_restored_file_and_not_in_the_source(root, file, prefix, sizes, tmp_path):
    text = OME.format(prefix, f"{':ome' if prefix else ''}").replace(
        f'<{prefix}TiffData IFD="0" PlaneCount="1"/>', PLANES.format(prefix, file, OWN)).replace(
        "OME xmlns", f"OME{root} xmlns", 1).replace("300", str(sizes[0][0])).replace("260", str(sizes[0][1]))
    source = write_pyramid_tiff(tmp_path / "a & b.ome.tif", sizes, description=text, **YCBCR_444)
    out, _ = repaired(source, tmp_path, size=sizes[0], out=tmp_path / "out.ome.tif")
    assert np.abs(tifffile.imread(out)[BOX.expanded(-2).slices()].astype(int) - PINK).mean() < 8
    with tifffile.TiffFile(out) as written, tifffile.TiffFile(source) as scan:
        assert written.is_ome and list(written._files.values()) == [written]
        assert scan.pages[0].description.count("FileName") == 1 and root in written.pages[0].description
    source.rename(tmp_path / "renamed.tif")
    assert verify_slide(tmp_path / "renamed.tif", out).ok


def test_planes_of_ome_xml_in_other_files_stay_there(tmp_path):
    text = OME.format("", "").replace('<TiffData IFD="0" PlaneCount="1"/>', PLANES.format("", '"slide.tif"', OWN)
                                      + PLANES.format("", '"beside.tif"', OTHER))
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, description=text, **YCBCR_444)
    out, _ = repaired(source, tmp_path)
    said = tiff.read_tiff(out).pages[0].text(tiff.DESCRIPTION)
    assert OWN not in said and f'<UUID FileName="beside.tif">{OTHER}</UUID>' in said


@pytest.mark.parametrize("text", ["ImageJ=1.53\nimages=1\nhyperstack=true\n", "made by a scanner", "12", "[User]\nA=1",
                                  r"{\rtf1 letters}"])
def test_a_plain_description_gets_a_line(text, tmp_path):
    out, _ = repaired(described(tmp_path / "slide.tif", text), tmp_path)
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].description.startswith(text.strip() + "\nartifusion: restored 1 region")
        assert not text.startswith("ImageJ") or file.imagej_metadata["hyperstack"] is True


@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}])
def test_the_note_stands_before_the_first_nul(options, tmp_path):
    for name, text, patch in (("a.svs", APERIO.format(w=300, h=260) + "?left over", (b"made-up?", b"made-up\0")),
                              ("b.tif", "made-up?left over", (b"made-up?", b"made-up\0")),
                              ("c.tif", "??made-up", (b"??made-up", b"\0\0made-up"))):
        source = described(tmp_path / name, text, patch, **options)
        out, _ = repaired(source, tmp_path, out=tmp_path / f"out-{name}")
        with openslide.OpenSlide(source) as before, openslide.OpenSlide(out) as after:
            shown = after.properties["tiff.ImageDescription"]
            assert "artifusion" in shown and before.properties["tiff.ImageDescription"] in shown
            for key in ("openslide.vendor", "openslide.mpp-x"):
                assert before.properties[key] == after.properties[key]
            assert ("aperio.artifusion" in after.properties) == (source.suffix == ".svs")
        assert source.read_bytes().count(b"\0left over") == out.read_bytes().count(b"\0left over")


def test_the_second_description_that_tifffile_writes_is_kept(tmp_path):
    source = tmp_path / "two.tif"
    tifffile.imwrite(source, tissue(*SIZES[0]), tile=(128, 128), photometric="rgb", description="of the user",
                     metadata={"axes": "YXS"}, compression="deflate")
    out, _ = repaired(source, tmp_path)
    with tifffile.TiffFile(out) as file:
        page = file.pages[0]
        assert page.description.startswith("of the user\nartifusion")
        assert {"axes", "artifusion"} <= set(json.loads(page.description1))


def test_only_one_insertion_that_tells_of_us_counts_as_a_note():
    for old in ("", "text", '{"a": 1}', "<a>b</a>\n"):
        new = description_with_note(old, "restored", "generic-tiff")
        assert only_noted(old, new) and only_noted(old, old)
        assert not old or not only_noted(old, f"x{new}")
    assert not only_noted("text", "text, and more") and not only_noted("a text", "text\nartifusion: n")


def aperio_with_label(path, harm):
    """An SVS whose label and macro were harmed by a de-identifier: harm(number of the page, its bytes) -> bytes."""
    write_pyramid_tiff(path, SIZES, description=APERIO.format(w=300, h=260), thumbnail=True, **RGB)
    with tifffile.TiffWriter(path, append=True) as writer:
        for name, size, kind, codec in (("label", (80, 100), 1, {"compression": "lzw"}),
                                        ("macro", (200, 90), 9, YCBCR)):
            writer.write(tissue(*size), photometric="rgb", subfiletype=kind, metadata=None, rowsperstrip=size[1],
                         description=f"Aperio Image Library\n{name} {size[0]}x{size[1]}", **codec)
    data = bytearray(path.read_bytes())
    for number, page in enumerate(tiff.read_tiff(path).pages[-2:]):
        start, length = int(page.offsets[0]), int(page.counts[0])
        data[start : start + length] = harm(number, bytes(data[start : start + length]))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("harm", [lambda _, data: bytes(len(data)), lambda _, data: b"\xff" * len(data),
                                  lambda number, data: data if number else b"XANONX" + data[6:],
                                  lambda number, data: data[::-1] if number else data])
def test_a_label_that_cannot_be_read_is_kept_and_compared_by_its_bytes(harm, tmp_path):
    source = aperio_with_label(tmp_path / "slide.svs", harm)
    out, _ = repaired(source, tmp_path)
    check_painted(source, out)
    for before, after in zip(tiff.read_tiff(source).pages[-2:], tiff.read_tiff(out).pages[-2:], strict=True):
        with source.open("rb") as one, out.open("rb") as other:
            assert tiff.read_segment(one, before, 0) == tiff.read_segment(other, after, 0)


def test_levels_of_a_few_pixels_are_restored_without_a_word(tmp_path, recwarn):
    source = write_pyramid_tiff(tmp_path / "slide.tif", [*SIZES, (9, 8), (2, 2), (1, 1)], **YCBCR)
    check_painted(source, repaired(source, tmp_path)[0], levels=2)
    assert not recwarn.list


@pytest.mark.parametrize(("tile", "size"), [((160, 463), (160, 601)), ((128, 255), (160, 601)), ((77, 1), (80, 21)),
                                            ((601, 3), (601, 700)), ((90, 257), (601, 1031))])
@pytest.mark.parametrize("order", ["<", ">"])
def test_levels_below_tiles_of_any_height_are_means_of_four(tile, size, order, tmp_path):
    source = write_tiled_tiff(tmp_path / "slide.tif", [tissue(*size)], tile, order, big=order == ">")
    box = Box(10, 7, 25, 9)
    out, content = repaired(source, tmp_path, box, size)
    levels = levels_of(out)
    assert content["written"]["container"] == ("pyramid" if max(size) > 512 else "copied")
    for upper, lower in pairwise(levels):
        assert np.abs(halved(upper).astype(int) - lower).max() <= 1
    assert np.abs(levels[0][box.slices()].astype(int) - PINK).max() == 0


def jpeg_of(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, **options)
    return buffer.getvalue()


ODD_TILES = {
    "progressive": lambda pixels: jpeg_of(pixels, progressive=True),
    "4:2:0": lambda pixels: jpeg_of(pixels, subsampling=2),
    "4:1:1": lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, level=85, subsampling="411", colorspace="RGB",
                                                           outcolorspace="YCBCR")),
    "optimised": lambda pixels: jpeg_of(pixels, optimize=True),
    "restarts": lambda pixels: jpeg_of(pixels, restart_marker_blocks=3),
    "RGB": lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, level=85, colorspace="RGB", outcolorspace="RGB")),
}


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("kind", sorted(ODD_TILES))
@pytest.mark.parametrize("codec", [YCBCR, YCBCR_444 | {"bigtiff": True}], ids=["4:2:0", "4:4:4"])
def test_a_touched_tile_of_another_kind_is_written_anew(codec, kind, page, tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, **codec)
    index = 1 if page == 0 else 0
    tile = tiff.read_tiff(source).pages[page]
    with source.open("rb") as file:
        pixels = codec_of(tile).decode(tiff.read_segment(file, tile, index))
    place_segment(source, index, ODD_TILES[kind](pixels), page)
    box = Box(140, 40, 60, 60)
    mask = Mask.of([shapely.box(box.x, box.y, box.right, box.bottom)], Size(*SIZES[0]))
    out, content = repaired(source, tmp_path, box)
    check_painted(source, out, box, near=8 if kind == "RGB" else 3)    # read as YCbCr: loud colours
    level = content["written"]["levels"][page]
    with open_slide(source) as slide:
        foreseen = look_over(slide, mask, out)
    assert level["encoded_whole"] >= foreseen == (kind in ("progressive", "4:1:1", "RGB"))
    assert not foreseen or "could not be written in place" in level["reason"]


@pytest.mark.parametrize(("codec", "pack"), PACKERS)
@pytest.mark.parametrize("page", [0, 1])
def test_a_tile_that_unpacks_to_more_than_a_tile_is_read_as_readers_do(codec, pack, page, tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, compression=codec)
    tile = tiff.read_tiff(source).pages[page]
    with source.open("rb") as file:
        pixels = codec_of(tile).decode(tiff.read_segment(file, tile, 0))
    place_segment(source, 0, bytes(pack(pixels.tobytes() + b"more than a tile" * 999)), page)
    box = Box(20, 20, 60, 60)
    out, _ = repaired(source, tmp_path, box)
    check_painted(source, out, box, near=0.01)


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("harm", [lambda data: b"no pixels at all", lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("codec", [YCBCR, {"compression": "deflate"}, {"compression": "lzw", "predictor": True},
                                   {"compression": None}])
def test_a_damaged_tile_under_the_mask_is_found_before_work_begins(codec, harm, page, tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, **codec)
    tile = tiff.read_tiff(source).pages[page]
    with source.open("rb") as file:
        data = harm(tiff.read_segment(file, tile, 0))
    place_segment(source, 1 - page, data, page)
    painter, place = Flat(), ("(128, 0)", "(0, 0)")[page]
    with pytest.raises(SlideError, match=rf"slide\.tif: level {page}, at {re.escape(place)}"):
        restore_slide(source, box_mask(tmp_path, box=Box(140, 20, 30, 30)), tmp_path / "out.tif", restorer=painter)
    assert painter.calls == 0 and not list(tmp_path.glob("out*"))
    beside = Box(265, 200, 30, 50)                            # its canvas is painted from pixels of the damaged tile
    if page == 0:
        with pytest.raises(SlideError, match=rf"slide\.tif: level 0, at {re.escape(place)}"):
            restore_slide(source, box_mask(tmp_path, box=beside), tmp_path / "out.tif", restorer=painter)
        assert painter.calls == 0 and not list(tmp_path.glob("out*"))
    else:
        repaired(source, tmp_path, beside)                    # what nothing touches stays as it is


def test_a_damaged_tile_from_which_a_level_is_built_is_found_before_work_begins(tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", [(700, 640)], compression="deflate")
    place_segment(source, 20, b"no pixels")
    painter = Flat()
    with pytest.raises(SlideError, match=r"level 0, at"):
        restore_slide(source, box_mask(tmp_path, (700, 640)), tmp_path / "out.tif", restorer=painter)
    assert painter.calls == 0


@pytest.mark.parametrize("offset", [0, None], ids=["no offset", "an offset"])
@pytest.mark.parametrize("suffix", [".tif", ".svs", ".tiff"])
def test_what_is_declared_is_what_is_painted_where_tiles_are_missing(suffix, offset, tmp_path):
    source = write_pyramid_tiff(tmp_path / f"slide{suffix}", SIZES, bigtiff=suffix == ".tiff",
                                description=APERIO.format(w=300, h=260) if suffix == ".svs" else None, **YCBCR_444)
    point_segment(source, 0, offset, 0)
    out, content = repaired(source, tmp_path, Box(100, 60, 60, 50))
    assert [region["l0_box"] for region in content["regions"]] == [[128, 60, 32, 50]]
    before, after = levels_of(source), levels_of(out)
    for number, level in enumerate(after):
        changed = np.argwhere((before[number] != level).any(axis=2))
        assert changed[:, 1].min() >= 127 / 2**number - 8        # a block beside the mask at most
    assert tiff.read_tiff(out).pages[0].counts[0] == 0
    with pytest.raises(MaskError, match="no tiles"):
        restore_slide(source, box_mask(tmp_path, box=Box(30, 30, 60, 60)), tmp_path / f"none{suffix}", restorer=Flat())
    assert not list(tmp_path.glob("none*"))


@pytest.mark.parametrize("codec", [YCBCR, {"compression": "lzw"}])
def test_a_missing_tile_of_a_reduced_level_is_written_where_the_mask_touches_it(codec, tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, **codec)
    for index in (0, 2):
        place_segment(source, index, b"", page=1)
    out, content = repaired(source, tmp_path)
    levels = levels_of(out)
    assert np.abs(levels[1][46:59, 61:79].astype(int) - PINK).mean() < 8
    assert np.abs(halved(levels[0])[:128, :128].astype(int) - levels[1][:128, :128]).mean() < 8
    assert tiff.read_tiff(out).pages[1].counts[2] == 0 and content["written"]["levels"][1]["encoded_whole"] == 1


def strips(path, compression="deflate", **options):
    tifffile.imwrite(path, tissue(320, 288), photometric="rgb", rowsperstrip=24, compression=compression, metadata=None,
                     **options)
    return path


def shortened_strip(path):
    page = tiff.read_tiff(path).pages[0]
    point_segment(path, 7, None, int(page.counts[7]) // 2)


LACKS = {
    "tile lengths": lambda path: hide_tag(write_pyramid_tiff(path, SIZES, **YCBCR), 325),
    "tile lengths of a level": lambda path: hide_tag(write_pyramid_tiff(path, SIZES, bigtiff=True, **YCBCR), 325, 1),
    "tile offsets": lambda path: hide_tag(write_pyramid_tiff(path, SIZES, byteorder=">", **YCBCR), 324),
    "strip lengths": lambda path: hide_tag(strips(path), 279),
    "strip offsets": lambda path: hide_tag(strips(path), 273),
    "strips": lambda path: [point_segment(strips(path), at, 0, 0) for at in (6, 7)],
    "strips with offsets": lambda path: point_segment(strips(path, byteorder=">"), 6, None, 0),
    "rows": lambda path: rows_more(strips(path)),
    "half a deflate strip": lambda path: shortened_strip(strips(path)),
    "half an LZW strip": lambda path: shortened_strip(strips(path, "lzw")),
    "half a PackBits strip": lambda path: shortened_strip(strips(path, "packbits", bigtiff=True)),
    "half a JPEG strip": lambda path: shortened_strip(strips(path, "jpeg")),
    "half an uncompressed strip": lambda path: shortened_strip(strips(path, None)),
}


def rows_more(path):
    """The image claims a strip more than it has."""
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[257].valueoffset
    with path.open("rb+") as file:
        file.seek(at)
        file.write((288 + 24).to_bytes(4, "little"))


@pytest.mark.parametrize("what", sorted(LACKS))
def test_a_file_that_lacks_pixels_is_refused(what, tmp_path, caplog):
    source = tmp_path / "slide.tif"
    LACKS[what](source)
    with pytest.raises(SlideError, match=r"slide\.tif") as refused:
        open_slide(source)
    assert "\n" not in str(refused.value) and not caplog.records


def test_whole_strips_are_read_as_before(tmp_path):
    for number, compression in enumerate((None, "deflate", "lzw", "packbits", "jpeg")):
        source = strips(tmp_path / f"{number}.tif", compression)
        with open_slide(source) as slide:
            assert np.abs(slide.read(Box(0, 0, 320, 288)).astype(int) - tissue(320, 288)).mean() < 12
    alone = tmp_path / "alone.tif"
    tifffile.imwrite(alone, tissue(320, 288), photometric="rgb", metadata=None, rowsperstrip=288)
    hide_tag(alone, 279)                                      # one strip alone needs no length
    with open_slide(alone) as slide:
        assert np.array_equal(slide.read(Box(0, 0, 320, 288)), tissue(320, 288))


def test_a_large_tiled_image_of_another_compression_is_refused_by_the_name_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for compression, name in (("webp", "WebP"), ("jpegxl", "JPEG XL")):
        source = tmp_path / f"{name}.tif"
        tifffile.imwrite(source, tissue(*SIZES[0]), tile=(128, 128), photometric="rgb", compression=compression,
                         metadata=None, bigtiff=name == "WebP")
        with pytest.raises(SlideError, match=f"compression {name}") as refused:
            open_slide(source)
        assert "too many" not in str(refused.value)


@pytest.mark.parametrize(("compression", "pack"), PACKERS)
def test_no_more_is_unpacked_than_a_tile_can_hold(compression, pack, tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, compression=compression)
    page = tiff.read_tiff(source).pages[0]
    packed = bytes(pack(bytes(64 << 20)))
    tracemalloc.start()
    samples = codec_of(page).decode(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples.shape == (128, 128, 3) and peak < 1 << 20


def test_a_jpeg_tile_that_claims_to_be_larger_than_a_tile_is_not_unpacked():
    huge = bytearray(jpeg_of(tissue(128, 128)))
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    with pytest.raises(SlideError, match="in a tile of 128 x 128"):
        JpegCodec(b"", jpeg.YCBCR, Size(128, 128)).decode(bytes(huge))


def test_a_short_uncompressed_tile_that_only_some_readers_take_as_whole_is_found_before_work_begins(tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES)
    whole = 3 * 128 * 128
    point_segment(source, 0, None, whole + 100, page=1)       # libtiff believes none of them where the first two differ
    point_segment(source, 3, None, whole - 2, page=1)
    with pytest.raises(SlideError, match=r"level 1, at \(128, 128\)"):
        repaired(source, tmp_path)
    point_segment(source, 3, None, whole, page=1)
    check_painted(source, repaired(source, tmp_path)[0], near=1)


def test_a_tag_of_a_type_that_tifffile_does_not_take_is_no_reason_to_fail(tmp_path):
    source = write_pyramid_tiff(tmp_path / "slide.tif", SIZES, tile=64, **YCBCR_444)
    with tifffile.TiffFile(source) as file:
        tag = file.pages[1].tags[323]                         # the height of a tile, as a byte
    data = bytearray(source.read_bytes())
    data[tag.offset + 2 : tag.offset + 12] = b"\1\0\1\0\0\0\x40\0\0\0"
    source.write_bytes(data)
    check_painted(source, repaired(source, tmp_path)[0], levels=1)
