"""What is done with a broken input, and how it is judged.

A trial breaks a seed, runs commands of the real command line on it and collects findings: a traceback, an exit or a
line that the documentation does not know, a source that changed, something half-written, damage that nobody declared.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import openslide
from made_masks import qupath_feature, ring, write_qupath
from painters import Painter
from PIL import Image, ImageDraw
from scipy import ndimage

from artifusion.cli import app
from artifusion.errors import ArtifusionError
from artifusion.geometry import Box
from artifusion.slide.reader import open_slide
from fuzz import mutators
from fuzz.mutators import Mutator, Rng, pick
from fuzz.seeds import BOX, FAR

GREEN = (40, 180, 60)
REACH_PX = 17                       # a JPEG block and its chroma: pixels so near the mask may move within encoding
TILE_PX = 64                        # side of the tiles of the seeds: so far where a tile was encoded whole
COMPARED_PX = 1024                  # side of the corner that is compared of large slides
ADDRESS = re.compile(r"0x[0-9a-f]+|[0-9][0-9.,e+]*|'[^']*'")


class Green(Painter):
    def paint(self, image: np.ndarray) -> np.ndarray:
        return np.uint8(GREEN)


def stand_in() -> ModuleType:
    """A module instead of `artifusion.restorer`: paints green, and needs no torch."""
    seam = ModuleType("artifusion.restorer")
    seam.Restorer = SimpleNamespace(from_pretrained=lambda _name, _device, config: Green(
        **config.model_dump() | {"graft": "off"}))          # type: ignore[attr-defined]
    return seam


class Trial:
    """One broken input in a folder: `in/` holds it, `out/` what the commands write."""

    def __init__(self, folder: Path, seeds: Path, rng: Rng) -> None:
        self.folder, self.seeds, self.rng = folder, seeds, rng
        self.inputs, self.outputs = folder / "in", folder / "out"
        self.inputs.mkdir(parents=True)
        self.outputs.mkdir()
        self.findings: list[str] = []
        self.commands: list[str] = []
        self.codes: list[int] = []

    def seed(self, kind: str) -> Path:
        return pick(self.rng, sorted((self.seeds / kind).iterdir()))

    def broken(self, seed: Path, mutator: Mutator, name: str = "") -> Path:
        """A broken copy of a seed among the inputs."""
        path = self.inputs / (name or seed.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutator(seed.read_bytes(), self.rng))
        return path

    def whole(self, name: str, seed: str) -> Path:
        """An unbroken copy of a seed, a file or a folder, among the inputs."""
        (shutil.copytree if (self.seeds / seed).is_dir() else shutil.copyfile)(self.seeds / seed, self.inputs / name)
        return self.inputs / name

    def box(self, *boxes: Sequence[int]) -> Path:
        """A mask of these boxes, left, top, right and bottom of each; by default of the usual one."""
        outlines = [{"type": "Polygon", "coordinates": [ring(*box)]} for box in boxes or [BOX]]
        return write_qupath(self.inputs / "box.geojson", [qupath_feature(each, {"name": "Fold"}) for each in outlines])

    def found(self, what: str, detail: str = "") -> None:
        finding = f"{what} [{self.commands[-1].split(' ')[0]}] {detail}"
        self.findings.append(finding.encode("ascii", "backslashreplace").decode())

    def run(self, *arguments: object) -> int:
        """The exit code of a command; findings where it did not behave."""
        words = [str(argument) for argument in arguments]
        self.commands.append(" ".join(words).replace(str(self.folder) + "/", ""))
        before = self.digest()
        streams = [self.folder / name for name in ("stdout", "stderr")]
        for number, path in enumerate(streams, 1):
            with path.open("wb") as file:
                os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
                                  for n in (1, 2))
        code: object = 0
        try:
            app.main(words, prog_name="artifusion")
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = -1
            self.found("traceback", signature(error))
            (self.folder / "traceback").write_text(traceback.format_exc())
        sys.stdout.flush()
        sys.stderr.flush()
        told, complaint = (path.read_text(errors="replace") for path in streams)
        self.judge(code, told, complaint)
        if self.digest() != before:
            self.found("source changed")
        self.codes.append(int(code) if isinstance(code, int) else -1)
        return self.codes[-1]

    def judge(self, code: object, told: str, complaint: str) -> None:
        """Findings in what a command said and left."""
        lines = complaint.splitlines()
        if code not in (0, 1, -1, 130):
            self.found(f"exit {code}", complaint[-200:])
        if code == 1 and not (len(lines) == 1 and lines[0].startswith("artifusion: ")) and not (
                self.commands[-1].startswith("verify") and told and not lines):
            self.found("not one line", self.told())
        if code == 0 and lines:
            self.found("chatter", self.told())
        if any(not letter.isprintable() for line in lines for letter in line) or len("".join(lines)) > 2000:
            self.found("unprintable or endless line", repr("".join(lines)[:200]))
        if re.search("allocate|MemoryError", complaint):
            self.found("memory", ADDRESS.sub("#", complaint[:200]))
        left = sorted(path.name for path in self.outputs.iterdir() if not path.name.startswith("kept"))
        if code == 1 and not self.commands[-1].startswith(("verify", "train")) and left:
            late = all(name.endswith(".partial") for name in left)
            self.found("failed after painting" if late else "half-written",
                       self.told() if late else " ".join(left))

    def told(self, stream: str = "stderr") -> str:
        """The end of what the last command said, without what differs from one input to the next."""
        text = (self.folder / stream).read_text(errors="replace").replace(f"{self.folder}/", "").strip()
        return ADDRESS.sub("#", text[-300:]).replace("\n", " / ")

    def digest(self) -> str:
        """What the inputs are."""
        digest = hashlib.sha256()
        for path in sorted(self.inputs.rglob("*")):
            digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
        return digest.hexdigest()

    def restore(self, slide: Path, mask: Path, *options: object) -> None:
        """Restore, verify, and look at the pixels."""
        out = self.outputs / f"kept{slide.suffix}"
        command = ("restore", slide, "--mask", mask, "-o", out, "-q", *options)
        dry = self.run(*command, "--dry-run")
        code = self.run(*command)
        if dry == 0 and code == 1 and "not enough memory" not in self.told():    # no plan knows the machine's
            self.found("not foretold", self.told())
        if code == 1 and any(self.outputs.glob("kept*")):
            late = all(path.suffix == ".partial" for path in self.outputs.iterdir())
            self.found("failed after painting" if late else "half-written",
                       self.told())
        if code == 0:
            if self.run("verify", slide, out) != 0:
                self.found("restored and not verified", self.told("stdout"))
            self.compare(slide, out)

    def compare(self, source: Path, out: Path) -> None:
        """Findings in the pixels of a restored slide: what changed lies where it is declared, and is painted."""
        about = json.loads(out.with_name(f"{out.name}.json").read_text())
        declared = json.loads(out.with_name(f"{out.name}.geojson").read_text())
        container = about["written"]["container"]
        try:
            with Levels(source) as before, Levels(out) as after:
                if before.sizes[0] != after.sizes[0]:
                    self.found("size changed", container)
                    return
                for level in range(len(before.sizes) if container == "copied" else 1):
                    size = before.sizes[level]
                    mask = drawn(declared, before.sizes[0], size)
                    old = before.read(level)
                    new = after.read(level)
                    levels = about["written"]["levels"]
                    whole = level < len(levels) and levels[level]["encoded_whole"]       # as the sidecar says
                    far = ~ndimage.maximum_filter(mask, 2 * (TILE_PX if whole else REACH_PX) + 1)
                    if old.shape != new.shape:
                        self.found("size changed", f"{container} level {level}: {old.shape} {new.shape}")
                        return
                    difference = np.abs(old.astype(np.int16) - new).max(axis=2)
                    limit = 0 if container in ("copied", "pyramid") and not whole else 60
                    if limit and (difference[far] > limit).any():            # noise may move further, and just so far
                        again = encoded_again(old, 95 if container == "image" else 90)
                        difference = np.minimum(difference, np.abs(again.astype(np.int16) - new).max(axis=2))
                    if far.any() and (difference[far] > limit).any():
                        self.found("silent damage", f"{container} level {level}: {int((difference[far] > limit).sum())}"
                                                    " px far from what is declared")
                    inside = ndimage.minimum_filter(mask, 7)
                    if inside.any() and np.abs(new[inside].astype(np.int16) - GREEN).mean() > 40:
                        self.found("declared and not painted", f"{container} level {level}")
        except openslide.OpenSlideError as error:
            if "source" not in str(error):
                self.found("output cannot be read", str(error))


def encoded_again(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Pixels as JPEG of a quality shows them: uint8 (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))


class Levels:
    """Pixels of a slide's levels as OpenSlide shows them, else as the reader does: uint8 (H, W, 3)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.slide = openslide.OpenSlide(path)
            self.sizes = list(self.slide.level_dimensions)
        except openslide.OpenSlideError:
            self.slide = open_slide(path)
            self.sizes = [tuple(self.slide.size)]

    def __enter__(self) -> Levels:
        return self

    def __exit__(self, *_: object) -> None:
        self.slide.close()

    def read(self, level: int) -> np.ndarray:
        width, height = (min(length, COMPARED_PX) for length in self.sizes[level])
        if not isinstance(self.slide, openslide.OpenSlide):
            return self.slide.read_level(0, Box(0, 0, width, height))
        try:
            image = self.slide.read_region((0, 0), level, (width, height))
            return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
        except openslide.OpenSlideError as error:
            source = "" if self.path.name.startswith("kept") else "source: "
            raise openslide.OpenSlideError(f"{source}{error}") from None


