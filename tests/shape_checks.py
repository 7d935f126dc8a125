"""Shapes and types of public functions are checked while the tests run: jaxtyping's import hook, with beartype.

Functions that numba compiles stay as they are: a wrapper around them cannot be compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any
from unittest import mock

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook, install_import_hook

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


@dataclasses.dataclass
class Calls:
    """How often a function was called in which test; of all functions that one inner definition makes, together."""

    test: int = -1
    count: int = 0


_calls: dict[int, Calls] = {}  # by the identity of the code: equal code may be of two classes


def first_calls(plain: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """Check the first calls in each test, and none from then on.

    The check is compiled when the function is called: thousands are imported that a process never calls.
    """
    calls = _calls.setdefault(id(plain.__code__), Calls())
    check: Callable[..., Any] | None = None

    @functools.wraps(plain)
    def choose(*args: Any, **options: Any) -> Any:
        nonlocal check
        if calls.test != _test:
            calls.test, calls.count = _test, 0
        calls.count += 1
        if calls.count > CHECKED_CALLS:
            return plain(*args, **options)
        if check is None:
            check = _jaxtyped(plain, typechecker=typechecker)
        return check(*args, **options)

    return choose


def sampled_jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Stand in for the decorator that jaxtyping's import hook writes: that of the first calls only."""

    def decorate(one: Any) -> Any:
        if inspect.isfunction(one):
            return first_calls(one, typechecker)
        made: Any = one
        if dataclasses.is_dataclass(one) and not hasattr(made.__init__, "__wrapped__"):  # nor that of its parent
            made.__init__ = first_calls(made.__init__, typechecker)
        return one

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


def get_code(loader: Any, name: str) -> Any:
    """Get the code of a module with checks, from a cache of its own.

    SlipCover asks the loader for code, which jaxtyping's then keeps where processes without checks look for theirs.
    """
    cache = functools.partial(_import_hook._optimized_cache_from_source, loader._typechecker.get_hash())
    with mock.patch("importlib._bootstrap_external.cache_from_source", cache):
        return SourceFileLoader.get_code(loader, name)


def install() -> None:
    """Check all that is imported from now on."""
    jaxtyping.jaxtyped = sampled_jaxtyped  # type: ignore[assignment]
    _import_hook._JaxtypingLoader.get_code = get_code  # type: ignore[assignment]
    install_import_hook(checked_modules(), "tests.shape_checks.checked")
