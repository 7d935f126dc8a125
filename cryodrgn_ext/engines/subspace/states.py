"""Discrete states in the place of smooth functions of the latents: volumes are any function of the state."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryodrgn_ext.engines.subspace.features import Nodes
from cryodrgn_ext.engines.subspace.grid import ComponentGrid

LENGTH = 0.5  # of the latents' spread, over which the first functions are smooth
LEAST_OWN = 1e-3  # of the kernel: each state has a part of its own
SLACK = 1e-3  # by which a mean may miss a latent outside of all states, in spreads per unit of its tilt
NEWTON_STEPS = 60
LONGEST_STEP = 3.0  # of a tilt, in spreads
CONVERGED = 1e-6
POINTS = 4096  # at a time
LEAST_SHARE = 1e-7


@dataclass(frozen=True)
class States:
    """K states, and functions of them.

    Attributes
    ----------
    nodes : Nodes
        Where the states lie in latent space, and the shares of the particles that their functions are orthogonal over.
    projection : Tensor
        (K, m) float64 functions of the states.
    """

    nodes: Nodes
    projection: Float64[Tensor, "K m"]

    @classmethod
    def at(cls, nodes: Nodes) -> States:
        """Take m = K - 1 functions that are orthogonal over the particles, smooth ones first.

        The prior of a function is what half-sets agree on of it. Those that many states share are known best.
        """
        share = nodes.weight
        spread2 = float(share @ (nodes.centres - share @ nodes.centres).square().sum(1))
        near = torch.cdist(nodes.centres, nodes.centres).square() / (2 * LENGTH**2 * max(spread2, 1e-12))
        identity = torch.eye(len(share), dtype=torch.float64)
        root = share.sqrt()
        centred = identity - root[:, None] * root
        matrix = centred @ (root[:, None] * (torch.exp(-near) + LEAST_OWN * identity) * root) @ centred
        vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T)).eigenvectors[:, 1:].flip(1)
        vectors = vectors * torch.where(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        return cls(nodes, (vectors / root[:, None]).contiguous())

    @property
    def count(self) -> int:
        """Number m of functions."""
        return int(self.projection.shape[1])

    def at_nodes(self) -> Float64[Tensor, "K columns"]:
        """(K, m + 1) float64: 1 and the functions of every state."""
        return torch.cat([torch.ones(len(self.projection), 1, dtype=torch.float64), self.projection], dim=1)

    def slopes(self) -> Float64[Tensor, "K columns d"]:
        """(K, m + 1, d) float64 zeros: between states there is nothing."""
        k, d = self.nodes.centres.shape
        return torch.zeros(k, self.count + 1, d, dtype=torch.float64)

    def weights(self, x: Float[Tensor, "P d"], share: Float64[Tensor, " K"]) -> Float64[Tensor, "P columns"]:
        """Mean of 1 and the functions (P, m + 1) over the states that images with latents (P, d) are in.

        A latent is the mean of the states' places over an image's posterior. Of all distributions over states with
        that mean, this is the one nearest to the shares (K,) of the particles, share_k exp(t . c_k), which is what the
        posterior is where all images tell places equally well (maximum entropy; Newton's method for the tilt t).
        """
        if len(x) == 0:
            return self.at_nodes()[:0]
        return torch.cat([self._probability(part.double(), share) @ self.at_nodes() for part in x.split(POINTS)])

    def _probability(self, x: Float64[Tensor, "P d"], share: Float64[Tensor, " K"]) -> Float64[Tensor, "P K"]:
        """(P, K) shares tilted so that the mean of the places is ``x``."""
        centres, log_share = self.nodes.centres, share.clamp_min(LEAST_SHARE).log()
        spread2 = (share @ (centres - share @ centres).square()).clamp_min(1e-12)
        slack = SLACK * torch.diag(spread2)
        tilt = torch.zeros_like(x)
        for _ in range(NEWTON_STEPS):
            probability = torch.softmax(log_share + tilt @ centres.T, dim=1)
            mean = probability @ centres
            offset = (centres - mean[:, None]) * probability.sqrt()[..., None]
            step = torch.linalg.solve(offset.mT @ offset + slack, x - mean - tilt @ slack)
            length = (step * spread2.sqrt()).norm(dim=1, keepdim=True)
            tilt = tilt + step * (LONGEST_STEP / length.clamp_min(LONGEST_STEP))
            if float(length.max()) < CONVERGED:
                break
        return torch.softmax(log_share + tilt @ centres.T, dim=1)

    def moved(self, centres: Float64[Tensor, "K d"], share: Float64[Tensor, " K"]) -> States:
        """The same states at other places (K, d), with shares (K,) of the particles."""
        return replace(self, nodes=Nodes(centres, share))


def places(
    states: States, share: Float64[Tensor, " K"], volumes: Float[Tensor, "V 2 Qp"], grid: ComponentGrid, dimensions: int
) -> Float64[Tensor, "K d"]:
    """Where states lie, so that distances are those of their volumes as near as ``dimensions`` d allow.

    Principal components of the volumes over the particles; the first has unit variance.

    Parameters
    ----------
    states : States
    share : Tensor
        (K,) of the particles.
    volumes : Tensor
        (V, 2, Qp) components: the average, and those of the states' functions.
    grid : ComponentGrid
    dimensions : int
    """
    parts = volumes[..., 1 : states.count + 1].double().cpu()
    weighted = (grid.multiplicity.double()[:, None, None] * parts).flatten(0, 1)
    power, axes = torch.linalg.eigh(weighted.mT @ parts.flatten(0, 1))
    offset = (states.projection - share @ states.projection) @ (axes * power.clamp_min(0).sqrt())
    spread, directions = torch.linalg.eigh((share[:, None] * offset).mT @ offset)
    directions = directions.flip(1)[:, :dimensions]
    directions = directions * torch.where(
        directions.gather(0, directions.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0
    )  # fmt: skip
    found = offset @ directions / spread[-1].clamp_min(1e-300).sqrt()
    return torch.nn.functional.pad(found, (0, dimensions - found.shape[1])).contiguous()
