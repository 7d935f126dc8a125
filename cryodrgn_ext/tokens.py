"""Words of a command line grouped into options and their values, once for all entry points.

Entry points differ in how many words an option may take: on a command line ``--invert DIR`` is a flag and a file, while
RELION, which hands values to the shell without quotes, may cut one value into several words. So that is a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.setting_field import FALSE_WORDS, TRUE_WORDS, SettingField
from cryodrgn_ext.settings import Settings, canonical_name, describe, unknown_option

NUMBER = re.compile(r"-\.?\d")
HELP = ("-h", "--help")


@dataclass(frozen=True)
class GivenOption:
    """An option as it was given: its spelling, and the words that it took.

    Attributes
    ----------
    option : str
        ``--z-range``.
    words : tuple of str
        None for a bare option.
    """

    option: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the setting, ``z_range``."""
        return canonical_name(self.option)


#: Whether an option takes one more word, by its name and the words that it has.
Takes = Callable[[str, Sequence[str], str], bool]


def is_option(word: str) -> bool:
    """Whether a word is an option and neither a value, such as -1 or -, nor a call for help."""
    return word.startswith("-") and word != "-" and NUMBER.match(word) is None


def split_options(arguments: Sequence[str], takes: Takes = lambda *_: True) -> tuple[list[GivenOption], list[str]]:
    """Group words into options, each with the words that it takes, and those that belong to none.

    Parameters
    ----------
    arguments : sequence of str
    takes : callable
        Every option takes all words up to the next one when omitted. ``--option=word`` takes that word only.

    Returns
    -------
    options : list of GivenOption
        In their order, repeated ones included.
    others : list of str
    """
    options: list[GivenOption] = []
    others: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not is_option(argument):
            others.append(argument)
            continue
        option, equals, value = argument.partition("=")
        words = [value] if equals else []
        while not equals and position < len(arguments):
            word = arguments[position]
            if is_option(word) or not takes(canonical_name(option), words, word):
                break
            words.append(word)
            position += 1
        options.append(GivenOption(option, tuple(words)))
    return options, others


def refuse_others(others: Sequence[str]) -> None:
    """Raise InputError for words that belong to no option."""
    if others:
        raise InputError(f"'{others[0]}' is not understood: an option such as --in_parts must come before it.")


def as_declared(fields: Mapping[str, SettingField], words: Mapping[str, int] | None = None) -> Takes:
    """Rule that an option takes what its setting can hold: a list, a yes or no, or one value.

    Parameters
    ----------
    fields : mapping
        Settings by name.
    words : mapping, optional
        How many words further options take, by name.
    """

    def takes(name: str, taken: Sequence[str], word: str) -> bool:
        if name not in fields:
            return len(taken) < (words or {}).get(name, 0)
        field = fields[name]
        if field.many:
            return True
        if field.kind == "bool" and word.lower() not in TRUE_WORDS | FALSE_WORDS:
            return False
        return not taken

    return takes


def in_one_form(
    cls: type[Settings], arguments: Sequence[str], words: Mapping[str, int] | None = None, without: Iterable[str] = ()
) -> list[str]:
    """Rewrite ``--z-range 0:1 1:2 --invert`` as ``--z_range=0:1,1:2 --invert=yes``, which click can parse.

    Parameters
    ----------
    cls : Settings class
    arguments : sequence of str
    words : mapping, optional
        Options that are no settings, by name, with the number of words that each takes; they are left as they are.
    without : iterable of str
        Settings that the entry point does not offer.

    Raises
    ------
    InputError
        For an option that there is not, with a suggestion, one that is given twice, or without words that it needs.
    """
    hidden = set(without)
    fields = {field.name: field for field in describe(cls) if field.name not in hidden}
    plain = words or {}
    asked = [word for word in arguments if word in HELP]
    options, rewritten = split_options([word for word in arguments if word not in HELP], as_declared(fields, plain))
    given: dict[str, list[str]] = {}
    for option in options:
        if not option.option.startswith("--") or option.name not in {*fields, *plain}:
            raise unknown_option(cls, option.option, plain, hidden)
        if option.name in given and not (option.name in fields and fields[option.name].many):
            raise InputError(f"--{option.name} is given twice: keep one of them.")
        if option.name in plain and not option.words:
            raise InputError(f"--{option.name} is given without a value.")
        bare = ("yes",) if option.name in fields and fields[option.name].kind == "bool" else ("",)
        given.setdefault(option.name, []).extend(option.words or bare)
    for name, values in given.items():
        if name in fields:
            rewritten.append(f"--{name}={','.join(values) if fields[name].many else values[0]}")
        else:
            rewritten += [f"--{name}", *values] if len(values) > 1 else [f"--{name}={values[0]}"]
    return [*asked, *rewritten]
