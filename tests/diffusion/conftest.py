"""timm, the reference of the parity tests, imports torchvision, whose CUDA build does not load beside a CPU torch."""

import pytest

from artifusion.errors import ArtifusionError
from artifusion.evaluation.operators import load_torchvision


@pytest.fixture(scope="session")
def timm_swin():
    """`timm.models.swin_transformer`, imported in spite of a torchvision built for another torch."""
    try:
        load_torchvision()
    except ArtifusionError:
        pytest.skip("no torchvision")
    return pytest.importorskip("timm.models.swin_transformer")
