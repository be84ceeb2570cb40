"""Weights on disk: a folder of config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from artifusion.config import DenoiserConfig, WalkConfig
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.errors import BROKEN_FILE, WeightsError, shortened
from artifusion.files import sha256, whole_file
from artifusion.pretrained import CARD, CONFIG, MODEL, embedded_names, find_weights, read_config


@dataclass(frozen=True)
class Weights:
    """A denoiser with its name, the SHA-256 of its model file and the record of its training (crops, minutes, ...).

    parent: name and SHA-256 of the weights that its training began from; None where it began from nothing.
    walk: along which it paints, unless the user tells another.
    """

    denoiser: SwinDenoiser
    name: str
    sha256: str
    training: dict[str, Any]
    parent: dict[str, str] | None = None
    walk: WalkConfig = field(default_factory=WalkConfig)

    def named(self) -> dict[str, Any]:
        """What a slide's sidecar says of them."""
        return {"name": self.name, "sha256": self.sha256, **({"parent": self.parent} if self.parent else {})}


def save_weights(folder: Path, state: dict[str, Tensor], denoiser: DenoiserConfig, name: str, training: dict,
                 parent: dict[str, str] | None = None, walk: WalkConfig | None = None) -> None:
    """Write a weights folder, each file whole or not at all. Tensors become float16; a card says what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
    config = {"name": name, "parent": parent, "denoiser": denoiser.model_dump(),
              "walk": (walk or WalkConfig()).model_dump(), "training": training}
    with whole_file(folder / CONFIG) as config_part, whole_file(folder / MODEL) as model_part:
        config_part.write_text(json.dumps(config, indent=2) + "\n")
        # one key: the library writes several in any order, and the same run must give the same SHA-256
        save_tensors(tensors, model_part, {"parent": json.dumps(parent)} if parent else None)
        digest = sha256(model_part)
        with whole_file(folder / CARD) as card_part:
            card_part.write_text(card(name, digest, training, parent))


def card(name: str, digest: str, training: dict, parent: dict[str, str] | None) -> str:
    """The text that lies beside weights and says what they are."""
    origin = f"`{parent['name']}`, SHA-256 {parent['sha256']}" if parent else "nothing: random numbers"
    facts = {"SHA-256": digest, "began from": origin, **training}
    rows = "".join(f"| {key} | {fact} |\n" for key, fact in facts.items())
    warning = "**What it paints is invented. It is no evidence and not for diagnosis.**"
    return f"# {name}\n\nA denoiser of ArtiFusion, trained by a user.\n\n{warning}\n\n| | |\n| --- | --- |\n{rows}"


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
    architecture, walk, config = read_config(folder)
    try:
        training = dict(config.get("training", {}))
        if "images" in training:                    # what crops were called in weights up to 0.4.0
            training = {"crops": training.pop("images")} | training
        parent = config.get("parent")
        if parent is not None and not all(isinstance(parent[key], str) for key in ("name", "sha256")):
            raise ValueError("config.json does not tell which weights they began from")
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
    name = str(config.get("name", folder.name))
    if borrowed(name, digest):                      # what weights trained up to 0.4.0 were called: after their recipe
        run = folder.resolve().parent if folder.name == "weights" else folder.resolve()
        name = f"{run.name} (trained as {name})"
    return Weights(denoiser, name, digest, training, parent, walk)


def borrowed(name: str, digest: str) -> bool:
    """Whether a name is that of embedded weights, and these are others."""
    if name not in embedded_names():
        return False
    with find_weights(name) as folder:
        return digest != sha256(folder / MODEL)
