"""Covariates of an image beside its structure: view, defocus, scale, noise, background, micrograph, optics group.

Latents and states may follow these: for no reason (chance), because refinement or microscope went with them, or because
the molecule did (a motion that ice of another thickness hinders). How much they explain is found by linear regression
on a few columns each: polynomials of the direction of view, which are the spherical harmonics of low order, averaged
over the symmetry; powers of the defocus, of the scale and of the noise, and of level, noise and slope of the background
as it is in the files; the means of micrographs and optics groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.fourier.point_groups import PointGroup
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages

VIEW, DEFOCUS, SCALE, NOISE = "view", "defocus", "scale", "noise level"
MICROGRAPH, OPTICS_GROUP, BACKGROUND = "micrograph", "optics group", "background"
HARMONIC_ORDER = 4
POWERS = 3
#: Images per parameter below which what a regression finds is mostly noise.
FEWEST_PER_GROUP = 3.0
IMAGES_PER_BATCH = 256
#: Cycles per box up to which scale and noise of an image are measured.
MEASURED_RADIUS = 16


@dataclass(frozen=True)
class Covariate:
    """Something known of n images.

    Attributes
    ----------
    name : str
    columns : ndarray or None
        (n, p) float64 of a quantity.
    groups : ndarray or None
        (n,) int64 of a grouping.
    """

    name: str
    columns: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None

    def design(self, rows: NDArray[np.integer] | slice = slice(None)) -> Design | None:
        """Regression of these images on it; None where it does not differ, or groups are too small to have a mean."""
        if self.groups is not None:
            _, group, size = np.unique(self.groups[rows], return_inverse=True, return_counts=True)
            if len(size) < 2 or group.size < FEWEST_PER_GROUP * len(size):
                return None
            return Design(None, group.reshape(-1), len(size))
        assert self.columns is not None
        columns = self.columns[rows]
        if len(columns) < FEWEST_PER_GROUP:
            return None
        centred = columns - columns.mean(axis=0)
        centred = centred / np.maximum(np.sqrt((columns**2).mean(axis=0)), 1e-300)
        left, size, _ = np.linalg.svd(centred, full_matrices=False)
        kept = size > 1e-6 * np.sqrt(len(columns))
        rank = 1 + int(kept.sum())
        return Design(left[:, kept], None, rank) if 1 < rank <= len(columns) / FEWEST_PER_GROUP else None


@dataclass(frozen=True)
class Design:
    """Regression on a covariate and a constant: orthonormal columns (n, p), or the means of groups (n,)."""

    basis: NDArray[np.float64] | None
    group: NDArray[np.int64] | None
    rank: int

    def residual(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Remainder that the covariate does not explain of values (n,) or (n, k)."""
        if self.basis is not None:
            centred = values - values.mean(axis=0)
            return np.asarray(centred - self.basis @ (self.basis.T @ centred))
        assert self.group is not None
        columns = values.reshape(len(values), -1)
        size = np.bincount(self.group)
        means = np.stack([np.bincount(self.group, one) / size for one in columns.T], axis=1)
        return np.asarray((columns - means[self.group]).reshape(values.shape))


def covariates_of(
    images: ParticleImages, rows: NDArray[np.int64], volume: FourierVolume, symmetry: PointGroup
) -> list[Covariate]:
    """Covariates of some images.

    Parameters
    ----------
    images : ParticleImages
    rows : ndarray
        (n,) which images.
    volume : FourierVolume
        Consensus, up to the band in which scale and noise are measured.
    symmetry : PointGroup
        Of the consensus.
    """
    index = torch.from_numpy(rows)
    direction = images.rotation[index.to(images.rotation.device), 2].double().cpu().numpy()
    found = [Covariate(VIEW, columns=view_columns(direction, symmetry))]
    if images.ctf_parameters is not None:
        u, v = (getattr(images.ctf_parameters, f"defocus_{one}_A").cpu()[index].double().numpy() for one in "uv")
        found.append(Covariate(DEFOCUS, columns=_powers((u + v) / 2)))
    measured = scale_and_noise(images, index, volume)
    found += [Covariate(SCALE, columns=_powers(measured.scale)), Covariate(NOISE, columns=_powers(measured.noise))]
    if images.statistics is not None:
        of_files = [images.statistics.column(name)[rows].astype(np.float64) for name in ("mean", "sd", "slope")]
        found.append(Covariate(BACKGROUND, columns=np.hstack([_powers(one) for one in of_files])))
    micrograph = _micrographs(images)
    if micrograph is not None:
        found.append(Covariate(MICROGRAPH, groups=micrograph[rows]))
    found.append(Covariate(OPTICS_GROUP, groups=images.optics_index.cpu().numpy()[rows].astype(np.int64)))
    return found


def view_columns(direction: NDArray[np.float64], symmetry: PointGroup) -> NDArray[np.float64]:
    """(n, p) polynomials of directions of view (n, 3), as many as spherical harmonics up to :data:`HARMONIC_ORDER`.

    Homogeneous polynomials of two successive degrees are, on the sphere, all harmonics up to the larger one. Their
    means over the rotations of the molecule are alike in views that show the same.
    """
    powers = [one for degree in (HARMONIC_ORDER - 1, HARMONIC_ORDER)
              for one in combinations_with_replacement(range(3), degree)]  # fmt: skip
    total = np.zeros((len(direction), len(powers)))
    for rotation in symmetry.rotations:
        seen = direction @ rotation.T
        total += np.stack([seen[:, one].prod(axis=1) for one in powers], axis=1)
    return total / symmetry.order


def _powers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = (values - np.median(values)) / max(float(values.std()), 1e-300)
    scaled = np.clip(scaled, -4.0, 4.0)  # outliers would be all that powers see
    return np.stack([scaled**power for power in range(1, POWERS + 1)], axis=1)


@dataclass(frozen=True)
class ScaleAndNoise:
    """How images show the consensus.

    Attributes
    ----------
    scale : ndarray
        (n,) least-squares scale of the consensus in each.
    noise : ndarray
        (n,) mean power of a coefficient of what it leaves.
    power : ndarray
        (n,) power of the expected image, over all coefficients.
    """

    scale: NDArray[np.float64]
    noise: NDArray[np.float64]
    power: NDArray[np.float64]


def scale_and_noise(images: ParticleImages, rows: torch.Tensor, volume: FourierVolume) -> ScaleAndNoise:
    """Scale of the consensus in each image, and the power of what it leaves, in the band of ``volume``."""
    device = volume.data.device
    count = min(images.plane.prefix(volume.grid.radius), images.source.n_coefficients)
    scale, noise, power = [], [], []
    for some in rows.split(IMAGES_PER_BATCH):
        batch = images.batch(some, count, device)
        expected = batch.ctf * volume.slice(batch.points)
        size = expected.abs().square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        fit = (expected.conj() * batch.coefficients).real.sum(1) / size
        scale.append(fit.double().cpu())
        noise.append((batch.coefficients - fit[:, None] * expected).abs().square().mean(1).double().cpu())
        power.append(size.double().cpu())
    return ScaleAndNoise(*(torch.cat(parts).numpy() for parts in (scale, noise, power)))


def _micrographs(images: ParticleImages) -> NDArray[np.int64] | None:
    """(N,) number of each image's micrograph, or of its stack: programs write one of each micrograph."""
    if images.particles is None:
        return None
    positions = images.particles.source.positions()
    if positions is not None:
        return positions.micrograph[images.particles.row_id]
    return images.particles.stack_id.astype(np.int64)
