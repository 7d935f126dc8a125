"""Faults that the imitation can be told to commit."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["drop", "lose_answer", "error", "slow", "empty", "truncate"]


@dataclass
class Fault:
    """One misbehaviour of one function.

    Attributes
    ----------
    operation : str
        Function name, as ``projects.upload_file``.
    kind : str
        ``drop`` closes the connection while the request arrives; ``lose_answer`` closes it after the work is done;
        ``error`` answers 500; ``slow`` waits ``seconds`` first; ``empty`` and ``truncate`` store nothing, or half, of
        what was sent and report success.
    times : int
        How often; forever when negative.
    skip : int
        Calls that are served well before the first fault.
    seconds : float
        For ``slow``.
    """

    operation: str
    kind: Kind
    times: int = 1
    skip: int = 0
    seconds: float = 0.0


class Faults:
    """The faults still to be committed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def take(self, operation: str) -> Fault | None:
        """Return the fault that this call of ``operation`` meets, and count it."""
        with self._lock:
            for fault in self._pending:
                if fault.operation != operation or fault.times == 0:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None
