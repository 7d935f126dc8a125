"""A problem small enough to be written out as dense matrices in float64, without any of the engine's own code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.torch_form import Chunk, Operators
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume

BOX, RADIUS = 10, 3


def dense_sampler(points: np.ndarray, half: int, spacing: float) -> np.ndarray:
    """(P, (2 half + 1)^3) trilinear weights of points (P, 3) x, y, z on the whole cubic lattice, axes z, y, x."""
    axis = np.arange(-half, half + 1)
    hat = np.clip(1 - np.abs(points[:, :, None] / spacing - axis), 0, None)  # (P, 3, n)
    return np.einsum("pz,py,px->pzyx", hat[:, 2], hat[:, 1], hat[:, 0]).reshape(len(points), -1)


def whole(half_volume: np.ndarray) -> np.ndarray:
    """Whole lattice (n, n, n, ...) from its half x >= 0, by Friedel symmetry."""
    mirrored = half_volume[::-1, ::-1, :0:-1].conj()
    return np.concatenate([mirrored, half_volume], axis=2)


@dataclass(frozen=True)
class TinyProblem:
    """Operators, components and images, with the dense matrices that they stand for.

    ``sampler`` (B, M, n^3) samples the whole lattice of the components at all coefficients, 0 outside the sphere;
    ``base_at`` (B, M) is the consensus there; ``lattice`` (n^3, Q) the components as complex numbers.
    """

    operators: Operators
    components: Tensor
    chunk: Chunk
    n_columns: int
    points: np.ndarray
    sampler: np.ndarray
    base_at: np.ndarray
    lattice: np.ndarray

    @property
    def data(self) -> np.ndarray:
        inside = self.sampler.sum(2) > 0
        return np.where(inside, self.chunk.values.numpy().astype(complex), 0)

    @property
    def whitened_ctf(self) -> np.ndarray:
        return self.chunk.whitened_ctf.numpy().astype(float)

    def model(self) -> np.ndarray:
        """(B, M, Q) ctf times (base + P_0, P_1, ...) at the coefficients."""
        terms = self.sampler @ self.lattice
        terms[..., 0] += self.base_at
        return self.whitened_ctf[..., None] * terms


def friedel_components(grid: ComponentGrid, n_columns: int, generator: torch.Generator) -> Tensor:
    """Random components (V, 2, Qp) of real maps, also on the rim."""
    values = torch.zeros(grid.n_voxels, 2, padded(n_columns))
    values[..., :n_columns] = torch.randn(grid.n_voxels, 2, n_columns, generator=generator)
    own, partner = grid.meridian
    sign = torch.tensor([1.0, -1.0])[:, None]
    values[own] = 0.5 * (values[own] + sign * values[partner])
    return values


def tiny_problem(n: int = 6, n_columns: int = 4, seed: int = 0) -> TinyProblem:
    generator = torch.Generator().manual_seed(seed)
    grid = ComponentGrid(BOX, RADIUS)
    plane = HalfPlane(BOX, BOX // 2 - 1)  # more than the sphere holds: coefficients beyond it do not count
    base = FourierVolume.from_map(torch.randn(BOX, BOX, BOX, generator=generator), radius=RADIUS + 1)
    components = friedel_components(grid, n_columns, generator)
    rotation = Rotation.random(n, rng=seed).as_matrix()
    # Views along the axes: their points lie on voxels, on x = 0, and on the rim itself.
    rotation[0] = np.eye(3)
    rotation[1] = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    rotation[2] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    planes = torch.as_tensor(rotation[:, :2], dtype=torch.float32).contiguous()
    m = plane.n_coefficients
    whitened_ctf = torch.randn(n, m, generator=generator)
    whitened_ctf[:, ::7] = 0
    values = torch.complex(torch.randn(n, m, generator=generator), torch.randn(n, m, generator=generator))
    kxy = plane.kxy.float()
    points = torch.einsum("mc,bcx->bmx", kxy.double(), planes.double()).numpy()
    inside = (points**2).sum(2) <= (RADIUS + 1e-3) ** 2
    flat = points.reshape(-1, 3)
    sampler = (dense_sampler(flat, grid.half, 1.0)).reshape(n, m, -1) * inside[..., None]
    base_whole = whole(base.data.numpy().astype(complex)).reshape(-1)
    base_at = (dense_sampler(flat, base.grid.half, 0.5) @ base_whole).reshape(n, m) * inside
    cube = np.zeros((*grid.cube.shape, n_columns), complex)
    cube.reshape(-1, n_columns)[grid.cube_index.numpy()] = torch.view_as_complex(
        components[..., :n_columns].mT.contiguous()
    ).numpy()
    lattice = whole(cube).reshape(-1, n_columns)
    return TinyProblem(
        Operators(grid, base, kxy), components, Chunk(torch.arange(n), values, whitened_ctf, planes), n_columns, points,
        sampler, base_at, lattice,
    )  # fmt: skip


def half_voxels(grid: ComponentGrid) -> np.ndarray:
    """(V,) index of each voxel of the list in the whole lattice."""
    h = grid.half
    z, y, x = np.unravel_index(grid.cube_index.numpy(), grid.cube.shape)
    return np.asarray((z * (2 * h + 1) + y) * (2 * h + 1) + x + h)
