"""Checkpoints of a subspace run: one safetensors file, from which it goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from cryodrgn_ext.atomic import atomic_path
from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.errors import ResumeError

FILE = "subspace.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

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


class CheckpointFile:
    """The file in which a run keeps its place.

    Parameters
    ----------
    directory : Path or None
        None keeps nothing.
    key : str
        Fingerprint of what a continued run must share with the one it continues.
    """

    def __init__(self, directory: Path | None, key: str) -> None:
        self.path = None if directory is None else directory / FILE
        self.key = key

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the former checkpoint in one step; only the first of several processes writes."""
        if self.path is None or not current().is_first:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        description = {"key": self.key, "stage": checkpoint.stage, "numbers": dict(checkpoint.numbers)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        with atomic_path(self.path) as temporary:
            save_file(tensors, str(temporary), metadata={"description": json.dumps(description)})

    def load(self) -> Checkpoint | None:
        """Read it back; None when there is none.

        Raises
        ------
        ResumeError
            When it belongs to other settings or images, or is damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with safetensors.safe_open(str(self.path), framework="pt") as handle:
                description = json.loads((handle.metadata() or {})["description"])
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
            if description["key"] != self.key:
                raise ResumeError(
                    f"the checkpoint {self.path} was made with other settings or other particles: continue with the "
                    "same ones, or start a new job"
                )
            return Checkpoint(str(description["stage"]), dict(description["numbers"]), tensors)
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise ResumeError(
                f"the checkpoint {self.path} cannot be read ({str(error).splitlines()[0]}): remove that file to begin "
                "again"
            ) from None
