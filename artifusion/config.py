"""Configuration: frozen pydantic models, TOML files that state differences from the defaults."""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from artifusion.errors import ConfigError

DEFAULT_SPACING_UM = 0.5    # um per pixel, assumed where neither the slide nor the user gives it

ScheduleKind = Literal["cosine", "linear"]
Prediction = Literal["velocity", "noise"]
Sampler = Literal["ddim", "ancestral", "dpm++"]
SpacingUm = Annotated[float, Field(ge=0.01, le=100)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DenoiserConfig(Frozen):
    """A `SwinDenoiser` and what it predicts; level n of its U works at 1 / (4 * 2**n) of the canvas' resolution."""

    schedule: ScheduleKind = "cosine"
    prediction: Prediction = "velocity"
    pixel_dim: NonNegativeInt = 40                      # channels of the convolutions at half resolution; 0: none
    dims: tuple[PositiveInt, ...] = Field((64, 160, 320), min_length=1)
    heads: tuple[PositiveInt, ...] = (2, 5, 10)
    depths: tuple[PositiveInt, ...] = (2, 2, 4)         # blocks on the way down; the last is the bottom
    window_sizes: tuple[PositiveInt, ...] = (8, 8, 4)   # tokens; 4 at the bottom lets a side be any multiple of 64
    mlp_ratio: float = Field(2.0, ge=0.25)
    mlp_conv: bool = True
    time_dim: int = Field(128, ge=4, multiple_of=2)

    @model_validator(mode="after")
    def _levels_agree(self) -> DenoiserConfig:
        if len({len(self.dims), len(self.heads), len(self.depths), len(self.window_sizes)}) != 1:
            raise ValueError("dims, heads, depths and window_sizes need one entry per level")
        if any(dim % heads for dim, heads in zip(self.dims, self.heads, strict=True)):
            raise ValueError("every entry of dims must be a multiple of its heads")
        return self

    @property
    def multiple(self) -> int:
        """Sides of a canvas are multiples of this many pixels: whole windows at every level."""
        return math.lcm(*(4 * 2**level * size for level, size in enumerate(self.window_sizes)))


class TargetConfig(Frozen):
    """What share of the training crops gets which noise pattern; the rest are noise around islands of clean tissue."""

    uniform: float = Field(0.25, ge=0, le=1)            # the whole crop at one level, nothing known
    blocks: float = Field(0.20, ge=0, le=1)             # every block at a level of its own
    noisy_area: tuple[float, float] = (0.6, 1.0)        # noisy share of a crop with clean islands
    artifact_shaped: float = Field(0.6, ge=0, le=1)     # share with holes like artifacts, at the end of the run
    artifact_from: float = Field(0.5, ge=0, lt=1)       # part of the run from which that share rises from 0
    max_snr_weight: PositiveFloat = 5.0                 # cap on the x0 error's weight (Hang et al. 2023, min-SNR)

    @model_validator(mode="after")
    def _shares_are_shares(self) -> TargetConfig:
        if self.uniform + self.blocks > 1:
            raise ValueError("uniform and blocks are shares of the crops and add up to at most 1")
        if not 0 < self.noisy_area[0] <= self.noisy_area[1] <= 1:
            raise ValueError("noisy_area is a range of shares: 0 < low <= high <= 1")
        return self


class DataConfig(Frozen):
    """Where training pixels come from. Keys of `spacing_um` and `weights` are folder names."""

    crop_px: PositiveInt = 128
    spacing_um: dict[str, SpacingUm] = {}               # um/px of folders whose images do not tell
    weights: dict[str, PositiveFloat] = {}              # how often a folder is drawn; default 1
    validation: tuple[str, ...] = ()                    # folder/name patterns that are never trained on
    max_zoom: float = Field(2.2, ge=1)                  # a crop is scaled down by up to this factor
    max_spacing_um: SpacingUm = 2.0
    stain_jitter: float = Field(0.07, ge=0)              # spread of the optical density gain per channel


class DistillConfig(Frozen):
    """A student learns to do in `steps` steps of DDIM what its teacher, the weights it begins from, needs more for."""

    steps: int = Field(4, ge=1, le=100)                 # of the student, from noise to clean
    substeps: int = Field(8, ge=2, le=100)              # of the teacher, for each of them


class TrainConfig(Frozen):
    """One training run; `images` counts crops."""

    name: str = "unnamed"
    denoiser: DenoiserConfig = DenoiserConfig()
    targets: TargetConfig = TargetConfig()
    data: DataConfig = DataConfig()
    distill: DistillConfig | None = None
    images: PositiveInt = 1_000_000
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    weight_decay: float = Field(0.01, ge=0)
    warmup_images: PositiveInt = 2_000
    cooldown: float = Field(0.6, ge=0, le=1)            # last part of the run in which the learning rate falls to 0
    clip_norm: PositiveFloat = 1.0
    ema_halflife: PositiveFloat = 0.06                  # of the images seen so far
    checkpoint_minutes: PositiveFloat = 5.0
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _crops_fit_the_windows(self) -> TrainConfig:
        if self.data.crop_px % self.denoiser.multiple:
            raise ValueError(f"data.crop_px must be a multiple of {self.denoiser.multiple} for these window_sizes")
        if self.distill and self.targets.blocks:
            raise ValueError("a student has one level in each crop: distill asks for targets.blocks = 0")
        return self


class RestoreConfig(Frozen):
    """How a slide is painted."""

    sampler: Sampler = "dpm++"
    spacing: Literal["log-snr", "even"] = "log-snr"     # of the noise levels
    condition: Literal["clean", "noised"] = "clean"     # how known pixels enter: at level 0, or noised like the hole
    steps: int = Field(10, ge=1, le=1000)               # from noise to clean; everything else refers to this default
    reuse: bool = True                                  # every second step recalls the lower levels of the one before
    jump_length: PositiveInt = 1                        # RePaint's time travel: every this many steps ...
    jump_samples: PositiveInt = 1                       # ... are taken this many times
    context_px: int = Field(64, ge=1)                   # known tissue around a region that the denoiser sees
    max_canvas_px: PositiveInt = 1536                   # larger regions are painted cell by cell
    batch_size: PositiveInt = 4                         # canvases of up to 512 px that are denoised together
    merge_px: int = Field(32, ge=1)                     # regions closer than twice this share a canvas
    default_spacing_um: SpacingUm = DEFAULT_SPACING_UM

    @model_validator(mode="after")
    def _jumps_fit(self) -> RestoreConfig:
        if self.jump_samples > 1 and self.jump_length >= self.steps:
            raise ValueError(f"jump_length {self.jump_length} must be below steps {self.steps}, to be taken again")
        return self

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per canvas: one per step, and those of the steps taken again."""
        jumps = len(range(self.jump_length, self.steps, self.jump_length))
        return self.steps + jumps * self.jump_length * (self.jump_samples - 1)


ConfigT = TypeVar("ConfigT", bound=BaseModel)
Kind = Literal["train", "restore"]


def load_config(model: type[ConfigT], kind: Kind, source: str | Path, **given: Any) -> ConfigT:
    """The configuration in a TOML file, or of a shipped name such as "he-small"; what is `given` wins.

    Raises:
        ConfigError: no such file or name, bad TOML, an unknown key (with the nearest known one) or a wrong value.
    """
    path = Path(source)
    shipped = shipped_folder() / kind / f"{path.name}.toml" if len(path.parts) == 1 else path
    try:
        text = (path if path.is_file() else shipped).read_text()     # a run's folder may be named like it
        return model.model_validate(tomllib.loads(text) | given)
    except IsADirectoryError:
        raise ConfigError(f"{source}: is a folder; name the TOML file") from None
    except PermissionError:
        raise ConfigError(f"{source}: no permission to read it") from None
    except OSError:
        names = ", ".join(sorted(file.stem for file in (shipped_folder() / kind).glob("*.toml")))
        raise ConfigError(f"{source}: no such configuration file; shipped {kind} configurations: {names}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe(error, model)}") from None


def shipped_folder() -> Path:
    """The folder of the shipped configurations: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error in one line, naming the nearest known key for an unknown one."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for key in keys[:-1]:
            owner = owner.model_fields[key].annotation
        known = list(owner.model_fields) if hasattr(owner, "model_fields") else list(get_args(owner))
        nearest = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
        return f"unknown key {'.'.join(keys)!r}; {hint}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(keys)}: {reason}" if keys else reason
