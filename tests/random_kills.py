"""Kills commands of `artifusion` at random moments, gives each again, and prints how they ended.

    python tests/random_kills.py [--count 200] [--seed 0] [--commands restore,damage,...]

Half of the kills fall between two file operations (`kills.py`), half by the clock; half are SIGKILL, half SIGTERM. Each
is followed by the same command, which must succeed and leave, byte for byte, what a run leaves that nobody kills.
Exit 1 if one does not. A few run in the tests.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kills import content, fresh, run
from made_slides import RGB, he_like, tissue, write_pyramid_tiff
from PIL import Image

from artifusion.mask import writer  # noqa: F401, what the commands import, once for all forks

COMMANDS = ("restore", "graft", "damage", "tiles", "train", "convert")
TRAIN = """
crops = 8
batch_size = 4
warmup_crops = 4
checkpoint_minutes = 1e-9
denoiser = { pixel_dim = 8, dims = [8, 16], heads = [1, 1], depths = [1, 1], window_sizes = [4, 4], time_dim = 8 }
data = { crop_px = 32, validation = ["*/held.png"] }
"""


def inputs(folder):
    """Small inputs of every command, and its arguments; {out} stands for the folder of the outputs."""
    slide = write_pyramid_tiff(folder / "slide.tif", [(450, 351), (224, 175)], **RGB)
    image = tissue(400, 300)
    mask, large = np.zeros((351, 450), np.uint8), np.zeros((300, 400), np.uint8)
    for x, y in ((20, 20), (300, 250), (200, 120)):
        mask[y : y + 40, x : x + 40] = 255
    large[100:170, 120:200] = 255
    data = folder / "tissue"
    data.mkdir()
    for n, name in enumerate(("a.png", "b.png", "held.png")):
        Image.fromarray(he_like(160, 160, n)).save(data / name)
    for name, pixels in (("mask.png", mask), ("large.png", large), ("image.png", image)):
        Image.fromarray(pixels).save(folder / name, dpi=(50800, 50800))
    (folder / "tiny.toml").write_text(TRAIN)
    return {
        "restore": ["restore", slide, "--mask", folder / "mask.png", "-o", "{out}/x.tif", "--preview", "{out}/x.png"],
        "graft": ["restore", folder / "image.png", "--mask", folder / "large.png", "-o", "{out}/x.png"],
        "damage": ["damage", slide, "{out}/x.tif", "--share", "0.05"],
        "tiles": ["tiles", "--data", data, "-o", "{out}/x.tar", "--max-mb", "0.1"],
        "train": ["train", folder / "tiny.toml", "--data", data, "--run-dir", "{out}/run", "--device", "cpu"],
        "convert": ["mask", "convert", folder / "mask.png", "{out}/x.tif", "--slide", slide],
    }


def kills(commands, count, seed):
    """Yield how each of `count` kills ended."""
    if "train" in commands:
        import artifusion.training.run  # noqa: F401
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place) / "out"
        (folder / "in").mkdir()
        arguments = {name: [str(part).format(out=out) for part in parts]
                     for name, parts in inputs(folder / "in").items()}
        straight = {}
        for name in commands:
            fresh(out)
            began = time.monotonic()
            status, said, operations, _ = run(arguments[name], out, graft="auto" if name == "graft" else "off")
            assert status == 0, said
            straight[name] = content(out), operations, time.monotonic() - began
        for n in range(count):
            name, chance = commands[n % len(commands)], random.Random(f"{seed}:{n}")
            wanted, operations, seconds = straight[name]
            graft = "auto" if name == "graft" else "off"
            how = {"number": chance.choice((signal.SIGKILL, signal.SIGTERM))}
            how |= {"kill_at": chance.randint(1, operations)} if chance.random() < 0.5 else {
                "delay": chance.uniform(0.001, 0.95 * seconds)}
            fresh(out)
            status, said, *_ = run(arguments[name], out, graft=graft, **how)
            left = sorted(content_names(out))
            again, told, *_ = run(arguments[name], out, graft=graft)
            found = content(out)
            yield {"command": name, "signal": how["number"].name, "kill_at": how.get("kill_at"),
                   "delay": how.get("delay"), "status": status, "left": left, "again": again,
                   "same": found == wanted, "differs": sorted(key for key in found.keys() | wanted.keys()
                                                              if found.get(key) != wanted.get(key)),
                   "whole": set(left) == set(wanted), "said": said[-300:], "told": told[-300:]}


def content_names(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    given = parser.parse_args()
    names, ended = given.commands.split(","), []
    for kill in kills(names, given.count, given.seed):
        ended.append(kill)
        if kill["again"] or not kill["same"]:
            print(json.dumps(kill), flush=True)
    print("| command | kills | SIGKILL, SIGTERM | too late | left nothing, work, all | again done | byte-equal |\n"
          "| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        own = [kill for kill in ended if kill["command"] == name]
        late = sum(kill["status"] == 0 for kill in own)
        nothing, everything = sum(not kill["left"] for kill in own), sum(kill["whole"] for kill in own)
        signals = [sum(kill["signal"] == which for kill in own) for which in ("SIGKILL", "SIGTERM")]
        print(f"| {name} | {len(own)} | {signals[0]}, {signals[1]} | {late} | {nothing}, "
              f"{len(own) - nothing - everything}, {everything} | {sum(not kill['again'] for kill in own)} | "
              f"{sum(kill['same'] for kill in own)} |")
    sys.exit(any(kill["again"] or not kill["same"] for kill in ended))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")        # a process that forks must have no threads
    main()
