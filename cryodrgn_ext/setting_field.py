"""One declared setting: its type, default, bounds and help, and how words become its value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError

TRUE_WORDS = frozenset({"true", "yes", "on", "1", "y", "t"})
FALSE_WORDS = frozenset({"false", "no", "off", "0", "n", "f"})
NONE_WORDS = frozenset({"", "none"})


class _Required:
    """The default of a setting that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class SettingField:
    """One declared setting, as the entry points see it.

    Attributes
    ----------
    name : str
        Field and option name (``in_parts`` becomes ``--in_parts``).
    kind : str
        ``int``, ``float``, ``bool``, ``str`` or ``path``: the type of one value.
    many : bool
        Whether the setting takes any number of values (a tuple).
    optional : bool
        Whether ``None`` (the words "none" or nothing) is a value.
    default : object
        The default, or ``REQUIRED``.
    help, unit : str
        One sentence, and the unit of the value ("" for none).
    low, high : float or None
        Inclusive bounds of each value.
    choices : tuple of str
        The admitted words; empty for any.
    count : int or None
        With ``many``: how many values there must be (or none at all).
    """

    name: str
    kind: str
    many: bool
    optional: bool
    default: Any
    help: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    count: int | None
    connects: str

    @property
    def option(self) -> str:
        """The option as it is written on a command line, ``--in_parts``."""
        return "--" + self.name

    @property
    def required(self) -> bool:
        """Whether the user must give a value."""
        return self.default is REQUIRED

    def describe(self) -> str:
        """Help, unit, bounds and choices in one line."""
        text = self.help.rstrip(".")
        extra = []
        if self.unit:
            extra.append(self.unit)
        if self.choices:
            extra.append(", ".join(self.choices))
        if self.low is not None and self.high is not None:
            extra.append(f"{_number(self.low)} to {_number(self.high)}")
        elif self.low is not None:
            extra.append(f"at least {_number(self.low)}")
        elif self.high is not None:
            extra.append(f"at most {_number(self.high)}")
        return f"{text} ({'; '.join(extra)})." if extra else text + "."

    def parse(self, words: Sequence[str]) -> Any:
        """Turn the words given for this setting into its value, unchecked for bounds.

        Parameters
        ----------
        words : sequence of str
            Nothing (a bare option: the default, or True for a bool), or the values. Lists may be separated by
            commas or blanks.

        Raises
        ------
        InputError
            When a word is not of the setting's type, or there are too many.
        """
        if self.many:
            parts = [part for word in words for part in word.replace(",", " ").split()]
            if not parts or (len(parts) == 1 and parts[0].lower() in NONE_WORDS):
                return () if self.required else self.default
            return tuple(self._parse_one(part) for part in parts)
        if not words:
            if self.kind == "bool":
                return True
            if self.required:
                raise InputError(f"{self.option} needs a value: {self.describe()}")
            return self.default
        if len(words) > 1:
            raise InputError(
                f"{self.option} takes one value, but '{' '.join(words)}' are {len(words)}; a value must not contain "
                "blanks or wildcards, because RELION hands values to the shell without quotes."
            )
        if words[0].strip() == "" and not self.required:
            return self.default
        if self.optional and words[0].strip().lower() in NONE_WORDS:
            return None
        return self._parse_one(words[0])

    def _parse_one(self, word: str) -> Any:
        text = word.strip()
        if self.kind == "str":
            return text
        if self.kind == "path":
            if not text:
                raise InputError(f"{self.option} needs the name of a file or folder, but is empty.")
            # RELION takes a.map:mrc for a file called a.map whose format is MRC.
            return Path(text.removesuffix(":mrcs").removesuffix(":mrc"))
        if self.kind == "bool":
            if text.lower() in TRUE_WORDS:
                return True
            if text.lower() in FALSE_WORDS:
                return False
            raise InputError(f"{self.option} must be yes or no, not '{word}'.")
        try:
            if self.kind == "int":
                return int(text)
            return float(text)
        except ValueError:
            # "20.0" is how some interfaces write whole numbers.
            if self.kind == "int":
                try:
                    number = float(text)
                except ValueError:
                    number = math.nan
                if number.is_integer():
                    return int(number)
            noun = "a whole number" if self.kind == "int" else "a number"
            raise InputError(f"{self.option} must be {noun}, not '{word}'.") from None

    def check(self, value: Any) -> None:
        """Raise InputError unless ``value`` has the declared type and lies within bounds and choices."""
        if value is None:
            if self.optional:
                return
            raise InputError(f"{self.option} needs a value: {self.describe()}")
        if self.many:
            if not isinstance(value, tuple):
                raise InputError(f"{self.option} must be a list of values, not {value!r}.")
            if self.count is not None and value and len(value) != self.count:
                raise InputError(f"{self.option} takes {self.count} values, but {len(value)} were given.")
            for one in value:
                self._check_one(one)
        else:
            self._check_one(value)

    def _check_one(self, value: Any) -> None:
        types_of_kind: dict[str, tuple[type, ...]] = {
            "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "path": (Path,),
        }  # fmt: skip
        if type(value) not in types_of_kind[self.kind] and not (self.kind == "path" and isinstance(value, Path)):
            raise InputError(f"{self.option} must be of type {self.kind}, not {value!r}.")
        if self.kind in ("int", "float"):
            if not math.isfinite(value):
                raise InputError(f"{self.option} must be a finite number, not {value}.")
            unit = f" {self.unit}" if self.unit else ""
            if self.low is not None and value < self.low:
                raise InputError(f"{self.option} must be at least {_number(self.low)}{unit}, not {value}.")
            if self.high is not None and value > self.high:
                raise InputError(f"{self.option} must be at most {_number(self.high)}{unit}, not {value}.")
        if self.choices and value not in self.choices:
            close = difflib.get_close_matches(str(value), self.choices, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise InputError(f"{self.option} must be one of {', '.join(self.choices)}, not '{value}'{hint}.")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
