"""What is to be restored: one object, made where arguments come in. The command line takes its choices from here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from artifusion.errors import ConfigError
from artifusion.mask.classes import vocabulary

Polarity = Literal["restore", "keep"]
POLARITIES: tuple[Polarity, ...] = get_args(Polarity)
MaskFormat = Literal["auto", "binary", "grandqc", "histoqc", "classes"]
FORMATS: tuple[MaskFormat, ...] = get_args(MaskFormat)


@dataclass(frozen=True)
class MaskSelection:
    """A mask file and what of it is to be restored; `artifusion.mask.reading` reads it.

    Attributes:
        path: a raster image of the slide, a folder of HistoQC, or GeoJSON of QuPath or GrandQC.
        polarity: "restore" takes the mask as it is, "keep" restores what it leaves out. Either lifts the rule that a
            mask covers at most half of the slide; None means "restore" under that rule.
        grow_um: widens the mask by that much on every side; the slide must know its mpp.
        classes: only these of the vocabulary, given by any of their names, kept as a tuple of ours; None means all.
        format: what an image is, where its content and name leave it open.

    Raises:
        ValueError: a value that is none of these.
    """

    path: Path
    polarity: Polarity | None = None
    grow_um: float = 0.0
    classes: Collection[str] | None = None
    format: MaskFormat = "auto"

    def __post_init__(self) -> None:
        if self.polarity not in (None, *POLARITIES):
            raise ValueError(f"polarity must be one of {POLARITIES}, got {self.polarity!r}")
        if self.grow_um < 0:
            raise ValueError(f"grow_um must not be negative, got {self.grow_um}")
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {FORMATS}, got {self.format!r}")
        if self.classes is not None:
            object.__setattr__(self, "classes", vocabulary(self.classes))

    @classmethod
    def of(cls, mask: str | Path | None, polarity: Polarity | None = None, grow_um: float = 0.0,
           classes: Collection[str] | None = None, form: MaskFormat = "auto") -> MaskSelection:
        """The selection of a mask file; without one, of what will be detected, whose file does not exist yet.

        Raises:
            ConfigError: polarity "keep" or a format without a mask.
            ValueError: a value that is none of these.
        """
        if mask is None and (polarity == "keep" or form != "auto"):
            raise ConfigError("--mask-polarity keep and --mask-format tell how a mask is read; give a --mask or leave "
                              "them out")
        return cls(Path("" if mask is None else mask), polarity, grow_um, classes, form)
