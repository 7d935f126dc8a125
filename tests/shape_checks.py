"""Shapes and types of public functions are checked while the tests run: jaxtyping's import hook, with beartype.

Functions that numba compiles stay as they are: a wrapper around them cannot be compiled.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

_jaxtyped = jaxtyping.jaxtyped
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fourier", "reconstruction", "images", "engines", "pose")
#: How a module shows that it holds functions that numba compiles.
COMPILES = ("@compiled(", "@inlined", "@operation", "def compiled(")

#: An int where a float is declared is what Python's type system allows.
_CONFIGURATION = BeartypeConf(is_pep484_tower=True)


#: Calls of one function that each test has checked: a check costs more than a small call, and the thousandth call of a
#: loop has the shapes of its first.
CHECKED_CALLS = 5
_test = 0  # the number of the test that runs


def next_test() -> None:
    """Check the first calls of every function anew."""
    global _test
    _test += 1


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of every call."""
    return beartype(conf=_CONFIGURATION)(function)


def first_calls(check: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Call ``check`` the first times in each test, and ``plain`` from then on."""
    test, calls = -1, 0

    @functools.wraps(plain)
    def choose(*args: Any, **options: Any) -> Any:
        nonlocal test, calls
        if test != _test:
            test, calls = _test, 0
        calls += 1
        return (check if calls <= CHECKED_CALLS else plain)(*args, **options)

    return choose


def sampled_jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Stand in for the decorator that jaxtyping's import hook writes: that of the first calls only."""

    def decorate(one: Any) -> Any:
        if not inspect.isclass(one):
            return first_calls(_jaxtyped(one, typechecker=typechecker), one)
        plain = one.__init__
        decorated = _jaxtyped(one, typechecker=typechecker)
        if decorated.__init__ is not plain:  # of a dataclass
            decorated.__init__ = first_calls(decorated.__init__, plain)  # type: ignore[method-assign]
        return decorated

    return decorate


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
    jaxtyping.jaxtyped = sampled_jaxtyped  # type: ignore[assignment]
    install_import_hook(checked_modules(), "tests.shape_checks.checked")
