"""A GPU that is none: tensors that say they are on another device and are held to it, while the CPU does the work.

Every operation of torch is looked at as it is dispatched: tensors of two devices in one operation raise, as CUDA would;
copies between devices and values that the host waits for are counted with the line that asked for them. Values are
real, so that whole jobs run through, with every branch that depends on data and on ``device.type``. What kernels and
streams do, only a GPU can tell.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
GPU, CPU = torch.device(NAME, 0), torch.device("cpu")
_ATEN = torch.ops.aten
#: Operations by which the host waits for a value, or for how many there are.
_WAITS = {
    _ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.equal.default,
    _ATEN._unique2.default, _ATEN.unique_dim.default, _ATEN.is_nonzero.default,
}  # fmt: skip
#: Copies between devices; and those that CUDA allows to take indices from the host, at the price of a copy.
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}
_INDEXED = {
    _ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default, _ATEN._index_put_impl_.default,
}  # fmt: skip


class DeviceMismatch(AssertionError):
    """Tensors of two devices met in one operation."""


class OnGpu(Tensor):
    """A tensor that says it is on the GPU, around one on the CPU."""

    inner: Tensor  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=GPU, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {}, None)

    def tolist(self) -> Any:
        """Values on the host, one wait."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner!r})"


class PretendedGpu(TorchDispatchMode):
    """Within it ``device=NAME`` works, and is held to.

    Parameters
    ----------
    largest_tensor : float
        Bytes; an operation that makes a larger one there is out of memory.

    Attributes
    ----------
    waits : Counter
        By line, how often the host waited for a value on the GPU.
    copies : Counter
        By line, how often tensors of one element or more went from one device to the other.
    refused : int
        How often there was no memory.
    """

    def __init__(self, largest_tensor: float = float("inf")) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest_tensor = largest_tensor
        self.refused = 0
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def allocate(self, given: Any, out: Any) -> None:
        """Refuse memory to new tensors that are too large; views and what is changed in place take none."""
        old = {one.untyped_storage().data_ptr() for one in tree_flatten(given)[0] if isinstance(one, Tensor)}
        made = [one.untyped_storage() for one in tree_flatten(out)[0] if isinstance(one, Tensor)]
        size = max((one.nbytes() for one in made if one.data_ptr() not in old), default=0)
        if size > self.largest_tensor:
            self.refused += 1
            raise torch.OutOfMemoryError(f"pretended: there are no {size} bytes")

    def __enter__(self) -> PretendedGpu:
        # ``torch.tensor(..., device=...)`` copies to the device behind the back of modes otherwise.
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]
        torch._C._set_only_lift_cpu_tensors(self._before)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {}, self)


def dispatch(func: Any, args: Any, kwargs: dict[str, Any], mode: PretendedGpu | None) -> Any:
    """Run an operation on the CPU, after a look at where its tensors say they are."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    on_gpu = any(isinstance(one, OnGpu) for one in tensors)
    asked = kwargs.get("device")
    target = _target(func, tensors, on_gpu, asked, mode)
    real_args, real_kwargs = tree_unflatten([_inner(one) for one in flat], spec)
    if asked is not None:
        real_kwargs["device"] = CPU
        real_kwargs.pop("pin_memory", None)
    out = func(*real_args, **real_kwargs)
    if target == CPU:
        return out
    if mode is not None:
        mode.allocate(real_args, out)
    given = {id(one.inner): one for one in tensors if isinstance(one, OnGpu)}

    def outer(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, OnGpu):
            return one
        return given[id(one)] if id(one) in given else OnGpu(one.resolve_conj().resolve_neg())

    return tree_map(outer, out)


def _inner(one: Any) -> Any:
    if isinstance(one, OnGpu):
        # Lazy conjugation and negation are set on the outer tensor alone.
        inner = one.inner.conj() if one.is_conj() else one.inner
        return torch._neg_view(inner) if one.is_neg() else inner
    if isinstance(one, torch.device) and one.type == NAME:
        return CPU
    return one


def _target(func: Any, tensors: list[Tensor], on_gpu: bool, asked: Any, mode: PretendedGpu | None) -> torch.device:
    """Device of the result; raises where tensors should not have met."""
    wanted = None if asked is None else torch.device(asked)
    if func in _WAITS and on_gpu and mode is not None:
        mode.waits[_line()] += 1
    if func in _COPIES:
        source = tensors[-1]
        there = GPU if isinstance(source, OnGpu) else CPU
        if func is _ATEN.copy_.default:
            goal = GPU if isinstance(tensors[0], OnGpu) else CPU
        else:
            goal = there if wanted is None else (GPU if wanted.type == NAME else CPU)
        if goal != there and mode is not None:
            mode.copies[_line()] += 1
        return goal
    if not tensors:
        return GPU if wanted is not None and wanted.type == NAME else CPU
    if not on_gpu:
        return GPU if wanted is not None and wanted.type == NAME else CPU
    first = tensors[0]
    strangers = [one for one in tensors if not isinstance(one, OnGpu) and one.dim() > 0]
    indices = all(one.dtype in (torch.int64, torch.bool) for one in strangers)
    if strangers and func in _INDEXED and isinstance(first, OnGpu) and indices:
        if mode is not None:
            mode.copies[_line()] += 1
        strangers = []
    if strangers:
        raise DeviceMismatch(
            f"{func}: a tensor {tuple(strangers[0].shape)} of the CPU beside one of the GPU, at {_line()}"
        )
    return CPU if wanted is not None and wanted.type == "cpu" else GPU


def _line() -> str:
    """Where in the project the operation was asked for."""
    for frame in reversed(traceback.extract_stack()):
        if "cryodrgn_ext" in frame.filename and "placement" not in frame.filename:
            return f"{frame.filename.split('cryodrgn_ext/')[-1]}:{frame.lineno}"
    return "outside of the project"
