"""Detection from pixels to files: the command, determinism, scale, and restoring what was found."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from made_slides import doubled, he_like, write_pyramid_tiff
from PIL import Image

from artifusion.checkpoint import Weights
from artifusion.cli.app import main
from artifusion.config import DenoiserConfig, RestoreConfig
from artifusion.damage.spots import paint
from artifusion.detection.detect import detect
from artifusion.detection.findings import Finding
from artifusion.detection.network import network
from artifusion.detection.pointing import detect_at
from artifusion.detection.sight import Sight, apart
from artifusion.detection.signs import Look
from artifusion.detection.survey import Survey
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import ConfigError, MaskError, OutputError
from artifusion.geometry import Box, Size
from artifusion.mask.classes import CLASSES, CLASSES_KEY
from artifusion.restoration.pipeline import restore_slide
from artifusion.restorer import Restorer
from artifusion.slide.reader import in_memory, open_slide

MPP = 0.5


@pytest.fixture(scope="module")
def tiny():
    """A restorer whose untrained denoiser says zero everywhere."""
    config = DenoiserConfig(dims=(8, 16), heads=(1, 2), depths=(1, 1), window_sizes=(8, 8), pixel_dim=8, time_dim=8)
    return Restorer(Weights(SwinDenoiser(config), "tiny", "0" * 64, {}), "cpu", RestoreConfig(steps=1))


@pytest.fixture(scope="module")
def inked():
    """Tissue with a pen stroke, and which pixels that covers."""
    return paint("pen", he_like(700, 600), (350, 300), 300, np.random.default_rng(3))


@pytest.fixture
def inked_png(inked, tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(inked[0]).save(path, dpi=(25400 / MPP, 25400 / MPP))
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_same_call_finds_the_same(inked):
    one, other = (detect(inked[0], mpp=MPP) for _ in range(2))
    assert one.regions == other.regions and np.array_equal(one.ids, other.ids)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_a_strip_laid_double_is_found_where_no_glass_shows(mpp):
    damaged, truth = doubled(he_like(), np.s_[150:210])
    found = detect(damaged, mpp=mpp).ids == CLASSES["fold"]
    truth = np.asarray(Image.fromarray(truth).resize(found.shape[::-1], Image.Resampling.NEAREST))
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.55


def test_the_fold_network_is_not_asked_of_pictures_coarser_than_it_knows(monkeypatch):
    asked = []
    monkeypatch.setattr("artifusion.detection.detect.folds", lambda look, mpp:
                        asked.append(mpp) or (lambda rgb: np.zeros(rgb.shape[:2], np.float32)))
    for mpp in (16.0, 20.0):
        detect(he_like(), mpp=mpp)
    assert asked == [16.0]


@pytest.mark.parametrize(("mpp", "coarse_um", "read_um"), [
    (0.5, 2.0, None), (0.5, 4.0, 1.0), (1.2, 4.0, 1.2), (4.0, 4.0, 4.0), (9.0, 9.0, 9.0), (0.5, 16.0, 1.0),
    (10.0, 10.0, None)])
def test_the_network_reads_sections_at_one_um_and_no_pixels_coarser_than_it_knows(mpp, coarse_um, read_um):
    survey = Survey(in_memory(he_like()), mpp, Size(40, 40), coarse_um, Size(80, 80), coarse_um / 2)
    sight = Sight.of(survey, Look())
    assert (sight and sight.read_um) == read_um


def test_the_network_reads_a_level_that_is_about_as_fine_as_it_likes(tmp_path):
    path = write_pyramid_tiff(tmp_path / "slide.tif", [(1600, 1200), (800, 600), (200, 150)], compression="jpeg")
    with open_slide(path, 0.55) as slide:
        sight = Sight(Survey(slide, 0.55, Size(220, 165), 4.0, Size(440, 330), 2.0), Look(), network())
        assert sight.read_um == pytest.approx(1.1)
        whole, part = sight.at(Box(0, 0, 220, 165)), sight.at(Box(60, 50, 40, 30))
    for kind, values in part.items():
        assert values.shape == (30, 40) and np.abs(values - whole[kind][50:80, 60:100]).mean() < 0.04


def test_of_two_findings_at_one_place_the_rule_s_stays():
    rule = Finding("dark", "black", 0.6, Box(0, 0, 10, 10), np.ones((10, 10), bool))
    seen = replace(rule, map_name="seen", score=0.9)
    by_half, by_less = (Finding("fold", "seen", 0.6, Box(x, 0, 4, 10), np.ones((10, 4), bool)) for x in (8, 9))
    assert list(apart([seen, by_half, rule, by_less], (20, 20))) == [rule, by_less]
    assert list(apart([by_half, seen], (20, 20))) == [seen]


def test_a_pen_stroke_is_found_where_it_is(inked):
    found = detect(inked[0], mpp=MPP)
    pen = found.ids == CLASSES["pen"]
    assert 2 * (pen & inked[1]).sum() / (pen.sum() + inked[1].sum()) > 0.7
    assert np.array_equal(found.mask.read(Box(0, 0, 700, 600)), found.ids > 0)


def test_clean_glass_and_clean_tissue_show_nothing():
    assert not detect(np.full((300, 300, 3), 245, np.uint8), mpp=MPP).regions
    assert not detect(he_like(600, 500), mpp=MPP).regions


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 40)])
def test_a_small_image_is_no_problem(shape):
    pixels = he_like(200, 200)[: shape[0], : shape[1]]
    assert detect(pixels, mpp=MPP, any_stain=True).ids.shape == shape


def test_a_higher_threshold_finds_no_more(inked):
    areas = [np.count_nonzero(detect(inked[0], mpp=MPP, threshold=t).ids) for t in (0.3, 0.6, 0.95)]
    assert areas == sorted(areas, reverse=True) and areas[0] > 0


def test_the_command_writes_a_class_mask_scores_and_an_overlay(inked_png, tmp_path):
    out, overlay = tmp_path / "m.png", tmp_path / "o.jpg"
    done = run("detect", inked_png, "-o", out, "--overlay", overlay, "-q")
    assert done.exit_code == 0, done.output
    assert "pen mark" in done.output
    with Image.open(out) as image:
        assert json.loads(image.text[CLASSES_KEY]) == CLASSES
        assert CLASSES["pen"] in np.asarray(image)
    features = json.loads((tmp_path / "m.png.geojson").read_text())["features"]
    assert features and all(0.5 <= f["properties"]["measurements"]["Score"] <= 1 for f in features)
    assert overlay.exists()
    again = run("detect", inked_png, "-o", out, "-q")
    assert again.exit_code == 1 and "--overwrite" in again.output
    assert run("detect", inked_png, "-o", out, "-q", "--overwrite").exit_code == 0


def test_a_slide_without_scale_is_taken_at_the_default_and_said_so(tmp_path):
    Image.fromarray(he_like(300, 300)).save(tmp_path / "s.png")
    done = run("detect", tmp_path / "s.png", "-o", tmp_path / "m.png")
    assert done.exit_code == 0 and "taking 0.5 um/px" in done.output


def test_finding_nothing_is_a_success_that_says_so(tmp_path):
    Image.fromarray(np.full((300, 300, 3), 245, np.uint8)).save(tmp_path / "s.png")
    done = run("detect", tmp_path / "s.png", "-o", tmp_path / "m.png", "-q")
    assert done.exit_code == 0 and "no artifacts found" in done.output
    assert not np.asarray(Image.open(tmp_path / "m.png")).any()
    restored = run("restore", tmp_path / "s.png", "-q")
    assert restored.exit_code == 0 and "nothing to restore" in restored.output
    assert {path.name for path in tmp_path.iterdir()} == {"s.png", "m.png", "m.png.geojson"}


@pytest.mark.parametrize(("output", "said"), [("m.tif", "ends in .png"), ("no/m.png", "does not exist")])
def test_a_wrong_output_is_one_line(inked_png, tmp_path, output, said):
    done = run("detect", inked_png, "-o", tmp_path / output, "-q")
    assert done.exit_code == 1 and said in done.output and done.output.count("\n") == 1


def test_fluorescence_is_refused(wsi, tmp_path):
    done = run("detect", wsi / "fluorescence-DAPI.ndpi", "-o", tmp_path / "m.png", "-q")
    assert done.exit_code == 1 and "--any-stain" in done.output and not (tmp_path / "m.png").exists()


def test_restoring_without_a_mask_repaints_what_was_found_and_keeps_the_mask(straight, inked, tiny, tmp_path):
    out, mask = straight, straight.with_name("out.png.mask.png")
    content = json.loads(straight.with_name("out.png.json").read_text())
    kept = np.asarray(Image.open(mask))
    before, after = inked[0], np.asarray(Image.open(out))
    changed = (before != after).any(axis=2)
    assert content["mask"]["name"] == "out.png.mask.png" and changed.any()
    assert not changed[kept == 0].any()
    given = restore_slide(straight.with_name("slide.png"), mask, tmp_path / "given.png", restorer=tiny,
                          classes=["pen"], recover=["pen"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "given.png")), after)
    assert given["regions"] == content["regions"]


def test_the_mask_that_is_kept_is_an_output_like_the_others(inked_png, tiny, tmp_path, monkeypatch):
    out, kept = tmp_path / "out.png", tmp_path / "out.png.mask.png"
    monkeypatch.setattr("artifusion.detection.detect.detect", lambda *_, **__: pytest.fail("nothing is looked for"))
    kept.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"mask\.png: exists already"):
        restore_slide(inked_png, None, out, restorer=tiny, classes=["pen"])
    assert kept.read_bytes() == b"mine"
    kept.unlink()
    kept.mkdir()
    with pytest.raises(OutputError, match=r"mask\.png: is a folder"):
        restore_slide(inked_png, None, out, restorer=tiny, classes=["pen"])
    assert sorted(tmp_path.iterdir()) == [kept, inked_png]


def test_a_restoration_that_fails_leaves_no_mask(tiny, inked, tmp_path):
    path, out = tmp_path / "s.png", tmp_path / "out.png"
    Image.fromarray(inked[0]).save(path)
    with pytest.raises(MaskError, match="what was detected: cannot be grown by 3 um"):
        restore_slide(path, None, out, restorer=tiny, grow_um=3, classes=["pen"])
    (tmp_path / "out.png.partial").write_text("foreign")
    with pytest.raises(OutputError, match="in the way"):
        restore_slide(path, None, out, restorer=tiny, classes=["pen"])
    assert {file.name for file in tmp_path.iterdir()} == {"s.png", "out.png.partial"}


@pytest.fixture(scope="module")
def straight(inked, tiny, tmp_path_factory):
    """The pen stroke, found and repainted: the output of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("straight")
    Image.fromarray(inked[0]).save(folder / "slide.png", dpi=(25400 / MPP, 25400 / MPP))
    restore_slide(folder / "slide.png", None, folder / "out.png", restorer=tiny, classes=["pen"])
    return folder / "out.png"


