"""The state of a training run: one step of it, what it has learned, how it is kept on disk."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from artifusion.checkpoint import Weights, save_tensors, save_weights
from artifusion.config import TrainConfig
from artifusion.device import autocast
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.diffusion.frame import Frame
from artifusion.diffusion.schedule import Schedule
from artifusion.errors import ArtifusionError, ConfigError, WeightsError
from artifusion.files import whole_file, write_text
from artifusion.pixels import tensor_from_images
from artifusion.pretrained import embedded_names
from artifusion.training.adversary import Adversary, Crops
from artifusion.training.batches import Batch
from artifusion.training.distillation import Teacher
from artifusion.training.distributed import Group
from artifusion.training.loss import prediction_loss
from artifusion.training.muon import Muon

STATE, CONFIG = "state.safetensors", "config.json"
MIN_KNOWN_SHARE = 0.05      # of a crop; with less the frame is that of the whole crop


@dataclass
class Record:
    """What a run adds up to over all its sessions, and those of the weights it began from."""

    name: str = ""                      # of the weights
    crops: int = 0                      # seen in this run
    minutes: float = 0.0                # in the loop, this run
    data: str = ""                      # digest of the tiles it learns from
    init: dict[str, Any] | None = None  # name, sha256 and record of the weights it began from
    distilled: dict[str, Any] | None = None     # the teacher's name and sha256, and in how many steps it paints
    adversarial: dict[str, Any] | None = None   # the steps of its adversarial finish, and its share of the weights

    @property
    def parent(self) -> dict[str, str] | None:
        """The name and the SHA-256 of the weights that the run began from."""
        return {key: self.init[key] for key in ("name", "sha256")} if self.init else None

    def total(self) -> dict[str, Any]:
        earlier = (self.init or {}).get("training", {})
        return {
            "crops": self.crops + earlier.get("crops", 0),
            "minutes": round(self.minutes + earlier.get("minutes", 0), 1),
        } | {name: fact for name in ("distilled", "adversarial") if (fact := getattr(self, name))}


class Trainer:
    """The state of a run: denoiser, its moving average, optimisers and record. One folder holds all of it."""

    def __init__(self, config: TrainConfig, run_dir: Path, group: Group, init: Weights | None, name: str = "") -> None:
        self.config, self.run_dir, self.group, self.device = config, run_dir, group, group.device
        self.schedule = Schedule(config.denoiser.schedule, config.denoiser.prediction)
        torch.manual_seed(config.seed)
        self.denoiser = SwinDenoiser(config.denoiser).to(self.device)
        self.record = Record()
        if init is not None:
            if init.denoiser.config != config.denoiser:
                raise ConfigError(f"{init.name}: these weights have another architecture than {config.name}")
            self.denoiser.load_state_dict(init.denoiser.state_dict())
            self.record.init = {"name": init.name, "sha256": init.sha256, "training": init.training}
            if config.distill:
                self.record.distilled = {"teacher": init.name, "sha256": init.sha256, "steps": config.distill.steps}
        self.ema = SwinDenoiser(config.denoiser).to(self.device).requires_grad_(False)
        self.ema.load_state_dict(self.denoiser.state_dict())
        self.optimizers = optimizers(self.denoiser, config)
        self.teacher = self._teacher(init) if config.distill else None
        self.adversary = self._adversary() if config.adversarial else None
        self.begun = ({key: value.to(self.device) for key, value in init.denoiser.state_dict().items()}
                      if init and config.adversarial else {})
        if (run_dir / STATE).is_file():
            self._load()
        self.record.name = own_name(name or self.record.name or run_dir.resolve().name, self.record.init)

    def step(self, batch: Batch, rate: float) -> dict[str, float]:
        """One optimiser step at `rate` times the peak learning rate; the "loss" of the whole batch, and its parts.

        The batch is this process' slice of it: every process of the group steps at once and to the same weights.

        Raises:
            ArtifusionError: the loss or its gradient is no longer a number; nothing of it has been learned.
        """
        if self.adversary and self.record.crops < self.config.warmup_crops:
            rate = 0.0                                          # the discriminator learns alone at first
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.learning_rate
            optimizer.zero_grad(set_to_none=True)
        losses = self._finishing_losses(batch, rate) if self.adversary else {"loss": self._loss(batch)}
        values = {name: self.group.mean(loss.detach()).item() for name, loss in losses.items()}
        losses["loss"].backward()
        self.group.average_gradients(self.denoiser)
        gradient_norm = nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.config.clip_norm).item()
        if not math.isfinite(sum(values.values()) + gradient_norm):
            raise ArtifusionError(
                f"the loss is {values['loss']} and its gradient {gradient_norm} after {self.record.crops:,} crops; "
                "lower learning_rate and begin a new --run-dir, with --init "
                f"{self.run_dir / 'weights'} if it holds weights"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        crops = len(batch.pixels) * self.group.size
        self.record.crops += crops
        self._average(crops)
        return values

    def _loss(self, batch: Batch) -> Tensor:
        """The error of the prediction; for a student, against what its teacher does."""
        level, noise, spacing_um = (x.to(self.device) for x in (batch.level, batch.noise, batch.spacing_um))
        if self.teacher:
            level = self.teacher.student_level(level)
        x0 = entered(batch.pixels, level)
        x = self.schedule.add_noise(x0, level, noise)
        if self.teacher:
            x0, noise = self.teacher.answer(x0, level, noise, spacing_um)
        with autocast(self.device):
            predicted = self.denoiser(x, level, (level > 0).float(), spacing_um)
        return prediction_loss(predicted, x0, level, noise, self.schedule, self.config.targets.max_snr_weight)

    def _finishing_losses(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        """Those of the adversarial finish, after the discriminator has learned from the same batch."""
        assert self.adversary is not None
        hole = (batch.level > 0).float().to(self.device)
        crops = Crops(entered(batch.pixels, hole), hole, batch.noise.to(self.device),
                      batch.spacing_um.to(self.device))
        warming = self.record.crops < self.config.warmup_crops
        return self.adversary.losses(self.denoiser, crops, self.record.crops, 1.0 if warming else rate)

    def _adversary(self) -> Adversary:
        """A new discriminator."""
        if self.config.adversarial is None or self.record.init is None:
            raise ConfigError(f"{self.config.name}: an adversarial finish begins from trained weights; give them with "
                              "--init")
        if self.group.size > 1:
            raise ConfigError(f"{self.config.name}: an adversarial finish is learned by one process")
        self.record.adversarial = {"steps": self.config.adversarial.steps, "share": self.config.adversarial.share}
        return Adversary(self.config.adversarial, self.schedule, self.device)

    def _teacher(self, init: Weights | None) -> Teacher:
        """The weights that the student begins from."""
        if init is None or self.config.distill is None:
            raise ConfigError(f"{self.config.name}: a student needs a teacher; give its weights with --init")
        denoiser = SwinDenoiser(self.config.denoiser).to(self.device).eval().requires_grad_(False)
        denoiser.load_state_dict(init.denoiser.state_dict())

        def predict(x: Tensor, level: Tensor, hole: Tensor, spacing_um: Tensor) -> Tensor:
            with autocast(self.device):
                predicted: Tensor = denoiser(x, level, hole, spacing_um)
            return predicted

        return Teacher(predict, self.schedule, self.config.distill)

    @torch.no_grad()
    def _average(self, crops: int) -> None:
        """Move the average; its half-life is a share of the crops seen so far (Karras et al. 2024, EDM2 ramp-up)."""
        halflife_crops = self.config.ema_halflife * self.record.total()["crops"]
        keep = 0.5 ** (crops / halflife_crops)
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.denoiser.parameters()), 1 - keep)

    @torch.no_grad()
    def outcome(self) -> SwinDenoiser:
        """What the run has come to: the moving average; of a finish its mean with what it began from (Wortsman et al.
        2022), which paints sharper than the one and is told from tissue less than the other."""
        share = self.config.adversarial.share if self.config.adversarial else 1.0
        if share == 1:
            return self.ema
        mean = copy.deepcopy(self.ema)
        for key, value in mean.state_dict().items():
            value.lerp_(self.begun[key], 1 - share)
        return mean

    def save(self) -> None:
        """Write the weights and the whole state, each file whole or not at all."""
        self.save_weights()
        self.save_state()

    def save_weights(self) -> None:
        """Write the configuration and the weights."""
        write_text(self.run_dir / CONFIG, self.config.model_dump_json(indent=2))      # it comes first: the run is ours
        save_weights(
            self.run_dir / "weights", self.outcome().state_dict(), self.config.denoiser, self.record.name,
            {"recipe": self.config.name, **self.record.total()}, self.record.parent, self.config.walk
        )

    def save_state(self) -> None:
        """Write all that a run goes on from."""
        tensors = {f"{name}.{key}": value for name, module in self._modules().items()
                   for key, value in module.state_dict().items()}
        for n, optimizer in enumerate(self._all_optimizers()):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{n}.{i}.{k}": v for k, v in state.items()}
        if self.adversary:
            tensors |= {f"remembered.{n}": part for n, part in enumerate(self.adversary.remembered_parts())}
        # the record rides in the state file, so that the two can never disagree after a crash; the state comes last,
        # so that a run is never further than its weights
        with whole_file(self.run_dir / STATE) as part:
            save_tensors({k: v.contiguous() for k, v in tensors.items()}, part,
                         {"record": json.dumps(asdict(self.record))})

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"model": self.denoiser, "ema": self.ema}
        if self.adversary:
            modules["discriminator"] = self.adversary.discriminator
        return modules

    def _all_optimizers(self) -> list[torch.optim.Optimizer]:
        return [*self.optimizers, self.adversary.optimizer] if self.adversary else self.optimizers

    def _load(self) -> None:
        try:
            with safe_open(self.run_dir / STATE, "pt", device=str(self.device)) as file:
                record = Record(**json.loads(file.metadata()["record"]))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{self.run_dir / STATE}: broken or not to be read ({error}); begin a new --run-dir "
                               f"with --init {self.run_dir / 'weights'}") from None
        if (record.init or {}).get("sha256") != (self.record.init or {}).get("sha256"):
            raise ConfigError(f"{self.run_dir}: this run began from other weights; give the same --init, or use "
                              "another --run-dir")
        self.record = record
        try:
            for name, module in self._modules().items():
                module.load_state_dict(below(f"{name}.", tensors))
        except RuntimeError:
            raise ConfigError(f"{self.run_dir}: holds a run of another architecture; use another --run-dir") from None
        for n, optimizer in enumerate(self._all_optimizers()):
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in below(f"optimizer.{n}.", tensors).items():
                i, slot = key.split(".")
                states.setdefault(int(i), {})[slot] = value
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        if self.adversary:
            self.adversary.remember(below("remembered.", tensors))


def entered(pixels: np.ndarray, level: Tensor) -> Tensor:
    """Crops, uint8 (B, H, W, 3), relative to their known pixels, or to all of them where little is known: (B, 3, H, W)
    on the device of `level` (B, 1, H, W), which is 0 where they are known."""
    x = tensor_from_images(pixels).to(level.device)
    known = (level == 0).float()
    too_few = known.mean((1, 2, 3), keepdim=True) < MIN_KNOWN_SHARE
    return Frame.of_known(x, torch.where(too_few, 1.0, known)).enter(x)


def own_name(name: str, init: dict[str, Any] | None) -> str:
    """A name for a run's weights. Raises ConfigError where other weights have it: a slide would declare those."""
    if name in embedded_names() or name == (init or {}).get("name"):
        raise ConfigError(f"{name}: is the name of other weights, and slides would declare those; give the weights of "
                          "this run a name of their own with --name")
    if not name.isprintable() or not name.strip():
        raise ConfigError(f"{name!r}: is no name for weights; give one with --name")
    return name


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def optimizers(denoiser: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices (Jordan et al. 2024), AdamW for everything else; in an adversarial finish AdamW alone,
    with little momentum, which would carry the student past what the discriminator has seen."""
    if config.adversarial:
        return [torch.optim.AdamW(denoiser.parameters(), lr=config.learning_rate, betas=(0.5, 0.99), weight_decay=0.0)]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in denoiser.named_parameters():
        is_matrix = parameter.ndim == 2 and "bias_table" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)),
    ]
