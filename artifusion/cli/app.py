"""The command line: `artifusion` and how it fails."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from artifusion import __version__
from artifusion.cli.damage import damage
from artifusion.cli.detect import detect
from artifusion.cli.evaluate import evaluate
from artifusion.cli.info import info
from artifusion.cli.mask import mask_commands
from artifusion.cli.restore import restore
from artifusion.cli.tiles import tiles
from artifusion.cli.train import train
from artifusion.cli.verify import verify
from artifusion.errors import ArtifusionError

LONGEST_LINE = 1900                  # letters of an error, whose remedy comes last


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end of a job of a cluster, or of a machine; nothing half-written is left, as after Ctrl-C."""


def terminated(*_: object) -> None:
    raise Terminated


class OneLineErrors(click.Group):
    """Prints an `ArtifusionError` as one line and exits with 1; anything else keeps its traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")    # names may hold what its encoding does not
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            Path.cwd()
        except OSError:
            click.echo("artifusion: the folder this was started in is gone; change into another one", err=True)
            ctx.exit(1)
        signal.signal(signal.SIGTERM, terminated)
        for library in ("tifffile", "PIL"):                     # what is wrong with a file we say ourselves
            logging.getLogger(library).addHandler(logging.NullHandler())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            return super().invoke(ctx)
        except ArtifusionError as error:
            click.echo(f"artifusion: {in_one_line(str(error))}", err=True)
            ctx.exit(1)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):    # torch's words for it
                raise
            click.echo("artifusion: not enough memory; free some, or give a smaller image, mask, batch or network",
                       err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())     # where Python prints the rest at its end
            click.echo("artifusion: no room left for what is written or printed; make some and start again", err=True)
            ctx.exit(1)
        except KeyboardInterrupt as interrupt:
            click.echo("artifusion: interrupted; what was begun goes on when the same command is given again",
                       err=True)
            ctx.exit(143 if isinstance(interrupt, Terminated) else 130)


def in_one_line(text: str) -> str:
    """A text whose line breaks and whatever else a terminal would obey are escaped, its middle left out where it is
    long: files say much.
    """
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="artifusion")
def main() -> None:
    """Repair digitised pathology slides: a slide and a mask in, the same slide out, only the artifact repainted.

    Restored pixels are invented: real tissue from elsewhere on the slide, and what a diffusion model paints. They are
    no evidence and not for diagnosis; every output says which pixels they are.

    \b
    A first try:
      artifusion damage slide.svs damaged.svs                       paint artifacts, with their mask
      artifusion restore damaged.svs --mask damaged.svs.geojson     repaint them
      artifusion verify damaged.svs damaged.restored.svs            prove that nothing else changed
    """


for command in (restore, detect, mask_commands, verify, damage, evaluate, train, tiles, info):
    main.add_command(command)
