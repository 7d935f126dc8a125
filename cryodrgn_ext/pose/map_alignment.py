"""Bringing one map onto another: rotation, shift and hand that maximise the correlation of their transforms in a band.

Every rotation of the SO(3) grid, in both hands, is tried at low frequencies with all shifts at once (the correlation
over shifts is a Fourier transform of the cross spectrum); the best few are then improved on ever finer neighbourhoods,
shifts by Newton's method, while the band grows. Both maps are whitened, shell by shell, so that the overall shape does
not drown the rest; shells in which the reference has little (it was low-pass filtered) count little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.fourier.so3_grid import grid, spacing_deg
from cryodrgn_ext.pose.coordinate_transform import MIRROR, CoordinateTransform

#: Band (cycles per box) and grid level of the exhaustive search.
COARSE_RADIUS, COARSE_LEVEL = 7, 1
#: Candidates of each hand that are improved in the coarse band, and in the full band.
KEPT_COARSE, KEPT_FINE = 8, 2
#: Neighbourhoods shrink to this in the coarse band, and in the full band.
FINEST_COARSE_DEG, FINEST_DEG = 1.0, 0.02
#: Whitening divides by no less than this fraction of the largest root-mean-square of a shell.
FLOOR = 1e-3
ROTATIONS_PER_BLOCK = 256
NEWTON_STEPS = 2  # each rotation begins with the best shift of the one before
#: Grid points per cycle per box: maps may lie off centre, where a coarser grid interpolates badly.
OVERSAMPLING = 4
#: Largest default band: the rotation is known to a fraction of a degree by then.
LARGEST_DEFAULT_RADIUS = 32


@dataclass(frozen=True)
class MapAlignment:
    """Transform that brings a map onto another.

    Attributes
    ----------
    transform : CoordinateTransform
        From the coordinates of the moving map to those of the reference; shifts in voxels.
    correlation : float
        Of the whitened transforms within the band, after the transform.
    other_hand : float or None
        The same for the other hand at its own best alignment; None when only one was tried.
    """

    transform: CoordinateTransform
    correlation: float
    other_hand: float | None


def align_maps(
    moving: Float[Tensor, "D D D"],
    reference: Float[Tensor, "E E E"],
    radius: int | None = None,
    both_hands: bool = True,
    reliability: NDArray[np.floating] | None = None,
) -> MapAlignment:
    """Find the coordinate transform that brings a map onto a reference.

    Parameters
    ----------
    moving, reference : Tensor
        (D, D, D) real maps in boxes of the same extent, axes z, y, x.
    radius : int, optional
        Largest |k| compared, in cycles per box; half of Nyquist, at most 32, when omitted.
    both_hands : bool
        Try the mirrored map too, and take the better one.
    reliability : ndarray, optional
        (radius + 1 or more,) weight of each shell, such as the correlation of the moving map with the truth that its
        FSC implies; all shells count alike when omitted.

    Returns
    -------
    MapAlignment
    """
    if moving.shape != reference.shape or moving.ndim != 3:
        raise ValueError(f"two maps of one shape are needed, got {tuple(moving.shape)} and {tuple(reference.shape)}")
    box = int(moving.shape[0])
    radius = min(box // 4, LARGEST_DEFAULT_RADIUS) if radius is None else min(radius, box // 2 - 1)
    weights = torch.ones(radius + 1)
    if reliability is not None:
        if len(reliability) <= radius:
            raise ValueError(f"the reliability of {radius + 1} shells is needed, got {len(reliability)}")
        weights = torch.from_numpy(np.array(reliability[: radius + 1], np.float32)).clamp_min(0.0)
    pair = _Pair(moving, reference, radius, weights)
    best: dict[bool, _Candidate] = {}
    for mirrored in (False, True) if both_hands else (False,):
        coarse = min(radius, COARSE_RADIUS)
        step = spacing_deg(COARSE_LEVEL) / 2
        found = [pair.improve(one, coarse, step, FINEST_COARSE_DEG) for one in pair.search(mirrored, coarse)]
        found.sort(key=lambda one: -one.correlation)
        fine = [pair.improve(one, radius, step / 4, FINEST_DEG) for one in _distinct(found, 2.0)[:KEPT_FINE]]
        best[mirrored] = max(fine, key=lambda one: one.correlation)
    hand = max(best, key=lambda one: best[one].correlation)
    chosen, other = best[hand], best.get(not hand)
    transform = CoordinateTransform(chosen.rotation, chosen.shift_px, hand)
    return MapAlignment(transform, chosen.correlation, None if other is None else other.correlation)


def _resample(source: FourierVolume, box: int, scale: float) -> Tensor:
    """(box,) * 3 map whose transform at k is that of ``source`` at k * scale."""
    device = source.data.device
    axis = torch.fft.fftfreq(box, 1.0 / box, device=device)
    ky, kx = torch.meshgrid(axis, torch.arange(box // 2 + 1, device=device, dtype=torch.float32), indexing="ij")
    origin = torch.full((3,), float(box // 2), device=device)  # voxel D // 2
    spectrum = torch.empty((box, box, box // 2 + 1), dtype=torch.complex64, device=device)
    for z in range(box):  # a plane at a time: no list of points of the size of the map
        k = torch.stack([kx, ky, axis[z].expand_as(kx)], dim=-1)
        angle = (-2.0 * math.pi / box) * (k @ origin)
        values = source.slice(k * scale) * torch.polar(torch.ones_like(angle), angle)
        spectrum[z] = values * (k.square().sum(-1) < (box // 2) ** 2)
    resampled: Tensor = torch.fft.irfftn(spectrum, s=(box, box, box))
    return resampled


def fit_to_box(
    volume: Float[Tensor, "B B B"], pixel_size_A: float, box_size: int, box_pixel_A: float
) -> Float[Tensor, "{box_size} {box_size} {box_size}"]:
    """Resample a map onto another box and pixel size about the same centre, band-limited by the coarser of the two.

    Parameters
    ----------
    volume : Tensor
        (B, B, B) map, odd or even.
    pixel_size_A : float
        Of the map.
    box_size : int
        Even edge D of the result; what lies outside it is cut off, what the map does not reach is 0.
    box_pixel_A : float
        Pixel size of the result.

    Returns
    -------
    Tensor
        (D, D, D) float32.
    """
    count = 2 * math.ceil(
        box_size * box_pixel_A / pixel_size_A / 2 - 1e-6
    )  # of the given voxels, about the same extent
    given = int(volume.shape[0])
    before = count // 2 - given // 2
    # Negative padding cuts: with the origin at voxel n // 2 on both sides, odd boxes need nothing special.
    near = torch.nn.functional.pad(volume.float(), (before, count - given - before) * 3)
    ratio = count * pixel_size_A / (box_size * box_pixel_A)
    source = FourierVolume.from_map(near)
    fitted = _resample(source, box_size, ratio)
    return fitted * (pixel_size_A / box_pixel_A) ** 3


@dataclass(frozen=True)
class _Candidate:
    rotation: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    mirrored: bool
    correlation: float


class _Pair:
    """Both maps as whitened transforms, on half of the ball of integer frequencies in order of |k|."""

    def __init__(self, moving: Tensor, reference: Tensor, radius: int, reliability: Tensor) -> None:
        self.box = int(moving.shape[0])
        self.device = moving.device
        axis = torch.arange(-radius, radius + 1)
        kz, ky, kx = torch.meshgrid(axis, axis, axis[radius:], indexing="ij")
        half = (kx > 0) | (ky > 0) | ((ky == 0) & (kz > 0))
        keep = half & (kx**2 + ky**2 + kz**2 <= radius**2)
        points = torch.stack([kx[keep], ky[keep], kz[keep]], dim=1)
        order = torch.argsort(points.square().sum(1), stable=True)
        self.points = points[order].float().to(self.device)
        self.norm = self.points.square().sum(1).sqrt()
        shell = torch.round(self.norm).long()
        self.source = FourierVolume.from_map(moving, OVERSAMPLING, min(radius + 1, self.box // 2))
        moving_rms = _shell_rms(self.source.slice(self.points), shell)
        target = _transform_at(reference, points[order])
        target_rms = _shell_rms(target, shell)
        # A shell in which the reference is weaker than at low resolution (it was low-pass filtered, and what is left
        # there leaked from other shells) counts in proportion to its power.
        ratio = target_rms / moving_rms
        strength = (ratio / ratio[1 : COARSE_RADIUS + 1].median()).clamp_max(1.0)
        self.counts = (reliability.to(self.device) * strength.square())[shell]
        self.moving_rms = moving_rms[shell]
        self.target = (target / target_rms[shell]).conj() * self.counts

    def search(self, mirrored: bool, radius: int) -> list[_Candidate]:
        """Best rotations of the grid, each with its best shift on a grid, within a band."""
        count = self._prefix(radius)
        points, target = self.points[:count], self.target[:count]
        side = 2 * (radius + 1) + (radius + 1) // 4 * 2  # a quarter finer than the band needs
        index = self._grid_index(points, side)
        rotations = grid(COARSE_LEVEL)
        best = []
        for start in range(0, len(rotations), ROTATIONS_PER_BLOCK):
            block = rotations[start : start + ROTATIONS_PER_BLOCK]
            moved = self._moved(block, mirrored, count)
            cross = moved * target
            spectrum = torch.zeros((len(block), side * side * (side // 2 + 1)), dtype=cross.dtype, device=self.device)
            spectrum[:, index] = cross.conj()
            self._fill_plane(spectrum, points, cross.conj(), side)
            shifts: Tensor = torch.fft.irfftn(spectrum.reshape(len(block), side, side, -1), s=(side, side, side))
            value, place = shifts.flatten(1).max(dim=1)
            correlation = value * (side**3 / 2) / self._norms(moved, target)
            best += list(zip(correlation.tolist(), place.tolist(), block, strict=True))
        best.sort(key=lambda one: -one[0])
        out = []
        for value, place, rotation in best[: 4 * KEPT_COARSE]:
            cell = np.array(np.unravel_index(place, (side,) * 3))[::-1]  # x, y, z
            shift = (cell - side * (cell > side // 2)) * (self.box / side)
            out.append(_Candidate(rotation, shift.astype(np.float64), mirrored, value))
        return _distinct(out, spacing_deg(COARSE_LEVEL) * 0.9)[:KEPT_COARSE]

    def improve(self, start: _Candidate, radius: int, step_deg: float, finest_deg: float) -> _Candidate:
        """Climb from a candidate: rotations of its neighbourhood with their best shifts, ever closer."""
        count = self._prefix(radius)
        around = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        around = around[np.argsort(np.abs(around).sum(1), kind="stable")]  # the centre first: ties change nothing
        best = start
        while step_deg > finest_deg:
            tried = Rotation.from_rotvec(np.radians(step_deg) * around).as_matrix() @ best.rotation
            shift, correlation = self._shifts(tried, best.mirrored, best.shift_px, count)
            chosen = int(np.argmax(correlation))
            best = _Candidate(tried[chosen], shift[chosen], best.mirrored, float(correlation[chosen]))
            if chosen == 0:
                step_deg /= 2.0
        return best

    def _shifts(
        self, rotations: NDArray[np.float64], mirrored: bool, shift_px: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Best shifts (B, 3) near a start, by Newton's method, and the correlations (B,) there."""
        target, points = self.target[:count], self.points[:count].double()
        moved = self._moved(rotations, mirrored, count)
        cross = (moved * target).to(torch.complex128)
        shift = torch.from_numpy(shift_px).to(points).expand(len(rotations), 3).clone()
        wave = 2.0 * math.pi / self.box
        for _ in range(NEWTON_STEPS):
            values = cross * torch.exp(-1j * wave * (shift @ points.T))
            # f = Re Σ c exp(-i w k.s): gradient w Σ k Im(..), Hessian -w² Σ k kᵀ Re(..)
            gradient = wave * (values.imag @ points)
            curvature = wave**2 * torch.einsum("bm,mi,mj->bij", values.real, points, points)
            curvature += 1e-9 * curvature.diagonal(dim1=1, dim2=2).abs().sum(1)[:, None, None] * torch.eye(3).to(points)
            step = torch.linalg.solve(curvature, gradient)
            # Away from a maximum the curvature may be of the wrong sign: never farther than a wavelength's tenth.
            length = step.norm(dim=1, keepdim=True)
            limit = 0.1 * self.box / float(self.norm[count - 1])
            uphill = torch.where(((step * gradient).sum(1) > 0)[:, None], step, gradient * (length / gradient.norm()))
            shift = shift + uphill * (limit / length.clamp_min(limit))
        values = cross * torch.exp(-1j * wave * (shift @ points.T))
        correlation = values.real.sum(1) / self._norms(moved, target)
        return shift.cpu().numpy(), correlation.cpu().numpy()

    def _moved(self, rotations: NDArray[np.float64], mirrored: bool, count: int) -> Tensor:
        """(B, count) whitened transform of the moving map, rotated by each rotation, not shifted."""
        matrices = rotations @ MIRROR if mirrored else rotations
        rotated = torch.einsum("mi,bij->bmj", self.points[:count], torch.from_numpy(np.array(matrices)).to(self.points))
        return self.source.slice(rotated.contiguous()) / self.moving_rms[:count]

    def _prefix(self, radius: int) -> int:
        return int(torch.searchsorted(self.norm, torch.tensor(radius + 1e-3, device=self.device)))

    def _norms(self, moved: Tensor, target: Tensor) -> Tensor:
        """(B,) what a perfect agreement would sum to."""
        # Both sides have the root of the weight, which stands whole in the target.
        counts = self.counts[: len(target)]
        power = (moved.abs().square() * counts).sum(1)
        ours = (target.abs().square() / counts.clamp_min(1e-12)).sum()
        return (power * ours).sqrt().clamp_min(1e-30)

    def _grid_index(self, points: Tensor, side: int) -> Tensor:
        kx, ky, kz = points.long().unbind(1)
        return ((kz % side) * side + ky % side) * (side // 2 + 1) + kx

    def _fill_plane(self, spectrum: Tensor, points: Tensor, values: Tensor, side: int) -> None:
        """On the plane kx = 0 the inverse transform wants both members of each Friedel pair."""
        on_plane = points[:, 0] == 0
        spectrum[:, self._grid_index(-points[on_plane], side)] = values[:, on_plane].conj()


def _transform_at(volume: Tensor, points: Tensor) -> Tensor:
    """Transform (M,) of a map (D, D, D) at integer frequencies (M, 3) x, y, z with x >= 0, origin at voxel D // 2."""
    box = int(volume.shape[0])
    spectrum = torch.fft.rfftn(volume.float())
    kx, ky, kz = points.to(volume.device).unbind(1)
    values: Tensor = spectrum[kz % box, ky % box, kx]
    return values * (1.0 - 2.0 * ((kx + ky + kz) % 2))


def _shell_power(values: Tensor, shell: Tensor) -> Tensor:
    total = torch.zeros(int(shell.max()) + 1, dtype=torch.float64, device=values.device)
    total.index_add_(0, shell, values.abs().double().square())
    return (total / torch.bincount(shell, minlength=len(total)).clamp_min(1)).float()


def _shell_rms(values: Tensor, shell: Tensor) -> Tensor:
    """(S,) root mean square of each shell, floored."""
    rms = _shell_power(values, shell).sqrt()
    return rms.clamp_min(max(FLOOR * float(rms.max()), 1e-30))


def _distinct(candidates: list[_Candidate], apart_deg: float = 1.0) -> list[_Candidate]:
    """Candidates in order, without those that repeat an earlier one's rotation."""
    kept: list[_Candidate] = []
    for one in candidates:
        angles = [Rotation.from_matrix(one.rotation @ other.rotation.T).magnitude() for other in kept]
        if all(np.degrees(angle) >= apart_deg for angle in angles):
            kept.append(one)
    return kept
