"""How images are deformed: amplitudes of a few dozen deformations of the consensus, and the motions that they make up.

Amplitudes are normally distributed over images with a covariance that is found by expectation maximisation, from inner
products of single images with the deformations alone. A motion is a direction in which smooth deformations vary; how
the whole particle moves and turns along with it is the regression of its rigid motions on these, as what a refinement
calls the particle's place is not the place of the part that rests. What is left of rigid motions are errors of poses:
they explain images too, but are no motion of the molecule, and nothing of them is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.anatomy import Deformations
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.posterior import LEAST_SCALE, Posterior, infer

MOST_IMAGES = 6000  # that amplitudes are learned from: a few dozen numbers are well known then
STEPS = 16  # of expectation maximisation; the motions that tell most are ahead by then
LEAST_VARIANCE = 1e-8  # of the largest
SINGULAR = 1e-7  # of the largest variance
LEAST_SPREAD = 1e-3  # of the particle scale
BLOCK = 1024  # images at a time


@dataclass(frozen=True)
class Products:
    """Inner products of n images' whitened terms: of the average and K deformations with each other, and the image.

    Attributes
    ----------
    inner : Tensor
        (n, K + 1, K + 1) float32.
    cross : Tensor
        (n, K + 1) float32.
    smooth : int
        Number of the deformations that are not rigid; these come first.
    """

    inner: Float32[Tensor, "n C C"]
    cross: Float32[Tensor, "n C"]
    smooth: int

    @classmethod
    def of(cls, band: Band, deformations: Deformations, rows: Int64[Tensor, " n"]) -> Products:
        """Of the images ``rows``; column 0 of the modes is the correction of the consensus."""
        columns = deformations.count + 1
        inner, cross = [torch.zeros(0, columns, columns)], [torch.zeros(0, columns)]
        for chunk in band.chunks(rows):
            found = band.operators.gram(deformations.modes, columns, chunk)
            inner.append(found[0].float().cpu())
            cross.append(found[1].float().cpu())
        return cls(torch.cat(inner), torch.cat(cross), deformations.smooth)

    def __getitem__(self, chosen: Tensor) -> Products:
        """Those of some images."""
        return Products(self.inner[chosen], self.cross[chosen], self.smooth)

    def at_scales(self, spread: float) -> tuple[Products, float]:
        """The same with every particle at its own scale, as its average tells it, and the spread that is left.

        Stronger particles tell more of their deformations, as the square of the scale.
        """
        if spread == 0:
            return self, 0.0
        tight = 1 / spread**2
        sharp = 2 * self.inner[:, 0, 0] + tight
        scale = ((2 * self.cross[:, 0] + tight) / sharp).clamp_min(LEAST_SCALE)
        sums = torch.stack([(1 / (sharp * scale.square())).double().sum(), torch.tensor(float(len(scale))).double()])
        current().sum(sums)
        left = math.sqrt(float(sums[0] / sums[1].clamp_min(1)))
        return Products(self.inner * scale[:, None, None] ** 2, self.cross * scale[:, None], self.smooth), left

    def moments(
        self, mean: Float64[Tensor, " K"], covariance: Float64[Tensor, "K K"], spread: float
    ) -> tuple[Float64[Tensor, " K"], Float64[Tensor, "K K"]]:
        """Sums over images of the first and second moments of the posterior of their amplitudes under a prior.

        The amplitude of the average is normally distributed about 1 with the ``spread`` of the particle scale: what it
        leaves in an image would be taken for a deformation.
        """
        root = _root(covariance)
        tight = torch.full((1, 1), 1 / max(spread, LEAST_SPREAD) ** 2, dtype=torch.float64)
        precision = torch.block_diag(tight, torch.cholesky_inverse(torch.linalg.cholesky(root @ root.T)))
        expected = precision @ torch.cat([torch.ones(1, dtype=torch.float64), mean])
        first, second = torch.zeros_like(mean), torch.zeros_like(covariance)
        for inner, cross in zip(self.inner.split(BLOCK), self.cross.split(BLOCK), strict=True):
            factor = torch.linalg.cholesky(2 * inner.double() + precision)
            found = torch.cholesky_solve((2 * cross.double() + expected)[..., None], factor)[:, 1:, 0]
            first += found.sum(0)
            second += found.T @ found + torch.cholesky_inverse(factor)[:, 1:, 1:].sum(0)
        return first, second

    def infer(self, columns: Float64[Tensor, "C Q"], spread: float) -> list[Posterior]:
        """Latents under average and components that are ``columns`` of the products' own; in blocks of images."""
        parts = zip(self.inner.split(BLOCK), self.cross.split(BLOCK), strict=True)
        return [infer(columns.T @ i.double() @ columns, c.double() @ columns, spread) for i, c in parts]


