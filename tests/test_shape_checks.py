"""Shapes are checked while the tests run: in the first calls of each test."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import Float, install_import_hook

from cryodrgn_ext.fourier.shifts import shift_phases
from tests.shape_checks import CHECKED_CALLS, checked, sampled_jaxtyped


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_wrong_shape_is_found_in_each_test(attempt: int) -> None:
    """Also in the second test: calls are counted anew."""
    kxy, shift = torch.zeros(7, 2), torch.zeros(3, 2)
    for _ in range(CHECKED_CALLS - 1):
        assert shift_phases(kxy, shift, 8).shape == (3, 7)
    with pytest.raises(jaxtyping.TypeCheckError):
        shift_phases(torch.zeros(7, 3), shift, 8)


def test_classes_and_functions_within_functions_are_checked() -> None:
    decorate = sampled_jaxtyped(typechecker=checked)

    @dataclass(frozen=True)
    class Pair:
        a: Float[torch.Tensor, "n 2"]
        b: Float[torch.Tensor, " n"]

    pair = decorate(Pair)
    assert pair(torch.zeros(3, 2), torch.zeros(3)).b.shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        pair(torch.zeros(3, 2), torch.zeros(4))

    def outer(x: torch.Tensor) -> torch.Tensor:
        def inner(x: Float[torch.Tensor, "n 2"]) -> Float[torch.Tensor, " n"]:
            return x[:, 0]

        return decorate(inner)(x)

    for _ in range(CHECKED_CALLS - 1):
        outer(torch.zeros(3, 2))
    with pytest.raises(jaxtyping.TypeCheckError):
        outer(torch.zeros(3))
    outer(torch.zeros(3, 3))  # one call too late


def names_in(loader: object) -> tuple[str, ...]:
    """Names in the code of a module, which is asked for as SlipCover does."""
    assert isinstance(loader, SourceFileLoader)
    code = loader.get_code("of_a_test")
    assert code is not None
    return code.co_names


def test_processes_without_checks_never_find_code_with_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "of_a_test.py"
    path.write_text("def one() -> int:\n    return 1\n")
    with install_import_hook(["of_a_test"], "tests.shape_checks.checked"):
        spec = sys.meta_path[0].find_spec("of_a_test", [str(tmp_path)])
    assert spec is not None
    assert "jaxtyping" in names_in(spec.loader)
    assert list(tmp_path.rglob("*.pyc")) != []
    assert not Path(cache_from_source(str(path))).exists()
    plain = PathFinder.find_spec("of_a_test", [str(tmp_path)])
    assert plain is not None
    assert "jaxtyping" not in names_in(plain.loader)
