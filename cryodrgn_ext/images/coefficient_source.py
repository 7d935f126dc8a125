"""Where whitened coefficients lie: in memory, or in another source of which some rows are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex64, Float, Int64, Integer
from torch import Tensor


@runtime_checkable
class CoefficientSource(Protocol):
    """Where whitened coefficients lie: on disk or in memory."""

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are available."""
        ...

    def gather(self, rows: Integer[Tensor, " B"], n_coefficients: int) -> Complex64[Tensor, "B M"]:
        """(B, n_coefficients) complex64 of particles ``rows`` (B,) int64, on the device of the source."""
        ...


@dataclass(frozen=True)
class ResidentCoefficients:
    """Coefficients of all particles in memory.

    Attributes
    ----------
    values : Tensor
        (U, M, 2) float32 or float16: one row per stored image.
    row_of_particle : Tensor
        (N,) int64: stored image of each particle (symmetry-expanded sets share images).
    """

    values: Float[Tensor, "U M 2"]
    row_of_particle: Int64[Tensor, " N"]

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are held."""
        return int(self.values.shape[1])

    def gather(self, rows: Integer[Tensor, " B"], n_coefficients: int) -> Complex64[Tensor, "B M"]:
        """See :class:`CoefficientSource`."""
        stored = self.row_of_particle[rows.to(self.row_of_particle.device)]
        return torch.view_as_complex(self.values[stored, :n_coefficients].float())


@dataclass(frozen=True)
class SubsetCoefficients:
    """Some rows of another source."""

    source: CoefficientSource
    rows: Integer[Tensor, " N"]

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are available."""
        return self.source.n_coefficients

    def gather(self, rows: Integer[Tensor, " B"], n_coefficients: int) -> Complex64[Tensor, "B M"]:
        """See :class:`CoefficientSource`."""
        return self.source.gather(self.rows[rows.to(self.rows.device)], n_coefficients)
