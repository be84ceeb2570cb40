"""A thousand broken inputs, and what they and more of them once brought down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from made_masks import qupath_feature, ring, write_qupath
from made_slides import APERIO, YCBCR, YCBCR_444, tissue, write_pyramid_tiff
from painted_slides import place_segment, point_segment
from painters import Flat

from artifusion.cli.app import main
from artifusion.errors import MaskError, OutputError, SlideError, WeightsError
from artifusion.geometry import Box, Point, Size
from artifusion.mask.geojson import geojson_polygons
from artifusion.mask.mask import Mask
from artifusion.mask.regions import find_regions, plan_canvases
from artifusion.output.codecs import jpeg
from artifusion.output.codecs.segment_codecs import JpegCodec
from artifusion.output.container import container_of, generic_pyramid
from artifusion.output.output import Output
from artifusion.output.patches import Patches
from artifusion.output.verify import verify_slide
from artifusion.restoration.grafting import Grafts
from artifusion.restoration.pipeline import restore_slide
from artifusion.restoration.recovering import Recoveries
from artifusion.slide import tiff
from artifusion.slide.reader import open_slide

TESTS = Path(__file__).parents[1]
SEED = 0


def refused(*words):
    """The line that a command refuses with."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("artifusion: ") and result.stderr.count("\n") == 1
    return result.stderr


def box_mask(folder):
    return write_qupath(folder / "mask.geojson", [qupath_feature(
        {"type": "Polygon", "coordinates": [ring(100, 60, 140, 100)]}, {"name": "Fold"})])


def test_a_thousand_broken_inputs_bring_nothing_down():
    """`python -m fuzz` says how to look at one again."""
    ended = subprocess.run([sys.executable, "-m", "fuzz", "--count", "1000", "--seed", str(SEED), "--strict"],
                           cwd=TESTS, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, "\n".join(line for line in said if line[:1].isdigit()) + ended.stderr[-2000:]
    kinds = json.loads(said[-1])["kinds"]
    assert sum(ends.get("taken", 0) + ends.get("refused", 0) for ends in kinds.values()) == 1000
    assert all(ends.get("refused") for ends in kinds.values()), kinds


def test_the_harness_sees_every_fault():
    ended = subprocess.run([sys.executable, "-m", "fuzz.faults"], cwd=TESTS, capture_output=True, text=True, check=True)
    for wanted, findings in json.loads(ended.stdout.splitlines()[-1]).items():
        assert any(finding.startswith(wanted) for finding in findings), (wanted, findings)


# What was found in ten thousand inputs, mended, one test per kind

@pytest.mark.parametrize("width", [2**31 - 16, 0])
def test_a_tile_that_no_memory_holds_is_refused_before_openslide_ends_the_process(tmp_path, width):
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    with tifffile.TiffFile(slide, mode="r+b") as file:
        file.pages[0].tags["TileWidth"].overwrite(width)
    with pytest.raises(SlideError, match=f"{width} x 64"):
        open_slide(slide)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_hold_no_numbers_are_refused(tmp_path, number):
    from tiny_training import TINY

    from artifusion.checkpoint import load_weights, save_weights
    from artifusion.diffusion.denoiser import SwinDenoiser

    state = SwinDenoiser(TINY).state_dict()
    next(iter(state.values())).view(-1)[0] = number
    save_weights(tmp_path / "weights", state, TINY, "tiny", {})
    with pytest.raises(WeightsError, match="holds what is no number"):
        load_weights(tmp_path / "weights")


def test_deep_json_in_weights_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("[" * 10**5)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "broken weights" in refused("info", tmp_path)


@pytest.mark.parametrize("key, value", [("depths", "[1, 1000000]"), ("dims", "[16, 1000000]"), ("time_dim", "1000000")])
def test_a_network_of_no_sensible_size_is_refused(tmp_path, key, value):
    (tmp_path / "train.toml").write_text(f"[denoiser]\nwindow_sizes = [4, 4]\nheads = [2, 2]\n{key} = {value}\n")
    assert f"denoiser.{key}" in refused("train", tmp_path / "train.toml", "--data", tmp_path, "--run-dir", tmp_path)


def test_a_tar_that_runs_in_circles_is_one_line(tmp_path):
    tar = tmp_path / "tiles.tar"
    head = bytearray(512)
    head[:1], head[124:136], head[156:157] = b"a", b"0" * 11 + b"\0", b"x"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    tar.write_bytes(bytes(head) * 2000)                    # a header for the next header, and so on
    assert "no shard" in refused("tiles", "--data", tar, "-o", tmp_path / "out.tar", "-q")


def test_a_jpeg_marker_that_names_no_table_is_a_broken_segment():
    segment = bytearray(imagecodecs.jpeg8_encode(tissue(64, 64), level=80))
    start = segment.index(b"\xff\xda")
    segment[start + 6] = 0x77                              # the tables of the first component
    with pytest.raises(SlideError, match="names no table"):
        jpeg.parse(bytes(segment), b"")


def test_an_image_whose_pixels_tifffile_would_invent_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", tissue(277, 203), photometric="rgb", tile=(64, 64), metadata=None)
    with tifffile.TiffFile(tmp_path / "image.tif", mode="r+b") as file:
        file.pages[0].tags["PlanarConfiguration"].overwrite(0)
    with pytest.raises(SlideError, match="how its samples lie"):
        open_slide(tmp_path / "image.tif")


def test_a_mask_of_which_a_part_cannot_be_read_is_refused(tmp_path):
    """Pillow refuses it; tifffile would leave that part as it is in memory."""
    slide, mask = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR), tmp_path / "mask.tif"
    white = np.zeros((203, 277), np.uint8)
    white[20:60, 20:60] = 255
    tifffile.imwrite(mask, white, tile=(64, 64), compression="lzw", photometric="minisblack", metadata=None)
    with tifffile.TiffFile(mask, mode="r+b") as file:
        for name in ("TileOffsets", "TileByteCounts"):
            file.pages[0].tags[name].overwrite(file.pages[0].tags[name].value[:-3])
    assert "is incomplete" in refused("mask", "convert", mask, tmp_path / "out.png", "--slide", slide, "-q")


