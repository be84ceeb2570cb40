"""Pictures of restored tiles at full size, those that fail among them, chosen by a seed alone.

    python -m benchmarks.quality.failures DATA [--tiles 40] [--seed 7] [--pictures docs/generated/pictures]

The tiles, holes and method are those of `artifusion evaluate --validation --methods graft` with that seed: 256 px of
images that the weights were not trained on. Writes failures-1.jpg, ...: ten rows each of truth, hole and restoration,
numbered from 1. docs/failures.md describes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from artifusion import Restorer
from artifusion.evaluation.methods import make_methods
from artifusion.evaluation.pictures import GAP_PX, PITCH_PX, side_by_side
from artifusion.evaluation.trials import Trial, plan_trials

ROWS, NUMBER_PX = 10, 28


def row(trial: Trial, restored: np.ndarray, number: int) -> Image.Image:
    """A number, the truth, the truth without its hole, and the restoration, side by side."""
    picture = Image.new("RGB", (NUMBER_PX + 3 * PITCH_PX - GAP_PX, PITCH_PX), "white")
    ImageDraw.Draw(picture).text((2, 2), str(number), fill="black", font=ImageFont.load_default(18))
    picture.paste(side_by_side(trial, [restored]), (NUMBER_PX, 0))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--tiles", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pictures", type=Path, default=Path("docs/generated/pictures"), help="folder to write to")
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    trials = plan_trials(given.data, given.tiles, given.seed, validation=True)
    graft = make_methods(["graft"], (), trials, Restorer.from_pretrained(), given.seed)["graft"]
    rows = []
    for number, trial in enumerate(tqdm(trials), 1):
        rows.append(row(trial, graft(trial), number))
        print(number, trial.image, f"{trial.artifact}, {trial.width}, {100 * trial.hole.mean():.0f} %", flush=True)
    for sheet, first in enumerate(range(0, len(rows), ROWS), 1):
        shown = np.concatenate([np.asarray(each) for each in rows[first : first + ROWS]])
        Image.fromarray(shown).save(given.pictures / f"failures-{sheet}.jpg", quality=85)


if __name__ == "__main__":
    main()
