"""Errors of the user's world. The command line prints each as one line; the text says what to do about it."""

import struct
import tarfile
import zipfile
import zlib

# What libraries raise on files that are not what they seem: over years, any of these, whatever they document.
BROKEN_FILE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError,
               SyntaxError, TypeError, ValueError, struct.error, tarfile.TarError, zipfile.BadZipFile,
               zlib.error)


def shortened(error: Exception | str) -> str:
    """Return an exception's message as one printable line of at most 120 characters, without its leading path."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()) or type(error).__name__
    if text.startswith("Reading ") and ": " in text:
        text = text.split(": ", 1)[1]
    return text if len(text) <= 120 else text[:117] + "..."


class ArtifusionError(Exception):
    """Something outside the program is wrong: a file, a mask, a setting, a machine."""


class SlideError(ArtifusionError):
    """A slide or an image cannot be opened, read or written."""


class MaskError(ArtifusionError):
    """A mask cannot be read, or cannot belong to this slide."""


class OutputError(ArtifusionError):
    """An output exists already, lies in the wrong place, or cannot be written."""


class WeightsError(ArtifusionError):
    """Weights are missing, broken, or of another architecture."""


class ConfigError(ArtifusionError):
    """A configuration file has an unknown key or a wrong value."""


class DataError(ArtifusionError):
    """Training data is missing or unusable."""


class DeviceError(ArtifusionError):
    """The requested compute device is not there."""
