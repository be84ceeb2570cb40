"""What of a mask file is to be restored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from artifusion.mask.files import read_mask, vocabulary
from artifusion.mask.formats import MaskFormat, fingerprint
from artifusion.mask.mask import Mask
from artifusion.slide.reader import Slide

Polarity = Literal["restore", "keep"]


@dataclass(frozen=True)
class MaskSelection:
    """A mask file, and what of it is to be restored."""

    path: Path
    polarity: Polarity | None = None
    grow_um: float = 0.0
    classes: tuple[str, ...] | None = None
    format: MaskFormat = "auto"

    def read(self, slide: Slide) -> Mask:
        return read_mask(self.path, slide, self.polarity, self.grow_um, self.classes, self.format)

    def describe(self, slide: Slide) -> dict[str, Any]:
        """What a sidecar says of it: the file, its SHA-256, and what is taken of it."""
        return {"name": self.path.name, "sha256": fingerprint(self.path, slide),
                "classes": None if self.classes is None else vocabulary(self.classes),
                "polarity": self.polarity or "restore", "grow_um": self.grow_um}

    def with_classes(self, classes: Collection[str] | None) -> MaskSelection:
        return replace(self, classes=None if classes is None else tuple(classes))