@pytest.mark.parametrize("killed_after", ["out.png.geojson", "out.png.json", "out.png.mask.png"])
def test_a_restoration_of_what_was_detected_goes_on_after_a_kill(straight, inked_png, tiny, tmp_path, monkeypatch,
                                                                 killed_after):
    from artifusion.output import output

    real = output.move

    def killed(file, name):
        real(file, name)
        if name.name == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(output, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        restore_slide(inked_png, None, tmp_path / "out.png", restorer=tiny, classes=["pen"])
    monkeypatch.setattr(output, "move", real)
    monkeypatch.setattr(tiny, "restore_batch", lambda *_, **__: pytest.fail("everything is painted"))
    restore_slide(inked_png, None, tmp_path / "out.png", restorer=tiny, classes=["pen"])
    for suffix in ("", ".mask.png"):
        assert (tmp_path / f"out.png{suffix}").read_bytes() == straight.with_name(f"out.png{suffix}").read_bytes()
    assert not (tmp_path / "out.png.partial").exists()


@pytest.mark.parametrize("how", [{"polarity": "keep"}, {"mask_format": "binary"}])
def test_what_tells_how_a_mask_is_read_needs_one(tiny, how):
    with pytest.raises(ConfigError, match="give a --mask"):
        restore_slide("no.png", None, restorer=tiny, **how)
    options = {"--mask-polarity": how.get("polarity"), "--mask-format": how.get("mask_format")}
    done = run("restore", "no.png", *[part for pair in options.items() if pair[1] for part in pair])
    assert done.exit_code == 2 and "give a --mask" in done.output


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"grow_um": -1.0}, {"polarity": "drop"}, {"classes": ["flod"]},
                                   {"mask_format": "jpeg"}])
