"""What `artifusion detect` finds, and what it leaves alone, on artifacts whose truth is known.

    python -m benchmarks.quality.detect DATA [--parts painted compositor pen clean large] [--json FILE]

DATA is the folder of eval/, wsi/, artifacts/ (docs/detection.md has the figures). Dice is 2 |found and true| over
|found| + |true|, summed over the images of a class, each of which shows that class alone: "class" counts what was found
as that class, "any" whatever was found but blur. Truth is compared at the detection's own scale.

- painted: by `artifusion.damage.spots`, strong, 4 % of the area.
- compositor: by this file, on eval/monuseg: cut-outs of real bubbles (and what they enclose) and dark spots (small ones
  are the dust), real ink from pen overviews, folds that multiply the light of two pieces of tissue.
- pen: overviews with real ink; the first, third and fifth by name were tuned on, the others are reported.
- clean: undamaged images; the share of their tissue that is flagged as anything but blur.
- large: pyramids of 10,000, 20,000 and 40,000 px a side at 0.5 um/px, 30 % of it tissue: seconds and peak memory
  of the command.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from PIL import Image
from scipy import ndimage

from artifusion.config import DEFAULT_SPACING_UM
from artifusion.damage.spots import damage_spot, plan_damage
from artifusion.detection.detect import detect
from artifusion.detection.overlay import outline
from artifusion.geometry import Box, Size
from artifusion.mask.classes import CLASSES
from artifusion.slide.reader import open_slide
from artifusion.slide.tissue import tissue_mask
from benchmarks.memory import run
from benchmarks.synthetic import DESCRIPTION, TILE_PX, tissue_tiles

Scene = tuple[str, float, np.ndarray, np.ndarray]            # name, um per pixel, pixels, truth
KINDS = ("pen", "bubble", "fold", "dust", "dark")
MONUSEG_UM = 0.25
OVERVIEW_UM = {"1k_pen_black": 12.0}                         # guesses: a section is some 25 mm long
SIDES_PX, TISSUE_SHARE = (10_000, 20_000, 40_000), 0.3


def clean_images(data: Path) -> Iterator[Scene]:
    """Undamaged images: name, um per pixel, pixels, and what counts as damaged all the same (natural folds)."""
    for path in sorted((data / "eval/monuseg").glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        yield f"monuseg/{path.stem}", MONUSEG_UM, pixels, np.zeros(pixels.shape[:2], bool)
    for name in ("CMU-1-Small-Region", "TCGA-CR-7395-TS1"):
        with open_slide(data / f"wsi/{name}.svs") as slide:
            pixels, mpp = slide.read(Box(0, 0, *slide.size)), slide.mpp or DEFAULT_SPACING_UM
        damaged = np.zeros(pixels.shape[:2], bool)
        for folds in sorted((Path(__file__).parents[1] / "masks").glob(f"{name}*.geojson")):
            shapes = [shapely.geometry.shape(f["geometry"]) for f in json.loads(folds.read_text())["features"]]
            damaged |= rastered(shapes, damaged.shape)
        yield name, mpp, pixels, damaged


def rastered(shapes: list[Any], shape: tuple[int, int]) -> np.ndarray:
    from artifusion.mask.mask import Mask

    polygons = [part for form in shapes for part in getattr(form, "geoms", [form])]
    size = Size(shape[1], shape[0])
    return Mask.of(polygons, size).read(Box(0, 0, *size))


def painted(data: Path, kind: str, stride: int) -> Iterator[Scene]:
    for number, (name, mpp, pixels, _) in enumerate(clean_images(data)):
        if "TCGA-CR" in name or number % stride:
            continue
        out, truth = pixels.copy(), np.zeros(pixels.shape[:2], bool)
        small = np.asarray(Image.fromarray(pixels).reduce(8))

        def read(box: Box, pixels: np.ndarray = pixels) -> np.ndarray:
            rows, columns = (np.arange(a, b).clip(0, end - 1) for a, b, end in (
                (box.y, box.bottom, pixels.shape[0]), (box.x, box.right, pixels.shape[1])))
            return pixels[np.ix_(rows, columns)]

        for spot in plan_damage(Size(*pixels.shape[1::-1]), tissue_mask(small), (kind,), 0.04, mpp, 7000 + number):
            box, new, mask = damage_spot(spot, read)
            out[box.slices()] = np.where(mask[..., None], new, out[box.slices()])
            truth[box.slices()] |= mask
        yield name, mpp, out, truth


def composed(data: Path, kind: str, stride: int) -> Iterator[Scene]:
    for number, (name, mpp, pixels, _) in enumerate(clean_images(data)):
        if not name.startswith("monuseg") or number % stride:
            continue
        rng = np.random.default_rng(9000 + number)
        light = pixels.astype(np.float32)
        truth = np.zeros(pixels.shape[:2], bool)
        tissue = np.argwhere(tissue_mask(np.asarray(Image.fromarray(pixels).reduce(8)))) * 8 + 4
        for _ in range(12 if kind == "dust" else 1):
            COMPOSERS[kind](data / "artifacts", light, truth, tissue[rng.integers(len(tissue))], mpp, rng)
        yield name, mpp, light.clip(0, 255).round().astype(np.uint8), truth


def laid(light: np.ndarray, truth: np.ndarray, cut: Image.Image, top: int, left: int) -> None:
    """Lay an RGBA cut-out over the picture, in place; what is a tenth opaque is true, and what that encloses."""
    height, width = truth.shape
    rows, columns = slice(max(0, top), min(height, top + cut.height)), slice(max(0, left), min(width, left + cut.width))
    piece = np.asarray(cut, np.float32)[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = piece[..., 3:] / 255
    light[rows, columns] = alpha * piece[..., :3] + (1 - alpha) * light[rows, columns]
    truth[rows, columns] |= ndimage.binary_fill_holes(alpha[..., 0] > 0.1)


def cut_out(folder: Path, rng: np.random.Generator, longest_px: float) -> Image.Image:
    paths = sorted(folder.glob("*.png"))
    with Image.open(paths[rng.integers(len(paths))]) as image:
        ratio = longest_px / max(image.size)
        return image.convert("RGBA").resize(tuple(max(3, round(side * ratio)) for side in image.size))


def compose_bubble(folder: Path, light: np.ndarray, truth: np.ndarray, at: np.ndarray, mpp: float,
                   rng: np.random.Generator) -> None:
    """A bubble that reaches into the picture from its edge, as the cut-outs do from theirs."""
    if truth.any():                                          # one per picture: there is one such corner
        return
    cut = np.array(cut_out(folder / "froodo/bubble", rng, rng.uniform(0.5, 0.8) * min(truth.shape)))
    parts, _ = ndimage.label(cut[..., 3] > 0.1 * 255)
    other = (parts > 0) & (parts != parts[0, cut[0, :, 3].argmax()])
    cut[ndimage.binary_dilation(other, iterations=8), 3] = 0      # the cut-out's far edges cut another bubble
    laid(light, truth, Image.fromarray(cut), 0, 0)
    hollow = np.pad(truth, ((1, 0), (1, 0)))                 # its inside lets light through, but is the bubble's
    hollow[0, : truth[0].nonzero()[0].max() + 1] = hollow[: truth[:, 0].nonzero()[0].max() + 1, 0] = True
    truth |= ndimage.binary_fill_holes(hollow)[1:, 1:]


def compose_dark(folder: Path, light: np.ndarray, truth: np.ndarray, at: np.ndarray, mpp: float,
                 rng: np.random.Generator) -> None:
    cut = cut_out(folder / "froodo/dark_spots", rng, rng.uniform(60, 110) / mpp)
    laid(light, truth, cut.rotate(rng.uniform(0, 360)), int(at[0]) - cut.height // 2, int(at[1]) - cut.width // 2)


def compose_dust(folder: Path, light: np.ndarray, truth: np.ndarray, at: np.ndarray, mpp: float,
                 rng: np.random.Generator) -> None:
    cut = cut_out(folder / "froodo/dark_spots", rng, rng.uniform(8, 18) / mpp)
    laid(light, truth, cut, int(at[0]), int(at[1]))


def compose_pen(folder: Path, light: np.ndarray, truth: np.ndarray, at: np.ndarray, mpp: float,
                rng: np.random.Generator) -> None:
    """Real ink: what a piece of a stroke lets through, over the glass beside it, multiplies the light."""
    name, box = INKS[rng.integers(len(INKS))]
    ink = Image.open(folder / f"pen/{name}.png").convert("RGB").crop(box)
    mask = Image.open(folder / f"pen/{name}_mask.png").convert("L").crop(box)
    size = tuple(max(8, round(side * rng.uniform(120, 180) / mpp / max(ink.size))) for side in ink.size)
    through = np.minimum(np.asarray(ink.resize(size), np.float32) / 240, 1)
    inked = np.asarray(mask.resize(size)) > 127
    rows, columns = (slice(int(a) - s // 2, int(a) - s // 2 + s) for a, s in zip(at, inked.shape, strict=True))
    rows, columns = (slice(max(0, s.start), min(end, s.stop)) for s, end in zip((rows, columns), truth.shape,
                                                                                strict=True))
    cut = np.s_[: rows.stop - rows.start, : columns.stop - columns.start]
    light[rows, columns] *= np.where(inked[cut][..., None], through[cut], 1)
    truth[rows, columns] |= inked[cut]


def compose_fold(folder: Path, light: np.ndarray, truth: np.ndarray, at: np.ndarray, mpp: float,
                 rng: np.random.Generator) -> None:
    """A strip on which the light of the tissue beside it passes again: densities add, nothing is blended."""
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]].astype(np.float32)
    turn, long, wide = rng.uniform(0, np.pi), rng.uniform(130, 200) / mpp, rng.uniform(20, 35) / mpp
    along = (x - at[1]) * np.cos(turn) + (y - at[0]) * np.sin(turn)
    across = (y - at[0]) * np.cos(turn) - (x - at[1]) * np.sin(turn) + 0.1 * long * np.sin(4 * along / long)
    strip = (np.abs(along) < long / 2) & (np.abs(across) < wide / 2 * np.cos(along / long * 2.2))
    shift = (round(wide * np.cos(turn)), round(-wide * np.sin(turn)))
    other = np.roll(light, shift, axis=(0, 1))
    small = tissue_mask(np.asarray(Image.fromarray(other.clip(0, 255).astype(np.uint8)).reduce(8)))
    strip &= np.asarray(Image.fromarray(small).resize(truth.shape[::-1]))      # glass laid over tissue is no fold
    light[strip] *= np.minimum(other[strip] / 245, 1)
    truth |= strip


INKS = (("1k_pen_green", (760, 360, 830, 430)), ("1k_pen_red", (70, 560, 140, 660)),
        ("1k_pen_black", (220, 900, 420, 1200)))
COMPOSERS = {"bubble": compose_bubble, "dark": compose_dark, "dust": compose_dust, "pen": compose_pen,
             "fold": compose_fold}


class Counts:
    """Pixels in um2: found as the class, found at all, true, and both."""

    def __init__(self) -> None:
        self.found = self.found_any = self.true = self.both = self.both_any = 0.0

    def add(self, ids: np.ndarray, truth: np.ndarray, kind: str, um2: float) -> None:
        named, some = ids == CLASSES[kind], (ids > 0) & (ids != CLASSES["blur"])
        for name, pixels in (("found", named), ("found_any", some), ("true", truth), ("both", named & truth),
                             ("both_any", some & truth)):
            setattr(self, name, getattr(self, name) + np.count_nonzero(pixels) * um2)

    def dice(self) -> dict[str, float]:
        return {"class": round(2 * self.both / max(1e-9, self.found + self.true), 3),
                "any": round(2 * self.both_any / max(1e-9, self.found_any + self.true), 3)}


def at_scale(truth: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(truth.astype(np.uint8) * 255).resize(ids.shape[::-1], Image.Resampling.BOX)) > 127


def dice_of(scenes: Iterator[Scene], kind: str, look: Path | None = None) -> dict[str, float]:
    counts = Counts()
    for name, mpp, pixels, truth in scenes:
        found = detect(pixels, mpp=mpp)
        counts.add(found.ids, at_scale(truth, found.ids), kind, found.mpp**2)
        if look:
            show(look / f"{kind}-{name.replace('/', '-')}.png", pixels, found.ids, truth)
    return counts.dice()


def show(path: Path, pixels: np.ndarray, ids: np.ndarray, truth: np.ndarray) -> None:
    """For the eye: truth in yellow, what was found in its colour."""
    from artifusion.mask.classes import COLORS

    image = np.asarray(Image.fromarray(pixels).resize(ids.shape[::-1])).copy()
    true = at_scale(truth, ids)
    image[outline(true, 1)] = (255, 255, 0)
    for name, at in CLASSES.items():
        image[outline(ids == at, 1)] = COLORS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def pens(data: Path) -> dict[str, Any]:
    counts, result = Counts(), {}
    paths = [p for p in sorted((data / "artifacts/pen").glob("*.png")) if not p.stem.endswith("_mask")]
    for number, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        truth = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png")).convert("L")) > 127
        mpp = OVERVIEW_UM.get(path.stem, 25_000 / max(truth.shape))
        found = detect(pixels, mpp=mpp, any_stain=True)
        own = Counts()
        own.add(found.ids, at_scale(truth, found.ids), "pen", 1.0)
        half = "tuned on" if number % 2 == 0 else "held out"
        result[path.stem] = {"half": half, **own.dice()}
        if half == "held out" and "pen" in path.stem:
            counts.add(found.ids, at_scale(truth, found.ids), "pen", 1 / truth.size)
    return result | {"held out, ink": counts.dice()}


def clean(data: Path) -> dict[str, Any]:
    shares: dict[str, Any] = {}
    sums: dict[str, list[float]] = {}
    for name, mpp, pixels, damaged in clean_images(data):
        found = detect(pixels, mpp=mpp)
        small = tissue_mask(np.asarray(Image.fromarray(pixels).resize(
            [max(1, round(side * mpp / 2)) for side in pixels.shape[1::-1]], Image.Resampling.BOX)))
        tissue = at_scale(small, found.ids) & ~at_scale(damaged, found.ids)
        flagged = tissue & (found.ids > 0) & (found.ids != CLASSES["blur"])
        blurred = tissue & (found.ids == CLASSES["blur"])
        total = sums.setdefault(name.split("/")[0], [0.0, 0.0, 0.0])
        for n, part in enumerate((tissue, flagged, blurred)):
            total[n] += np.count_nonzero(part) * found.mpp**2
        shares[name] = {kind: round(np.count_nonzero(flagged & (found.ids == at)) / max(1, tissue.sum()), 4)
                        for kind, at in CLASSES.items() if (flagged & (found.ids == at)).any()}
    return {"flagged share of tissue": {name: round(part / all_, 4) for name, (all_, part, _) in sums.items()},
            "blur reported": {name: round(part / all_, 4) for name, (all_, _, part) in sums.items()},
            "by image": shares}


def make_pyramid(path: Path, tissue: Path, side_px: int) -> None:
    """An Aperio-like slide of side_px squared at 0.5 um/px, three levels, tissue in a square of TISSUE_SHARE."""
    tiles = tissue_tiles(tissue, 300)
    buffer = io.BytesIO()
    Image.new("RGB", (TILE_PX, TILE_PX), (243, 242, 243)).save(buffer, "JPEG", quality=80)
    glass, rng = buffer.getvalue(), np.random.default_rng(0)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16):
            width = side_px // factor
            across = -(-width // TILE_PX)
            low, high = (round(across * (0.5 + sign * TISSUE_SHARE**0.5 / 2)) for sign in (-1, 1))
            chosen = (tiles[rng.integers(len(tiles))] if low <= row < high and low <= column < high else glass
                      for row in range(across) for column in range(across))
            file.write(chosen, shape=(width, width, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), photometric="ycbcr",
                       subsampling=(2, 2), compression="jpeg", metadata=None, subfiletype=0 if factor == 1 else 1,
                       description=DESCRIPTION.format(width, width) if factor == 1 else None)


def large(data: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of the whole command on slides of growing size."""
    result = []
    for side_px in SIDES_PX:
        with tempfile.TemporaryDirectory() as folder:
            source, mask = Path(folder) / "slide.svs", Path(folder) / "m.png"
            make_pyramid(source, data / "train/osteosarcoma", side_px)
            line, seconds, peak_mb = run([sys.executable, "-m", "artifusion", "detect", source, "-o", mask, "-q"])
        result.append({"side_px": side_px, "mpp": 0.5, "tissue": TISSUE_SHARE, "seconds": round(seconds, 1),
                       "peak_mb": round(peak_mb), "threads": os.environ.get("OMP_NUM_THREADS", "all"),
                       "load": round(os.getloadavg()[0], 1), "said": line.strip().split(": ", 1)[1]})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parts = ("painted", "compositor", "pen", "clean", "large")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--every", type=int, default=1, help="painted, compositor: every so many images only")
    parser.add_argument("--json", type=Path, help="what was measured before and is not now stays in it")
    parser.add_argument("--look", type=Path, help="a folder for pictures of truth and what was found")
    given = parser.parse_args()
    result = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for part in given.parts:
        look = given.look and given.look / part
        if part == "painted":
            result[part] = {k: dice_of(painted(given.data, k, given.every), k, look) for k in KINDS}
        elif part == "compositor":
            result[part] = {k: dice_of(composed(given.data, k, given.every), k, look) for k in KINDS}
        elif part == "pen":
            result[part] = pens(given.data)
        elif part == "clean":
            result[part] = clean(given.data)
        else:
            result[part] = large(given.data)
        if part in ("painted", "compositor"):
            result[part]["every"] = given.every
        print(part, json.dumps(result[part], indent=2), flush=True)
        if given.json:
            result["machine"] = {"cpus": os.cpu_count(), "system": platform.platform()}
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
