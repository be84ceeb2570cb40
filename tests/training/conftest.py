"""What training tests share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tissue(tmp_path):
    """A folder with three pink images of textured blobs, one of them held out."""
    folder = tmp_path / "tissue"
    folder.mkdir()
    for n, name in enumerate(("a.png", "b.png", "held.png")):
        rng = np.random.default_rng(n)
        texture = np.kron(rng.normal(0, 25, (20, 20, 3)), np.ones((4, 4, 1))) + rng.normal(0, 5, (80, 80, 3))
        Image.fromarray((np.array([190, 120, 170]) + texture).clip(0, 255).astype(np.uint8)).save(folder / name)
    return folder
