"""Images of a protein along a path of structures, by electron scattering factors (gemmi), not by our Gaussians.

Every frame of the path is rendered by gemmi's DensityCalculatorE on the grid of the box, and projected by central
slices of the padded map.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.structure import Structure
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.simulate import simulate_particles
from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion
from cryodrgn_ext.simulate.optics import Defocus, contrast_transfer
from cryodrgn_ext.simulate.particles import SimulatedParticles

B_FACTOR_A2 = 60.0


class AtomPath(Motion):
    """Structures along a path; the coordinate runs from 0 to 1.

    Parameters
    ----------
    frames : ndarray
        (S, A, 3) atoms in Å about the origin.
    electrons : ndarray
        (A,).
    """

    def __init__(self, frames: FloatArray, electrons: FloatArray) -> None:
        self.frames, self.electrons = frames, electrons

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The place on the path."""
        return ("path",)

    @property
    def state_coordinates(self) -> FloatArray:
        """(S, 1) evenly spaced."""
        return np.linspace(0.0, 1.0, len(self.frames))[:, None]

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Frames at random, (n, 1)."""
        return self.state_coordinates[rng.integers(0, len(self.frames), n)]

    def beads(self, coordinates: FloatArray) -> Beads:
        """Atoms of the nearest frames."""
        position = self.frames[self.state_of(coordinates)]
        return Beads(position, np.broadcast_to(self.electrons, position.shape[:2]))


class AtomParticles(SimulatedParticles):
    """Particles whose images are slices of the frames' electron densities; ``structure`` is set after the draw."""

    structure: Structure

    @cached_property
    def volumes_of_frames(self) -> list[FourierVolume]:
        """Transforms of all frames' densities."""
        assert isinstance(self.motion, AtomPath)
        return [
            FourierVolume.from_map(
                torch.from_numpy(electron_density(self.structure, frame, self.box_size, self.pixel_size_A)), 3
            )
            for frame in self.motion.frames
        ]

    def clean_spectra(self, indices: NDArray[np.int64]) -> Tensor:
        """See :meth:`SimulatedParticles.clean_spectra`."""
        half = self.box_size // 2
        plane = HalfPlane(self.box_size, half - 1)
        values = torch.empty(len(indices), plane.n_coefficients, dtype=torch.complex64)
        for frame in np.unique(self.state[indices]):
            rows = np.flatnonzero(self.state[indices] == frame)
            points = slice_points(plane.kxy, torch.from_numpy(self.rotation[indices[rows]]).float())
            values[rows] = self.volumes_of_frames[frame].slice(points)
        shift = torch.from_numpy(self.shift_px[indices] + half).float()
        values *= torch.exp(-2j * np.pi / self.box_size * (shift @ plane.kxy.float().T))
        kx, ky = plane.kxy.unbind(1)
        spectra = torch.zeros(len(indices), self.box_size, half + 1, dtype=torch.complex64)
        spectra[:, ky % self.box_size, kx] = values
        spectra[:, -ky[kx == 0] % self.box_size, 0] = values[:, kx == 0].conj()
        chosen = Defocus(self.defocus.u_A[indices], self.defocus.v_A[indices], self.defocus.angle_deg[indices])
        optics = contrast_transfer(chosen, self.optics, self.optics_index[indices], self.box_size, self.pixel_size_A)
        return spectra * optics


def drawn_particles(
    structure: Structure, frames: FloatArray, images: int, box: int, pixel_A: float, snr: float, seed: int = 0
) -> AtomParticles:
    """Particles of frames (S, A, 3) of a structure, each as often as another."""
    drawn = simulate_particles(
        images, motion=AtomPath(frames, structure.electrons), box_size=box, pixel_size_A=pixel_A, snr=snr,
        max_shift_px=1.0, seed=seed,
    )  # fmt: skip
    particles = AtomParticles(**{field.name: getattr(drawn, field.name) for field in fields(drawn)})
    object.__setattr__(particles, "structure", structure)
    return particles


def images_in_memory(particles: AtomParticles) -> ParticleImages:
    """The same particles as engines see them, their true poses and CTF known."""
    group = particles.optics[0]
    n, defocus = particles.n, particles.defocus
    columns = [
        defocus.u_A, defocus.v_A, np.deg2rad(defocus.angle_deg),
        *(np.full(n, value) for value in (group.voltage_kV, group.cs_mm, group.amplitude_contrast, 0.0, 0.0, 1.0)),
    ]  # fmt: skip
    return ParticleImages.from_tensors(
        torch.from_numpy(particles.images()), torch.from_numpy(particles.rotation).float(),
        torch.from_numpy(particles.shift_px).float(), particles.pixel_size_A,
        CtfParameters(*(torch.from_numpy(column) for column in columns)), torch.from_numpy(particles.half_set),
        particles.noise_sigma,
    )  # fmt: skip


def electron_density(structure: Structure, positions: FloatArray, box: int, pixel_A: float) -> NDArray[np.float32]:
    """(D, D, D) map, axes z, y, x, of atoms at positions (A, 3) in Å from voxel D // 2."""
    placed = structure.source.clone()
    edge = box * pixel_A
    placed.cell = gemmi.UnitCell(edge, edge, edge, 90, 90, 90)
    placed.spacegroup_hm = "P 1"
    for index, site in enumerate(placed[0].all()):
        site.atom.pos = gemmi.Position(*(positions[index] + box // 2 * pixel_A))
        site.atom.b_iso = B_FACTOR_A2
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.rate = 2 * pixel_A, 1.0
    calculator.set_grid_cell_and_spacegroup(placed)
    calculator.grid.set_size(box, box, box)
    calculator.add_model_density_to_grid(placed[0])
    return np.ascontiguousarray(np.array(calculator.grid).transpose(2, 1, 0), np.float32)