def test_broken_work_of_an_interrupted_run_is_done_again(tmp_path):
    slide = open_slide(write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR))
    mask = Mask.of([shapely.box(20, 20, 60, 60)], slide.size)
    canvas, = plan_canvases(find_regions(mask, 8), slide.size, mask=mask)
    patches = Patches(tmp_path / "patches", slide, mask)
    patches.add(canvas, slide.read(canvas.l0_box))
    assert Patches(tmp_path / "patches", slide, mask).done(canvas)
    file, = (tmp_path / "patches").iterdir()
    file.write_bytes(b"x" * file.stat().st_size)
    (tmp_path / "patches" / "not_ours.npy").touch()
    assert not Patches(tmp_path / "patches", slide, mask).done(canvas)
    for folder, name in (("grafts", "1.npz"), ("recovered", "1-0.npz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"PK\3\4 and no more")
    recoveries = Recoveries(tmp_path / "recovered")
    assert not recoveries.pieces and not Grafts(tmp_path / "grafts", recoveries).filled
    output = Output(tmp_path / "out.tif", [slide.path])
    with pytest.raises(KeyboardInterrupt), output.work_on({"a": 1}):
        raise KeyboardInterrupt
    (tmp_path / "out.tif.partial" / "job.json").write_bytes(b"\xff")
    with pytest.raises(OutputError, match="move it away"), output.work_on({"a": 1}):
        pass                                                     # it might be anybody's


@pytest.mark.parametrize("row", ["1,a,b,,c,d,e,0.1,mean,1,1", "x" + ",1" * 40, "\xff"])
def test_a_broken_table_of_an_evaluation_is_refused(tmp_path, row):
    from artifusion.evaluation.records import COLUMNS, Records

    (tmp_path / "tiles.csv").write_bytes(f"{','.join(COLUMNS)}\n{row}\n".encode("latin-1"))
    with pytest.raises(OutputError, match="is broken"):
        Records(tmp_path).rows()


@pytest.mark.parametrize("text", ["crops,loss\nx,0.5\n", "minutes\n1\n", "crops,loss\n1,0.5,3\n"])
def test_a_broken_log_is_told_before_a_run_goes_on(tmp_path, text):
    from artifusion.training.curves import read_log

    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(OutputError, match="move it away"):
        read_log(tmp_path / "log.csv")


def test_what_a_file_says_does_not_command_the_terminal(tmp_path):
    write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    (tmp_path / "mask.geojson").write_text(json.dumps({"type": "\x1b[2Jgone\n"}))
    said = refused("mask", "convert", tmp_path / "mask.geojson", tmp_path / "o.png", "--slide", tmp_path / "slide.tif")
    assert said.rstrip("\n").isprintable() and "\\x1b[2Jgone\\n" in said


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_one_line(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("artifusion.slide.reader.open_slide", fails)
    (tmp_path / "slide.tif").touch()
    assert "not enough memory" in refused("info", tmp_path / "slide.tif")


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1])
def test_a_segment_beyond_all_files_is_found_when_the_slide_is_opened(tmp_path, offset):
    """Also that of a page that nothing touches: the writer would copy it after everything was painted."""
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203), (138, 101)], tile=64, bigtiff=True, **YCBCR)
    point_segment(slide, 5, offset, None, page=1)
    assert "is cut short" in refused("info", slide)


