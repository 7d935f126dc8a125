"""Checkpoints of an ab initio run: safetensors files, from which it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from cryodrgn_ext.atomic import atomic_path
from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.images.particle_images import ParticleImages

#: Images whose coefficients are part of a key.
SAMPLE = 16


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
        # Clones: safetensors refuses tensors that share memory.
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
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


def images_key(images: ParticleImages, *settings: Any) -> str:
    """Fingerprint of images (their number, box, half-sets and a few coefficients) and of plain settings."""
    rows = torch.linspace(0, images.n - 1, min(images.n, SAMPLE)).long()
    count = min(images.source.n_coefficients, 256)
    content = hashlib.sha256(torch.view_as_real(images.source.gather(rows, count)).cpu().numpy().tobytes())
    content.update(images.half_set.cpu().numpy().tobytes())
    description = [images.n, images.box_size, images.plane.radius, content.hexdigest(), *settings]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()
