import numpy as np
import pytest

from artifusion.curves import COLOURS, SIZE, draw_curves


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_every_noise_level_has_its_line(tmp_path, rows):
    log = tmp_path / "log.csv"
    lines = [f"{1000 * n},1,{0.5 + 0.1 / n},{0.05 / n},{0.9 + 0.01 / n}" for n in range(1, rows + 1)]
    log.write_text("\n".join(["images,minutes,loss,error_0.1,error_1.0", *lines]))
    picture = draw_curves(log)
    assert picture.size == (SIZE[0], 2 * SIZE[1])
    below = np.asarray(picture)[SIZE[1] :].reshape(-1, 3).astype(int)
    for colour, drawn in zip(COLOURS, (True, True, False), strict=False):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(below - wanted).sum(axis=1) < 12).any() == drawn


def test_without_held_out_images_there_is_the_loss_alone_and_no_number_is_no_point(tmp_path):
    (tmp_path / "log.csv").write_text("images,loss\n100,0.5\n200,nan\n300,0.4\n")
    assert draw_curves(tmp_path / "log.csv").size == SIZE
