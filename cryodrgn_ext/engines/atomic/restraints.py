"""What keeps a structure a structure: distances along the chain and in contacts, and no two centres in one place.

All energies are in nats, so that they weigh against the log-likelihood of images as they are. Distances to neighbours
along the chain (the bond of 3.8 Å between main chains among them) are harmonic about those of the base structure;
contacts of parts that are far apart along the chain may break (a Cauchy density: pulling ten times as far costs a few
nats); centres that come closer than atoms can are pushed apart (one-sided; Zhong 2022, eq. 7.3 has the same forms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

#: Residues apart up to which distances are kept, and their standard deviations in Å: next neighbours, and the others.
SEQUENCE_REACH, BOND_SD_A, LOCAL_SD_A = 4, 0.15, 0.4
#: Contacts: closer than this in the base structure, Å; and the scale of their density.
CONTACT_A, CONTACT_SD_A = 8.0, 1.0
#: Distance below which centres repel, Å, and how steeply.
CLASH_A, CLASH_SD_A = 3.4, 0.2
#: Centres this much closer than they may ever come are looked at.
CLASH_SEARCH_A = 7.0


@dataclass(frozen=True)
class Restraints:
    """Pairs of centres and what is known of their distances.

    Attributes
    ----------
    local, contact : Tensor
        (P, 2) int64 pairs.
    local_A, contact_A : Tensor
        (P,) distances in the base structure.
    local_sd_A : Tensor
        (P,) standard deviations.
    """

    local: Int64[Tensor, "P 2"]
    local_A: Float[Tensor, " P"]
    local_sd_A: Float[Tensor, " P"]
    contact: Int64[Tensor, "Q 2"]
    contact_A: Float[Tensor, " Q"]

    @classmethod
    def of(cls, positions: NDArray[np.float64], residue: NDArray[np.int64], chain: NDArray[np.int64]) -> Restraints:
        """Restraints of a base structure.

        Parameters
        ----------
        positions : ndarray
            (C, 3) in Å.
        residue : ndarray
            (C,) residue of each centre, increasing.
        chain : ndarray
            (R,) chain of each residue.
        """
        first = np.searchsorted(residue, residue)
        pairs = [np.stack([np.arange(len(residue) - step), np.arange(step, len(residue))], 1)
                 for step in range(1, min(2 * SEQUENCE_REACH + 2, len(residue)))]  # fmt: skip
        near = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
        apart = residue[near[:, 1]] - residue[near[:, 0]]
        same = chain[residue[near[:, 0]]] == chain[residue[near[:, 1]]]
        near, apart = near[same & (apart <= SEQUENCE_REACH)], apart[same & (apart <= SEQUENCE_REACH)]
        # A main chain to its own side chain and to the next main chain is a bond; everything else is local geometry.
        main = first[near] == near
        bond = (apart == 0) | ((apart == 1) & main.all(axis=1))
        close = KDTree(positions).query_pairs(CONTACT_A, output_type="ndarray").astype(np.int64).reshape(-1, 2)
        far = (np.abs(residue[close[:, 0]] - residue[close[:, 1]]) > SEQUENCE_REACH) | (
            chain[residue[close[:, 0]]] != chain[residue[close[:, 1]]]
        )
        close = close[far]

        def distance(which: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(np.linalg.norm(positions[which[:, 0]] - positions[which[:, 1]], axis=1)).float()

        spread = torch.from_numpy(np.where(bond, BOND_SD_A, LOCAL_SD_A)).float()
        return cls(torch.from_numpy(near), distance(near), spread, torch.from_numpy(close), distance(close))

    def energy(self, positions: Float[Tensor, "B C 3"], clashing: Int64[Tensor, "T 2"]) -> Float[Tensor, " B"]:
        """Energies (B,) in nats of structures (B, C, 3) in Å; ``clashing`` as :meth:`close_pairs` found them."""
        local = (distances(positions, self.local) - self.local_A) / self.local_sd_A
        contact = (distances(positions, self.contact) - self.contact_A) / CONTACT_SD_A
        overlap = (CLASH_A - distances(positions, clashing)).clamp_min(0) / CLASH_SD_A
        harmonic: Tensor = 0.5 * local.square().sum(1) + 0.5 * overlap.square().sum(1)
        return harmonic + torch.log1p(contact.square()).sum(1)

    def close_pairs(self, positions: Float[Tensor, "B C 3"]) -> Int64[Tensor, "T 2"]:
        """Pairs (T, 2) that are near each other in some of the structures and were not in the base."""
        count = positions.shape[1]
        known = torch.cat([self.local, self.contact]).numpy()
        near = [KDTree(one).query_pairs(CLASH_SEARCH_A, output_type="ndarray") for one in positions.detach().numpy()]
        found = np.unique(np.concatenate([pairs.astype(np.int64) @ [count, 1] for pairs in near]))
        found = np.setdiff1d(found, known @ [count, 1])
        return torch.from_numpy(np.stack(np.divmod(found, count), axis=1))


def distances(positions: Float[Tensor, "B C 3"], pairs: Int64[Tensor, "P 2"]) -> Float[Tensor, "B P"]:
    """Distances (B, P) in Å."""
    gap = positions[:, pairs[:, 0]] - positions[:, pairs[:, 1]]
    return (gap.square().sum(-1) + 1e-12).sqrt()
