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
    NonNegativeFloat,
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
Share = Annotated[float, Field(ge=0, le=1)]
Dim = Annotated[int, Field(ge=1, le=4096)]              # bounds that no network comes near: a slip ends at once
Count = Annotated[int, Field(ge=1, le=64)]
HoleKind = Literal["band", "stroke", "blobs", "map", "large", "islands", "whole"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DenoiserConfig(Frozen):
    """A `SwinDenoiser` and what it predicts; level n of its U works at 1 / (4 * 2**n) of the canvas' resolution."""

    schedule: ScheduleKind = "cosine"
    prediction: Prediction = "velocity"
    pixel_dim: int = Field(40, ge=0, le=1024)           # channels of the convolutions at half resolution; 0: none
    dims: tuple[Dim, ...] = Field((64, 160, 320), min_length=1, max_length=8)
    heads: tuple[PositiveInt, ...] = (2, 5, 10)
    depths: tuple[Count, ...] = (2, 2, 4)               # blocks on the way down; the last is the bottom
    window_sizes: tuple[Count, ...] = (8, 8, 4)         # tokens; 4 at the bottom lets a side be any multiple of 64
    mlp_ratio: float = Field(2.0, ge=0.25, le=16)
    mlp_conv: bool = True
    time_dim: int = Field(128, ge=4, le=4096, multiple_of=2)

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
    """What is hidden of the training crops, and how the errors in it count."""

    # How often each kind of hole is drawn, relative to the others; `artifusion.training.targets` says what they are.
    kinds: dict[HoleKind, PositiveFloat] = Field(
        {"band": 0.30, "stroke": 0.15, "blobs": 0.10, "map": 0.20, "large": 0.25}, min_length=1)
    grafted: float = Field(0.6, ge=0, le=1)             # share of the bands that surround tissue of another place
    # Cap on the weight of the x0 error (Hang et al. 2023, min-SNR). At 20 every level above 0.14 counts fully; no
    # walk stops lower by default.
    max_snr_weight: PositiveFloat = 20.0


class DataConfig(Frozen):
    """Where training pixels come from and what is done to them.

    Keys of `spacing_um`, `spacing_jitter` and `weights`, and entries of `validation`, are patterns of a folder
    ("tnbc", "atlas/*") or an image ("tnbc/10_*.png"), compared with the last parts of its path; the first that fits
    counts. Folders that fit one key of `weights` are one source.
    """

    crop_px: PositiveInt = 128
    other_crops_px: dict[PositiveInt, Share] = {}       # other sides, with the share of the batches that has them
    spacing_um: dict[str, SpacingUm] = {}               # um/px of images that do not tell
    spacing_jitter: dict[str, Share] = {}               # uncertainty of an estimated um/px: 0.3 is 30 % either way
    weights: dict[str, PositiveFloat] = {}              # how often a source is drawn; default 1
    validation: tuple[str, ...] = ()                    # never trained on
    max_zoom: float = Field(2.2, ge=1)                  # a crop is scaled down by up to this factor
    max_spacing_um: SpacingUm = 2.0
    stain_jitter: float = Field(0.07, ge=0)             # spread of the optical density gain per channel
    degraded: bool = True                               # blurred, noisy and compressed as scans are

    @property
    def sides_px(self) -> tuple[int, ...]:
        return self.crop_px, *self.other_crops_px


class DistillConfig(Frozen):
    """A student learns to do in `steps` steps of DDIM what its teacher, the weights it begins from, needs more for."""

    steps: int = Field(4, ge=1, le=100)                 # of the student, from noise to clean
    substeps: int = Field(8, ge=2, le=100)              # of the teacher, for each of them


class AdversarialConfig(Frozen):
    """The finish of a run: a student of few ancestral steps, and a discriminator that compares what it paints with the
    tissue that was there. The defaults are those of the one trial that stayed alive, and of he-small."""

    steps: int = Field(3, ge=2, le=10)                  # of the walk that it learns, from noise to clean
    # Of the student in the weights: 1 is the student itself; below, a mean with what it began from, whose walk is kept.
    share: float = Field(0.5, gt=0, le=1)
    # Noise on what the discriminator sees of each step's prediction but the first's, relative to the tissue's contrast.
    noise_sd: tuple[NonNegativeFloat, ...] = (0.5, 0.12)
    discriminator_rate: PositiveFloat = 4e-4            # its learning rate; the student's is `learning_rate`
    penalty: float = Field(15.0, ge=0)                  # weight of its gradient penalty
    reconstruction: float = Field(5.0, ge=0)            # weights of the student's other losses
    colour: float = Field(10.0, ge=0)

    @model_validator(mode="after")
    def _every_step_has_its_noise(self) -> AdversarialConfig:
        if len(self.noise_sd) != self.steps - 1:
            raise ValueError(f"noise_sd needs {self.steps - 1} entries, one for every step but the first")
        return self


class WalkConfig(Frozen):
    """The walk from noise to clean: by default that of weights that are good at every level."""

    sampler: Sampler = "dpm++"
    steps: int = Field(4, ge=1, le=1000)                # from noise to clean; everything else refers to this default
    end_half_log_snr: float = Field(1.5, ge=0, le=5)    # log(alpha / sigma) towards which the levels go


class TrainConfig(Frozen):
    """One training run."""

    name: str = "unnamed"
    denoiser: DenoiserConfig = DenoiserConfig()
    targets: TargetConfig = TargetConfig()
    data: DataConfig = DataConfig()
    distill: DistillConfig | None = None
    adversarial: AdversarialConfig | None = None
    crops: PositiveInt = 1_000_000
    batch_size: PositiveInt = 16                        # crops of data.crop_px
    learning_rate: PositiveFloat = 2e-3
    weight_decay: float = Field(0.01, ge=0)
    warmup_crops: PositiveInt = 2_000
    cooldown: float = Field(0.6, ge=0, le=1)            # last part of the run in which the learning rate falls to 0
    clip_norm: PositiveFloat = 1.0
    ema_halflife: PositiveFloat = 0.06                  # of the crops seen so far
    checkpoint_minutes: PositiveFloat = 5.0
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _crops_fit_the_windows(self) -> TrainConfig:
        for side in self.data.sides_px:
            if side % self.denoiser.multiple:
                name = "crop_px" if side == self.data.crop_px else "other_crops_px"
                raise ValueError(f"data.{name} must be a multiple of {self.denoiser.multiple} for these window_sizes")
        if sum(self.data.other_crops_px.values()) > 1:
            raise ValueError("data.other_crops_px holds shares of the batches, which add up to at most 1")
        return self

    @model_validator(mode="after")
    def _a_finish_has_one_side(self) -> TrainConfig:
        if self.adversarial and (self.distill or self.data.other_crops_px):
            raise ValueError("an adversarial finish has crops of one side and no teacher: "
                             "leave out distill and data.other_crops_px")
        return self

    @property
    def walk(self) -> WalkConfig:
        """The walk along which the weights of this run are to paint: that of a student is the one that it learned."""
        end = 3.0                                           # of `log_snr_levels` unless told otherwise
        if self.adversarial and self.adversarial.share == 1:
            return WalkConfig(sampler="ancestral", steps=self.adversarial.steps, end_half_log_snr=end)
        if self.distill:
            return WalkConfig(sampler="ddim", steps=self.distill.steps, end_half_log_snr=end)
        return WalkConfig()

    def crops_of(self, side_px: int) -> int:
        """Crops in a batch of this side: `batch_size`, or for other sides the power of two nearest to as many pixels,
        so that the same numbers of processes can share every batch."""
        if side_px == self.data.crop_px:
            return self.batch_size
        return 2 ** max(0, round(math.log2(self.batch_size * (self.data.crop_px / side_px) ** 2)))


class RestoreConfig(WalkConfig):
    """How a slide is painted. What is not given of the walk is the weights'."""

    spacing: Literal["log-snr", "even"] = "log-snr"     # of the noise levels
    condition: Literal["clean", "noised"] = "clean"     # how known pixels enter: at level 0, or noised like the hole
    jump_length: PositiveInt = 1                        # RePaint's time travel: every this many steps ...
    jump_samples: PositiveInt = 1                       # ... are taken this many times
    graft: Literal["auto", "off"] = "auto"              # large holes get tissue from elsewhere on the slide, or paint
    doubtful: Literal["paint", "keep"] = "paint"        # regions that grafts fill ill are restored, or stay as scanned
    match_bands: bool = True                            # painted pixels get the fine bands and steps of those around
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

    @model_validator(mode="after")
    def _grafts_tell_what_is_doubtful(self) -> RestoreConfig:
        if self.doubtful == "keep" and self.graft == "off":
            raise ValueError("doubtful = \"keep\" needs graft = \"auto\": grafts tell how well a region is filled")
        return self

    def along(self, walk: WalkConfig) -> RestoreConfig:
        """The same, with what is not given of the walk taken from this one."""
        given = self.model_fields_set
        return self.model_copy(update={key: value for key, value in walk.model_dump().items() if key not in given})

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser per canvas: one per step, and those of the steps taken again."""
        jumps = len(range(self.jump_length, self.steps, self.jump_length))
        return self.steps + jumps * self.jump_length * (self.jump_samples - 1)


ConfigT = TypeVar("ConfigT", bound=BaseModel)
Kind = Literal["train", "restore"]


def load_config(model: type[ConfigT], kind: Kind, source: str | Path | None, **given: Any) -> ConfigT:
    """The configuration in a TOML file, of a shipped name such as "he-small", or of nothing; what is `given` wins.

    A file that `extends` a shipped name states what differs from that one, key by key within the tables.

    Raises:
        ConfigError: no such file or name, bad TOML, an unknown key (with the nearest known one) or a wrong value.
    """
    if source is None:
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise ConfigError(describe(error, model)) from None
    path = Path(source)
    shipped = shipped_folder() / kind / f"{path.name}.toml" if len(path.parts) == 1 else path
    try:
        text = (path if path.is_file() else shipped).read_text()     # a run's folder may be named like it
        return model.model_validate(extended(tomllib.loads(text), kind, source) | given)
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


def extended(table: dict[str, Any], kind: Kind, source: str | Path) -> dict[str, Any]:
    """A configuration's table on top of that of the shipped one that it extends, if it does.

    Raises:
        ConfigError: it extends none that is shipped.
    """
    base = table.pop("extends", None)
    if base is None:
        return table
    path = shipped_folder() / kind / f"{base}.toml"
    if not path.is_file():
        raise ConfigError(f"{source}: extends {base!r}, and there is no such shipped {kind} configuration")
    below = tomllib.loads(path.read_text())
    return {key: below[key] | value if isinstance(value, dict) and key in below else value
            for key, value in (below | table).items()}


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