def test_a_warning_of_openslide_does_not_stand_beside_our_line(tmp_path):
    """Levels that get larger again, and then no pixels: GLib would print the first past Python."""
    slide = write_pyramid_tiff(tmp_path / "slide.svs", [(277, 203), (55, 40), (138, 101)], tile=32, **YCBCR,
                               description=APERIO.format(w=277, h=203), thumbnail=True)
    shown = subprocess.run([sys.executable, "-m", "artifusion", "info", slide], capture_output=True, text=True,
                           cwd=TESTS.parent, check=False)
    with_openslide = subprocess.run([sys.executable, "-c", f"import openslide; openslide.OpenSlide({str(slide)!r})"],
                                    capture_output=True, text=True, check=False)
    assert "OpenSlide-WARNING" in with_openslide.stderr and "OpenSlide-WARNING" not in shown.stderr


@pytest.mark.parametrize(("tag", "at", "value", "told"), [
    ("ImageLength", 2, 8, "tells a size of"),                # a signed number, which OpenSlide reads all the same
    ("RowsPerStrip", 8, 3, "of 14 segments")])
def test_a_thumbnail_that_lacks_what_it_needs_stays_and_the_report_says_so(tmp_path, tag, at, value, told):
    slide = write_pyramid_tiff(tmp_path / "slide.svs", [(277, 203), (138, 101)], tile=64, thumbnail=True, **YCBCR,
                               description=APERIO.format(w=277, h=203))
    with tifffile.TiffFile(slide) as file:
        at += file.pages[1].tags[tag].offset
    with slide.open("rb+") as file:
        file.seek(at)
        file.write(value.to_bytes(2, "little"))
    content = restore_slide(slide, box_mask(tmp_path), tmp_path / "out.svs", restorer=Flat())
    (thumbnail,) = (level for level in content["written"]["levels"] if level["name"] == "thumbnail")
    assert thumbnail["how"] == "as it was" and told in thumbnail["reason"]


def test_a_tag_of_two_numbers_where_readers_want_one_is_not_copied_by_its_first(tmp_path):
    """Readers take such a predictor for none, and would show what is painted as noise."""
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203), (138, 101)], tile=64, compression="lzw",
                               predictor=True, bigtiff=True)
    with tifffile.TiffFile(slide) as file:
        at = file.pages[1].tags["Predictor"].offset
    with slide.open("rb+") as file:
        file.seek(at + 4)
        file.write((2).to_bytes(8, "little"))
    with open_slide(slide) as opened:
        assert container_of(opened, tmp_path / "out.tif")[0] == "pyramid"
        assert [level.page for level in generic_pyramid(opened)] == [0]


def test_an_uncompressed_tile_that_is_longer_than_its_pixels_is_copied_without_what_follows(tmp_path):
    """Where it lies elsewhere, OpenSlide refuses to read it."""
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, bigtiff=True)
    far = Box(192, 128, 85, 75)
    with slide.open("rb") as file, open_slide(slide) as before:
        tile, pixels = tiff.read_segment(file, tiff.read_tiff(slide).pages[0], 18), before.read(far)
    place_segment(slide, 18, tile + bytes(258))
    restore_slide(slide, box_mask(tmp_path), tmp_path / "out.tif", restorer=Flat())
    with open_slide(tmp_path / "out.tif") as after:
        assert np.array_equal(after.read(far), pixels)
    assert verify_slide(slide, tmp_path / "out.tif").ok


