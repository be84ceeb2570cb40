"""Errors of the user's world. The command line prints each as one line; the text says what to do about it."""

import struct
import zlib

# What libraries raise on files that are not what they seem: over years, any of these, whatever they document.
BROKEN_FILE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError,
               TypeError, ValueError, struct.error, zlib.error)


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
