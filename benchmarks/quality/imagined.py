"""How much a denoiser knows of a hole: the squared error of what it predicts over that of a fill with the mean of what
is known, per noise level. At level 1 the prediction is what it imagines, which donors are chosen by.

    python -m benchmarks.quality.imagined DATA [DATA ...] [--weights he-small] [--validation] [--mpp UM] [--json FILE]

48 crops of 128 px, the middle of each hidden, as in the log of a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from artifusion.checkpoint import load_weights
from artifusion.config import TrainConfig, load_config
from artifusion.diffusion.schedule import Schedule
from artifusion.training.corpus import is_validation
from artifusion.training.held_out import held_out_crops, level_errors
from artifusion.training.shards import read_tiles
from artifusion.training.tiles import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights", default="he-small", help="name or folder")
    parser.add_argument("--validation", action="store_true", help="only images that he-small was not trained on")
    parser.add_argument("--mpp", type=float, help="um per pixel, whatever the images tell")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config, weights = load_config(TrainConfig, "train", "he-small"), load_weights(given.weights)
    if given.mpp is not None:
        if not 0.01 <= given.mpp <= 100:
            parser.error("--mpp must lie in 0.01 to 100 um per pixel")
        config = config.model_copy(update={"data": config.data.model_copy(update={"spacing_um": {"*": given.mpp}})})
    images = {path: name for path, name in find_images(given.data).items()
              if not given.validation or is_validation(name, config.data)}
    held_out = held_out_crops(list(read_tiles(images, quiet=True)), config)
    if held_out is None:
        parser.error("no clean tiles there")
    asked = weights.denoiser.config
    errors = level_errors(weights.denoiser.eval(), Schedule(asked.schedule, asked.prediction), held_out)
    print("| level | error over a mean fill's |\n|---|---|\n"
          + "\n".join(f"| {level} | {error:.4f} |" for level, error in errors.items()))
    if given.json:
        given.json.write_text(json.dumps({"weights": weights.name, "errors": errors}, indent=2) + "\n")


if __name__ == "__main__":
    main()
