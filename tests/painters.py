"""Stand-ins for a Restorer, behind the seam of slides and diffusion: they paint at once what a test can tell."""

from types import SimpleNamespace

import numpy as np

from artifusion.config import RestoreConfig

PINK = (230, 120, 180)


class Painter:
    """Counts its calls and is interrupted after `fail_after` of them; `paint(image)` comes where the mask is set."""

    multiple = 64
    device = SimpleNamespace(type="cpu")
    devices = (device,)
    weights = SimpleNamespace(name="stand-in", sha256="0" * 64, named=lambda: {"name": "stand-in", "sha256": "0" * 64})

    def __init__(self, fail_after=None, **config):
        self.config = RestoreConfig(**{"graft": "off", **config})
        self.calls, self.fail_after = 0, fail_after
        self.machine, self.threads = {"torch": "none", "processor": "none", "dtype": "uint8"}, {"threads": 1}

    def restore_batch(self, images, masks, **_):
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        return [np.where(mask[..., None], self.paint(image), image) for image, mask in zip(images, masks, strict=True)]


    def imagine(self, part, spacing_um, seed):
        return part.pixels


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
