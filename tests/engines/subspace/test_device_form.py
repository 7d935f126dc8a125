"""Triton kernels give what the torch form gives, in Triton's interpreter; where they fail, torch goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryodrgn_ext.engines.subspace import device_form
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.torch_form import Operators
from cryodrgn_ext.fourier.block_sizes import told
from tests.engines.subspace.tiny_problem import TinyProblem, tiny_problem
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parents[3]


def sums(problem: TinyProblem, form: Any) -> tuple[Tensor, Tensor]:
    n, q, voxels = len(problem.chunk.rows), problem.n_columns, problem.operators.grid.n_voxels
    factor = torch.randn(n, q, q, generator=torch.Generator().manual_seed(1))
    weight, right = torch.ones(2, voxels, padded(q * (q + 1) // 2)), torch.ones(2, voxels, 2, padded(q))
    form(problem.operators, problem.components, problem.chunk, torch.linspace(0.5, 1.5, n), torch.arange(n) % 3 % 2,
         factor @ factor.mT, weight, right)  # fmt: skip
    return weight, right


def compare_in_interpreter() -> None:
    """Both kernels beside the torch form; called in a process that has asked for the interpreter."""
    from cryodrgn_ext.engines.subspace import triton_kernels

    problem = tiny_problem(n=3, n_columns=9)
    products = [form(problem.operators, problem.components, 9, problem.chunk)
                for form in (Operators.gram_torch, triton_kernels.gram_triton)]  # fmt: skip
    equations = [sums(problem, form) for form in (Operators.accumulate_torch, triton_kernels.accumulate_triton)]
    for expected, found in (*zip(*products, strict=True), *zip(*equations, strict=True)):
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) < 1e-6 * float(expected.abs().max())


def test_kernels_give_what_torch_gives() -> None:
    """The interpreter is chosen when Triton is imported: in a process of its own."""
    code = f"from {__name__} import compare_in_interpreter; compare_in_interpreter()"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True,
                          timeout=HANGS_S)  # fmt: skip
    assert done.returncode == 0, done.stderr


#: Types of the kernels' arguments that are no pointers to float32.
TYPES = {
    **dict.fromkeys(("table", "cell", "half_set", "coordinates", "start", "order"), "*i64"),
    **dict.fromkeys(("n_m", "width", "half", "base_half", "n_cells", "n_voxels", "length"), "i32"),
    **dict.fromkeys(("limit2", "oversampling", "base_limit2"), "fp32"),
}


def compile_for_a_card() -> None:
    """Machine code of all kernels for compute capability 8.0, which takes no card."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_source

    from cryodrgn_ext.engines.subspace import triton_kernels

    sizes = {"Q": 16, "M": triton_kernels.COEFFICIENTS, "L": 16, "S": triton_kernels.SEGMENT}
    for kernel in (triton_kernels._gram, triton_kernels._rest, triton_kernels._collect):
        names = list(kernel.arg_names)
        types = {name: "constexpr" if name in sizes else TYPES.get(name, "*fp32") for name in names}
        constants = {(number,): sizes[name] for number, name in enumerate(names) if name in sizes}
        made = compile_source(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 80, 32))
        assert len(made.asm["cubin"]) > 0
        assert re.search(r"(?<!\w)(atom|red)\.", made.asm["ptx"]) is None


def test_kernels_compile_and_add_nothing_atomically(tmp_path: Path) -> None:
    code = f"from {__name__} import compile_for_a_card; compile_for_a_card()"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True,
                          timeout=HANGS_S)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Kernels of our own in the place of Triton's, on a device that can have some."""
    made: Any = SimpleNamespace()
    monkeypatch.setattr(device_form, "may_have_kernels", lambda device: True)
    monkeypatch.setattr(device_form, "_works", {})
    monkeypatch.setitem(sys.modules, device_form.KERNELS, made)
    return made


def broken(*_arguments: object) -> None:
    raise RuntimeError("no such instruction")


def wrong(*arguments: Any) -> Any:
    inner, cross = Operators.gram_torch(*arguments)
    return inner * 1.01, cross


@pytest.mark.parametrize("kernel", [broken, wrong])
def test_a_kernel_that_fails_or_errs_is_not_used_and_said_once(with_kernels: SimpleNamespace, kernel: Any) -> None:
    problem, said = tiny_problem(), list[str]()
    with_kernels.gram_triton = kernel
    expected = problem.operators.gram_torch(problem.components, 4, problem.chunk)
    with told(said.append):
        for _ in range(2):
            found = device_form.gram(problem.operators, problem.components, 4, problem.chunk)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(said) == 1
    assert "gram_triton" in said[0]


def test_kernels_that_agree_are_used(with_kernels: SimpleNamespace) -> None:
    problem, calls, said = tiny_problem(n=20), list[int](), list[str]()

    def right(*arguments: Any) -> Any:
        calls.append(len(arguments[-1].rows))
        return Operators.gram_torch(*arguments)

    def added(*arguments: Any) -> None:
        calls.append(len(arguments[2].rows))
        Operators.accumulate_torch(*arguments)

    with_kernels.gram_triton, with_kernels.accumulate_triton = right, added
    with told(said.append):
        device_form.gram(problem.operators, problem.components, 4, problem.chunk)
        found = sums(problem, device_form.accumulate)
    assert calls == [device_form.TRIED_ON, 20, device_form.TRIED_ON, 20]
    assert all(torch.allclose(one, other) for one, other in zip(found, sums(problem, Operators.accumulate_torch),
                                                                strict=True))  # fmt: skip
    assert not said
