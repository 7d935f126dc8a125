"""Shapes and types of public functions are checked while the tests run: jaxtyping's import hook, with beartype.

Functions that numba compiles stay as they are: a wrapper around them cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fourier", "reconstruction", "images", "engines", "pose")
#: How a module shows that it holds functions that numba compiles.
COMPILES = ("@compiled(", "@inlined", "@operation", "def compiled(")

#: An int where a float is declared is what Python's type system allows.
_CONFIGURATION = BeartypeConf(is_pep484_tower=True)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of every call."""
    return beartype(conf=_CONFIGURATION)(function)


def is_compiled(path: Path) -> bool:
    """Tell whether a module holds functions that numba compiles."""
    text = path.read_text("utf-8")
    return any(word in text for word in COMPILES)


def checked_modules() -> list[str]:
    """Names of the modules whose functions are checked."""
    names = []
    for package in PACKAGES:
        for path in sorted((ROOT / "cryodrgn_ext" / package).rglob("*.py")):
            if path.name != "__init__.py" and not is_compiled(path):
                names.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return names


def install() -> None:
    """Check all that is imported from now on."""
    install_import_hook(checked_modules(), "tests.shape_checks.checked")
