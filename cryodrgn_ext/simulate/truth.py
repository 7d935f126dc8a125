"""Ground truth of a simulated set, kept beside it as ``truth.npz``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays
from cryodrgn_ext.simulate.particles import SimulatedParticles
from cryodrgn_ext.simulate.projection import bead_volume


@dataclass(frozen=True)
class GroundTruth:
    """True conformations of ``N`` particles and the ``S`` bead models that render the true volumes.

    Attributes
    ----------
    coordinates : ndarray
        (N, L) float64, in the order of the particles in the STAR file.
    coordinate_names : tuple of str
        Names of the L coordinates, units included.
    state : ndarray
        (N,) int32, 0..S-1.
    state_coordinates : ndarray
        (S, L) float64.
    bead_position_A : ndarray
        (S, n, 3) float32 x, y, z from voxel D // 2.
    bead_weight : ndarray
        (S, n) float32.
    sigma_A : float
        Width of the gaussian beads.
    box_size : int
    pixel_size_A : float
    """

    coordinates: NDArray[np.float64]
    coordinate_names: tuple[str, ...]
    state: NDArray[np.int32]
    state_coordinates: NDArray[np.float64]
    bead_position_A: NDArray[np.float32]
    bead_weight: NDArray[np.float32]
    sigma_A: float
    box_size: int
    pixel_size_A: float

    @property
    def n_states(self) -> int:
        """Number S of states."""
        return len(self.state_coordinates)

    def volume(self, state: int, box_size: int | None = None) -> NDArray[np.float32]:
        """True density (D, D, D) of one state, axes z, y, x; in a box of ``box_size`` voxels and the same extent in Å.

        A smaller ``box_size`` gives the density as a Fourier-cropped reconstruction shows it.
        """
        box = self.box_size if box_size is None else box_size
        pixel_size_A = self.pixel_size_A * self.box_size / box
        volume: NDArray[np.float32] = bead_volume(
            torch.from_numpy(self.bead_position_A[state] / pixel_size_A),
            torch.from_numpy(self.bead_weight[state]),
            self.sigma_A / pixel_size_A,
            box,
        ).numpy()
        return volume

    def volumes(self, box_size: int | None = None) -> NDArray[np.float32]:
        """All S true densities, (S, D, D, D)."""
        return np.stack([self.volume(state, box_size) for state in range(self.n_states)])


def ground_truth(particles: SimulatedParticles) -> GroundTruth:
    """Ground truth of simulated particles."""
    beads = particles.motion.beads(particles.motion.state_coordinates)
    return GroundTruth(
        coordinates=particles.coordinates,
        coordinate_names=particles.motion.coordinate_names,
        state=particles.state,
        state_coordinates=particles.motion.state_coordinates,
        bead_position_A=beads.position_A.astype(np.float32),
        bead_weight=beads.weight.astype(np.float32),
        sigma_A=particles.motion.sigma_A,
        box_size=particles.box_size,
        pixel_size_A=particles.pixel_size_A,
    )


def save_truth(path: Path, truth: GroundTruth) -> None:
    """Write ``truth`` as an npz file of plain arrays, atomically."""
    arrays = {
        "coordinates": truth.coordinates, "coordinate_names": np.array(truth.coordinate_names), "state": truth.state,
        "state_coordinates": truth.state_coordinates, "bead_position_A": truth.bead_position_A,
        "bead_weight": truth.bead_weight, "sigma_A": np.array(truth.sigma_A), "box_size": np.array(truth.box_size),
        "pixel_size_A": np.array(truth.pixel_size_A),
    }  # fmt: skip
    write_arrays(Path(path), arrays, compress=True)


def load_truth(path: str | Path) -> GroundTruth:
    """Read ``truth.npz``.

    Raises
    ------
    InputError
        When the file is missing or is not a ground truth.
    """
    with readable(path, "give the truth.npz that simulate writes"):
        data = load_arrays(path)
        return GroundTruth(
            coordinates=data["coordinates"],
            coordinate_names=tuple(str(name) for name in data["coordinate_names"]),
            state=data["state"],
            state_coordinates=data["state_coordinates"],
            bead_position_A=data["bead_position_A"],
            bead_weight=data["bead_weight"],
            sigma_A=float(data["sigma_A"]),
            box_size=int(data["box_size"]),
            pixel_size_A=float(data["pixel_size_A"]),
        )