@dataclass(frozen=True)
class Motions:
    """What images of a set vary by most.

    Attributes
    ----------
    average : Tensor
        (K + 1,) float64: 1, and the mean amplitudes.
    loadings : Tensor
        (K + 1, q) float64 amplitudes by one standard deviation of each motion, those first that tell most.
    pose_errors : Tensor
        (K + 1, R) float64 root of the covariance of rigid motions that no motion explains.
    """

    average: Float64[Tensor, " C"]
    loadings: Float64[Tensor, "C q"]
    pose_errors: Float64[Tensor, "C R"]

    @classmethod
    def learn(cls, products: Products, most: int, spread: float) -> Motions:
        """Up to ``most`` motions, from images of all processes, whose particle scales differ by ``spread``."""
        count = products.inner.shape[1] - 1
        products, spread = products.at_scales(spread)
        sums = torch.cat(
            [
                2 * products.inner[:, 1:, 1:].double().sum(0).flatten(),
                torch.tensor([float(len(products.inner))]).double(),
            ]
        )
        current().sum(sums)
        n = sums[-1].clamp_min(1)
        information = sums[:-1].view(count, count) / n
        covariance = torch.eye(count, dtype=torch.float64) / information.diagonal().mean().clamp_min(1e-30)
        mean = torch.zeros(count, dtype=torch.float64)
        for _ in range(STEPS):
            first, second = products.moments(mean, covariance, spread)
            current().sum(first, second)
            mean = first / n
            covariance = second / n - mean[:, None] * mean
        return cls._split(mean, covariance, information, products.smooth, most)

    @classmethod
    def _split(cls, mean: Tensor, covariance: Tensor, information: Tensor, smooth: int, most: int) -> Motions:
        own, along = covariance[:smooth, :smooth], covariance[smooth:, :smooth]
        regression = along @ torch.linalg.pinv(own, rtol=SINGULAR, hermitian=True)
        whole = torch.cat([torch.eye(smooth, dtype=torch.float64), regression]) @ _root(own)
        told, directions = torch.linalg.eigh(whole.T @ information @ whole)
        leading = whole @ directions[:, told.argsort(descending=True)[:most]]
        errors = torch.zeros(len(mean), len(mean) - smooth, dtype=torch.float64)
        errors[smooth:] = _root(covariance[smooth:, smooth:] - regression @ along.T)
        pad = (0, 0, 1, 0)
        return cls(
            torch.cat([torch.ones(1, dtype=torch.float64), mean]),
            torch.nn.functional.pad(leading, pad), torch.nn.functional.pad(errors, pad),
        )  # fmt: skip

    def first(self, count: int) -> Motions:
        """The first ``count`` motions alone."""
        return replace(self, loadings=self.loadings[:, :count])

    @property
    def power(self) -> Float64[Tensor, " q"]:
        """(q,) variance of volumes along each motion, summed over the sphere."""
        return self.loadings.square().sum(0)

    def along_axes(self) -> Motions:
        """The same motions along axes at right angles in volume space, the largest first."""
        power, axes = torch.linalg.eigh(self.loadings.T @ self.loadings)
        loadings = self.loadings @ axes[:, power.argsort(descending=True)]
        sign = torch.where(loadings.gather(0, loadings.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        return replace(self, loadings=loadings * sign)

    def turned_to(self, other: Motions) -> Motions:
        """The same motions with axes as near as may be to those of ``other`` (orthogonal Procrustes)."""
        u, _, v = torch.linalg.svd(self.loadings.T @ other.loadings)
        return replace(self, loadings=self.loadings @ (u @ v))

    def agreement(self, other: Motions) -> Float64[Tensor, " q"]:
        """(q,) cosine between motions of the same number, in volume space."""
        along: Tensor = (self.loadings * other.loadings).sum(0) / (self.power * other.power).clamp_min(1e-300).sqrt()
        return along

    @property
    def columns(self) -> Float64[Tensor, "C Q"]:
        """(K + 1, 1 + q + R) average, motions, and errors of poses."""
        return torch.cat([self.average[:, None], self.loadings, self.pose_errors], 1)

    def evidence(self, products: Products, spread: float) -> Float64[Tensor, " n"]:
        """Log likelihoods (n,) of images, latents and errors of poses integrated out."""
        return torch.cat([found.evidence for found in products.infer(self.columns, spread)])

    @staticmethod
    def components(deformations: Deformations, columns: Float64[Tensor, "C Q"]) -> Float32[Tensor, "V 2 Qp"]:
        """Components (V, 2, Qp) of which amplitudes are ``columns``; the first is a correction of the consensus."""
        modes = deformations.modes
        out = torch.zeros(*modes.shape[:2], padded(columns.shape[1]), device=modes.device)
        out[..., : columns.shape[1]] = modes[..., 1 : deformations.count + 1] @ columns[1:].float().to(modes.device)
        return out


def _root(covariance: Float[Tensor, "K K"]) -> Float64[Tensor, "K K"]:
    """A square root of a covariance, of positive variances."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    root: Tensor = vectors * values.clamp_min(LEAST_VARIANCE * float(values.max().clamp_min(1e-30))).sqrt()
    return root
