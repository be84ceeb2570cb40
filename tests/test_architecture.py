"""Who may import whom (docs/architecture.md): a folder per story, arrows in one direction."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "artifusion"
FLOOR = {"errors", "geometry", "config", "files", "ahead"}
RESTORER = {"restorer", "checkpoint", "pretrained", "pixels", "device", "diffusion"}
MAY = {                                                 # room -> the rooms it may import; everyone may use the floor
    "slide": set(),
    "mask": {"slide"},
    "output": {"slide", "mask"},
    "evidence": {"slide", "mask"},
    "diffusion": set(),
    "restorer": RESTORER, "checkpoint": RESTORER, "pretrained": set(), "pixels": set(), "device": set(),
    "damage": {"slide", "mask", "output"},
    "detection": {"slide", "mask", "output"},
    "training": {"slide", "mask", "output"} | RESTORER,
    "restoration": {"slide", "mask", "output", "detection", "training"} | RESTORER,
    "evaluation": {"slide", "mask", "damage", "training"} | RESTORER,
    "cli": {"slide", "mask", "output", "damage", "detection", "training", "restoration", "evaluation"} | RESTORER,
    "__main__": {"cli"},
}
TORCHLESS = ("slide", "mask", "output", "evidence", "damage", "cli", "pretrained", "restoration/pipeline",
             "restoration/painting", "training/tiles", "training/shards", "training/corpus",
             *FLOOR)                                                                       # planning takes no seconds


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
            assert target == room or target in FLOOR | MAY.get(room, set()), f"{room} must not import {name}"
        if {room, str(path.relative_to(PACKAGE).with_suffix(""))} & {*TORCHLESS}:
            assert name.split(".")[0] not in ("torch", "safetensors"), f"{room} must not import {name}"
        if room == "diffusion":
            assert name.split(".")[0] not in ("pathlib", "openslide", "tifffile", "PIL"), f"{room}: {name}"


PUBLIC_DOORS = {            # what a user of Python calls may take more than MAX_PARAMETERS
    "Restorer.restore_batch", "restore_slide", "plan_restoration", "adapt", "damage_slide", "evaluate"}
MAX_LINES, MAX_PARAMETERS = 60, 8


def functions(tree, owner=""):
    """Every function of a module with its qualified name, methods and inner functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{owner}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, owner)


def is_command(function):
    return any(isinstance(part, ast.Attribute) and part.attr == "command"
               for decorator in function.decorator_list for part in ast.walk(decorator))
