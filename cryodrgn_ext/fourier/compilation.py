"""How kernels are compiled for the CPU and run: by numba, on torch's threads, from machine code kept on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numba
import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

#: Contiguous arrays that kernels take.
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Complex64Array: TypeAlias = NDArray[np.complex64]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]

#: Sums in the order in which they are written.
EXACT: frozenset[str] = frozenset()
#: Sums in any order, in vectors; without the assumptions that NaN and infinity do not occur.
FAST = frozenset({"contract", "reassoc", "nsz", "arcp"})

_ONE_AT_A_TIME = threading.Lock()  # numba's fallback thread pool aborts the process when two threads enter it


def compiled(arithmetic: frozenset[str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a kernel with parallel loops on first use, keeping the machine code on disk where that is possible.

    The kept code is made anew when the file of the kernel changes, not when a part does that it takes from another
    file.

    Parameters
    ----------
    arithmetic : frozenset of str
        :data:`EXACT` or :data:`FAST`: what may be done to the order of floating-point operations.
    """
    options: dict[str, Any] = {"parallel": True, "nogil": True, "fastmath": set(arithmetic)}

    def compile_kernel(function: Callable[P, R]) -> Callable[P, R]:
        try:
            made = njit(cache=True, **options)(function)
        except RuntimeError:  # no directory is writable, as in a read-only container: compile in every process
            made = njit(**options)(function)
        return cast("Callable[P, R]", made)

    return compile_kernel


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function a part of the kernels that call it, with their arithmetic."""
    return cast("Callable[P, R]", njit(nogil=True, inline="always")(function))


@contextmanager
def threads_of_torch() -> Iterator[int]:
    """Run numba on as many threads as torch uses, one caller at a time, and leave torch its number of threads.

    Starting numba's OpenMP pool sets the number of threads of the whole process; with another number torch would add
    in another order, and the same seed no longer give the same result.
    """
    wanted = torch.get_num_threads()
    threads = max(1, min(wanted, int(numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
    with _ONE_AT_A_TIME:
        numba.set_num_threads(threads)
        try:
            yield threads
        finally:
            if torch.get_num_threads() != wanted:
                torch.set_num_threads(wanted)
