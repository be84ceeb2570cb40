"""The table of DESIGN: who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "artifusion"
FLOOR = {"errors", "geometry", "config", "ahead"}
MAY = {                                                 # room -> the rooms it may import; everyone may use the floor
    "errors": set(), "geometry": set(), "config": set(), "ahead": set(),
    "slide": set(),
    "diffusion": set(),
    "pixels": set(), "device": set(), "muon": {"device"},
    "pretrained": set(),
    "checkpoint": {"diffusion", "pretrained"},
    "provenance": {"slide"},
    "workspace": set(),
    "tiles": {"slide"},
    "shards": {"slide", "tiles"},
    "corpus": {"slide", "tiles"},
    "batches": {"diffusion", "corpus"},
    "curves": set(), "interrupts": set(),
    "distributed": {"device"},
    "restorer": {"diffusion", "checkpoint", "pretrained", "pixels", "device"},
    "trainer": {"diffusion", "batches", "checkpoint", "pixels", "device", "distributed", "muon", "restorer"},
    "training": {"batches", "checkpoint", "corpus", "curves", "distributed", "interrupts", "shards", "tiles",
                 "trainer"},
    "adaptation": {"slide", "checkpoint", "restorer", "shards", "tiles", "trainer", "training",
                   "workspace"},
    "workers": {"restorer"},
    "painting": {"slide", "restorer", "workers"},
    "restoration": {"adaptation", "detection", "slide", "restorer", "painting", "provenance", "workspace",
                    "picture"},
    "damaging": {"slide", "provenance", "workspace"},
    "picture": {"slide"},
    "outlines": {"slide"},
    "unlikeness": {"slide", "diffusion", "restorer", "device", "pixels"},
    "folds": {"slide"},
    "detection": {"slide", "folds", "restorer", "unlikeness", "picture", "outlines", "workspace"},
    "evaluation": {"slide", "restorer", "tiles", "corpus", "pixels"},
    "commands": {"slide", "workspace", "detection", "restorer", "evaluation"},
    "cli": {"commands", "slide", "pretrained", "restorer", "restoration", "training", "distributed", "shards",
            "damaging", "checkpoint"},
    "__init__": set(), "__main__": {"cli"},
}
TORCHLESS = ("slide", "pretrained", "tiles", "shards", "corpus", "curves", "provenance", "workspace", "damaging",
             "picture", "outlines", "commands", "errors", "geometry", "config",
             "ahead", "painting")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide from this test"
            whole = node.module == "artifusion"
            yield from (f"artifusion.{alias.name}" for alias in node.names) if whole else [node.module]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_their_door_allows(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("artifusion."):
            target = name.split(".")[1]
            if target == "__version__":
                continue
            assert target == room or target in FLOOR | MAY[room], f"{room} must not import {name}"
        if room in TORCHLESS:
            assert name.split(".")[0] not in ("torch", "safetensors"), f"{room} must not import {name}"
        if room == "diffusion":
            assert name.split(".")[0] not in ("pathlib", "openslide", "tifffile", "PIL"), f"{room}: {name}"
