"""Volumes that are linear in the amplitudes of motions, where images are too few for volumes of any other form.

Made to stand in the place of the curve (:class:`.curved.CurvedFit`): what a result is made of has the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.engines.subspace.curved import gained
from cryodrgn_ext.engines.subspace.deformed import MotionLatents
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.held_regions import HeldRegions
from cryodrgn_ext.engines.subspace.rare_posterior import RareStates

NODES = 50
LENGTH = 30.0  # of the features, in spreads of the latents: all but straight
STRAIGHT = 1e-6  # of the latents' variance


@dataclass(frozen=True)
class LinearMotions:
    """The model.

    Attributes
    ----------
    features : Features
        As many as there are motions, and all but linear.
    volumes : Tensor
        (V, 2, Qp) float32 of the average's correction, the features, and rare states.
    regions : HeldRegions
    latents : MotionLatents
        Of the images of this process, in ascending order of their rows.
    columns : int
        Of the volumes.
    """

    features: Features
    volumes: Float32[Tensor, "V 2 Qp"]
    regions: HeldRegions
    latents: MotionLatents
    columns: int

    @classmethod
    def build(
        cls, average: Float32[Tensor, "W 2"], motions: Float32[Tensor, "V 2 q"], latents: MotionLatents,
        places: Float32[Tensor, "N q"], regions: HeldRegions, states: RareStates,
        grids: tuple[ComponentGrid, ComponentGrid], seed: int,
    ) -> LinearMotions:  # fmt: skip
        """Of motions at one grid, for a model at another.

        Parameters
        ----------
        average : Tensor
            (W, 2) correction of the consensus, at the model's grid.
        motions : Tensor
            (V, 2, q) by a unit of each latent.
        latents : MotionLatents
            Of the images of this process.
        places : Tensor
            (N, q) mean latents of the images of all processes.
        regions : HeldRegions
        states : RareStates
            At the motions' grid.
        grids : tuple of ComponentGrid
            The motions' own, and the model's.
        seed : int
        """
        features = Features.build(Nodes.place(places, NODES, seed), LENGTH, places.shape[1])
        root = features.nodes.weight.sqrt()[:, None]
        wanted = torch.cat([torch.ones_like(root), features.nodes.centres], 1)
        carried = torch.linalg.lstsq(root * features.at_nodes(), root * wanted).solution.T  # (1 + q, 1 + m)
        own, wide = grids
        columns = 1 + features.count + len(states)
        values = torch.zeros(own.n_voxels, 2, padded(columns))
        values[..., : 1 + features.count] = (motions.double().cpu() @ carried[1:]).float()
        values[..., 1 + features.count : columns] = states.values[..., : len(states)].cpu()
        values = own.moved_to(values, wide)
        values[..., 0] += average.cpu()
        return cls(features, values.to(motions.device), regions, latents, columns)

    @property
    def share(self) -> Float64[Tensor, " K"]:
        """(K,) of the particles at each node."""
        return self.features.nodes.weight.clone()

    @property
    def smoothing(self) -> Float64[Tensor, "q q"]:
        """(q, q) next to nothing: latents are means of posteriors, which volumes follow in a straight line."""
        return STRAIGHT * torch.diag(self.share @ self.features.nodes.centres.square()).clamp_min(1e-12)

    def in_order(self, name: str) -> Tensor:
        """Means or covariances of the latents of this process, in ascending order of rows."""
        found: Tensor = getattr(self.latents, name).float()
        return found

    def held_out(self) -> HeldOut:
        """What images gain, on average."""
        return gained(self.latents.gain)
