"""Refinement of each image's rotation and shift by Gauss-Newton steps, at a given model.

For small rotations w (about the axes of the model, R' = R exp[w]x) and displacements, the slice of a volume changes by

    dP = sum_j w_j P_j - (2 pi i / D) (k . dt) P,        P_j = slice of  -(x cross grad V)_j,

since rotating a volume is a derivative along the circles about an axis, in real space as in Fourier space. The three
derivatives are made once; then one look-up of four values at each coefficient gives fit, gradient and Gauss-Newton
matrix of an image together. Levenberg's damping, per image, takes back steps that do not help. The inverse of the
matrix is the covariance of the pose that the image's noise allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import RIM, FourierGrid, FourierVolume, slice_torch
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.local_kernels import normal_equations_cpu
from cryodrgn_ext.pose.model import points_on
from cryodrgn_ext.pose.scoring import Scorer

DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-6, 1e6
#: Steps smaller than this (degrees, pixels) end an image's refinement.
CONVERGED_DEG, CONVERGED_PX = 0.02, 0.005
#: Coefficients per block of the plain form.
COEFFICIENTS_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class Step:
    """Bounds of the movement of a pose in one iteration."""

    rotation_deg: float
    shift_px: float


LARGEST_STEP = Step(5.0, 1.0)


def rotation_derivatives(volume: Float[Tensor, "D D D"]) -> Float[Tensor, "3 D D D"]:
    """Derivatives of a map with respect to rotations about x, y and z: -(x cross grad V).

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real, axes z, y, x, that vanishes towards the edges of the box.

    Returns
    -------
    Tensor
        (3, D, D, D): how V(exp[w]x^T p) changes with w_x, w_y, w_z, in radians.
    """
    (x, y, z), (dx, dy, dz) = _gradient(volume)
    return -torch.stack([y * dz - z * dy, z * dx - x * dz, x * dy - y * dx])


def radial_derivative(volume: Tensor) -> Tensor:
    """Return x . grad V of a map (D, D, D): how it changes, but for a factor, with the size of its pixels."""
    (x, y, z), (dx, dy, dz) = _gradient(volume)
    return x * dx + y * dy + z * dz


def _gradient(volume: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Coordinates x, y, z from voxel D // 2, broadcast over a map (D, D, D), and its derivatives along them."""
    d = volume.shape[0]
    spectrum = torch.fft.rfftn(volume.float())
    full = torch.fft.fftfreq(d, device=volume.device)
    half = torch.fft.rfftfreq(d, device=volume.device)
    full[d // 2] = half[-1] = 0.0  # the derivative of the Nyquist frequency is not real
    steps = (half[None, None, :], full[None, :, None], full[:, None, None])
    dx, dy, dz = (torch.fft.irfftn(spectrum * (2j * math.pi * step), s=volume.shape) for step in steps)
    axis = torch.arange(d, device=volume.device, dtype=torch.float32) - d // 2
    x, y, z = axis[None, None, :], axis[None, :, None], axis[:, None, None]
    return (x, y, z), (dx, dy, dz)


@dataclass(frozen=True)
class DifferentiableVolume:
    """Volumes whose weighted sums the images show, with their derivatives by rotations, on a Fourier grid.

    Attributes
    ----------
    grid : FourierGrid
    fields : Tensor
        (Z, Y, X, C, 4) complex64: of each of the C maps itself and its derivatives by rotations about x, y, z.
    """

    grid: FourierGrid
    fields: Tensor

    @classmethod
    def from_maps(cls, maps: Float[Tensor, "C D D D"], radius: int, oversampling: int = 2) -> DifferentiableVolume:
        """Transform maps (C, D, D, D) up to ``radius`` cycles per box."""
        grid = FourierGrid(maps.shape[-1], radius, oversampling)
        fields = torch.empty(*grid.shape, len(maps), 4, dtype=torch.complex64, device=maps.device)
        for c, one in enumerate(maps):
            for j, part in enumerate((one, *rotation_derivatives(one))):
                fields[..., c, j] = FourierVolume.from_map(part, oversampling, radius).data
        return cls(grid, fields)

    @property
    def n_components(self) -> int:
        """Number C of maps."""
        return self.fields.shape[3]


@dataclass(frozen=True)
class NormalEquations:
    """Of b particles, float64: fit (b,) in nats relative to no particle, gradient (b, 3 + 2 S), matrix (b, ..., ...).

    The parameters are rotations about the model's axes x, y, z in radians, and the shift x, y in pixels of each of the
    S images of the particle.
    """

    log_likelihood: Tensor
    gradient: Tensor
    matrix: Tensor


def normal_equations(
    scorer: Scorer,
    volume: DifferentiableVolume,
    weights: Float[Tensor, "B C"],
    rows: Int[Tensor, " b"],
    rotation: Float[Tensor, "b 3 3"],
    shift_px: Float[Tensor, "b 2"],
    count: int,
) -> NormalEquations:
    """Fit of poses and its derivatives.

    Parameters
    ----------
    scorer : Scorer
        Holds B images.
    volume : DifferentiableVolume
    weights : Tensor
        (B, C) of the maps in each image's volume.
    rows : Tensor
        (b,) int64, which of the scorer's images.
    rotation, shift_px : Tensor
        (b, 3, 3), (b, 2) of those.
    count : int
        Number of leading coefficients that count.
    """
    planes = scorer.frequency_matrix[rows].to(rotation) @ rotation[:, :2]
    if scorer.device.type == "cpu":
        found = normal_equations_cpu(
            scorer.data, scorer.power, rows, planes, shift_px, scorer.kxy[:count], volume.fields, weights,
            volume.grid.oversampling, volume.grid.radius + RIM, scorer.box_size,
        )  # fmt: skip
        return NormalEquations(*found)
    return normal_equations_torch(scorer, volume, weights, rows, planes, shift_px, count)


def normal_equations_torch(
    scorer: Scorer,
    volume: DifferentiableVolume,
    weights: Float[Tensor, "B C"],
    rows: Int[Tensor, " b"],
    planes: Float[Tensor, "b 2 3"],
    shift_px: Float[Tensor, "b 2"],
    count: int,
) -> NormalEquations:
    """Plain form of the compiled kernel, on any device; ``planes`` (b, 2, 3)."""
    kxy = scorer.kxy[:count]

    def equations(here: slice) -> tuple[Tensor, Tensor, Tensor]:
        chosen = rows[here]
        points = points_on(planes[here].float(), kxy)
        share = weights[chosen].to(points)
        values = torch.zeros(4, *points.shape[:-1], dtype=torch.complex64, device=points.device)
        for c in range(volume.n_components):
            for j in range(4):
                looked_up = slice_torch(volume.fields[..., c, j], volume.grid, points)
                values[j] += share[:, c, None] * looked_up
        model = values[0]
        ramp = (-2j * math.pi / scorer.box_size) * kxy.to(points).T[:, None]
        jacobian = torch.cat([values[1:], ramp * model])
        data = scorer.data[chosen, :count] * shift_phases(kxy, -shift_px[here].float(), scorer.box_size)
        power = scorer.power[chosen, :count]
        fit = ((model.conj() * data).real - 0.5 * power * model.abs().square()).double().sum(1)
        residual = data - power * model
        gradient = (jacobian.conj() * residual).real.double().sum(2).T
        flat = torch.view_as_real(jacobian).permute(1, 0, 2, 3)
        matrix = (flat * power[:, None, :, None]).flatten(2).double() @ flat.flatten(2).double().mT
        return fit, gradient, matrix

    parts = in_blocks(equations, len(rows), "poses", COEFFICIENTS_PER_BLOCK // count)
    fit, gradient, matrix = (torch.cat(column) for column in zip(*parts, strict=True))
    return NormalEquations(fit, gradient, matrix)


def rotated(rotation: Float[Tensor, "b 3 3"], angles: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rotations (b, 3, 3) times small ones by ``angles`` (b, 3) radians about model axes: R exp[w]x, orthonormal."""
    x, y, z = angles.double().unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    out = rotation.double() @ torch.linalg.matrix_exp(cross)
    first = torch.nn.functional.normalize(out[:, 0], dim=1)
    second = out[:, 1] - (out[:, 1] * first).sum(1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=1)


def refine_poses(
    scorer: Scorer,
    volume: DifferentiableVolume,
    poses: Poses,
    radius: float | None = None,
    weights: Float[Tensor, "B C"] | None = None,
    iterations: int = 5,
    largest: Step = LARGEST_STEP,
) -> PoseEstimates:
    """Take damped Gauss-Newton steps from given poses; the fit never becomes worse.

    Parameters
    ----------
    scorer : Scorer
        Its images, all of them.
    volume : DifferentiableVolume
    poses : Poses
        (B,) where to begin.
    radius : float, optional
        Largest |k| that counts.
    weights : Tensor, optional
        (B, C) of the volume's maps in each image; one when there is one map.
    iterations : int
    largest : Step
        Bounds of one iteration.
    """
    n, device = len(scorer), scorer.device
    count = scorer.count(radius)
    if weights is None:
        weights = torch.ones(n, volume.n_components)
    weights = weights.to(device, torch.float32)

    def equations(rows: Tensor, there: Tensor, shifted: Tensor) -> NormalEquations:
        return normal_equations(scorer, volume, weights, rows, there, shifted, count)

    rotation, shift_px, last = gauss_newton(
        equations, poses.rotation.to(device), poses.shift_px.to(device), iterations, largest
    )
    return PoseEstimates.of_scale_one(Poses(rotation, shift_px), last.log_likelihood, *_errors(last.matrix))


def gauss_newton(
    equations: Callable[[Tensor, Tensor, Tensor], NormalEquations],
    rotation: Float[Tensor, "B 3 3"],
    shift_px: Float[Tensor, "B twice_images"],
    iterations: int,
    largest: Step,
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B twice_images"], NormalEquations]:
    """Take damped Gauss-Newton steps with damping, progress and end of each particle by itself.

    Parameters
    ----------
    equations : callable
        Normal equations of particles ``rows`` (b,) at rotations (b, 3, 3) and shifts (b, 2 S) of their own.
    rotation, shift_px : Tensor
        (B, 3, 3), (B, 2 S) where to begin; S images show the same particle, each with a shift.
    iterations : int
    largest : Step
        Bounds of one iteration.

    Returns
    -------
    Tensor, Tensor, NormalEquations
        Rotations and shifts, float64, nowhere less likely than where they began, and the equations there.
    """
    rotation, shift_px = rotation.double().clone(), shift_px.double().clone()
    active = torch.arange(len(rotation), device=rotation.device)
    now = equations(active, rotation, shift_px)
    fit, gradient, matrix = now.log_likelihood, now.gradient, now.matrix
    damping = torch.full_like(fit, DAMPING)
    for _ in range(iterations):
        step = _step(matrix[active], gradient[active], damping[active])
        step = _bounded(step, math.radians(largest.rotation_deg), largest.shift_px)
        moved = (step[:, :3].norm(dim=1) > math.radians(CONVERGED_DEG)) | (_farthest(step) > CONVERGED_PX)
        active, step = active[moved], step[moved]
        if not len(active):
            break
        there, shifted = rotated(rotation[active], step[:, :3]), shift_px[active] + step[:, 3:]
        tried = equations(active, there, shifted)
        better = tried.log_likelihood > fit[active]
        taken = active[better]
        rotation[taken], shift_px[taken] = there[better], shifted[better]
        fit[taken], gradient[taken] = tried.log_likelihood[better], tried.gradient[better]
        matrix[taken] = tried.matrix[better]
        factor = torch.where(better, 0.2, 10.0).to(damping)
        damping[active] = (damping[active] * factor).clamp(LEAST_DAMPING, MOST_DAMPING)
    return rotation, shift_px, NormalEquations(fit, gradient, matrix)


def _regular(matrix: Tensor, damping: Tensor) -> Tensor:
    """Matrices with their diagonals raised by a fraction ``damping``, and by next to nothing where they are 0."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    return matrix + torch.diag_embed(diagonal * damping[:, None] + 1e-9 * diagonal.mean(1, keepdim=True) + 1e-12)


def _step(matrix: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """(b, 3 + 2 S) damped Gauss-Newton steps."""
    factor, failed = torch.linalg.cholesky_ex(_regular(matrix, damping))
    step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    return torch.where((failed == 0)[:, None] & step.isfinite(), step, torch.zeros_like(step))


def _bounded(step: Tensor, largest_rotation: float, largest_shift: float) -> Tensor:
    """Steps shortened to the bounds, as a whole."""
    over = torch.maximum(step[:, :3].norm(dim=1) / largest_rotation, _farthest(step) / largest_shift)
    return step / over.clamp_min(1.0)[:, None]


def _farthest(step: Tensor) -> Tensor:
    """(b,) the largest of the shifts of a particle's images."""
    farthest: Tensor = step[:, 3:].reshape(len(step), -1, 2).norm(dim=2).amax(1)
    return farthest


def _errors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations (degrees, pixels) from the inverse of the Gauss-Newton matrices."""
    covariance = torch.linalg.pinv(_regular(matrix, torch.zeros_like(matrix[:, 0, 0])), hermitian=True)
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0)
    return variance[:, :3].mean(1).sqrt().rad2deg(), variance[:, 3:].mean(1).sqrt()
