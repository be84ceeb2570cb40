"""timm, the reference of the parity tests, imports torchvision, whose CUDA build does not load beside a CPU torch."""

import sys

import pytest
from torch import library


@pytest.fixture(scope="session")
def timm_swin():
    """`timm.models.swin_transformer`, imported in spite of a torchvision built for another torch."""
    if not _torchvision_loads():
        _declare_missing_operators()
    return pytest.importorskip("timm.models.swin_transformer")


def _torchvision_loads() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True


def _declare_missing_operators() -> None:
    global LIBRARY  # a torch library lives as long as its object
    LIBRARY = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
