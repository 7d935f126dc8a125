"""Which nodes of latent space an image may belong to: a sparse posterior over nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from torch import Tensor

from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.progress import Monitor

KEPT = 16  # most likely nodes of each image
ROWS = 4096


@dataclass(frozen=True)
class Assignment:
    """Posterior over nodes of some images.

    Attributes
    ----------
    rows : Tensor
        (n,) int64 particle rows, ascending.
    node : Tensor
        (n, T) int32, the likeliest first.
    probability : Tensor
        (n, T) float32, adds up to 1.
    particle_scale : Tensor
        (n,) float32 of each image.
    rare : Tensor
        (n, K) float32 probabilities of rare states, which exclude each other.
    """

    rows: Int64[Tensor, " n"]
    node: Int32[Tensor, "n T"]
    probability: Float32[Tensor, "n T"]
    particle_scale: Float32[Tensor, " n"]
    rare: Float32[Tensor, "n K"]

    def __len__(self) -> int:
        return len(self.rows)


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


def assign(
    rows: Int64[Tensor, " n"],
    x: Float[Tensor, "n d"],
    covariance: Float[Tensor, "n d d"],
    particle_scale: Float[Tensor, " n"],
    nodes: Nodes,
    rare: Float[Tensor, "n K"] | None = None,
) -> Assignment:
    """Assign images ``rows`` (n,) by the Gaussian posteriors (n, d), (n, d, d) of their latents."""
    rare = torch.zeros(len(x), 0) if rare is None else rare
    count = min(KEPT, len(nodes.centres))
    node, probability = torch.zeros(len(x), count, dtype=torch.int32), torch.zeros(len(x), count)
    for here in torch.arange(len(x)).split(ROWS):
        best, index = node_probabilities(x[here], covariance[here], nodes).topk(count, dim=1)
        node[here], probability[here] = index.int(), (best / best.sum(1, keepdim=True)).float()
    return Assignment(rows, node, probability, particle_scale, rare)


def feature_pass(
    band: Band,
    values: Float32[Tensor, "V 2 Qp"],
    features: Features,
    assigned: Assignment,
    monitor: Monitor,
    label: str | None = None,
) -> Equations:
    """Equations of the components of features and rare states, from images assigned to nodes.

    Linearised at ``values`` (V, 2, Qp): the correction of the consensus, the features, the rare states.
    """
    table = features.at_nodes()
    q, k = table.shape[1], assigned.rare.shape[1]
    outer = (table[:, :, None] * table[:, None, :]).float()
    equations = Equations.empty(band, q + k)
    half_set = (band.images.half_set == 2).long()
    start = 0
    chunks = band.chunks(assigned.rows)
    if label is not None:
        chunks = monitor.track(chunks, label, len(assigned.rows), band.chunk_size)
    for chunk in chunks:
        monitor.poll()
        here = slice(start, start + len(chunk.rows))
        start += len(chunk.rows)
        node, probability = assigned.node[here].long(), assigned.probability[here]
        moments = torch.zeros(len(chunk.rows), q + k, q + k)
        for t in range(node.shape[1]):
            moments[:, :q, :q] += probability[:, t, None, None] * outer[node[:, t]]
        rare = assigned.rare[here]
        moments[:, :q, q:] = moments[:, :q, :1] * rare[:, None, :]  # as if they were independent of the latents
        moments[:, q:, :q] = moments[:, :q, q:].mT
        moments[:, q:, q:] = torch.diag_embed(rare)
        particle_scale = assigned.particle_scale[here].to(band.device)
        equations.add(values, chunk, particle_scale, half_set[chunk.rows].to(band.device), moments.to(band.device))
    equations.complete()
    return equations
