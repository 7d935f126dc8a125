"""Central slices of an oversampled Fourier volume by trilinear interpolation, and their adjoint.

``X = slice(V)`` is the projection operator of the image formation model (Zhong 2022, eq. 5.1) and ``insert`` is its
transpose, the backprojection. Both work on a centred half-volume: axes z, y, x with x >= 0, spacing
``1 / oversampling`` cycles per box, the other half following from Friedel symmetry, F(-k) = conj(F(k)).

The plain torch form here runs on every device and can be differentiated with respect to the volume; on the CPU
compiled kernels (:mod:`cryodrgn_ext.fourier.kernels`) give the same numbers many times faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Float32, Inexact, Real
from torch import Tensor

from cryodrgn_ext.fourier import kernels
from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.trilinear import corner_weights

RIM = 1e-3  # cycles per box: a point that float32 rounding moved across the sphere still counts as inside
TORCH_POINTS_PER_CHUNK = 1 << 20  # bounds the temporaries of the torch form to about 200 MB


@dataclass(frozen=True)
class FourierGrid:
    """Geometry of a centred, oversampled half-volume in Fourier space.

    Attributes
    ----------
    box_size : int
        Voxels D along each edge of the real-space map.
    radius : int
        Largest |k| represented, in cycles per box; at most D // 2.
    oversampling : int
        Grid points per cycle per box (RELION's padding factor); 2 unless memory forbids.
    """

    box_size: int
    radius: int
    oversampling: int = 2

    def __post_init__(self) -> None:
        if self.box_size < 4 or self.box_size % 2:
            raise ValueError(f"box_size must be even and at least 4, got {self.box_size}")
        if not 1 <= self.radius <= self.box_size // 2:
            raise ValueError(f"radius must lie in 1..{self.box_size // 2}, got {self.radius}")
        if self.oversampling < 1:
            raise ValueError(f"oversampling must be a positive integer, got {self.oversampling}")

    @property
    def half(self) -> int:
        """Index of the origin along z and y, and the largest index along x."""
        return self.radius * self.oversampling + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X): one voxel more on each side than the sphere needs, for the interpolation."""
        return 2 * self.half + 1, 2 * self.half + 1, self.half + 1


def slice_points(
    kxy: Real[Tensor, "M 2"], rotation: Float[Tensor, "B 3 3"], matrix: Float[Tensor, "*#B 2 2"] | None = None
) -> Float[Tensor, "B M 3"]:
    """Where the image frequencies lie in the model's Fourier space: R^T (kx, ky, 0).

    Parameters
    ----------
    kxy : Tensor
        (M, 2) image frequencies (kx, ky) in cycles per box of the image.
    rotation : Tensor
        (B, 3, 3) rotations R from model coordinates to image coordinates; they multiply column vectors x, y, z.
    matrix : Tensor, optional
        (2, 2) or (B, 2, 2) applied to (kx, ky) first: RELION's magnification matrix times
        (physical edge of the model box) / (physical edge of the image box).

    Returns
    -------
    Tensor
        (B, M, 3) points x, y, z in cycles per box of the model, in the dtype of ``rotation``.
    """
    plane = rotation[:, :2, :]
    if matrix is not None:
        plane = matrix.to(rotation).transpose(-1, -2) @ plane
    kx, ky = kxy.to(rotation).unsqueeze(-1).unbind(1)
    return kx * plane[:, None, 0] + ky * plane[:, None, 1]  # no matmul: exact also where TF32 is on


def gridding_correction(
    box_size: int, oversampling: int, device: torch.device | str | None = None
) -> Float32[Tensor, "D D D"]:
    """Factor of a real-space map that trilinear interpolation in Fourier space amounts to: sinc^2(r / (s D)).

    Divide a map by it before slicing, and a backprojected map by it after the inverse transform. RELION uses this
    isotropic form of the product of three triangle transforms; the two agree to second order in r.

    Returns
    -------
    Tensor
        (D, D, D) float32, 1 at the origin voxel D // 2.
    """
    axis = (torch.arange(box_size, device=device, dtype=torch.float32) - box_size // 2) / (box_size * oversampling)
    r = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    return torch.sinc(r) ** 2


def map_to_grid(volume: Float[Tensor, "_ _ _"], grid: FourierGrid) -> Complex[Tensor, "Z Z X"]:
    """Fourier transform of a real map on ``grid``: sum_x V(x) exp(-2 pi i k.(x - D//2) / D), unnormalised.

    One axis is padded, transformed and cropped at a time, so the padded cube never exists.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real, axes z, y, x.

    Returns
    -------
    Tensor
        ``grid.shape`` complex64 (complex128 for float64 input).
    """
    d = grid.box_size
    if volume.shape != (d, d, d):
        raise ValueError(f"a map of shape {(d, d, d)} expected, got {tuple(volume.shape)}")
    padded = d * grid.oversampling
    h = grid.half
    real = volume if volume.dtype == torch.float64 else volume.float()
    k = torch.arange(-h, h + 1, device=volume.device)
    phase = torch.exp(2j * math.pi * (k.double() * (d // 2) / padded)).to(torch.promote_types(real.dtype, torch.cfloat))
    # The half transform stops at padded // 2; index h may lie one beyond it, where F(k) = F(k - padded).
    full_x = h > padded // 2
    spectrum = torch.fft.fft(real, n=padded, dim=2) if full_x else torch.fft.rfft(real, n=padded, dim=2)
    spectrum = spectrum[..., k[h:] % padded] * phase[h:]
    spectrum = torch.fft.fft(spectrum, n=padded, dim=1)[:, k % padded] * phase[:, None]
    out = torch.empty(grid.shape, dtype=spectrum.dtype, device=volume.device)
    step = max(1, (1 << 24) // (padded * (h + 1)))
    for start in range(0, 2 * h + 1, step):
        rows = torch.fft.fft(spectrum[:, start : start + step], n=padded, dim=0)[k % padded]
        out[:, start : start + step] = rows * phase[:, None, None]
    return out


def grid_to_map(half_volume: Complex[Tensor, "_ _ _"], grid: FourierGrid) -> Float[Tensor, "D D D"]:
    """Real map of a Friedel-symmetric half-volume, the inverse of :func:`map_to_grid` within the band.

    Values outside the sphere of ``grid.radius`` are left out. The plane x = 0 must already hold both members of
    each Friedel pair (see :func:`friedel_sum`).

    Returns
    -------
    Tensor
        (D, D, D) real, axes z, y, x: ``(1 / (s D)^3) sum_k F(k) exp(2 pi i k.(x - D//2) / (s D))``.
    """
    if half_volume.shape != grid.shape:
        raise ValueError(f"a half-volume of shape {grid.shape} expected, got {tuple(half_volume.shape)}")
    d = grid.box_size
    padded = d * grid.oversampling
    device = half_volume.device
    limit = grid.radius * grid.oversampling
    k = torch.arange(-limit, limit + 1, device=device)
    core = half_volume[1:-1, 1:-1, :-1]
    inside = k[:, None] ** 2 + k[None, :] ** 2
    phase = torch.exp(-2j * math.pi * (k.double() * (d // 2) / padded)).to(half_volume.dtype)
    ends = torch.ones_like(phase)
    if 2 * limit == padded:  # both ends of an axis are the Nyquist frequency: each counts half
        ends[[0, -1]] = 0.5
    two_sided = phase * ends
    along_z = torch.empty((d, 2 * limit + 1, limit + 1), dtype=half_volume.dtype, device=device)
    step = max(1, (1 << 24) // (padded * (limit + 1)))
    for start in range(0, 2 * limit + 1, step):
        rows = core[:, start : start + step] * two_sided[:, None, None]
        rows = rows * (inside[:, start : start + step, None] + k[limit:] ** 2 <= limit * limit)
        scattered = torch.zeros((padded, *rows.shape[1:]), dtype=rows.dtype, device=device)
        scattered.index_add_(0, k % padded, rows)
        along_z[:, start : start + step] = torch.fft.ifft(scattered, dim=0)[:d]
    scattered = torch.zeros((d, padded, limit + 1), dtype=half_volume.dtype, device=device)
    scattered.index_add_(1, k % padded, along_z * two_sided[:, None])
    along_y = torch.fft.ifft(scattered, dim=1)[:, :d] * phase[limit:]
    real: Tensor = torch.fft.irfft(along_y, n=padded, dim=2)[..., :d].contiguous()
    return real


def friedel_sum(half_volume: Inexact[Tensor, "Z Z X"]) -> Inexact[Tensor, "Z Z X"]:
    """Add to the plane x = 0 the Friedel partners of its values: F(k) + conj(F(-k)). Returns a new tensor.

    Backprojection inserts each point once, on the side x >= 0. Off the plane x = 0 that is one half of a symmetric
    volume, but on it the partners' contributions are missing until they are added here.
    """
    out = half_volume.clone()
    out[..., 0] += half_volume[..., 0].flip(0, 1).conj()
    return out


def _corners(grid: FourierGrid, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices (8, P), trilinear weights (8, P; 0 outside the sphere) and Friedel flips (P,) of points (P, 3)."""
    scaled = (points if points.dtype == torch.float64 else points.float()) * grid.oversampling
    flip = scaled[:, 0] < 0
    scaled = torch.where(flip[:, None], -scaled, scaled)
    outside = ~((scaled**2).sum(1) <= ((grid.radius + RIM) * grid.oversampling) ** 2)  # NaN counts as outside
    scaled = scaled.masked_fill(outside[:, None], 0.0)
    low, weights = corner_weights(scaled)
    x, y, z = low.unbind(1)
    _, ny, nx = grid.shape
    corner = ((z + grid.half) * ny + (y + grid.half)) * nx + x
    steps = [dz * ny * nx + dy * nx + dx for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
    weights = weights.masked_fill(outside, 0.0)
    return torch.stack([corner + step for step in steps]), weights, flip


def slice_torch(
    half_volume: Complex[Tensor, "Z Z X"], grid: FourierGrid, points: Float[Tensor, "*batch 3"]
) -> Complex[Tensor, "*batch"]:
    """Torch form of :meth:`FourierVolume.slice`, differentiable with respect to ``half_volume``."""
    flat = half_volume.reshape(-1)
    listed = points.reshape(-1, 3)

    def look_up(here: slice) -> Tensor:
        index, weights, flip = _corners(grid, listed[here])
        values = (flat[index] * weights).sum(0)
        return torch.where(flip, values.conj(), values)

    parts = in_blocks(look_up, len(listed), "coefficients of a map", TORCH_POINTS_PER_CHUNK)
    return torch.cat(parts).reshape(points.shape[:-1]) if parts else flat.new_zeros(points.shape[:-1])


def insert_torch(
    numerator: Complex[Tensor, "Z Z X"],
    weight: Float[Tensor, "Z Z X"],
    grid: FourierGrid,
    points: Float[Tensor, "*batch 3"],
    values: Complex[Tensor, "*batch"],
    weights: Float[Tensor, "*batch"],
) -> None:
    """Torch form of :meth:`FourierAccumulator.insert`; on a GPU the order of additions is not fixed."""
    flat_numerator, flat_weight = numerator.view(-1), weight.view(-1)
    points, values, weights = points.reshape(-1, 3), values.reshape(-1), weights.reshape(-1)

    def add(here: slice) -> None:
        index, trilinear, flip = _corners(grid, points[here])
        value = torch.where(flip, values[here].conj(), values[here])
        trilinear = trilinear.to(flat_weight.dtype)
        spread = (trilinear * value).to(flat_numerator.dtype).reshape(-1)
        mass = (trilinear * weights[here]).to(flat_weight.dtype).reshape(-1)
        index = index.reshape(-1)
        flat_numerator.index_add_(0, index, spread)
        flat_weight.index_add_(0, index, mass)

    in_blocks(add, len(points), "backprojected coefficients", TORCH_POINTS_PER_CHUNK)


@dataclass(frozen=True)
class FourierVolume:
    """A map on an oversampled Fourier grid, ready to be sliced.

    Attributes
    ----------
    grid : FourierGrid
    data : Tensor
        ``grid.shape`` complex64: half-volume with axes z, y, x; origin at (half, half, 0).
    """

    grid: FourierGrid
    data: Complex[Tensor, "Z Z X"]

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise ValueError(f"a half-volume of shape {self.grid.shape} expected, got {tuple(self.data.shape)}")

    @classmethod
    def from_map(
        cls, volume: Float[Tensor, "D D D"], oversampling: int = 2, radius: int | None = None
    ) -> FourierVolume:
        """Transform a real map, corrected for the interpolation that slicing will do.

        Parameters
        ----------
        volume : Tensor
            (D, D, D) real, axes z, y, x, origin at voxel D // 2.
        oversampling : int
            Zero padding factor in real space.
        radius : int, optional
            Largest |k| in cycles per box; D // 2 when omitted. A smaller radius needs a smaller grid.
        """
        box_size = volume.shape[0]
        grid = FourierGrid(box_size, box_size // 2 if radius is None else radius, oversampling)
        real = volume.float()
        return cls(grid, map_to_grid(real / gridding_correction(box_size, oversampling, real.device), grid))

    def slice(self, points: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """Values at arbitrary points by trilinear interpolation; 0 outside the sphere of ``grid.radius``.

        Parameters
        ----------
        points : Tensor
            (..., 3) float32, coordinates x, y, z in cycles per box.

        Returns
        -------
        Tensor
            (...) complex64, phase origin at the centre of the box (voxel D // 2).
        """
        differentiable = torch.is_grad_enabled() and self.data.requires_grad
        if self.data.device.type == "cpu" and self.data.dtype == torch.complex64 and not differentiable:
            return kernels.slice_cpu(self.data, points, self.grid.oversampling, self.grid.radius + RIM)
        return slice_torch(self.data, self.grid, points)


class FourierAccumulator:
    """Sums of a backprojection: the transpose of :meth:`FourierVolume.slice`, values and weights together.

    Parameters
    ----------
    grid : FourierGrid
    device : torch.device or str
        Where the sums live. On the CPU they are bit-identical from run to run, for any number of threads.
    dtype : torch.dtype
        float32 (default) or float64 of the real sums.

    Attributes
    ----------
    numerator : Tensor
        ``grid.shape`` complex: sum of trilinear weight times value.
    weight : Tensor
        ``grid.shape`` real: sum of trilinear weight times weight.
    """

    def __init__(
        self, grid: FourierGrid, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.grid = grid
        self.weight = torch.zeros(grid.shape, dtype=dtype, device=device)
        self.numerator = torch.zeros(grid.shape, dtype=torch.promote_types(dtype, torch.cfloat), device=device)

    def insert(
        self, points: Float[Tensor, "... 3"], values: Complex[Tensor, " ..."], weights: Float[Tensor, " ..."]
    ) -> None:
        """Add values and weights at points, spread over the eight surrounding voxels.

        Parameters
        ----------
        points : Tensor
            (..., 3) float32, x, y, z in cycles per box. Points outside the sphere are dropped.
        values : Tensor
            (...) complex64, for instance CTF * coefficient / sigma^2.
        weights : Tensor
            (...) float32, for instance CTF^2 / sigma^2.
        """
        if values.shape != points.shape[:-1] or weights.shape != points.shape[:-1]:
            raise ValueError(
                f"values {tuple(values.shape)} and weights {tuple(weights.shape)} must have the shape of the "
                f"points, {tuple(points.shape[:-1])}"
            )
        if self.weight.device.type == "cpu":
            rim = self.grid.radius + RIM
            kernels.insert_cpu(self.numerator, self.weight, points, values, weights, self.grid.oversampling, rim)
        else:
            insert_torch(self.numerator, self.weight, self.grid, points, values, weights)

    def __iadd__(self, other: FourierAccumulator) -> FourierAccumulator:
        """Add the sums of ``other``, which must have the same grid."""
        if other.grid != self.grid:
            raise ValueError(f"cannot add sums on {other.grid} to sums on {self.grid}")
        self.numerator += other.numerator.to(self.numerator)
        self.weight += other.weight.to(self.weight)
        return self
