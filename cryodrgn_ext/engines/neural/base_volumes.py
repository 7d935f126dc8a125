"""Volumes that images are explained by before the network learns anything: the network learns what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex, Float, Float32, Integer
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.fourier.slices import FourierVolume

WEIGHT_ROWS = 1 << 16


@runtime_checkable
class BaseVolumes(Protocol):
    """One volume for each image, known before training."""

    def slices(self, rows: Integer[Tensor, " B"], points: Float[Tensor, "B M 3"]) -> Complex[Tensor, "B M"]:
        """Fourier coefficients (B, M) of the volumes of images ``rows`` (B,), at points (B, M, 3) in cycles per box."""
        ...

    def inputs(self, rows: Integer[Tensor, " B"]) -> Float[Tensor, "B m"] | None:
        """What the network's part of the volumes is a function of (B, m), where that is known before training."""
        ...


@dataclass(frozen=True)
class ConsensusBase:
    """The same volume for all images."""

    volume: FourierVolume

    def slices(self, rows: Integer[Tensor, " B"], points: Float[Tensor, "B M 3"]) -> Complex[Tensor, "B M"]:
        """See :class:`BaseVolumes`."""
        return self.volume.slice(points)

    def inputs(self, rows: Integer[Tensor, " B"]) -> None:
        """Nothing is known."""
        return


@dataclass(frozen=True)
class Standardisation:
    """How weights of components are brought to mean 0 and spread 1 over the particles.

    Attributes
    ----------
    mean, spread : Tensor
        (m,) float32; the spread of a weight that is the same for all particles is 1.
    """

    mean: Float32[Tensor, " m"]
    spread: Float32[Tensor, " m"]

    @classmethod
    def of(cls, weights: NDArray[np.float32]) -> Standardisation:
        """Of the weights (N, m) of all particles."""
        spread = weights.std(0, dtype=np.float64)
        spread = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, 1.0)
        mean = weights.mean(0, dtype=np.float64)
        return cls(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(spread.astype(np.float32)))

    def apply(self, weights: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
        """(B, m) -> (B, m)."""
        return (weights - self.mean.to(weights)) / self.spread.to(weights)


@dataclass(frozen=True)
class LinearBase:
    """Volumes that are sums over fixed maps: those of another engine's result.

    Attributes
    ----------
    volumes : tuple of FourierVolume
        The mean, then each component.
    weights : Tensor
        (N, m) float32 of the components in each image's volume, on the CPU.
    standardisation : Standardisation
        Of the weights, for the network.
    """

    volumes: tuple[FourierVolume, ...]
    weights: Float32[Tensor, "N m"]
    standardisation: Standardisation

    @classmethod
    def of(cls, form: LinearForm, z: NDArray[np.float32], radius: int, device: torch.device) -> LinearBase:
        """Base of a linear form at latents ``z`` (N, q), for |k| up to ``radius`` cycles per box."""
        maps = (form.mean, *form.components())
        volumes = tuple(FourierVolume.from_map(torch.as_tensor(one, device=device), radius=radius) for one in maps)
        parts = [form.weights(part) for part in np.split(z, range(WEIGHT_ROWS, len(z), WEIGHT_ROWS))]
        weights = np.concatenate(parts).astype(np.float32)
        return cls(volumes, torch.from_numpy(weights), Standardisation.of(weights))

    def of_rows(self, rows: Integer[Tensor, " n"]) -> LinearBase:
        """Base of some of the images only."""
        return LinearBase(self.volumes, self.weights[rows.cpu()], self.standardisation)

    def slices(self, rows: Integer[Tensor, " B"], points: Float[Tensor, "B M 3"]) -> Complex[Tensor, "B M"]:
        """See :class:`BaseVolumes`."""
        weights = self.weights[rows.cpu()].to(points.device)
        found = self.volumes[0].slice(points)
        for j, component in enumerate(self.volumes[1:]):
            found += weights[:, j, None] * component.slice(points)
        return found

    def inputs(self, rows: Integer[Tensor, " B"]) -> Float[Tensor, "B m"]:
        """See :class:`BaseVolumes`."""
        return self.standardisation.apply(self.weights[rows.cpu()])
