"""Engines whose volumes are known in closed form: a linear one, and one whose blob moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryodrgn_ext.engines.base import LinearForm


def blob(box: int, centre: tuple[float, float, float], width: float = 2.0) -> np.ndarray:
    """(D, D, D) float32 Gaussian, centre in voxels (x, y, z) from the origin."""
    axis = np.arange(box) - box // 2
    x, y, z = centre
    squared = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
    return np.exp(-squared / (2 * width**2)).astype(np.float32)


@dataclass
class Toy:
    """Common base of both engines; counts the volumes that it renders."""

    z: np.ndarray
    box_size: int
    pixel_size_A: float = 3.0
    z_cov: None = None
    loss_history: dict[str, list[float]] = field(default_factory=dict)
    rendered: int = 0

    def volume(self, z: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def volumes(self, z: np.ndarray) -> Iterator[np.ndarray]:
        for row in z:
            self.rendered += 1
            yield self.volume(row)

    def save(self, directory: Path) -> None:
        raise NotImplementedError


@dataclass
class LinearToy(Toy):
    """A body, and components that are blobs around it with random signs; weights bend like the square of z."""

    n_components: int = 0
    bend: float = 0.0

    def __post_init__(self) -> None:
        self.n_components = self.n_components or self.z.shape[1]
        rng = np.random.default_rng(5)
        r = self.box_size / 4
        self.mean = sum(blob(self.box_size, tuple(rng.uniform(-r / 2, r / 2, 3)), r / 3) for _ in range(6))
        self.maps = [
            blob(self.box_size, tuple(rng.uniform(-r, r, 3)), r / 4)
            - blob(self.box_size, tuple(rng.uniform(-r, r, 3)), r / 4)
            for _ in range(self.n_components)
        ]
        self.matrix = rng.normal(size=(self.z.shape[1], self.n_components)) if self.bend else None

    def weights(self, z: np.ndarray) -> np.ndarray:
        if self.matrix is None:
            return np.asarray(z, np.float32)
        u = z @ self.matrix
        return (u + self.bend * u**2).astype(np.float32)

    def volume(self, z: np.ndarray) -> np.ndarray:
        volume = self.mean + sum(w * m for w, m in zip(self.weights(z[None])[0], self.maps, strict=True))
        return np.asarray(volume, np.float32)

    def linear_form(self) -> LinearForm:
        return LinearForm(np.asarray(self.mean, np.float32), self.n_components, lambda: iter(self.maps), self.weights)


@dataclass
class MovingToy(Toy):
    """A body with a blob that goes around it by the angle of the first two latents: no sum over fixed maps."""

    def volume(self, z: np.ndarray) -> np.ndarray:
        angle = np.arctan2(z[1], z[0])
        r = self.box_size / 4
        arm = blob(self.box_size, (r * np.cos(angle), r * np.sin(angle), 0.0), r / 3)
        return blob(self.box_size, (0.0, 0.0, 0.0), r / 2) + arm