@pytest.mark.parametrize("levels", [["level 0"], [{"name": "level 0"}], [{"name": [], "how": "copied"}], 3])
def test_a_sidecar_whose_levels_are_none_is_one_line(tmp_path, levels):
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    (tmp_path / "slide.tif.json").write_text(json.dumps({
        "source": {"sha256": ""}, "output": {"sha256": "0"}, "regions": [{"area_px": 9}],
        "written": {"container": "copied", "lossless": False, "levels": levels}}))
    (tmp_path / "slide.tif.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    assert "not one that artifusion wrote" in refused("verify", slide, slide)


def test_a_description_in_no_encoding_gets_the_note_where_readers_show_one(tmp_path):
    slide = write_pyramid_tiff(tmp_path / "slide.svs", [(277, 203), (138, 101)], tile=64, **YCBCR_444,
                               description=APERIO.format(w=277, h=203) + "|Title = ??")
    slide.write_bytes(slide.read_bytes().replace(b"Title = ??", b"Title = \xff\x81"))
    restore_slide(slide, box_mask(tmp_path), tmp_path / "out.svs", restorer=Flat())
    with tifffile.TiffFile(tmp_path / "out.svs") as file, open_slide(tmp_path / "out.svs") as after:
        assert "artifusion: restored 1 region" in file.pages[0].software and "aperio.artifusion" in after.properties
    assert verify_slide(slide, tmp_path / "out.svs").ok


@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_a_declaration_with_what_is_no_number_is_not_handed_on(tmp_path, number):
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    restore_slide(slide, box_mask(tmp_path), tmp_path / "out.tif", restorer=Flat())
    sidecar = tmp_path / "out.tif.json"
    sidecar.write_text(sidecar.read_text().replace("{", f'{{"seen": {number}, ', 1))
    with pytest.raises(SlideError, match="is not of this file"):
        restore_slide(tmp_path / "out.tif", box_mask(tmp_path), tmp_path / "again.tif", restorer=Flat())


def test_a_long_text_of_a_file_makes_no_endless_line_and_the_remedy_stays(tmp_path):
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    (tmp_path / "mask.geojson").write_text(json.dumps({"type": "x" * 5000}))
    said = refused("mask", "convert", tmp_path / "mask.geojson", tmp_path / "o.png", "--slide", slide)
    assert len(said) < 2000 and "mask.geojson" in said and not said.rstrip().endswith("x")


@pytest.mark.parametrize("outline", [[[100, "60.0"], [140, 60], [140, 100]], [["a", 60], [140, 60], [140, 100]]])
def test_a_coordinate_that_is_text_is_refused(tmp_path, outline):
    """shapely would take it for a number, and hand it on to QuPath."""
    slide = write_pyramid_tiff(tmp_path / "slide.tif", [(277, 203)], tile=64, **YCBCR)
    mask = write_qupath(tmp_path / "mask.geojson", [qupath_feature(
        {"type": "Polygon", "coordinates": [[*outline, outline[0]]]}, {"name": "Fold"})])
    assert "entry 1 is no valid polygon" in refused("mask", "convert", mask, tmp_path / "o.png", "--slide", slide)


@pytest.mark.filterwarnings("error")
def test_outlines_that_run_to_the_end_of_all_numbers_bring_no_warning():
    hole = [[30, 1e308], [40, 155], [40, 160], [30, 160], [30, 155]]
    outline = {"type": "Polygon", "coordinates": [ring(20, 150, 60, 170), hole]}
    with pytest.raises(MaskError, match="entry 1 has no area"):
        geojson_polygons(qupath_feature(outline, {"name": "Fold"}), Path("mask.geojson"), Point(0, 0))


def test_a_jpeg_tile_whose_blocks_alone_are_not_what_readers_show_is_encoded_whole(monkeypatch):
    """Readers go on behind a damage in their own way; blocks that are taken from it may then show something else."""
    segment = bytes(imagecodecs.jpeg8_encode(tissue(64, 64), level=80, subsampling="444"))
    codec, touched, encode = JpegCodec(b"", jpeg.YCBCR, Size(64, 64)), np.zeros((64, 64), bool), jpeg.encode
    touched[20:24, 20:24] = True
    before = codec.decode(segment)
    assert codec.spliced(before, segment, touched)
    monkeypatch.setattr(jpeg, "encode", lambda pixels, *rest: encode(
        pixels if len(rest) == 3 else pixels[::-1], *rest[:3]))                  # with blocks of somewhere else
    assert not codec.spliced(before, segment, touched)
    after = codec.decode(codec.encode(before, segment, touched))
    assert np.abs(after.astype(int) - before).mean() < 2
