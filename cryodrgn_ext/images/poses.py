"""One value for the poses of particles: a rotation and a shift each, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Poses:
    """Poses of N particles, or of some candidates of each; nothing is copied on the way in or out.

    Attributes
    ----------
    rotation : Tensor
        (..., 3, 3) rotations R from model to image coordinates; they multiply column vectors x, y, z.
    shift_px : Tensor
        (..., 2) displacement x, y of the particle from the centre of its image, in pixels of the working box.
    """

    rotation: Float[Tensor, "*batch 3 3"]
    shift_px: Float[Tensor, "*batch 2"]

    def __post_init__(self) -> None:
        leading = self.rotation.shape[:-2]
        if self.rotation.shape[-2:] != (3, 3) or self.shift_px.shape != (*leading, 2):
            raise ValueError(
                f"poses need rotations (..., 3, 3) and as many shifts (..., 2), got {tuple(self.rotation.shape)} and "
                f"{tuple(self.shift_px.shape)}"
            )

    @classmethod
    def of(cls, rotation: NDArray[np.floating] | Tensor, shift_px: NDArray[np.floating] | Tensor) -> Poses:
        """Poses that share the memory of arrays or tensors."""
        return cls(torch.as_tensor(rotation), torch.as_tensor(shift_px))

    @classmethod
    def unknown(cls, n: int, dtype: torch.dtype = torch.float32) -> Poses:
        """The identity and no shift, ``n`` times: what images have before anything is known of them."""
        return cls(torch.eye(3, dtype=dtype).expand(n, 3, 3), torch.zeros(n, 2, dtype=dtype))

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, rows: Any) -> Poses:
        """Poses of some rows; indices of leading dimensions only."""
        return Poses(self.rotation[rows], self.shift_px[rows])

    def to(self, *args: Any) -> Poses:
        """The same poses on another device or in another precision; arguments are those of ``Tensor.to``."""
        return Poses(self.rotation.to(*args), self.shift_px.to(*args))

    def moved(self, by_px: Float[Tensor, "*#leading 2"]) -> Poses:
        """The same rotations, with ``by_px`` (..., 2) added to the shifts."""
        return Poses(self.rotation, self.shift_px + by_px)

    def numpy(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Rotations and shifts as arrays."""
        return self.rotation.cpu().numpy(), self.shift_px.cpu().numpy()


def join_poses(parts: Sequence[Poses], dim: int = 0) -> Poses:
    """Poses of several sets after each other, along a leading dimension."""
    return Poses(torch.cat([part.rotation for part in parts], dim), torch.cat([part.shift_px for part in parts], dim))
