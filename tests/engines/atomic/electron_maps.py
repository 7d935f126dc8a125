"""Structures of made-up coordinates, and their maps by gemmi's electron scattering factors: an independent witness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.structure import Structure, read_structure
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.particle_images import ParticleImages

BOX, PIXEL_A = 28, 2.5
#: Atoms of an alanine about its Cα, Å.
ATOMS = {"N": (-1.2, 0.5, 0.3), "CA": (0, 0, 0), "C": (1.2, 0.6, -0.3), "O": (1.4, 1.7, 0.2), "CB": (0.2, -1.1, 1.0)}


def folded_chain(path: Path, residues: int = 60, seed: int = 0) -> Structure:
    """A chain of alanines in two lobes, with Cα steps of 3.8 Å, written to ``path`` and read back."""
    random = np.random.default_rng(seed)
    alphas = [np.zeros(3)]
    while len(alphas) < residues:
        middle = np.array([22.0, 4.0, 0.0]) * (len(alphas) >= residues // 2)
        steps = random.normal(size=(200, 3))
        tried = alphas[-1] + 3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True)
        nearest = np.linalg.norm(tried[:, None] - np.array([*alphas[:-1], [99.0] * 3]), axis=2).min(axis=1)
        outside = np.maximum(np.linalg.norm((tried - middle) / [10.0, 9.0, 7.0], axis=1), 1.0)
        alphas.append(tried[np.argmax(np.minimum(nearest, 4.2) - 4 * outside)])
    rows: list[str] = []
    for index, alpha in enumerate(alphas):
        for name, offset in ATOMS.items():
            x, y, z = alpha + offset
            rows.append(
                f"ATOM  {len(rows) + 1:5d}  {name:<3s} ALA A{index + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"{1.0:6.2f}{20.0:6.2f}          {name[0]:>2s}"
            )
    path.write_text("\n".join([*rows, "END\n"]))
    return read_structure(path)


def electron_map(
    structure: Structure, positions: NDArray[np.float64], box: int, pixel_A: float, b_factor: float = 100.0
) -> NDArray[np.float32]:
    """(D, D, D) map of atoms at positions (A, 3) in Å from the centre of the box."""
    placed = structure.source.clone()
    placed.cell = gemmi.UnitCell(box * pixel_A, box * pixel_A, box * pixel_A, 90, 90, 90)
    placed.spacegroup_hm = "P 1"
    for index, site in enumerate(placed[0].all()):
        site.atom.pos = gemmi.Position(*(positions[index] + box // 2 * pixel_A))
        site.atom.b_iso = b_factor
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.rate = 2 * pixel_A, 1.0
    calculator.set_grid_cell_and_spacegroup(placed)
    calculator.grid.set_size(box, box, box)
    calculator.add_model_density_to_grid(placed[0])
    return np.ascontiguousarray(np.array(calculator.grid).transpose(2, 1, 0), np.float32)


def shown_images(structure: Structure, shown: list[NDArray[np.float64]], n: int, noise: float) -> ParticleImages:
    """Images of densities, in pairs by turns; noise in units of the signal's standard deviation."""
    rotation = torch.from_numpy(Rotation.random(n, random_state=4).as_matrix()).float()
    plane = HalfPlane(BOX, BOX // 2)
    points = slice_points(plane.kxy, rotation)
    values = torch.empty(points.shape[:2], dtype=torch.complex64)
    for number, positions in enumerate(shown):
        volume = FourierVolume.from_map(torch.from_numpy(electron_map(structure, positions, BOX, PIXEL_A)))
        members = torch.arange(n) // 2 % len(shown) == number
        values[members] = volume.slice(points[members])
    clean = plane.to_images(values)
    sigma = float(clean.var().sqrt()) * noise
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return ParticleImages.from_tensors(noisy, rotation, torch.zeros(n, 2), PIXEL_A, pixel_noise_sd=sigma)


def centred_chain(path: Path) -> Structure:
    """The folded chain about the origin."""
    structure = folded_chain(path)
    return replace(structure, positions=structure.positions - structure.positions.mean(axis=0))
