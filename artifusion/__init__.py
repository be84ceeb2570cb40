"""Repairs digitised pathology slides: only the masked artifact is repainted, every invented pixel is declared."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.4.0"

_HOMES = {
    "ArtifusionError": "artifusion.errors",
    "Mask": "artifusion.mask.mask",
    "Restorer": "artifusion.restorer",
    "Slide": "artifusion.slide.reader",
    "detect": "artifusion.detection.detect",
    "detect_at": "artifusion.detection.pointing",
    "find_regions": "artifusion.mask.regions",
    "open_slide": "artifusion.slide.reader",
    "read_mask": "artifusion.mask.reading",
    "recover": "artifusion.evidence.recover",
    "restore_slide": "artifusion.restoration.pipeline",
    "train": "artifusion.training.run",
    "verify_slide": "artifusion.output.verify",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use (PEP 562), so that `import artifusion` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'artifusion' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
