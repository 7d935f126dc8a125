"""Which form of the subspace engine's loops a GPU runs: Triton kernels where they work, the torch form elsewhere.

Kernels are compiled on the user's machine, for a card that was not at hand when they were written. So each has to give
the result of the torch form on the first few images before it is used; where it does not, or does not compile, the
torch form goes on, with one line in the log.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from cryodrgn_ext.fourier.block_sizes import in_blocks, tell

KERNELS = "cryodrgn_ext.engines.subspace.triton_kernels"
TRIED_ON = 8  # images
TOLERANCE = 1e-4  # of the largest value: sums in single precision, in another order
MOST_COLUMNS = 32  # products of more do not stay in registers
#: What was found of each kernel in this process.
_works: dict[str, bool] = {}


def may_have_kernels(device: torch.device) -> bool:
    """Whether there can be kernels for a device at all."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def gram(operators: Any, components: Tensor, n_columns: int, chunk: Any) -> tuple[Tensor, Tensor]:
    """See :meth:`.torch_form.Operators.gram`: its operators and chunk."""

    def tried(form: Callable[..., Any]) -> list[Tensor]:
        return list(form(operators, components, n_columns, chunk.images(slice(0, TRIED_ON))))

    form = _kernel("gram_triton", type(operators).gram_torch, components, tried)
    if form is None:
        return cast("tuple[Tensor, Tensor]", operators.gram_torch(components, n_columns, chunk))
    parts = in_blocks(lambda here: form(operators, components, n_columns, chunk.images(here)), len(chunk.rows),
                      "products of components")  # fmt: skip
    inner, cross = zip(*parts, strict=True)
    return torch.cat(inner), torch.cat(cross)


def accumulate(
    operators: Any, components: Tensor, chunk: Any, particle_scale: Tensor, half_set: Tensor, moments: Tensor,
    weight: Tensor, right: Tensor,
) -> None:  # fmt: skip
    """See :meth:`.torch_form.Operators.accumulate`."""

    def add(form: Callable[..., Any], here: slice, weight: Tensor, right: Tensor) -> None:
        form(operators, components, chunk.images(here), particle_scale[here], half_set[here], moments[here], weight,
             right)  # fmt: skip

    def tried(form: Callable[..., Any]) -> list[Tensor]:
        sums = [torch.zeros_like(weight), torch.zeros_like(right)]
        add(form, slice(0, TRIED_ON), *sums)
        return sums

    form = _kernel("accumulate_triton", type(operators).accumulate_torch, components, tried)
    if form is None:
        operators.accumulate_torch(components, chunk, particle_scale, half_set, moments, weight, right)
    else:
        in_blocks(lambda here: add(form, here, weight, right), len(chunk.rows), "sums of components")


def _kernel(
    name: str, oracle: Callable[..., Any], components: Tensor, tried: Callable[[Callable[..., Any]], list[Tensor]]
) -> Callable[..., Any] | None:
    """Return the kernel of that name if it gives what ``oracle`` gives where both are tried."""
    if not may_have_kernels(components.device) or components.shape[2] > MOST_COLUMNS or _works.get(name) is False:
        return None
    try:
        form: Callable[..., Any] = getattr(importlib.import_module(KERNELS), name)
        if name not in _works:
            found, expected = tried(form), tried(oracle)
            _works[name] = all(_agree(*pair) for pair in zip(found, expected, strict=True))
            if not _works[name]:
                tell(f"The Triton kernel {name} does not give what torch gives on this GPU: torch goes on.")
    except torch.OutOfMemoryError:
        return None  # no room to try it now
    except Exception as error:  # noqa: BLE001 - compilers, drivers and versions fail in ways of their own
        _works[name] = False
        tell(f"The Triton kernel {name} cannot be used here ({type(error).__name__}): torch goes on.")
    return form if _works[name] else None


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
