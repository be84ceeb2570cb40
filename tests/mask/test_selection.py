"""A selection is checked when it is made, and the commands offer exactly what it takes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from artifusion.cli.app import main
from artifusion.cli.mask import convert
from artifusion.mask.formats import IMAGE_READERS
from artifusion.mask.selection import FORMATS, POLARITIES, MaskSelection

PATH = Path("mask.png")


@pytest.mark.parametrize(("wrong", "message"), [
    ({"polarity": "white"}, r"polarity must be one of \('restore', 'keep'\), got 'white'"),
    ({"grow_um": -1}, "grow_um must not be negative, got -1"),
    ({"format": "png"}, "format must be one of .*, got 'png'"),
    ({"classes": ["pen", "hole"]}, "hole is no class of artifact; choose from fold, bubble"),
    ({"classes": []}, "nothing is no class of artifact"),
])
def test_a_wrong_value_is_refused_when_the_selection_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskSelection(PATH, **wrong)


def test_classes_become_those_of_the_vocabulary_in_its_order():
    assert MaskSelection(PATH, classes=["Pen marks", "other", "air bubble", "ink"]).classes == ("bubble", "pen",
                                                                                                "other")
    assert MaskSelection(PATH).classes is None


def test_a_selection_does_not_change():
    with pytest.raises(FrozenInstanceError):
        MaskSelection(PATH).polarity = "keep"


def test_the_commands_offer_every_polarity_and_format_and_each_format_has_a_reader():
    assert {*FORMATS} == {"auto", *IMAGE_READERS}
    for command in (main.commands["restore"], convert):
        choices = {option.name: option.type for option in command.params}
        assert tuple(choices["polarity"].choices) == POLARITIES
        assert tuple(choices["mask_format"].choices) == FORMATS
