"""Files in which a run keeps its place: safetensors with plain numbers beside them, replaced in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import ResumeError


class CheckpointFile:
    """A file in which a run keeps its place.

    Parameters
    ----------
    directory : Path or None
        None keeps nothing.
    name : str
        Of the file.
    key : str
        Fingerprint of what a continued run must share with the one it continues.
    """

    def __init__(self, directory: Path | None, name: str, key: str) -> None:
        self.path = None if directory is None else directory / name
        self.key = key

    def save(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the former checkpoint in one step."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        description = json.dumps({"key": self.key, "numbers": dict(numbers)})
        plain: dict[str, Tensor] = {}
        seen: set[int] = set()
        for tensor_name, tensor in tensors.items():
            kept = tensor.detach().cpu().contiguous()
            memory = kept.untyped_storage().data_ptr()
            # safetensors refuses tensors that share memory.
            plain[tensor_name] = kept.clone() if memory in seen else kept
            seen.add(memory)
        with atomic_path(self.path) as temporary:
            save_file(plain, str(temporary), metadata={"description": description})

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Numbers and tensors of the checkpoint; None when there is none.

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
            return dict(description["numbers"]), tensors
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise ResumeError(
                f"the checkpoint {self.path} cannot be read ({str(error).splitlines()[0]}): remove that file to begin "
                "again"
            ) from None
