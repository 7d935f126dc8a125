"""Smooth functions of the latents, in which volumes are linear: the curved decoder's features.

A motion bends: the volumes along it do not lie on a straight line, nor in the plane of a few components. The decoder
is therefore a Gaussian process over latent space, V(k, z) = consensus + f(z), of covariance
kappa(z, z') = exp(-|z - z'|^2 / 2 l^2) + z A z' times the prior power of the Fourier shell. The leading
eigenfunctions of kappa under the distribution of the latents (Nystrom's method on nodes) are its features: orthogonal
over the particles, smooth ones first. A = alpha / s^2 carries on in a straight line where there are no particles. With
A = C^-1, C the covariance of the latents, the straight functions of every direction come first: domains that are there
or not need no others, and curves along the strongest components would leave no function to the weakest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.cluster.vq import kmeans2
from torch import Tensor

LINEAR_SHARE = 0.1  # alpha
LEAST_DIRECTION = 1e-6  # variance of the latents along it, of the largest: below, it is none
NODE_SAMPLE = 20_000
KMEANS_ROUNDS = 12
FEWEST_NODES = 50
STRAIGHT = 0.25  # of the features' length
LEAST_EIGENVALUE = 1e-4  # of the largest
FEATURES = 15  # with the consensus' correction one block of 16 columns


@dataclass(frozen=True)
class Nodes:
    """Places in latent space that stand for the particles about them.

    Attributes
    ----------
    centres : Tensor
        (K, d) float64.
    weight : Tensor
        (K,) float64 share of the particles; adds up to 1.
    """

    centres: Float64[Tensor, "K d"]
    weight: Float64[Tensor, " K"]

    @cached_property
    def cell(self) -> float:
        """Mean squared distance of a node to its nearest neighbour, per dimension."""
        if len(self.centres) < 2:
            return 0.0
        nearest = torch.cdist(self.centres, self.centres).topk(2, largest=False).values[:, 1]
        return float(self.weight @ nearest.square()) / self.centres.shape[1]

    @classmethod
    def cover(cls, x: Float[Tensor, "N d"], length: float, most: int, seed: int) -> Nodes:
        """As many nodes of latents (N, d), up to ``most``, as features of a length (in spreads) are straight between.

        Features bend within their length; a step of a quarter of it is straight to about a hundredth.
        """
        count = min(FEWEST_NODES, most)
        while True:
            nodes = cls.place(x, count, seed)
            middle = nodes.weight @ nodes.centres
            spread2 = float(nodes.weight @ (nodes.centres - middle).square().sum(1))
            if count >= most or nodes.cell * x.shape[1] <= (STRAIGHT * length) ** 2 * spread2:
                return nodes
            count = min(2 * count, most)

    @classmethod
    def place(cls, x: Float[Tensor, "N d"], count: int, seed: int) -> Nodes:
        """k-means of latents (N, d), on a random part of many; fewer nodes where there are fewer distinct latents."""
        generator = np.random.default_rng(seed)
        points = x.double().numpy()
        if len(points) > NODE_SAMPLE:
            points = points[np.sort(generator.choice(len(points), NODE_SAMPLE, replace=False))]
        middle = points.mean(0)
        spread = max(float(np.sqrt(np.square(points - middle).sum(1).mean())), np.finfo(float).tiny)
        points = ((points - middle) / spread).astype(np.float32).astype(float)
        count = min(count, len(np.unique(points, axis=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a centre may be left without points: it is dropped below
            centres, label = kmeans2(points, count, iter=KMEANS_ROUNDS, minit="++", seed=generator, missing="warn")
        size = np.bincount(label, minlength=count).astype(float)
        kept = size > 0
        return cls(torch.from_numpy(centres[kept] * spread + middle), torch.from_numpy(size[kept] / size.sum()))


@dataclass(frozen=True)
class Features:
    """Features of latents.

    Attributes
    ----------
    nodes : Nodes
    length : float
        l, in the units of the latents.
    spread : float
        s: root mean square distance of the particles from their mean.
    projection : Tensor
        (K, m) float64: features of a point are its centred covariances with the nodes times this.
    linear : Tensor
        (d, d) float64 A, what the kernel's straight part is made of.
    """

    nodes: Nodes
    length: float
    spread: float
    projection: Float64[Tensor, "K m"]
    linear: Float64[Tensor, "d d"]

    @classmethod
    def build(cls, nodes: Nodes, length: float, count: int = FEATURES, straight: bool = False) -> Features:
        """The leading ``count`` eigenfunctions, fewer where the kernel has no more.

        Parameters
        ----------
        nodes : Nodes
        length : float
            In units of the latents' spread.
        count : int
        straight : bool
            Whether the straight functions of every direction come first.
        """
        mean = nodes.weight @ nodes.centres
        spread = max(float((nodes.weight @ (nodes.centres - mean).square().sum(1)).sqrt()), 1e-6)
        offset = nodes.centres - mean
        linear = _inverse(offset.T @ (nodes.weight[:, None] * offset)) if straight else _even(offset, spread)
        blank = cls(nodes, length * spread, spread, torch.zeros(len(nodes.centres), 0, dtype=torch.float64), linear)
        root = nodes.weight.sqrt()
        matrix = root[:, None] * blank._centred(nodes.centres) * root
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
        order = torch.arange(len(values) - 1, -1, -1)[: min(count, len(values) - 1)]
        order = order[values[order] > LEAST_EIGENVALUE * values[-1]]
        vectors = vectors[:, order]
        vectors = vectors * torch.where(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        return replace(blank, projection=(root[:, None] * vectors / values[order]).contiguous())

    def tensors(self) -> dict[str, Tensor]:
        """For checkpoints."""
        numbers = torch.tensor([self.length, self.spread], dtype=torch.float64)
        return {"feature_centres": self.nodes.centres, "feature_weight": self.nodes.weight, "feature_numbers": numbers,
                "feature_projection": self.projection, "feature_linear": self.linear}  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Features:
        """Read what :meth:`tensors` made."""
        nodes = Nodes(tensors["feature_centres"], tensors["feature_weight"])
        length, spread = tensors["feature_numbers"].tolist()
        return cls.known(nodes, length, spread, tensors["feature_projection"], tensors.get("feature_linear"))

    @classmethod
    def known(
        cls, nodes: Nodes, length: float, spread: float, projection: Tensor, linear: Tensor | None
    ) -> Features:  # fmt: skip
        """Those that were saved; models of earlier versions say nothing of ``linear``."""
        if linear is None:
            linear = _even(nodes.centres, spread)
        return cls(nodes, length, spread, projection, linear)

    @property
    def count(self) -> int:
        """Number m of features."""
        return int(self.projection.shape[1])

    @property
    def straight(self) -> bool:
        """Whether the straight functions of every direction come first."""
        return not torch.equal(self.linear, _even(self.nodes.centres, self.spread))

    def lost(self) -> float:
        """Share that the features leave of the straight function that they follow least."""
        root = self.nodes.weight.sqrt()[:, None]
        table, straight = root * self.at_nodes(), root * self.nodes.centres
        left = straight - table @ torch.linalg.lstsq(table, straight).solution
        middle = straight - root * (root * straight).sum(0)
        return float((left.square().sum(0) / middle.square().sum(0).clamp_min(1e-300)).max())

    def _kernel(self, x: Tensor) -> Tensor:
        """Covariances (P, K) of points (P, d) with the nodes."""
        distance2 = torch.cdist(x, self.nodes.centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        near = torch.exp(-distance2 / (2 * self.length**2))
        return near + x @ self.linear @ self.nodes.centres.T

    def _centred(self, x: Tensor) -> Tensor:
        """The same with the mean over the particles taken out of both arguments."""
        weight = self.nodes.weight
        own = self._kernel(self.nodes.centres)
        cross = self._kernel(x)
        return cross - (weight @ own) - (cross @ weight)[:, None] + weight @ own @ weight

    def __call__(self, x: Float[Tensor, "P d"]) -> Float64[Tensor, "P m"]:
        """Features (P, m) float64 of latents (P, d)."""
        return self._centred(x.double()) @ self.projection

    def at_nodes(self) -> Float64[Tensor, "K columns"]:
        """(K, m + 1) float64: 1 and the features of every node."""
        values = self(self.nodes.centres)
        return torch.cat([torch.ones(len(values), 1, dtype=torch.float64), values], dim=1)

    def slopes(self) -> Float64[Tensor, "K q d"]:
        """(K, m + 1, d) float64: derivatives of :meth:`at_nodes` along the latents."""
        x, weight = self.nodes.centres, self.nodes.weight
        offset = x[None] - x[:, None]  # (K, K, d) from a point to a node
        near = torch.exp(-offset.square().sum(-1) / (2 * self.length**2))
        slope = near[..., None] * offset / self.length**2 + x @ self.linear
        slope = slope - (weight @ slope)[:, None]
        features = self.projection.T @ slope
        return torch.cat([torch.zeros(len(x), 1, x.shape[1], dtype=torch.float64), features], dim=1)


def _even(x: Float64[Tensor, "K d"], spread: float) -> Float64[Tensor, "d d"]:
    """A (d, d) that is the same in all directions of latents (K, d)."""
    return LINEAR_SHARE / spread**2 * torch.eye(x.shape[1], dtype=torch.float64)


def _inverse(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """Of a covariance (d, d), within the directions that there are."""
    values, vectors = torch.linalg.eigh(covariance)
    used = values > torch.clamp(LEAST_DIRECTION * values[-1], min=1e-300)
    inverse: Tensor = (vectors[:, used] / values[used]) @ vectors[:, used].T
    return inverse
