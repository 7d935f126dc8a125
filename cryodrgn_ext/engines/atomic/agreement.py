"""Whether each residue lies where the images of the other half-set have density: what restraints cannot make up.

A half-set's atoms are held against the map of the other half-set's images, residue by residue and node by node: the
correlation of both densities about the residue. What chance reaches is measured in the same maps: the density about
each residue against the map about other residues of the same structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.atomic.node_sums import NodeSums, grid_shells
from cryodrgn_ext.fourier.gaussians import gaussian_spectrum
from cryodrgn_ext.fourier.slices import grid_to_map

FloatArray = NDArray[np.float64]

#: Other residues that each residue is compared with, and the share of such pairs that true places must exceed.
STRANGERS, CHANCE = 8, 0.95


@dataclass(frozen=True)
class Density:
    """How centres become density.

    Attributes
    ----------
    electrons, width_A : Tensor
        (C,) of each centre.
    scale : Tensor
        (S,) by shell, in the units of whitened images.
    pixel_size_A : float
    """

    electrons: Float[Tensor, " C"]
    width_A: Float[Tensor, " C"]
    scale: Float[Tensor, " S"]
    pixel_size_A: float


@dataclass(frozen=True)
class Agreement:
    """Residues against half-maps that their fit did not see.

    Attributes
    ----------
    correlation : ndarray
        (R,) mean over both half-sets and the nodes, by the nodes' shares.
    chance : float
        What 95 % of pairs of density and map about different residues stay below.
    """

    correlation: FloatArray
    chance: float

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """(R,) whether a residue lies in its place better than chance."""
        agrees: NDArray[np.bool_] = self.correlation > self.chance
        return agrees

    def sentence(self) -> str:
        """Say it."""
        return (
            f"{int(self.agrees.sum())} of {len(self.correlation)} residues agree with the map of the half-set that "
            f"their fit did not see (correlation {np.median(self.correlation):.2f} in the median) better than 95 % of "
            f"pairs of density and map about different residues ({self.chance:.2f})."
        )


def residue_agreement(
    halves: FloatArray,
    sums: Sequence[NodeSums],
    density: Density,
    residue: NDArray[np.int64],
    reach_A: float,
    seed: int,
) -> Agreement:
    """Hold the atoms of each half-set against the map of the other.

    Parameters
    ----------
    halves : ndarray
        (2, K, C, 3) centres of each half-set at the nodes, Å from the centre of the box.
    sums : sequence of NodeSums
        Of both half-sets.
    density : Density
    residue : ndarray
        (C,) of each centre.
    reach_A : float
        Voxels within this of a residue's centre count.
    seed : int
    """
    count = int(residue.max()) + 1
    mass = np.bincount(residue, density.electrons.numpy(), count)
    generator = np.random.default_rng(seed)
    strangers = np.stack([generator.permutation(count) for _ in range(STRANGERS)])
    strangers = np.where(strangers == np.arange(count), (strangers + 1) % count, strangers)
    total, null = np.zeros(count), np.zeros((STRANGERS, count))
    shares = [one.weight.flatten(1).sum(1).double().numpy() for one in sums]
    for half in (0, 1):
        share = shares[1 - half] / max(shares[1 - half].sum(), 1e-30) / 2
        for node in np.flatnonzero(share > 0):
            centres = halves[half, node]
            model, image_map = _maps(torch.from_numpy(centres).float(), sums[1 - half], int(node), density)
            middle = np.stack([np.bincount(residue, density.electrons.numpy() * axis, count) for axis in centres.T], 1)
            around = _balls(middle / mass[:, None], len(model), density.pixel_size_A, reach_A)
            one, other = (_standardised(values.reshape(-1)[around]) for values in (model, image_map))
            total += share[node] * (one * other).sum(axis=1)
            null += share[node] * (one * other[strangers]).sum(axis=2)
    return Agreement(total, float(np.quantile(null, CHANCE)))


def _maps(centres: Tensor, sums: NodeSums, node: int, density: Density) -> tuple[FloatArray, FloatArray]:
    """Density of centres (C, 3) in Å, and the other half-set's map by a Wiener filter whose signal is that density."""
    grid, pixel = sums.grid, density.pixel_size_A
    shell = grid_shells(grid)
    spectrum = gaussian_spectrum(grid, centres / pixel, density.electrons, density.width_A / pixel)
    spectrum = spectrum * density.scale.float()[shell.clamp_max(len(density.scale) - 1)]
    inside = (shell > 0) & (shell <= grid.radius)
    power = torch.bincount(shell.flatten(), spectrum.abs().square().flatten().double())
    power = power / torch.bincount(shell.flatten()).clamp_min(1)
    weight = sums.weight[node].clone()
    numerator = sums.numerator[node].clone()
    weight[..., 0] *= 2  # the plane x = 0 counts half in sums
    numerator[..., 0] *= 2
    wiener = numerator / (weight + 1.0 / power.clamp_min(1e-20).float()[shell])
    maps = [grid_to_map((values * inside).to(torch.complex64), grid).double().numpy() for values in (spectrum, wiener)]
    return maps[0], maps[1]


def _balls(centres: FloatArray, box: int, pixel_A: float, reach_A: float) -> NDArray[np.int64]:
    """Flat indices (R, V) of the voxels about centres (R, 3) in Å from the centre of the box; z, y, x in the map."""
    reach = int(np.ceil(reach_A / pixel_A))
    axis = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets[(offsets**2).sum(axis=1) <= (reach_A / pixel_A) ** 2]
    voxel = np.rint(centres / pixel_A).astype(np.int64) + box // 2
    x, y, z = np.moveaxis((voxel[:, None] + offsets) % box, -1, 0)
    flat: NDArray[np.int64] = (z * box + y) * box + x
    return flat


def _standardised(values: FloatArray) -> FloatArray:
    """Rows (R, V) of mean 0 and length 1."""
    about = values - values.mean(axis=1, keepdims=True)
    unit: FloatArray = about / np.maximum(np.linalg.norm(about, axis=1, keepdims=True), 1e-30)
    return unit
