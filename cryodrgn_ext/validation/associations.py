"""How much of states and latents goes with what is known of the images: view, defocus, scale, micrograph, ...

A state that holds the images of one micrograph may be a difference of that micrograph. The share of the variance of
membership, and of the latents, that a linear regression on each covariate explains is freed of what as many columns
explain of anything (adjusted R², Ezekiel 1930), and compared with permutations of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.fourier.point_groups import PointGroup
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.validation.covariates import MEASURED_RADIUS, Covariate, Design, covariates_of
from cryodrgn_ext.validation.held_out import one_row_per_image

MOST_IMAGES = 5_000
PERMUTATIONS = 99


@dataclass(frozen=True)
class Association:
    """Share that one covariate explains.

    Attributes
    ----------
    name : str
        Of the covariate.
    of_states, of_latents : float or None
        Share of the variance of membership, and of all latents, without what chance explains; None where there are
        none.
    chance : float
        How often permuted images have as large a share, of the one that is rarer.
    """

    name: str
    of_states: float | None
    of_latents: float | None
    chance: float


def associate(
    images: ParticleImages,
    consensus: NDArray[np.float32],
    symmetry: PointGroup,
    label: NDArray[np.integer],
    z: NDArray[np.floating] | None,
    seed: int = 0,
) -> list[Association]:
    """Measure what covariates explain of states and latents.

    Parameters
    ----------
    images : ParticleImages
    consensus : ndarray
        (D, D, D) map of all, in which scale and noise of the images are measured.
    symmetry : PointGroup
        Of the consensus.
    label : ndarray
        (N,) state of each particle; negative for none.
    z : ndarray or None
        (N, q) latents.
    seed : int
        Of the sample of images and of the permutations.

    Returns
    -------
    list of Association
        One for each covariate that differs among the images.
    """
    rng = np.random.default_rng([seed, 7])
    rows = np.flatnonzero(one_row_per_image(images, rng) & (label >= 0))
    rows = np.sort(rng.choice(rows, min(len(rows), MOST_IMAGES), replace=False))
    volume = FourierVolume.from_map(torch.from_numpy(consensus), radius=min(MEASURED_RADIUS, images.plane.radius))
    _, state = np.unique(label[rows], return_inverse=True)
    membership = np.eye(state.max() + 1)[state.reshape(-1)] if len(rows) and state.max() > 0 else None
    return explain(
        covariates_of(images, rows, volume, symmetry), membership, None if z is None else z[rows].astype(float), rng
    )


def explain(
    covariates: Sequence[Covariate],
    membership: NDArray[np.float64] | None,
    latents: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> list[Association]:
    """Regress membership (n, K) and latents (n, q) of the same n images on covariates; see :func:`associate`."""
    found = []
    for one in covariates:
        design = one.design()
        if design is None:
            continue
        shares, chances = [], [1.0]
        for values in (membership, latents):
            known = values is not None and values.size > 0 and float(values.var(axis=0).sum()) > 0
            shares.append(_share(values, design) if known and values is not None else None)
            if known and values is not None:
                chances.append(_chance(values, design, rng))
        found.append(Association(one.name, shares[0], shares[1], min(chances)))
    return found


def _explained(values: NDArray[np.float64], design: Design) -> float:
    """Plain R² of values (n, k)."""
    centred = values - values.mean(axis=0)
    return 1 - float((design.residual(values) ** 2).sum() / (centred**2).sum())


def _share(values: NDArray[np.float64], design: Design) -> float:
    """Adjusted R²: 0 in expectation for anything that does not go with the covariate."""
    n = len(values)
    return max(0.0, 1 - (1 - _explained(values, design)) * (n - 1) / max(n - design.rank, 1))


def _chance(values: NDArray[np.float64], design: Design, rng: np.random.Generator) -> float:
    seen = _explained(values, design)
    as_large = sum(_explained(values[rng.permutation(len(values))], design) >= seen for _ in range(PERMUTATIONS))
    return (1 + as_large) / (1 + PERMUTATIONS)
