"""Words become options with their values, by the rule of each entry point."""

from __future__ import annotations

import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.settings import describe
from cryodrgn_ext.tokens import as_declared, in_one_form, is_option, refuse_others, split_options

FIELDS = {field.name: field for field in describe(SelectSettings)}


@pytest.mark.parametrize(
    ("word", "answer"),
    [("--o", True), ("-z", True), ("-h", True), ("-1", False), ("-.5", False), ("-", False), ("a.star", False)],
)
def test_negative_numbers_are_values(word: str, answer: bool) -> None:
    assert is_option(word) is answer


def test_without_a_rule_an_option_takes_all_words() -> None:
    options, others = split_options(["x", "--in-mask", "my", "mask.mrc", "--state=1", "y", "--box"])
    assert [(one.name, one.words) for one in options] == [
        ("in_mask", ("my", "mask.mrc")), ("state", ("1",)), ("box", ()),
    ]  # fmt: skip
    assert others == ["x", "y"]
    with pytest.raises(InputError, match="'x' is not understood"):
        refuse_others(others)


def test_declared_settings_say_where_values_end() -> None:
    words = ["--state", "1", "2", "--invert", "DIR", "--z_norm_max", "-1", "--o=x"]
    options, others = split_options(words, as_declared(FIELDS))
    assert {one.name: one.words for one in options} == {
        "state": ("1", "2"), "invert": (), "z_norm_max": ("-1",), "o": ("x",),
    }  # fmt: skip
    assert others == ["DIR"]
    assert in_one_form(SelectSettings, words) == ["DIR", "--state=1,2", "--invert=yes", "--z_norm_max=-1", "--o=x"]


def test_repeated_lists_grow_and_repeated_values_are_refused() -> None:
    assert in_one_form(SelectSettings, ["--state", "1", "--state=2,3"]) == ["--state=1,2,3"]
    with pytest.raises(InputError, match="--seed is given twice"):
        in_one_form(SelectSettings, ["--seed", "1", "--seed", "2"])


def test_further_options_take_their_number_of_words() -> None:
    words = ["--particles", "J42", "particles", "--project", "P1", "--state", "0", "2", "--help"]
    rewritten = in_one_form(SelectSettings, words, {"particles": 2, "project": 1}, without=("o",))
    assert rewritten == ["--help", "--particles", "J42", "particles", "--project=P1", "--state=0,2"]
    with pytest.raises(InputError, match="unknown option --o:"):
        in_one_form(SelectSettings, ["--o", "x"], {"particles": 2}, without=("o",))
    with pytest.raises(InputError, match="did you mean --particles"):
        in_one_form(SelectSettings, ["--particle", "J42"], {"particles": 2})
