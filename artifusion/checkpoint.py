"""Weights on disk: a folder of config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from artifusion.config import DenoiserConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import BROKEN_FILE, WeightsError, shortened
from artifusion.files import whole_file
from artifusion.pretrained import CONFIG, MODEL, find_weights, read_config


@dataclass(frozen=True)
class Weights:
    """A denoiser with its name, the SHA-256 of its model file and the record of its training (crops, minutes, ...)."""

    denoiser: SwinDenoiser
    name: str
    sha256: str
    training: dict[str, Any]


def save_weights(folder: Path, state: dict[str, Tensor], denoiser: DenoiserConfig, name: str, training: dict) -> None:
    """Write a weights folder, each file whole or not at all. Tensors become float16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
    config = {"name": name, "denoiser": denoiser.model_dump(), "training": training}
    with whole_file(folder / CONFIG) as config_part, whole_file(folder / MODEL) as model_part:
        config_part.write_text(json.dumps(config, indent=2) + "\n")
        save_tensors(tensors, model_part)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that everyone may read; the library itself makes it readable by its owner alone."""
    save_file(tensors, path, metadata)
    path.chmod(0o644)


def load_weights(source: str | Path) -> Weights:
    """Weights by embedded name ("he-small"), folder, or hub id ("owner/name").

    Raises:
        WeightsError: nothing of that name, a broken file, or weights of another architecture.
    """
    with find_weights(source) as folder:
        return _read(folder)


def _read(folder: Path) -> Weights:
    architecture, config = read_config(folder)
    try:
        training = dict(config.get("training", {}))
        if "images" in training:                    # what crops were called in weights up to 0.4.0
            training = {"crops": training.pop("images")} | training
        model = (folder / MODEL).read_bytes()
        tensors = load(model)
        if broken := [key for key, value in tensors.items() if not value.isfinite().all()]:
            raise ValueError(f"{broken[0]} holds what is no number")
        denoiser = SwinDenoiser(architecture)
        denoiser.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise WeightsError(f"{folder}: weights of another architecture: {shortened(reason)}") from None
    except (*BROKEN_FILE, SafetensorError) as error:
        raise WeightsError(f"{folder}: broken weights: {shortened(error)}") from None
    digest = hashlib.sha256(model).hexdigest()
    return Weights(denoiser, str(config.get("name", folder.name)), digest, training)
