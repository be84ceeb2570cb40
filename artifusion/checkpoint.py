"""Weights on disk: a folder of config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from artifusion.config import DenoiserConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import WeightsError

CONFIG, MODEL = "config.json", "model.safetensors"
DEFAULT_WEIGHTS = "he-small"


@dataclass(frozen=True)
class Weights:
    """A denoiser with what must be said about it.

    name, sha256 of the model file, and `training`: the record that the card repeats (images, minutes, data...).
    """

    denoiser: SwinDenoiser
    name: str
    sha256: str
    training: dict[str, Any]


def save_weights(folder: Path, state: dict[str, Tensor], denoiser: DenoiserConfig, name: str, training: dict) -> None:
    """Write a weights folder, each file whole or not at all; tensors become float16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
    config = {"name": name, "denoiser": denoiser.model_dump(), "training": training}
    (folder / f"{CONFIG}.part").write_text(json.dumps(config, indent=2) + "\n")
    save_tensors(tensors, folder / f"{MODEL}.part")
    for file in (MODEL, CONFIG):
        os.replace(folder / f"{file}.part", folder / file)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that everyone may read, as other files; safetensors makes it private."""
    save_file(tensors, path, metadata)
    path.chmod(0o644)


def load_weights(source: str | Path) -> Weights:
    """Weights by embedded name ("he-small"), folder, or hub id ("owner/name").

    Raises:
        WeightsError: nothing of that name, a broken file, or weights of another architecture.
    """
    embedded = files("artifusion") / "weights" / str(source)
    if "/" not in str(source) and (embedded / CONFIG).is_file():
        with as_file(embedded) as folder:
            return _read(folder)
    folder = Path(source)
    if folder.is_dir():
        return _read(folder)
    if Path(source).suffix in (".json", ".safetensors", ".svs", ".tif", ".tiff", ".png", ".jpg"):
        raise WeightsError(f"{source}: no such file, and weights are a folder")
    if str(source).count("/") == 1 and not str(source).startswith((".", "/")):
        return _read(_download(str(source)))
    raise WeightsError(
        f"{source}: no such weights; give an embedded name ({', '.join(embedded_names())}), "
        f"a folder with {CONFIG} and {MODEL}, or a hub id owner/name"
    )


def embedded_names() -> list[str]:
    return sorted(f.name for f in (files("artifusion") / "weights").iterdir() if (f / CONFIG).is_file())


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[CONFIG, MODEL]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{hub_id}: neither a folder here nor weights that the hub gives: {reason}") from None


def _read(folder: Path) -> Weights:
    for file in (CONFIG, MODEL):
        if not (folder / file).is_file():
            raise WeightsError(f"{folder}: {file} is missing; a weights folder holds {CONFIG} and {MODEL}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        training = dict(config.get("training", {}))
        model = (folder / MODEL).read_bytes()
        tensors = load(model)
        denoiser = SwinDenoiser(DenoiserConfig.model_validate(config["denoiser"]))
        denoiser.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: broken weights: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{folder}: weights of another architecture: {reason}") from None
    digest = hashlib.sha256(model).hexdigest()
    return Weights(denoiser, str(config.get("name", folder.name)), digest, training)
