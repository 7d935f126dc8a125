"""How many things are computed at once: fewer, from then on, where a device had no memory for more.

Blocks are chosen to be small beside the memory of a GPU, but others may use it too. What does not fit is done anew in
halves, with one line in the log. Work must leave nothing behind where it fails: it computes first, and adds afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

R = TypeVar("R")
Listener = Callable[[str], object]

_lock = threading.Lock()
_most: dict[str, int] = {}
_listeners: list[Listener] = []


@contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Have ``listener`` hear of every halving while the block runs; sizes that were learnt before are forgotten."""
    with _lock:
        _most.clear()
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def block_size(what: str, n: int) -> int:
    """How many of ``n`` things are computed at once, as far as is known."""
    return max(1, min(n, _most.get(what, n)))


def halved(what: str, size: int) -> int:
    """Half of a size that did not fit, for all that follow.

    Parameters
    ----------
    what : str
        What is computed, for the log.
    size : int

    Raises
    ------
    MemoryError
        When it was one already.
    """
    if size <= 1:
        raise MemoryError(f"the device has no memory for {what}, one at a time")
    half = size // 2
    with _lock:
        _most[what] = half
    tell(f"The GPU had no memory for {what}, {size} at once: {half} at a time from here on.")
    return half


def tell(sentence: str) -> None:
    """Say that something did not fit, once the memory of the attempt is given back."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with _lock:
        listeners = tuple(_listeners)
    for listener in listeners:
        listener(sentence)


def in_blocks(work: Callable[[slice], R], n: int, what: str, most: int | None = None) -> list[R]:
    """Results of ``work`` for slices that together are 0..n - 1, in this order.

    Parameters
    ----------
    work : callable
        Computes a slice, and leaves nothing behind where it fails.
    n : int
    what : str
        What is computed, for the log; sizes that do not fit are remembered by it.
    most : int, optional
        Largest slice; all at once when omitted.
    """
    results: list[R] = []
    start = 0
    while start < n:
        stop = min(n, start + block_size(what, n if most is None else min(n, max(1, most))))
        fits = True
        try:
            results.append(work(slice(start, stop)))
        except torch.OutOfMemoryError:
            fits = False  # the error holds what was computed: it must be gone before the next attempt
        if fits:
            start = stop
        else:
            halved(what, stop - start)
    return results
