"""Stand-ins for a Restorer, behind the seam of slides and diffusion: they paint at once what a test can tell."""

from types import SimpleNamespace

import numpy as np

from artifusion.config import RestoreConfig

PINK = (230, 120, 180)


class Painter:
    """Counts its calls; `paint(image)` is what comes where the mask is set."""

    multiple = 64
    device = SimpleNamespace(type="cpu")
    devices = (device,)
    weights = SimpleNamespace(name="stand-in", sha256="0" * 64)

    def __init__(self, **config):
        self.config, self.calls = RestoreConfig(**config), 0

    def restore_batch(self, images, masks, **_):
        self.calls += 1
        return [np.where(mask[..., None], self.paint(image), image) for image, mask in zip(images, masks, strict=True)]


class Flat(Painter):
    def paint(self, image):
        return np.uint8(PINK)


class Identity(Painter):
    def paint(self, image):
        return image


class Brighter(Painter):
    """One grey level more: a pixel painted twice shows it."""

    def paint(self, image):
        return image + np.uint8(1)
