"""Who may import whom (docs/architecture.md): a folder per story, arrows in one direction."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "artifusion"
FLOOR = {"errors", "geometry", "config", "files", "ahead"}
RESTORER = dict.fromkeys(("checkpoint", "pretrained", "pixels"), "restorer")      # modules that are one room
MAY = {                                                 # room -> the rooms it may import; everyone may use the floor
    "slide": set(),
    "mask": {"slide"},
    "output": {"slide", "mask"},
    "evidence": {"slide", "mask"},
    "diffusion": set(),
    "device": set(),
    "restorer": {"slide", "mask", "evidence", "diffusion", "device"},
    "damage": {"slide", "mask", "output"},
    "detection": {"slide", "mask", "output", "device"},
    "training": {"slide", "mask", "diffusion", "restorer", "device"},
    "restoration": {"slide", "mask", "output", "evidence", "restorer", "detection", "training", "device"},
    "evaluation": {"slide", "evidence", "restorer", "damage", "training", "device"},
    "cli": {"slide", "mask", "output", "restorer", "damage", "detection", "training", "restoration", "evaluation",
            "device"},
    "__main__": {"cli"},
}
TORCHLESS = ("slide", "mask", "output", "evidence", "damage", "cli", "pretrained", "restoration/pipeline",
             "restoration/plan", "restoration/painting", "restoration/grafting", "restoration/recovering",
             "training/tiles", "training/shards", "training/corpus", *FLOOR)            # planning takes no seconds


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
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    room = RESTORER.get(module, module)
    for name in imports(path):
        if name.startswith("artifusion."):
            target = RESTORER.get(name.split(".")[1], name.split(".")[1])
            if target == "__version__":
                continue
            assert target == room or target in FLOOR | MAY.get(room, set()), f"{room} must not import {name}"
        if {module, str(path.relative_to(PACKAGE).with_suffix(""))} & {*TORCHLESS}:
            assert name.split(".")[0] not in ("torch", "safetensors"), f"{room} must not import {name}"
        if room == "diffusion":
            assert name.split(".")[0] not in ("pathlib", "openslide", "tifffile", "PIL"), f"{room}: {name}"


MAX_LINES, MAX_PARAMETERS = 60, 8
PUBLIC_DOORS = {            # what a user of Python calls with keywords, and what its docstring explains one by one
    "artifusion/restoration/pipeline.py:restore_slide",
    "artifusion/damage/slide.py:damage_slide",
    "artifusion/evaluation/run.py:evaluate",
}


def functions(tree, owner=""):
    """Every function below a node of a module with its qualified name, methods and inner functions too."""
    for node in ast.iter_child_nodes(tree):
        name = f"{owner}{getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions(node, f"{name}." if inside else owner)


def is_command(function):
    return any(isinstance(part, ast.Attribute) and part.attr == "command"
               for decorator in function.decorator_list for part in ast.walk(decorator))


def parameters(function):
    """The names of a function's parameters, without self and cls."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return {argument.arg for argument in every if argument} - {"self", "cls"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_a_screen_long_and_take_few_parameters(path):
    for name, function in functions(ast.parse(path.read_text())):
        place = f"{path.relative_to(PACKAGE.parent).as_posix()}:{name}"
        if is_command(function) or place in PUBLIC_DOORS:
            continue
        lines, taken = function.end_lineno - function.lineno + 1, len(parameters(function))
        assert lines <= MAX_LINES, f"{place} has {lines} lines"
        assert taken <= MAX_PARAMETERS, f"{place} takes {taken} parameters"


def test_no_more_is_exempt_than_has_to_be():
    long = {f"{path.relative_to(PACKAGE.parent).as_posix()}:{name}" for path in PACKAGE.rglob("*.py")
            for name, function in functions(ast.parse(path.read_text()))
            if function.end_lineno - function.lineno + 1 > MAX_LINES or len(parameters(function)) > MAX_PARAMETERS}
    assert long >= PUBLIC_DOORS


@pytest.mark.parametrize("folder", ["artifusion", "benchmarks", "tests", "tools"])
def test_names_are_imported_from_the_module_that_makes_them(folder):
    root = PACKAGE.parent
    borrowed = [f"{path.relative_to(root)}: {node.module}.{alias.name}" for path in (root / folder).rglob("*.py")
                for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
                for home in [(root / (node.module or "").replace(".", "/")).with_suffix(".py")] if home.is_file()
                for alias in node.names if alias.name not in made_in(home)]
    assert borrowed == []


@cache
def made_in(path):
    """The names that a module defines or assigns."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return ({node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)})


def test_modules_at_the_root_serve_more_than_one_folder():
    """A module that one folder alone imports belongs into that folder; the doors of the package serve its users."""
    importers = {path.stem: set() for path in PACKAGE.glob("*.py")}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            if name.startswith("artifusion.") and name.split(".")[1] in importers:
                importers[name.split(".")[1]].add(room)
    lonely = {name: rooms for name, rooms in importers.items() if not name.startswith("__") and len(rooms) < 2}
    assert not lonely


RIDDLES = {"lay", "met", "near", "said", "there", "told"}     # as names they tell a stranger nothing


@pytest.mark.parametrize("folder", ["artifusion", "benchmarks", "tools"])
def test_names_are_no_riddles(folder):
    found = [f"{path.relative_to(PACKAGE.parent)}:{node.lineno} {name}"
             for path in (PACKAGE.parent / folder).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
             for name in [getattr(node, "name", None) or getattr(node, "arg", None) or getattr(node, "id", None)
                          or getattr(node, "attr", None)]
             if name and RIDDLES & set(name.lower().split("_"))]
    assert found == []
