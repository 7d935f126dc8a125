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

import torch
from torch import Tensor, nn

from cryodrgn_ext.images.checkpoint_file import (
    check_key,
    load_tensors,
    readable_checkpoint,
    restore_training,
    training_tensors,
    write_tensors,
)  # fmt: skip

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
    tensors = training_tensors(model, optimizer)
    for name, tensor in (table or {}).items():
        tensors[f"table.{name}"] = tensor
    description = {
        "key": key, "epoch": progress.epoch, "step": progress.step, "running": progress.running,
        "history": progress.history,
    }  # fmt: skip
    write_tensors(directory / FILE, description, tensors)


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
    with readable_checkpoint(path):
        description, tensors = load_tensors(path)
        check_key(path, description["key"], key, " (of training, only more epochs may be asked for)")
        restore_training(tensors, model, optimizer)
        for name, own in (table or {}).items():
            whole = tensors[f"table.{name}"]
            own.copy_(whole if rows is None else whole[rows.start : rows.stop])
        return Progress(description["epoch"], description["step"], description["running"], description["history"])
