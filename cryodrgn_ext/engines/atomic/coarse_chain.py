"""A structure as Cryofold sees it: two Gaussians for each residue, bonds along the chain, side chains near it.

Zhong 2022, 7.3.1. The Gaussian of the main chain begins at the residue's Cα (of nucleotides: the phosphorus), that of
the side chain (the base) at the centre of its atoms, and stands for the electrons of its atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.backbone import Backbone
from cryodrgn_ext.atoms.structure import Structure, residue_centres
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CoarseChain:
    """Gaussians and what holds them together.

    Attributes
    ----------
    base_A : Tensor
        (G, 3) float32 centres of the Gaussians, Å.
    electrons : Tensor
        (G,).
    bonds : Tensor
        (P, 2) int64 Gaussians that are neighbours along the chain.
    bond_A : Tensor
        (P,) lengths.
    side : Tensor
        (Q, 2) int64: main chain and side chain of a residue.
    side_A : float
        Largest distance of both in the structure, over all residues.
    main : Tensor
        (R,) int64 Gaussian of each residue's main chain, or of the whole residue where it has only one.
    structure : Structure
        What the Gaussians stand for, in the frame of the map.
    placed : ndarray
        (C, 3) float64 where the centres of :func:`residue_centres` are, but main chains at the atom of their point.
    side_chains : bool
        Whether side chains are Gaussians of their own.
    """

    base_A: Float[Tensor, "G 3"]
    electrons: Float[Tensor, " G"]
    bonds: Int64[Tensor, "P 2"]
    bond_A: Float[Tensor, " P"]
    side: Int64[Tensor, "Q 2"]
    side_A: float
    main: Int64[Tensor, " R"]
    structure: Structure
    placed: FloatArray
    side_chains: bool

    @classmethod
    def of(cls, structure: Structure, backbone: str = "alpha", side_chains: bool = True) -> CoarseChain:
        """Gaussians of a structure that lies in the frame of a map.

        Parameters
        ----------
        structure : Structure
        backbone : str
            ``alpha``: main chains lie at Cα or phosphorus, bonds are as long as all such bonds, as published.
            ``centre``: main chains lie at the centre of their electrons, bonds are those of the structure.
        side_chains : bool
            False: one Gaussian for each residue, at its main chain.
        """
        centres, electrons, residue = residue_centres(structure)
        main = np.searchsorted(residue, np.arange(len(structure.chain)))
        points = Backbone.of(structure)
        placed = centres.copy()
        if backbone == "alpha":
            placed[main[points.atom >= 0]] = structure.positions[points.atom[points.atom >= 0]]
            bond_A = points.length_A
        else:
            bond_A = np.linalg.norm(centres[main[points.bonds[:, 0]]] - centres[main[points.bonds[:, 1]]], axis=1)
        is_side = np.ones(len(residue), bool)
        is_side[main] = False
        side = np.stack([main[residue[is_side]], np.flatnonzero(is_side)], axis=1)
        side_A = float(np.linalg.norm(placed[side[:, 0]] - placed[side[:, 1]], axis=1).max(initial=0.0))
        kept, bonds = placed, main[points.bonds]
        own: NDArray[np.int64] = main.astype(np.int64)
        if not side_chains:
            kept, electrons = placed[main], np.bincount(residue, electrons, len(main)).astype(np.float64)
            bonds, side, own = points.bonds, np.empty((0, 2), np.int64), np.arange(len(main))
        return cls(
            torch.from_numpy(kept).float(), torch.from_numpy(electrons).float(), torch.from_numpy(bonds),
            torch.from_numpy(bond_A).float(), torch.from_numpy(side), side_A, torch.from_numpy(own), structure, placed,
            side_chains,
        )  # fmt: skip

    def energy(self, positions: Float[Tensor, "*B G 3"]) -> Float[Tensor, "*B"]:
        """Bonds and side-chain restraints (Zhong 2022, eq. 7.3) without their strength, Å²: (..., G, 3) -> (...)."""
        bond = (_distance(positions, self.bonds) - self.bond_A).square().sum(-1)
        reach: Tensor = (_distance(positions, self.side) - self.side_A).clamp_min(0).square().sum(-1)
        return bond + reach

    def begun(self, start: str, noise_A: float, extent_A: float, seed: int) -> CoarseChain:
        """The same, beginning elsewhere (Zhong 2022, 7.4): side chains at their main chains.

        Parameters
        ----------
        start : str
            ``structure``: where it is, ``alpha``: the same with side chains at their main chains. ``noise``: each main
            chain moved along each axis by up to ``noise_A``, uniformly. ``random``: main chains anywhere in a cube.
        noise_A, extent_A : float
            Of the noise, and half the edge of the cube.
        seed : int
        """
        if start == "structure":
            return self
        generator = np.random.default_rng(seed)
        moved = self.base_A.numpy().astype(np.float64).copy()
        main = self.main.numpy()
        if start == "noise":
            moved[main] += generator.uniform(-noise_A, noise_A, (len(main), 3))
        elif start == "random":
            moved[main] = moved[main].mean(axis=0) + generator.uniform(-extent_A, extent_A, (len(main), 3))
        moved[self.side[:, 1].numpy()] = moved[self.side[:, 0].numpy()]
        return replace(self, base_A=torch.from_numpy(moved).float())

    def centres(self, positions: FloatArray) -> FloatArray:
        """Centres (P, C, 3) of :func:`residue_centres` where the Gaussians are at ``positions`` (P, G, 3).

        All atoms are carried along as rigid residues.
        """
        moved = positions
        if not self.side_chains:
            _, _, residue = residue_centres(self.structure)
            main = np.searchsorted(residue, np.arange(len(self.main)))
            moved = (positions - self.placed[main])[:, residue] + self.placed
        atoms = carried_atoms(self.structure, moved, self.placed)
        return np.stack([residue_centres(replace(self.structure, positions=one))[0] for one in atoms])


def _distance(positions: Float[Tensor, "*B G 3"], pairs: Int64[Tensor, "P 2"]) -> Float[Tensor, "*B P"]:
    gap = positions[..., pairs[:, 0], :] - positions[..., pairs[:, 1], :]
    distance: Tensor = (gap.square().sum(-1) + 1e-12).sqrt()
    return distance
