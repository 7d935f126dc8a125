"""RELION's command lines are understood, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.settings import Settings, from_mapping
from relion_wrappers.arguments import given_words, usage

S = TypeVar("S", bound=Settings)
BASE = ["--o", "External/job003/", "--in_parts", "Import/job001/particles.star"]


def parse_arguments(cls: type[S], words: Sequence[str]) -> S:
    return from_mapping(cls, given_words(cls, words))


def test_the_command_that_relion_builds() -> None:
    words = [*BASE, "--in_mask", "m.mrc", "--zdim", "4", "--box", "--mask_diameter_A", "--j", "2",
             "--pipeline_control", "External/job003/"]  # fmt: skip
    settings = parse_arguments(TrainSettings, words)
    assert settings == TrainSettings(in_parts=Path("Import/job001/particles.star"), o=Path("External/job003/"),
                                     in_mask=Path("m.mrc"), zdim=4, j=2)  # fmt: skip


@pytest.mark.parametrize("control", [["--pipeline-control", "x/"], ["--pipeline_control=x/"], ["--pipeline_control"]])
def test_pipeline_control_in_every_spelling(control: list[str]) -> None:
    assert parse_arguments(TrainSettings, [*BASE, *control]).zdim == TrainSettings(in_parts=Path("x"), o=Path()).zdim


def test_equals_signs_dashes_lists_and_negative_numbers() -> None:
    settings = parse_arguments(SelectSettings, [*BASE, "--state=1,3", "--z-range", "1:-0.5:2", "--cluster", "4", "5"])
    assert (settings.state, settings.z_range, settings.cluster) == ((1, 3), ("1:-0.5:2",), (4, 5))


def test_an_empty_input_field_of_another_kind_is_no_error() -> None:
    assert parse_arguments(TrainSettings, [*BASE, "--in_mics"]).engine == "auto"


def test_the_same_value_twice_is_no_error() -> None:
    assert parse_arguments(TrainSettings, [*BASE, *BASE[2:]]).in_parts == Path(BASE[3])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--zdmi", "4"], "unknown option --zdmi: did you mean --zdim?"),
        (["--in_mics", "mics.star"], "leave 'Input micrographs' on the Input tab empty"),
        (["--in_mask", "my", "mask.mrc"], "without quotes"),
        (["--zdim", "4", "8"], "--zdim takes one value, but got 2: '4 8'"),
        (["--zdim", "4", "--zdim", "8"], "--zdim is given twice, as '4' and as '8'"),
        (["-zdim", "4"], "options begin with two dashes"),
        (["--epochs", "-3"], "--epochs must be at least 1, not -3"),
        (["--states", "x"], "--states must be a whole number"),
        (["--engine", "magic"], "--engine must be one of auto, subspace, neural"),
    ],
)
def test_what_is_not_understood_is_named(words: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arguments(TrainSettings, [*BASE, *words])
    assert says in str(caught.value)


def test_a_stray_word_at_the_start() -> None:
    with pytest.raises(InputError, match=r"'particles\.star' is not understood"):
        parse_arguments(TrainSettings, ["particles.star", *BASE])


def test_missing_particles() -> None:
    with pytest.raises(InputError, match="--in_parts is required"):
        parse_arguments(TrainSettings, BASE[:2])


def test_usage_names_every_option_with_its_default() -> None:
    text = usage(TrainSettings, "cdx-relion-train", "Learn.")
    assert "--in_parts" in text
    assert "(k-means) (1 to 200). [4]" in text