def test_an_argument_that_cannot_be_meant_is_told_before_anything_is_read(tiny, wrong):
    with pytest.raises(ValueError, match=r"must|flod"):
        restore_slide("no.png", "no.mask.png", restorer=tiny, **wrong)
    if "mask_format" not in wrong:
        with pytest.raises(ValueError, match=r"must|flod"):
            restore_slide("no.png", None, restorer=tiny, **wrong)


@pytest.mark.parametrize("mpp", [-1.0, 1e-6, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused_for_open_slides_too(mpp):
    with pytest.raises(ValueError, match="mpp must lie"):
        detect(in_memory(he_like(), 0.5), mpp=mpp)
    with pytest.raises(ValueError, match="mpp must lie"):
        detect_at(in_memory(he_like(), 0.5), points=[(20, 20)], mpp=mpp)


def test_an_image_without_rows_is_refused():
    with pytest.raises(ValueError, match="an image must be"):
        detect(np.zeros((0, 40, 3), np.uint8))


def test_classes_may_have_any_of_their_names_without_a_mask(inked_png, tiny, tmp_path):
    content = restore_slide(inked_png, None, tmp_path / "out.png", restorer=tiny, classes=["pen_markings"])
    assert content["mask"]["classes"] == ["pen"] and {region["class"] for region in content["regions"]} == {"pen"}


@pytest.mark.parametrize("name", list(CLASSES))
def test_what_is_detected_is_reported_but_repainted_only_when_asked(tiny, tmp_path, monkeypatch, capsys, name):
    from artifusion.detection import detect

    real = detect.detect

    def with_another(*args, **kwargs):
        ids = real(*args, **kwargs).ids.copy()
        ids[:40, :40] = CLASSES[name]
        survey = detect.Survey.of(args[0], MPP)
        return detect.detection_of(survey, ids, np.full_like(ids, 200))

    monkeypatch.setattr(detect, "detect", with_another)
    path, out = tmp_path / "s.png", tmp_path / "out.png"
    Image.fromarray(he_like(300, 300)).save(path, dpi=(25400 / MPP, 25400 / MPP))
    assert restore_slide(path, None, out, restorer=tiny) is None and sorted(tmp_path.iterdir()) == [path]
    assert not capsys.readouterr().err
    restore_slide(path, None, out, restorer=tiny, quiet=False)
    told = next(line for line in capsys.readouterr().err.splitlines() if "--overlay" in line)
    assert " 1 " in told and f"--classes {name}" in told
    content = restore_slide(path, None, out, restorer=tiny, classes=[name])
    assert content["regions"] and content["mask"]["left"] == {}


def test_the_sidecar_counts_what_was_found_and_left(inked_png, tiny, tmp_path, monkeypatch):
    from artifusion.detection import detect

    real = detect.detect

    def with_fold(*args, **kwargs):
        ids = real(*args, **kwargs).ids.copy()
        ids[:40, :40] = CLASSES["fold"]
        return detect.detection_of(detect.Survey.of(args[0], MPP), ids, np.full_like(ids, 200))

    monkeypatch.setattr(detect, "detect", with_fold)
    content = restore_slide(inked_png, None, tmp_path / "out.png", restorer=tiny, classes=["pen"])
    assert content["mask"]["left"] == {"fold": 1} and {region["class"] for region in content["regions"]} == {"pen"}
    monkeypatch.setattr("artifusion.restorer.Restorer.from_pretrained", lambda *_, **__: tiny)
    done = run("restore", inked_png, "-o", tmp_path / "told.png", "--classes", "pen", "-q")
    assert "1 region repainted" in done.output and done.output.endswith("s; left as they are: 1 fold\n")
    assert done.output.count("\n") == 1
    asked = run("restore", inked_png, "-o", tmp_path / "none.png", "--classes", "dust", "-q")
    assert asked.output.endswith("found nothing to restore; nothing written\n") and asked.output.count("\n") == 1
