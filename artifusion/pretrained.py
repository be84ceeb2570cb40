"""Finds weights and reads their config.json without importing torch; `checkpoint` reads their tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from artifusion.config import DenoiserConfig, WalkConfig, describe
from artifusion.errors import BROKEN_FILE, WeightsError, shortened

FILES = CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"      # the card is for people
DEFAULT_WEIGHTS = "he-small"


@contextmanager
def find_weights(source: str | Path) -> Iterator[Path]:
    """The folder of weights by embedded name ("he-small"), folder, or hub id ("owner/name").

    Raises:
        WeightsError: nothing of that name, or a file of it is missing.
    """
    embedded = files("artifusion") / "weights" / str(source)
    if "/" not in str(source) and (embedded / CONFIG).is_file():
        with as_file(embedded) as folder:
            yield complete(folder)
        return
    folder = Path(source)
    if folder.is_dir():
        yield complete(folder)
    elif folder.suffix in (".json", ".safetensors", ".svs", ".tif", ".tiff", ".png", ".jpg"):
        raise WeightsError(f"{source}: no such file, and weights are a folder")
    elif str(source).count("/") == 1 and not str(source).startswith((".", "/")):
        yield complete(_download(str(source)))
    else:
        raise WeightsError(
            f"{source}: no such weights; give an embedded name ({', '.join(embedded_names())}), "
            f"a folder with {CONFIG} and {MODEL}, or a hub id owner/name"
        )


def embedded_names() -> list[str]:
    return sorted(f.name for f in (files("artifusion") / "weights").iterdir() if (f / CONFIG).is_file())


def complete(folder: Path) -> Path:
    """The folder, if it holds both files of weights; else raises WeightsError."""
    for file in (CONFIG, MODEL):
        if not (folder / file).is_file():
            raise WeightsError(f"{folder}: {file} is missing; a weights folder holds {CONFIG} and {MODEL}")
    return folder


def read_config(folder: Path) -> tuple[DenoiserConfig, WalkConfig, dict[str, Any]]:
    """The denoiser's configuration in a weights folder, the walk along which it paints, and the whole config.json.

    Raises:
        WeightsError: config.json is broken.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        walk = WalkConfig.model_validate(config.get("walk", {}))
        return DenoiserConfig.model_validate(config["denoiser"]), walk, config
    except ValidationError as error:
        model = DenoiserConfig if error.title == DenoiserConfig.__name__ else WalkConfig
        raise WeightsError(f"{folder}: broken or foreign weights: {describe(error, model)}") from None
    except BROKEN_FILE as error:
        raise WeightsError(f"{folder}: broken weights: {shortened(error)}") from None


def architecture_and_walk(source: str | Path) -> tuple[DenoiserConfig, WalkConfig]:
    """The denoiser's configuration, and the walk along which it paints. Does not read tensors."""
    with find_weights(source) as folder:
        architecture, walk, _ = read_config(folder)
        return architecture, walk


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[CONFIG, MODEL]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{hub_id}: neither a folder here nor weights that the hub gives: {reason}") from None
