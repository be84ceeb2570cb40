"""The state of a training run: one step of it, what it has learned, how it is kept on disk."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from artifusion.checkpoint import Weights, save_tensors, save_weights
from artifusion.config import RestoreConfig, TrainConfig
from artifusion.device import autocast
from artifusion.diffusion.denoiser import SwinDenoiser
from artifusion.diffusion.frame import Frame
from artifusion.diffusion.schedule import Schedule
from artifusion.errors import ArtifusionError, ConfigError, WeightsError
from artifusion.pixels import tensor_from_images
from artifusion.restorer import Restorer
from artifusion.training.batches import Batch
from artifusion.training.distillation import Teacher
from artifusion.training.distributed import Group
from artifusion.training.loss import prediction_loss
from artifusion.training.muon import Muon

STATE, CONFIG = "state.safetensors", "config.json"
MIN_KNOWN_SHARE = 0.05      # of a crop; with less the frame is that of the whole crop
PROBE_BATCH = 8
PREVIEWS = 12               # held-out restorations in the picture
PROBE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass
class Record:
    """What a run adds up to over all its sessions, and those of the weights it began from."""

    images: int = 0                     # crops seen in this run
    minutes: float = 0.0                # in the loop, this run
    data: str = ""                      # digest of the tiles it learns from
    init: dict[str, Any] | None = None  # name, sha256 and record of the weights it began from
    distilled: dict[str, Any] | None = None  # the teacher's name and sha256, and in how many steps the student paints

    def total(self) -> dict[str, Any]:
        earlier = (self.init or {}).get("training", {})
        return {
            "images": self.images + earlier.get("images", 0),
            "minutes": round(self.minutes + earlier.get("minutes", 0), 1),
        } | ({"distilled": self.distilled} if self.distilled else {})


class Trainer:
    """The state of a run: denoiser, its moving average, optimisers and record. One folder holds all of it."""

    def __init__(self, config: TrainConfig, run_dir: Path, group: Group, init: Weights | None) -> None:
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
        if (run_dir / STATE).is_file():
            self._load()

    def step(self, batch: Batch, rate: float) -> float:
        """One optimiser step at `rate` times the peak learning rate; the loss of the whole batch.

        The batch is this process' slice of it: every process of the group steps at once and to the same weights.

        Raises:
            ArtifusionError: the loss or its gradient is no longer a number; nothing of it has been learned.
        """
        level, noise, spacing = (x.to(self.device) for x in (batch.level, batch.noise, batch.spacing_um))
        if self.teacher:
            level = self.teacher.student_level(level)
        x0 = self._enter(batch.pixels, level)
        x = self.schedule.add_noise(x0, level, noise)
        if self.teacher:
            x0, noise = self.teacher.answer(x0, level, noise, spacing)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.learning_rate
            optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            predicted = self.denoiser(x, level, (level > 0).float(), spacing)
        loss = prediction_loss(predicted, x0, level, noise, self.schedule, self.config.targets.max_snr_weight)
        noisy = (level > 0).sum().clamp(min=1).float()  # a slice counts by its share of the batch's noisy pixels
        loss = loss * (noisy / self.group.mean(noisy))
        value = self.group.mean(loss.detach()).item()
        loss.backward()
        self.group.average_gradients(self.denoiser)
        slope = nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.config.clip_norm).item()
        if not math.isfinite(value + slope):
            raise ArtifusionError(
                f"the loss is {value} and its gradient {slope} after {self.record.images:,} crops; lower learning_rate "
                f"and begin a new --run-dir, with --init {self.run_dir / 'weights'} if it holds weights"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        crops = len(level) * self.group.size
        self.record.images += crops
        self._average(crops)
        return value

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
        seen = self.record.total()["images"]
        keep = 0.5 ** (crops / (self.config.ema_halflife * seen))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.denoiser.parameters()), 1 - keep)

    def _enter(self, pixels: np.ndarray, level: Tensor) -> Tensor:
        """Crops relative to their known pixels, or to all of them where little is known."""
        x = tensor_from_images(pixels).to(self.device)
        known = (level == 0).float()
        little = known.mean((1, 2, 3), keepdim=True) < MIN_KNOWN_SHARE
        return Frame.of_known(x, torch.where(little, 1.0, known)).enter(x)

    @torch.inference_mode()
    def level_errors(self, held_out: tuple[np.ndarray, np.ndarray]) -> dict[float, float]:
        """Per noise level, the averaged denoiser's squared x0 error in held-out holes over the mean fill's.

        Below 1 the denoiser knows more than the mean colour of the surroundings. The hole is the inner half.
        """
        pixels, spacing_um = held_out
        errors: dict[float, list[float]] = {level: [] for level in PROBE_LEVELS}
        fills: list[float] = []
        generator = torch.Generator().manual_seed(0)
        side = pixels.shape[1]
        hole = torch.zeros(1, 1, side, side, device=self.device)
        hole[..., side // 7 : -(side // 7), side // 7 : -(side // 7)] = 1
        for start in range(0, len(pixels), PROBE_BATCH):
            spacing = torch.from_numpy(spacing_um[start : start + PROBE_BATCH]).to(self.device)
            inside = hole.expand(len(spacing), -1, -1, -1)
            x0 = self._enter(pixels[start : start + PROBE_BATCH], inside)
            fills.append((x0.square() * inside).mean().item())      # the frame's origin is the mean of the known
            for level in PROBE_LEVELS:
                levels = inside * level
                noise = torch.randn(x0.shape, generator=generator).to(self.device)
                x = self.schedule.add_noise(x0, levels, noise)
                with autocast(self.device):
                    predicted = self.schedule.x0(x, levels, self.ema(x, levels, inside, spacing))
                errors[level].append(((predicted - x0).square() * inside).mean().item())
        return {level: float(np.mean(values) / np.mean(fills)) for level, values in errors.items()}

    def preview(self, held_out: tuple[np.ndarray, np.ndarray]) -> Image.Image:
        """Rows of held-out crops: clean, hole, restored by the averaged denoiser."""
        pixels, spacing_um = held_out
        side = pixels.shape[1]
        rows, columns = np.mgrid[:side, :side] / side - 0.5
        mask = np.hypot(rows, columns) < 0.33
        student = self.config.distill
        how = RestoreConfig(sampler="ddim", steps=student.steps, reuse=False) if student else RestoreConfig()
        restorer = Restorer(Weights(self.ema, self.config.name, "", {}), str(self.device), how)
        strips = []
        for image, spacing in list(zip(pixels, spacing_um, strict=True))[:PREVIEWS]:
            hole = np.where(mask[..., None], np.uint8(255), image)
            restored = restorer.restore(image, mask, mpp=float(spacing))
            framed = [np.pad(part, ((2, 2), (2, 2), (0, 0)), constant_values=255) for part in (image, hole, restored)]
            strips.append(np.pad(np.concatenate(framed, axis=1), ((0, 0), (0, 10), (0, 0)), constant_values=255))
        halves = np.concatenate(strips[: PREVIEWS // 2]), np.concatenate(strips[PREVIEWS // 2 :])
        return Image.fromarray(np.concatenate(halves, axis=1))

    def save(self) -> None:
        """Write the whole state, each file whole or not at all."""
        tensors = {f"model.{k}": v for k, v in self.denoiser.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for n, optimizer in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{n}.{i}.{k}": v for k, v in state.items()}
        save_weights(
            self.run_dir / "weights", self.ema.state_dict(), self.config.denoiser, self.config.name, self.record.total()
        )
        if not (self.run_dir / STATE).is_file():
            (self.run_dir / CONFIG).write_text(self.config.model_dump_json(indent=2))
        part = self.run_dir / f"{STATE}.part"
        # the record rides in the state file, so that the two can never disagree after a crash; the state comes last,
        # so that a run is never further than its weights
        save_tensors({k: v.contiguous() for k, v in tensors.items()}, part, {"record": json.dumps(asdict(self.record))})
        os.replace(part, self.run_dir / STATE)

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
            for name, module in (("model.", self.denoiser), ("ema.", self.ema)):
                module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        except RuntimeError:
            raise ConfigError(f"{self.run_dir}: holds a run of another architecture; use another --run-dir") from None
        for n, optimizer in enumerate(self.optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{n}."):
                    _, _, i, slot = key.split(".")
                    states.setdefault(int(i), {})[slot] = value
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def optimizers(denoiser: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices (Jordan et al. 2024), AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in denoiser.named_parameters():
        is_matrix = parameter.ndim == 2 and "bias_table" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)),
    ]
