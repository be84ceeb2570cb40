"""The kinds of value that options take, and the options that several commands share."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from artifusion.errors import ConfigError
from artifusion.mask.classes import vocabulary
from artifusion.mask.selection import FORMATS
from artifusion.slide.spacing import SPACINGS_UM


class FilePath(click.Path):
    """A path that the system can look up."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        try:
            os.lstat(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.fail("the name is too long", param, ctx)
        return path


PATH = FilePath()


class Number(click.FloatRange):
    """A finite number in a range; click's own lets nan through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


class RestoreSetting(click.Option):
    """An option named like a setting of RestoreConfig; its help shows the default of that setting."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from artifusion.config import RestoreConfig, WalkConfig

        name = str(self.name)
        whose = "the weights', mostly " if name in WalkConfig.model_fields else ""
        self.help = f"{(self.help or '').partition('  [')[0]}  [default: {whose}{getattr(RestoreConfig(), name)}]"
        return super().get_help_record(ctx)


SCALE = Number(*SPACINGS_UM)
MASK_FORMAT = click.option(
    "--mask-format", type=click.Choice(FORMATS), default="auto",
    show_default=True, help="What a mask image is, where content and name leave it open.")


@contextmanager
def shown_as_usage() -> Iterator[None]:
    """Show what the package says of wrong arguments as a wrong use of the command."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def known_kinds(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    from artifusion.damage.spots import KINDS

    kinds = tuple(kind.strip() for kind in value.split(",") if kind.strip())
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        wrong = ", ".join(unknown) or "nothing"
        raise click.BadParameter(f"{wrong} is no kind of artifact; choose from {', '.join(KINDS)}")
    return kinds


def known_inks(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None) -> tuple[Any, ...]:
    """COLOUR:DENSITY[:STREAKS], one or several, as `PenInk`."""
    from artifusion.damage.artifacts import PenInk

    found = []
    for text in (value,) if isinstance(value, str) else value or ():
        colour, *numbers = text.split(":")
        try:
            if len(numbers) not in (1, 2):
                raise ValueError("write COLOUR:DENSITY or COLOUR:DENSITY:STREAKS, such as blue:1.2")
            found.append(PenInk(colour, *map(float, numbers)))
        except ValueError as error:
            raise click.BadParameter(f"{text}: {error}") from None
    return tuple(found)


def known_classes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None

    try:
        return vocabulary([name for name in value.split(",") if name.strip()])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def known_recovered(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return () if value == "none" else known_classes(ctx, param, value)


def say_scale(slide: Any, assumed_um: float) -> None:
    """One line on stderr for a slide whose scale is unknown."""
    why = slide.mpp_doubt or "does not tell its scale"
    click.echo(f"{slide.path.name} {why}; taking {assumed_um} um/px (--mpp to say better)", err=True)
