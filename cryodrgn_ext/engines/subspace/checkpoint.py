"""Checkpoints of a subspace run: one safetensors file, from which it goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.images.checkpoint_file import CheckpointFile

FILE = "subspace.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes
    ----------
    stage : str
        ``em`` or ``decoder``.
    numbers : mapping
        Plain values.
    tensors : mapping
        By name.
    """

    stage: str
    numbers: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class SubspaceCheckpoints:
    """The file in which a run keeps its place.

    Parameters
    ----------
    directory : Path or None
        None keeps nothing.
    key : str
        Fingerprint of what a continued run must share with the one it continues.
    """

    def __init__(self, directory: Path | None, key: str) -> None:
        self.file = CheckpointFile(directory, FILE, key)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the former checkpoint in one step; only the first of several processes writes."""
        if current().is_first:
            self.file.save({"stage": checkpoint.stage, "numbers": dict(checkpoint.numbers)}, checkpoint.tensors)

    def load(self) -> Checkpoint | None:
        """Read it back; None when there is none.

        Raises
        ------
        ResumeError
            When it belongs to other settings or images, or is damaged.
        """
        found = self.file.load()
        if found is None:
            return None
        numbers, tensors = found
        return Checkpoint(str(numbers["stage"]), dict(numbers["numbers"]), tensors)
