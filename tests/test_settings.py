"""Settings are declared once, and every wrong value ends in a sentence that names the option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.settings import (
    Settings,
    canonical_name,
    describe,
    fingerprint,
    from_mapping,
    from_plain,
    setting,
    text_of,
)


@dataclass(frozen=True)
class Example(Settings):
    in_parts: Path = setting(help="Particles")
    epochs: int = setting(20, low=1, high=100, help="Passes")
    beta: float | None = setting(None, low=0, unit="nats", help="Weight of the prior")
    engine: str = setting("auto", choices=("auto", "neural"), help="Engine")
    fast: bool = setting(False, help="Hurry")
    state: tuple[int, ...] = setting((), low=1, help="States")
    corner: tuple[float, ...] = setting((), count=3, help="Corner")
    mask: Path | None = setting(None, help="Mask")


def test_words_become_typed_values() -> None:
    made = from_mapping(Example, {"--in-parts": "a/b.star", "epochs": "7", "beta": "1e-3", "fast": "yes",
                                  "state": ["1,2", "5"], "corner": "1 2 3.5", "mask": "m.mrc"})  # fmt: skip
    assert made == Example(in_parts=Path("a/b.star"), epochs=7, beta=0.001, fast=True, state=(1, 2, 5),
                           corner=(1.0, 2.0, 3.5), mask=Path("m.mrc"))  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"), [("a.map:mrc", "a.map"), ("b.st:mrcs", "b.st"), ("c:mrc.mrc", "c:mrc.mrc")]
)
def test_relions_name_of_a_format_is_no_part_of_the_files_name(given: str, meant: str) -> None:
    assert from_mapping(Example, {"in_parts": "x", "mask": given}).mask == Path(meant)


def test_bare_options_are_flags_or_defaults() -> None:
    bare: list[str] = []
    made = from_mapping(Example, {"in_parts": "x", "epochs": bare, "beta": bare, "fast": bare, "state": bare})
    assert made == Example(in_parts=Path("x"), fast=True)


def test_none_words_and_empty_words() -> None:
    made = from_mapping(Example, {"in_parts": "x", "beta": "None", "mask": "", "epochs": ""})
    assert (made.beta, made.mask, made.epochs) == (None, None, 20)


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert from_mapping(Example, {"in_parts": "x", "epochs": "20.0"}).epochs == 20


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "--in_parts is required"),
        ({"in_parts": []}, "--in_parts needs a value"),
        ({"in_parts": ""}, "--in_parts"),
        ({"in_parts": "x", "epochs": "many"}, "--epochs must be a whole number, not 'many'"),
        ({"in_parts": "x", "epochs": "1.5"}, "--epochs must be a whole number"),
        ({"in_parts": "x", "epochs": "1e999"}, "--epochs must be a whole number"),
        ({"in_parts": "x", "epochs": "0"}, "--epochs must be at least 1, not 0"),
        ({"in_parts": "x", "epochs": "101"}, "--epochs must be at most 100, not 101"),
        ({"in_parts": "x", "epochs": ["1", "2"]}, "--epochs takes one value"),
        ({"in_parts": "x", "epochs": "none"}, "--epochs must be a whole number"),
        ({"in_parts": "x", "beta": "nan"}, "--beta must be a finite number"),
        ({"in_parts": "x", "beta": "inf"}, "--beta must be a finite number"),
        ({"in_parts": "x", "beta": "-1"}, "--beta must be at least 0 nats"),
        ({"in_parts": "x", "engine": "neurla"}, "did you mean 'neural'?"),
        ({"in_parts": "x", "fast": "perhaps"}, "--fast must be yes or no"),
        ({"in_parts": "x", "state": "1,b"}, "--state must be a whole number, not 'b'"),
        ({"in_parts": "x", "state": "0"}, "--state must be at least 1"),
        ({"in_parts": "x", "corner": "1 2"}, "--corner takes 3 values, but 2"),
        ({"in_parts": "x", "epoch": "3"}, "unknown option --epoch: did you mean --epochs?"),
        ({"in_parts": "x", "qwertz": "3"}, "the options are --in_parts"),
    ],
)
def test_wrong_values_name_the_option(given: dict[str, str | list[str]], says: str) -> None:
    with pytest.raises(InputError) as caught:
        from_mapping(Example, given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_constructor_checks_too() -> None:
    with pytest.raises(InputError, match="--epochs must be at least 1"):
        Example(in_parts=Path("x"), epochs=0)
    with pytest.raises(InputError, match="--epochs must be of type int"):
        Example(in_parts=Path("x"), epochs=True)


def test_plain_values_come_back() -> None:
    made = from_mapping(Example, {"in_parts": "x", "state": "3 4", "beta": "0.1"})
    assert from_plain(Example, made.to_mapping()) == made
    assert made.to_mapping()["in_parts"] == "x"


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_every_default_of_every_job_survives_its_own_text(job: object) -> None:
    cls = job.settings_class  # type: ignore[attr-defined]
    for field in describe(cls):
        assert field.name == canonical_name(field.option)
        if field.required:
            continue
        field.check(field.default)
        text = text_of(field)
        assert field.parse([text] if text else []) == field.default or field.kind == "bool"
        assert field.help


def test_fingerprints_tell_values_apart() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
