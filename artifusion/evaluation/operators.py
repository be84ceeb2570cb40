"""Importing torchvision, which timm, torchmetrics and piq want, beside a torch that it was not built for."""

from __future__ import annotations

import importlib
import sys

from torch import library

from artifusion.errors import ArtifusionError

DECLARED: list[library.Library] = []        # a torch library lives as long as its object


def load_torchvision() -> None:
    """Import torchvision; where its C++ operators do not load, declare the two that its own import asks for.

    A CPU-only torch with a CUDA build of torchvision, as pip likes to install them, fails with "operator
    torchvision::nms does not exist"; nothing here calls that operator.

    Raises:
        ArtifusionError: there is no torchvision.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise ArtifusionError("torchvision is not installed; pip install 'artifusion[evaluation]'") from None
    except RuntimeError:
        fragment = library.Library("torchvision", "FRAGMENT")
        DECLARED.append(fragment)
        for name in ("nms", "qnms"):
            fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]               # half imported
        importlib.import_module("torchvision")
