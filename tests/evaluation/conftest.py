"""Trials on made-up tissue; everything here needs the extra `evaluation`."""

import numpy as np
import pytest
from made_slides import tissue
from PIL import Image

from artifusion.evaluation import trials
from artifusion.evaluation.run import LIBRARIES
from artifusion.evaluation.trials import ARTIFACTS, SIDE_PX, Trial


@pytest.fixture(autouse=True, scope="session")
def _libraries():
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in LIBRARIES):
        pytest.skip("needs artifusion[evaluation]")


@pytest.fixture
def trial():
    """A round hole of about 8 % in made-up tissue."""
    truth = tissue(SIDE_PX, SIDE_PX, 3)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    hole = np.hypot(y - 120, x - 130) < 40
    damaged = np.where(hole[..., None], np.uint8(0), truth)
    return Trial(0, 0, "made/up.png", 0.5, truth, damaged, hole, "dark", "5-15", "thick")


@pytest.fixture
def _cheap_artifacts(monkeypatch):
    """Only the artifacts that are drawn in no time."""
    cheap = {width: {kind: ARTIFACTS[width][kind]} for width, kind in (("thin", "pen"), ("thick", "dark"))}
    monkeypatch.setattr(trials, "ARTIFACTS", cheap)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of two images, four tiles each."""
    folder = tmp_path_factory.mktemp("data") / "made"
    folder.mkdir()
    for n, name in enumerate(("TCGA-AY-0001.png", "TCGA-DK-0002.png")):
        Image.fromarray(tissue(512, 512, n)).save(folder / name)
    return folder
