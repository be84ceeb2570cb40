import numpy as np
import pytest
from PIL import Image

from artifusion.training.curves import draw_curves

BLUE, ORANGE, GREEN = (31, 119, 180), (255, 127, 14), (44, 160, 44)      # matplotlib's first three lines


def drawn(picture, colour):
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    return [bool((np.abs(half - colour).sum(axis=2) < 12).any()) for half in np.array_split(pixels, 2)]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_every_noise_level_has_its_line(tmp_path, rows):
    log = tmp_path / "log.csv"
    lines = [f"{1000 * n},1,{0.5 + 0.1 / n},{0.05 / n},{0.9 + 0.01 / n}" for n in range(1, rows + 1)]
    log.write_text("\n".join(["crops,minutes,loss,error_0.1,error_1.0", *lines]))
    draw_curves(log, tmp_path / "curves.png")
    assert [drawn(tmp_path / "curves.png", colour) for colour in (BLUE, ORANGE, GREEN)] == [
        [True, True], [False, True], [False, False]]


def test_a_line_without_held_out_errors_is_no_point(tmp_path):
    (tmp_path / "log.csv").write_text("crops,loss,error_0.1\n100,0.5,0.9\n200,0.4\n300,0.3,0.8\n")
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert drawn(tmp_path / "curves.png", BLUE) == [True, True]


def test_without_held_out_images_there_is_the_loss_alone_and_no_number_is_no_point(tmp_path):
    (tmp_path / "log.csv").write_text("crops,loss\n100,0.5\n200,nan\n300,0.4\n")
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    width, height = Image.open(tmp_path / "curves.png").size
    assert width > 2 * height and True in drawn(tmp_path / "curves.png", BLUE)
