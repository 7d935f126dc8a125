"""Files in which a run keeps its place: safetensors with plain numbers beside them, replaced in one step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.plain_files import readable


def write_tensors(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and plain values to describe them, replacing the former file in one step."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        kept = tensor.detach().cpu().contiguous()
        memory = kept.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory.
        plain[name] = kept.clone() if memory in seen else kept
        seen.add(memory)
    with atomic_path(path) as temporary:
        save_file(plain, str(temporary), metadata={"description": json.dumps(description)})


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors; to be called within :func:`readable_checkpoint`."""
    with safetensors.safe_open(str(path), framework="pt") as handle:
        description: dict[str, Any] = json.loads((handle.metadata() or {})["description"])
        return description, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights of a model and the moments of its optimizer, by names that :func:`restore_training` knows."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
    return tensors


def restore_training(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give a model and its optimizer what :func:`training_tensors` kept."""
    model.load_state_dict({n[len("model.") :]: t for n, t in tensors.items() if n.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def readable_checkpoint(path: Path) -> Iterator[None]:
    """Turn what is wrong with a checkpoint into a ResumeError of one sentence."""
    also = (safetensors.SafetensorError, RuntimeError)
    with readable(path, "remove that file to begin again", error=ResumeError, also=also):
        yield


def check_key(path: Path, found: object, key: str, may_differ: str = "") -> None:
    """Refuse a checkpoint that other settings or images have made.

    Raises
    ------
    ResumeError
        When ``found`` is not ``key``.
    """
    if found != key:
        raise ResumeError(
            f"the checkpoint {path} was made with other settings or other particles: continue with the same ones"
            f"{may_differ}, or start a new job"
        )


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
        write_tensors(self.path, {"key": self.key, "numbers": dict(numbers)}, tensors)

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Numbers and tensors of the checkpoint; None when there is none.

        Raises
        ------
        ResumeError
            When it belongs to other settings or images, or is damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        with readable_checkpoint(self.path):
            description, tensors = load_tensors(self.path)
            check_key(self.path, description["key"], self.key)
            return dict(description["numbers"]), tensors
