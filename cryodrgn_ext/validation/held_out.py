"""Held-out check: single images must show a difference in coefficients that had no part in finding it.

Particles that are grouped by anything computed from their images are also grouped by their noise, and the mean of
noise selected in this way looks like a structure, the same in both halves ("Einstein from noise"). So a difference
map found in one half is looked for in single images of the OTHER half: its strength is estimated twice per image, from
two disjoint sets of Fourier coefficients (alternating sectors of the plane), and the two estimates are correlated over
the images. The noise in disjoint coefficients is independent, so that in a homogeneous data set the estimates are
unrelated, whatever the difference map and the labels came from; where particles really differ along it, both sets
say which do. What is correlated is the probability that the image belongs to the state, so that a state of few images
is seen as well (:func:`.single_images.membership`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.validation.covariates import Design, covariates_of
from cryodrgn_ext.validation.differences import ConsensusComparison
from cryodrgn_ext.validation.nuisances import ExpectedChanges, outside, second_order_fits
from cryodrgn_ext.validation.single_images import SingleImages, correlation_of, find_ties, membership

IMAGES_PER_HALF = 2_000  # the standard error of a correlation is then 0.02
SECTORS = 4  # of the half plane
GUARD = 1.0  # cycles per box left out on either side of a border: a window makes neighbours share noise
IMAGES_PER_BATCH = 256
DEFOCUS_STEP_A = 20.0


@dataclass(frozen=True)
class _Sample:
    """Images of one half as they are compared: what the consensus of the other half leaves of them.

    ``rows`` (B,), ``residual`` (B, M) complex, ``ctf`` and how it changes with the defocus (B, M), ``points``
    (B, M, 3); ``changes`` of the images that this consensus expects.
    """

    rows: NDArray[np.int64]
    residual: Tensor
    ctf: Tensor
    ctf_slope: Tensor
    points: Tensor
    changes: ExpectedChanges


class HeldOutCoordinates:
    """Strength of difference maps in single images, by two disjoint sets of coefficients.

    Parameters
    ----------
    images : ParticleImages
    comparison : ConsensusComparison
        Of the same images.
    seed : int
        Of the sample of images.
    device : torch.device or str
    symmetry : PointGroup
        Of the consensus.
    used : ndarray, optional
        (N,) images that are asked; all when omitted.
    """

    def __init__(
        self,
        images: ParticleImages,
        comparison: ConsensusComparison,
        seed: int,
        device: torch.device | str = "cpu",
        symmetry: PointGroup = C1,
        *,
        used: NDArray[np.bool_] | None = None,
    ) -> None:
        self._comparison = comparison
        self._device = device
        self.n_images = images.n
        radius = comparison.grid.radius
        self._count = min(images.plane.prefix(radius), images.source.n_coefficients)
        self._kxy = images.plane.kxy[: self._count].to(device)
        self._sets = [chosen.to(device) for chosen in disjoint_sets(images.plane.kxy[: self._count])]
        rng = np.random.default_rng([seed, 6])
        self._samples: dict[int, _Sample] = {}
        independent = one_row_per_image(images, rng)
        if used is not None:
            independent &= used
        for half in (1, 2):
            rows = np.flatnonzero(independent & (images.half_set.cpu().numpy() == half))
            chosen = np.sort(rng.choice(rows, min(len(rows), IMAGES_PER_HALF), replace=False))
            self._samples[half] = self._take(images, torch.from_numpy(chosen), 3 - half)
        self._designs_of_halves = self._designs(images, symmetry)

    @property
    def standard_error(self) -> float:
        """Of :meth:`agreement` in a homogeneous data set."""
        return float(1 / np.sqrt(sum(len(sample.ctf) for sample in self._samples.values())))

    def _take(self, images: ParticleImages, rows: Tensor, other_half: int) -> _Sample:
        changes = ExpectedChanges.of(self._comparison, other_half, self._device)
        consensus = changes.means[0]
        parts: list[tuple[Tensor, ...]] = []
        for some in rows.split(IMAGES_PER_BATCH):
            batch = images.batch(some, self._count, self._device)
            expected = batch.ctf * consensus.slice(batch.points)
            slope = _defocused(images).batch(some, self._count, self._device).ctf - batch.ctf
            parts.append((batch.coefficients - expected, batch.ctf, slope, batch.points))
        residual, ctf, slope, points = (torch.cat(column) for column in zip(*parts, strict=True))
        return _Sample(rows.numpy(), residual, ctf, slope, points, changes)

    def _designs(self, images: ParticleImages, symmetry: PointGroup) -> dict[str, list[Design]]:
        """Designs of what the sampled images are known by, one for each half; see :mod:`.covariates`."""
        rows = [self._samples[half].rows for half in (1, 2)]
        volume = self._samples[1].changes.means[1]
        designs: dict[str, list[Design]] = {}
        for one in covariates_of(images, np.concatenate(rows), volume, symmetry):
            parts = (slice(None, len(rows[0])), slice(len(rows[0]), None))
            pair = [design for part in parts if (design := one.design(part)) is not None]
            if len(pair) == len(parts):
                designs[one.name] = pair
        return designs

    def _volume(self, volume: Tensor) -> FourierVolume:
        grid = self._comparison.grid
        return FourierVolume.from_map(volume.to(self._device), grid.oversampling, grid.radius)

    def agreement(self, difference1: Tensor, difference2: Tensor, share: float) -> SingleImages:
        """Correlation over single images of how far they show a difference, as two sets of coefficients tell it.

        Parameters
        ----------
        difference1, difference2 : Tensor
            (d, d, d) difference maps of the two halves; each is looked for in images of the other half.
        share : float
            Of the images that are said to show it, between 0 and 1.

        Returns
        -------
        SingleImages
            Means of the correlations of both halves: 0 in expectation for a homogeneous data set, but that those which
            are not outside of all changes of an image follow errors of scale, optics and pose.
        """
        pairs = [(2, difference1), (1, difference2)]
        halves = [
            np.apply_along_axis(membership, 2, self._strengths(difference, self._samples[half]), share)
            for half, difference in pairs
        ]
        levels = np.concatenate(halves, axis=2)
        half = np.repeat([1, 0], [one.shape[2] for one in halves])
        found = np.array([[correlation_of(*one[level]) for one in halves] for level in range(len(levels))])
        values = found[:, :, 0].mean(axis=1).tolist()
        # A mean of two independent values has half the sum of their skewnesses over the root of two.
        skewness = float(found[-1, :, 1].mean() / np.sqrt(2.0))
        ties, whole_ties = (find_ties(levels[n, 0], levels[n, 1], self._designs_of_halves, half) for n in (-1, 0))
        return SingleImages(values[0], tuple(values[1:]), self.standard_error, ties, whole_ties, skewness)

    def _strengths(self, difference: Tensor, sample: _Sample) -> NDArray[np.float64]:
        """(1 + levels, 2, B) strengths of the whole difference, and outside of each level, by both sets."""
        volume = self._volume(difference * self._comparison.mask)
        second_order = second_order_fits(min(len(chosen) for chosen in self._sets))
        found = []
        for start in range(0, len(sample.ctf), IMAGES_PER_BATCH):
            part = slice(start, start + IMAGES_PER_BATCH)
            ctf, points = sample.ctf[part], sample.points[part]
            pattern = ctf * volume.slice(points)
            changes = sample.changes.images(ctf, sample.ctf_slope[part], points, self._kxy, second_order)
            found.append(torch.stack([
                _strengths(pattern[:, chosen], sample.residual[part][:, chosen], changes[:, :, chosen])
                for chosen in self._sets
            ], dim=1))  # fmt: skip
        return torch.cat(found, dim=2).double().cpu().numpy()


def _defocused(images: ParticleImages) -> ParticleImages:
    """The same images as if their defoci were a little larger."""
    parameters = images.ctf_parameters
    if parameters is None:
        return images
    changed = {f"defocus_{one}_A": getattr(parameters, f"defocus_{one}_A") + DEFOCUS_STEP_A for one in "uv"}
    return replace(images, ctf_parameters=replace(parameters, **changed))


def one_row_per_image(images: ParticleImages, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) True for one random row of each image: the copies of a symmetry expansion share its noise."""
    keep = np.ones(images.n, bool)
    if images.particles is not None:
        order = rng.permutation(images.n)
        _, first = np.unique(images.particles.image_hash[order], return_index=True)
        keep = np.zeros(images.n, bool)
        keep[order[first]] = True
    return keep


