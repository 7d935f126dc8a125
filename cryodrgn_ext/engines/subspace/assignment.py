"""Which nodes of latent space a point with an uncertainty belongs to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryodrgn_ext.engines.subspace.features import Nodes


def node_probabilities(
    x: Float[Tensor, "B d"], covariance: Float[Tensor, "*#B d d"], nodes: Nodes
) -> Float64[Tensor, "B K"]:
    """Probability (B, K) float64 of each node for Gaussian posteriors (B, d) mean and (B, d, d) or (d, d) covariance.

    A quarter of the squared distance between neighbouring nodes is added to the covariance: where posteriors are
    narrower than the nodes are apart, images still blend from one to the next.
    """
    d = nodes.centres.shape[1]
    blend = (0.25 * nodes.cell + 1e-12) * torch.eye(d, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance.double() + blend)
    offset = nodes.centres[None] - x.double()[:, None]
    whitened = torch.linalg.solve_triangular(factor, offset.mT, upper=False)
    return torch.softmax(nodes.weight.log() - 0.5 * whitened.square().sum(1), dim=1)
