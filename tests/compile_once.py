"""Kernels are compiled by one of the processes that share the tests; the others wait for what it keeps on disk."""

from __future__ import annotations

import fcntl
from collections import Counter
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher


def install() -> None:
    """Lock the file of a kernel while it is compiled."""
    dispatcher: Any = Dispatcher
    compile_here = dispatcher.compile
    held: Counter[str] = Counter()

    def compile_once(self: Any, signature: Any) -> Any:
        path = self.py_func.__code__.co_filename
        if held[path] or not Path(path).is_file():  # a part of a kernel that is being compiled; made of text
            return compile_here(self, signature)
        with Path(path).open("rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX)
            held[path] += 1
            try:
                return compile_here(self, signature)  # looks on the disk first
            finally:
                held[path] -= 1

    dispatcher.compile = compile_once