def disjoint_sets(kxy: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of coefficients that share no noise: alternating sectors of the plane, with gaps between them.

    Parameters
    ----------
    kxy : Tensor
        (M, 2) frequencies of the half plane, cycles per box.

    Returns
    -------
    pair of Tensor
        Indices (int64) into the M coefficients. The mean is in neither.
    """
    angle = torch.atan2(kxy[:, 1].double(), kxy[:, 0].double()) + torch.pi / 2
    position = angle / torch.pi * SECTORS
    to_border = (position - position.round()).abs() * torch.pi / SECTORS
    inside = kxy.double().norm(dim=1) * torch.sin(to_border) >= GUARD
    even = position.floor().long() % 2 == 0
    return (inside & even).nonzero()[:, 0], (inside & ~even).nonzero()[:, 0]


def _strengths(pattern: Tensor, residual: Tensor, changes: Tensor) -> Tensor:
    """Strengths (1 + levels, B) of a pattern (B, M) in residuals (B, M), in units of their noise.

    The first is that of the whole pattern; the others are those outside of changes (B, K, M), level by level.
    """
    found = []
    for part in (pattern, *outside(pattern, changes)):
        size = part.abs().square().sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        found.append((part.conj() * residual).real.sum(dim=1) / size)
    return torch.stack(found)
