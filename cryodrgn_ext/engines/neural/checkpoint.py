"""Checkpoints of a training run that resume it bit for bit, at a pass's end or in its middle.

Everything random in training follows from the seed and the place in the schedule (:mod:`.order`), so weights, moments
of Adam, the table of latents where there is one, and that place are all it takes. The file is safetensors, with JSON
as its description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import ResumeError

FILE = "neural.safetensors"  # one file, so that one rename replaces a checkpoint as a whole
MAY_GROW = frozenset({"epochs", "linear_epochs", "latent_steps"})


@dataclass
class Progress:
    """Place in the schedule: the running pass, images of it already seen, and what was recorded so far."""

    epoch: int = 0
    step: int = 0
    running: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)


def fingerprint(recipe: dict[str, Any], data: dict[str, Any]) -> str:
    """Hash of everything that a continued run must share with the run that it continues, but the number of passes."""
    kept = {name: value for name, value in recipe.items() if name not in MAY_GROW}
    return hashlib.sha256(json.dumps([kept, data], sort_keys=True).encode()).hexdigest()


def exists(directory: Path | None) -> bool:
    """Whether there is a checkpoint in a directory."""
    return directory is not None and (directory / FILE).exists()


def save(
    directory: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Adam,
    progress: Progress,
    table: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint, replacing the former one in one step; ``table`` has one row per image."""
    tensors: dict[str, Tensor] = {f"model.{n}": t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            tensors[f"adam.{index}.{name}"] = tensor.detach().cpu().contiguous()
    for name, tensor in (table or {}).items():
        tensors[f"table.{name}"] = tensor.detach().cpu().contiguous()
    description = {
        "key": key, "epoch": progress.epoch, "step": progress.step, "running": progress.running,
        "history": progress.history,
    }  # fmt: skip
    with atomic_path(directory / FILE) as temporary:
        save_file(tensors, str(temporary), metadata={"description": json.dumps(description)})


def restore(
    directory: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Adam,
    table: Mapping[str, Tensor] | None = None,
    rows: range | None = None,
) -> Progress | None:
    """Load the checkpoint in ``directory`` into model and optimizer; None when there is none.

    Into ``table``, when given, go the ``rows`` of the table of latents.

    Raises
    ------
    ResumeError
        When the checkpoint belongs to other settings or images, or is damaged.
    """
    if not exists(directory):
        return None
    path = directory / FILE
    try:
        with safetensors.safe_open(str(path), framework="pt") as handle:
            description = json.loads((handle.metadata() or {})["description"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        if description["key"] != key:
            raise ResumeError(
                f"the checkpoint {path} was made with other settings or other particles: continue with the same "
                "ones (of training, only more epochs may be asked for), or start a new job"
            )
        model.load_state_dict({n[len("model.") :]: t for n, t in tensors.items() if n.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, moment = name.split(".")
                state.setdefault(int(index), {})[moment] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, own in (table or {}).items():
            whole = tensors[f"table.{name}"]
            own.copy_(whole if rows is None else whole[rows.start : rows.stop])
        return Progress(description["epoch"], description["step"], description["running"], description["history"])
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ResumeError(
            f"the checkpoint {path} cannot be read ({str(error).splitlines()[0]}): remove that file to train "
            "from the beginning"
        ) from None
