"""Poses between the points of a search's grid: Gauss-Newton steps, for tilt pairs of both images together.

A search ends on a grid of about a degree; its spacing would be most of the error that is left. As in
:mod:`cryodrgn_ext.pose.local`, poses rotate about the axes of the model, R' = R exp[w]x. The second image of a pair
is seen under T R, hence under T R exp[w]x when the particle rotates: the same w, so gradients and matrices of the
images add up, while each image keeps a shift of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.local import DifferentiableVolume, NormalEquations, Step, gauss_newton, normal_equations
from cryodrgn_ext.pose.scoring import Scorer

STEPS = 5
LARGEST_STEP = Step(2.0, 1.0)
INNER, EDGE = 0.42, 0.06  # radius of the sphere that is kept of a volume, and its soft edge, in boxes


def differentiable_volume(volume: Tensor, radius: float) -> DifferentiableVolume:
    """A rendered map (D, D, D) with its derivatives by rotations, up to ``radius`` cycles per box; edges are left out.

    Rotations move density the more, the farther it is from the middle, and that of a network outside the particle is
    noise.
    """
    d = volume.shape[0]
    mask = spherical_mask(d, INNER * d, EDGE * d, volume.device)
    return DifferentiableVolume.from_maps((volume * mask)[None], min(math.ceil(radius), d // 2))


def refine_pairs(
    scorers: Sequence[Scorer], groups: ImageGroups, volume: DifferentiableVolume, rotation: Tensor, shift_px: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Improve poses of particles; the fit never becomes worse.

    Parameters
    ----------
    scorers : sequence of Scorer
        One for each of the S images of a particle, with the P particles in the same order; they set the band.
    groups : ImageGroups
        Of which the relative rotations are used.
    volume : DifferentiableVolume
        Of one map.
    rotation : Tensor
        (P, 3, 3) of the particles.
    shift_px : Tensor
        (P, S, 2).

    Returns
    -------
    Tensor, Tensor, Tensor
        Rotations (P, 3, 3) and shifts (P, S, 2), float64; (P,) log-likelihoods in nats, on the CPU.
    """
    device = scorers[0].device

    def equations(rows: Tensor, there: Tensor, shifted: Tensor) -> NormalEquations:
        return _equations(scorers, groups, volume, rows, there, shifted.unflatten(1, (-1, 2)))

    rotation, moved, last = gauss_newton(
        equations, rotation.to(device), shift_px.to(device).flatten(1), STEPS, LARGEST_STEP
    )
    return rotation.cpu(), moved.unflatten(1, (-1, 2)).cpu(), last.log_likelihood.cpu()


def _equations(
    scorers: Sequence[Scorer], groups: ImageGroups, volume: DifferentiableVolume, rows: Tensor, rotation: Tensor,
    shift_px: Tensor,
) -> NormalEquations:  # fmt: skip
    """Of particles ``rows`` (b,): gradients (b, 3 + 2 S) are those of rotations about x, y, z, then of the shifts."""
    size = 3 + 2 * len(scorers)
    fit = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    gradient, matrix = fit.new_zeros(len(rows), size), fit.new_zeros(len(rows), size, size)
    for member, scorer in enumerate(scorers):
        weights = torch.ones(len(scorer), 1, device=rows.device)
        seen = groups.rotations(rotation, member)
        one = normal_equations(scorer, volume, weights, rows, seen, shift_px[:, member], len(scorer.kxy))
        own = slice(3 + 2 * member, 5 + 2 * member)
        fit += one.log_likelihood
        gradient[:, :3] += one.gradient[:, :3]
        gradient[:, own] = one.gradient[:, 3:]
        matrix[:, :3, :3] += one.matrix[:, :3, :3]
        matrix[:, :3, own], matrix[:, own, :3] = one.matrix[:, :3, 3:], one.matrix[:, 3:, :3]
        matrix[:, own, own] = one.matrix[:, 3:, 3:]
    return NormalEquations(fit, gradient, matrix)