def drawn(declared: dict, l0_size: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The pixels of a level that GeoJSON declares, bool (H, W), of the corner that is compared."""
    width, height = (min(length, COMPARED_PX) for length in size)
    picture = Image.new("1", (width, height))
    scale = [lv / l0 for lv, l0 in zip(size, l0_size, strict=True)]
    for feature in declared["features"]:
        if "donor_of" in feature["properties"].get("metadata", {}):
            continue
        geometry = feature["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for part in parts:
            ImageDraw.Draw(picture).polygon([(x * scale[0], y * scale[1]) for x, y in part[0]], fill=1)
    return np.asarray(picture)


def signature(error: BaseException) -> str:
    """An exception in one line: its kind, the innermost line of ours, its message without numbers."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "artifusion/" in frame.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "nowhere of ours"
    return f"{type(error).__name__} at {where}: {ADDRESS.sub('#', str(error))[:160]}".replace("\n", " / ")


# One function per kind of input

def slide_structure(trial: Trial) -> None:
    use_slide(trial, trial.broken(trial.seed("slides"), mutators.tiff))


def slide_streams(trial: Trial) -> None:
    use_slide(trial, trial.broken(trial.seed("slides"), mutators.tiff_segment))


def slide_bytes(trial: Trial) -> None:
    use_slide(trial, trial.broken(trial.seed("slides"), mutators.plain))


def plain_image(trial: Trial) -> None:
    use_slide(trial, trial.broken(trial.seed("images"), mutators.image))


def use_slide(trial: Trial, slide: Path) -> None:
    if trial.run("info", slide) != 0 and trial.rng.random() < 0.9:
        return                                              # what does not open fails in the same way everywhere
    how = trial.rng.random()
    if how < 0.75:
        trial.restore(slide, trial.box(), *(["--lossless"] if how < 0.05 else ["--grow", "2"] if how < 0.1 else []))
    elif how < 0.82:
        trial.run("mask", "convert", trial.box(), trial.outputs / pick(trial.rng, ("m.png", "m.tif", "m.geojson")),
                  "--slide", slide, "-q")
    elif how < 0.9:
        trial.run("tiles", "--data", slide, "-o", trial.outputs / "t.tar", "-q")
    else:
        trial.run("damage", slide, trial.outputs / f"d{slide.suffix}", "-q", "--share", "0.02", "--kinds", "bubble")


def detection(trial: Trial) -> None:
    slide = trial.broken(trial.seed("slides"), pick(trial.rng, (mutators.tiff, mutators.tiff_segment)))
    trial.run("detect", slide, "-o", trial.outputs / "d.png", "-q", "--any-stain")


def mask_image(trial: Trial) -> None:
    use_mask(trial, trial.broken(trial.seed("masks"), mutators.image))


def grandqc(trial: Trial) -> None:
    use_mask(trial, trial.broken(trial.seeds / "grandqc" / "mask_qc" / "slide.tif_mask.png", mutators.png))


def histoqc(trial: Trial) -> None:
    run = trial.whole("histoqc", "histoqc")
    member = pick(trial.rng, sorted((run / "slide.tif").iterdir()))
    how = trial.rng.random()
    if how < 0.7:
        member.write_bytes(mutators.png(member.read_bytes(), trial.rng))
    elif how < 0.8:
        member.rename(member.with_name(pick(trial.rng, ("slide.tif_blurry.png.png", "_blurry.png", "x_flat.png", "é"))))
    elif how < 0.9:
        member.unlink()
        member.mkdir()
    else:
        member.unlink()
    use_mask(trial, pick(trial.rng, (run, run / "slide.tif", run / "slide.tif" / "slide.tif_blurry.png")))


def geojson(trial: Trial) -> None:
    seed = trial.seed("geojson")
    use_mask(trial, trial.broken(seed, mutators.json_text if seed.suffix == ".geojson" else mutators.plain))


def use_mask(trial: Trial, mask: Path) -> None:
    slide = trial.whole("slide.tif", "slides/ycbcr.tif")
    options: list[object] = []
    if trial.rng.random() < 0.2:
        options += ["--mask-format", pick(trial.rng, ("binary", "classes", "grandqc", "histoqc"))]
    if trial.rng.random() < 0.2:
        options += ["--mask-polarity", pick(trial.rng, ("keep", "restore"))]
    if trial.rng.random() < 0.1:
        options += ["--classes", "fold"]
    out = trial.outputs / pick(trial.rng, ("m.png", "m.png", "m.tif", "m.geojson"))
    if trial.run("mask", "convert", mask, out, "--slide", slide, "-q", *options) == 0:
        back = trial.outputs / "back.png"
        if trial.run("mask", "convert", out, back, "--slide", slide, "-q", "--mask-polarity", "restore") != 0:
            trial.found("own mask not read", (trial.folder / "stderr").read_text()[-200:])
        if trial.rng.random() < 0.4:
            trial.restore(slide, mask, *options)


def sidecar(trial: Trial) -> None:
    restored = trial.whole("restored", "restored")
    out = restored / "out.tif"
    broken = restored / pick(trial.rng, ("out.tif.json", "out.tif.geojson", "out.tif"))
    data = broken.read_bytes()
    mutator = mutators.json_text if broken.suffix != ".tif" else pick(
        trial.rng, (mutators.tiff, mutators.tiff_segment, mutators.plain))
    broken.write_bytes(mutator(data, trial.rng))
    same = broken.read_bytes() == data
    if trial.run("verify", restored / "slide.tif", out) == 0 and not same and broken.suffix == ".tif":
        trial.found("silent damage", "a changed output is verified")
    if trial.rng.random() < 0.4:
        trial.restore(out, trial.box())


def restore_toml(trial: Trial) -> None:
    config = trial.broken(trial.seeds / "restore.toml", mutators.toml)
    trial.restore(trial.whole("slide.tif", "slides/ycbcr.tif"), trial.box(), "--config", config)


def interrupted(trial: Trial) -> None:
    """A restoration that goes on from a broken work folder."""
    work = trial.outputs / "kept.tif.partial"
    shutil.copytree(trial.seeds / "interrupted", work)
    broken = pick(trial.rng, sorted(path for path in work.rglob("*") if path.is_file()))
    if trial.rng.random() < 0.1:
        broken.rename(broken.with_name(pick(trial.rng, ("0_1_2.npy", "a.npy", "0_0_0_9_9.npy", "x.npz", "7.npz"))))
    else:
        broken.write_bytes(mutators.plain(broken.read_bytes(), trial.rng))
    if restore_two(trial) == 0:
        trial.run("verify", trial.inputs / "slide.tif", trial.outputs / "kept.tif")


def restore_two(trial: Trial, fail_after: int | None = None) -> int:
    """Restore two regions, with grafts; interrupted after so many canvases."""
    slide = trial.whole("slide.tif", "slides/raw.tif")
    with grafting(fail_after):
        return trial.run("restore", slide, "--mask", trial.box(BOX, FAR), "-o", trial.outputs / "kept.tif", "-q")


@contextmanager
def grafting(fail_after: int | None = None) -> Iterator[None]:
    """A stand-in that lets regions be grafted, and is interrupted after so many canvases."""
    seam = import_module("artifusion.restorer")
    usual, seam.Restorer = seam.Restorer, SimpleNamespace(
        from_pretrained=lambda *_: Green(fail_after, batch_size=1, graft="auto"))
    yield
    seam.Restorer = usual


def evaluation_table(trial: Trial) -> None:
    table = trial.outputs / "kept-results" / "tiles.csv"
    table.parent.mkdir()
    table.write_bytes(mutators.csv((trial.seeds / "tiles.csv").read_bytes(), trial.rng))
    try:
        import_module("artifusion.evaluation.records").Records(table.parent).rows()
        trial.codes.append(0)
    except ArtifusionError:
        trial.codes.append(1)


def weights(trial: Trial) -> None:
    folder = trial.whole("weights", "weights")
    broken = folder / pick(trial.rng, ("config.json", "model.safetensors"))
    mutator = mutators.json_text if broken.suffix == ".json" else mutators.safetensors
    broken.write_bytes(mutator(broken.read_bytes(), trial.rng))
    if trial.run("info", folder) == 0:
        slide, mask = trial.whole("slide.tif", "slides/ycbcr.tif"), trial.box()
        out = trial.outputs / "kept.tif"
        if trial.run("restore", slide, "--mask", mask, "-o", out, "-q", "--weights", folder, "--config",
                     trial.seeds / "restore.toml", "--steps", 1, "--device", "cpu") == 0:
            trial.run("verify", slide, out)


def train_toml(trial: Trial) -> None:
    config = trial.broken(trial.seeds / "train.toml", mutators.toml)
    trial.run(*training(trial, config, trial.seeds / "tissue"), "--max-minutes", "0.002")


def shard(trial: Trial) -> None:
    tiles = trial.broken(trial.seeds / "tiles.tar", mutators.tar)
    trial.run("tiles", "--data", tiles, "-o", trial.outputs / "again.tar", "-q")
    trial.run(*training(trial, trial.seeds / "train.toml", tiles), "--max-minutes", "0.0001")


def training_run(trial: Trial) -> None:
    """A run that goes on from a broken state or log."""
    run = trial.outputs / "kept-run"
    shutil.copytree(trial.seeds / "run", run)
    name, mutator = pick(trial.rng, (("state.safetensors", mutators.safetensors), ("log.csv", mutators.csv),
                                     ("config.json", mutators.json_text), ("log.csv", mutators.csv)))
    (run / name).write_bytes(mutator((run / name).read_bytes(), trial.rng))
    trial.run(*training(trial, trial.seeds / "train.toml", trial.seeds / "tissue"))


def training(trial: Trial, config: Path, data: Path) -> list[object]:
    return ["train", config, "--data", data, "--run-dir", trial.outputs / "kept-run", "--device", "cpu", "-q"]


LIGHT: dict[Callable[[Trial], None], int] = {                # how often each is drawn
    slide_structure: 26, slide_streams: 16, slide_bytes: 4, plain_image: 8, mask_image: 9, grandqc: 3, histoqc: 3,
    geojson: 10, sidecar: 8, restore_toml: 2, interrupted: 2}
HEAVY: dict[Callable[[Trial], None], int] = {           # import torch
    weights: 4, train_toml: 3, shard: 3, training_run: 2, detection: 1, evaluation_table: 1}
