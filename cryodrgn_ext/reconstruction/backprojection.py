"""Weighted backprojection: sums of images over Fourier space, and their solution for a map.

For images X_i = ctf_i V̂(points_i) + n_i with unit noise, the least-squares map has, at each grid point,

    V̂ = Σ w ctf X / (Σ w ctf² + 1/τ²)

with trilinear spreading of both sums (the transpose of slicing) on a grid oversampled twice, weights w per particle,
and an optional prior precision 1/τ² per shell (Zhong 2022, ch. 2; the Wiener filter of Scheres 2012, J. Mol. Biol.
415). The interpolation is undone in real space by division by its transform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Float64, Integer
from torch import Tensor

from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.point_groups import C1, PointGroup, sum_over_lattice
from cryodrgn_ext.fourier.slices import (
    FourierAccumulator,
    FourierGrid,
    friedel_sum,
    grid_to_map,
    gridding_correction,
)
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor, SilentMonitor

#: Coefficients per batch; bounds the temporaries to about 200 MB.
COEFFICIENTS_PER_BATCH = 1 << 19
#: Grid points per step of a solution; bounds its temporaries to about 200 MB.
VOXELS_PER_BLOCK = 1 << 22
#: Least denominator, as a fraction of its mean over the shell. Places that few images touched would else be divided by
#: next to nothing; sets of tens of particles gain a tenth in FSC by it.
WEIGHT_FLOOR = 0.1
#: The floor is no higher than the weight of this many average images, however many there are: in well-filled shells
#: small weights are right (all images may share a zero of the CTF there), and a higher floor would bend the spectrum.
FLOOR_IMAGES = 0.3


@dataclass(frozen=True)
class BackprojectionSums:
    """Numerator and denominator of a backprojection; sums of disjoint sets of particles add up.

    Attributes
    ----------
    grid : FourierGrid
    numerator : Tensor
        ``grid.shape`` complex64, Friedel-symmetric on the plane x = 0.
    weight : Tensor
        ``grid.shape`` float32.
    n_particles : int
        How many particles were inserted.
    symmetry : PointGroup
        Each of them counts once for each of its rotations.
    """

    grid: FourierGrid
    numerator: Complex[Tensor, "Z Z X"]
    weight: Float[Tensor, "Z Z X"]
    n_particles: int
    symmetry: PointGroup = C1

    def __add__(self, other: BackprojectionSums) -> BackprojectionSums:
        """Sums over both sets of particles."""
        if other.grid != self.grid:
            raise ValueError(f"cannot add sums on {other.grid} to sums on {self.grid}")
        if other.symmetry.name != self.symmetry.name:
            raise ValueError(f"cannot add sums of symmetry {other.symmetry.name} to those of {self.symmetry.name}")
        return replace(
            self,
            numerator=self.numerator + other.numerator,
            weight=self.weight + other.weight,
            n_particles=self.n_particles + other.n_particles,
        )

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Runs of z planes and the nearest-integer shells (cycles per box) of their points, int64; bounded memory."""
        half, device = self.grid.half, self.weight.device
        k = torch.arange(-half, half + 1, device=device, dtype=torch.float32) / self.grid.oversampling
        in_plane = k[:, None] ** 2 + k[None, half:] ** 2
        step = max(1, VOXELS_PER_BLOCK // in_plane.numel())
        for start in range(0, 2 * half + 1, step):
            block = slice(start, min(start + step, 2 * half + 1))
            norm = torch.sqrt(in_plane + k[block, None, None] ** 2)
            yield block, torch.round(norm).long().clamp_max_(self.grid.radius + 1)

    def shell_weight(self) -> Float64[Tensor, " S"]:
        """(radius + 1,) float64: mean weight of the grid points of each nearest-integer shell."""
        total = torch.zeros(self.grid.radius + 2, dtype=torch.float64, device=self.weight.device)
        count = torch.zeros_like(total)
        for block, shell in self._blocks():
            flat = shell.flatten()
            total += torch.bincount(flat, weights=self.weight[block].double().flatten(), minlength=len(total))
            count += torch.bincount(flat, minlength=len(total))
        return (total / count.clamp_min(1))[:-1].cpu()

    def ratio(self) -> Complex[Tensor, "Z Z X"]:
        """Least-squares Fourier coefficients on the grid, 0 where there are no data; no floor under the weights.

        For what is subtracted from other sums: a floor would shrink the reference, and every set would differ from it
        alike. Where weights are small, the ratio is noisy, but the weights of a set, with which it is multiplied, are
        smaller still.
        """
        tiny = torch.finfo(torch.float32).tiny
        return torch.where(self.weight > 0, self.numerator / self.weight.clamp_min(tiny), 0)

    def without(self, reference: Complex[Tensor, "Z Z X"]) -> BackprojectionSums:
        """Sums of what a reference (``grid.shape`` complex, see :meth:`ratio`) leaves of the images."""
        return replace(self, numerator=self.numerator - self.weight * reference)

    def _floor(self) -> Tensor:
        """(radius + 1,) float64: least denominator as a fraction of its mean over each shell."""
        shell = torch.arange(self.grid.radius + 1, dtype=torch.float64)
        # A ring of 2 pi k coefficients per image, over the 4 pi k^2 oversampling^3 grid points of the shell.
        images_per_point = (
            self.n_particles * self.symmetry.order / (2.0 * self.grid.oversampling**3 * shell.clamp_min(1.0))
        )
        return (FLOOR_IMAGES / images_per_point.clamp_min(1e-30)).clamp_max(WEIGHT_FLOOR)

    def solve(self, prior_precision: Float[Tensor, " S"] | None = None) -> Float[Tensor, "D D D"]:
        """Map with the densities of V, Wiener-filtered when a prior is given.

        Parameters
        ----------
        prior_precision : Tensor, optional
            (radius + 1,) 1/τ² per shell, in the units of ``weight`` (see :func:`wiener_precision`).

        Returns
        -------
        Tensor
            (D, D, D) float32, axes z, y, x. 0 when nothing was inserted.
        """
        outside = torch.full((1,), torch.inf, dtype=torch.float64)
        least = self._floor() * self.shell_weight()
        least[:3] *= 0.01  # next to the origin the CTF rises within a shell, and every image has measured every point
        prior = torch.zeros_like(least) if prior_precision is None else prior_precision.double()
        least = torch.cat([least.clamp_min(torch.finfo(torch.float32).tiny), outside]).float().to(self.weight.device)
        prior = torch.cat([prior, outside]).float().to(self.weight.device)
        spectrum = torch.empty_like(self.numerator)
        for block, shell in self._blocks():
            denominator = torch.maximum(self.weight[block], least[shell]) + prior[shell]
            spectrum[block] = self.numerator[block] / denominator
        d = self.grid.box_size
        return grid_to_map(spectrum, self.grid) / gridding_correction(d, self.grid.oversampling, spectrum.device)


def backproject(
    images: ParticleImages,
    indices: Integer[Tensor, " n"] | None = None,
    weights: Float[Tensor, " _"] | None = None,
    grid: FourierGrid | None = None,
    symmetry: PointGroup = C1,
    device: torch.device | str | None = None,
    monitor: Monitor | None = None,
    description: str = "Backprojecting",
) -> BackprojectionSums:
    """Sum images over Fourier space. On the CPU the result is the same bit for bit on every run.

    With a point group every image counts once for each of its rotations, as if the set had been expanded by them.
    Copies that fall on grid points again are added when all images are in; only the others are inserted one by one.

    Parameters
    ----------
    images : ParticleImages
    indices : Tensor, optional
        (n,) int64 rows to use; all when omitted.
    weights : Tensor, optional
        (n,) non-negative weight of each of them; rows of weight 0 are skipped.
    grid : FourierGrid, optional
        Of the sums, for images of this box; the images' whole band, oversampled twice, when omitted.
    symmetry : PointGroup
        C1 when omitted.
    device : torch.device or str, optional
        Where to sum; where the images are when omitted. A GPU does not fix the order of additions.
    monitor : Monitor, optional
    description : str
        What the progress line says.
    """
    monitor = SilentMonitor() if monitor is None else monitor
    device = images.rotation.device if device is None else device
    rows, weights = _used_rows(images, indices, weights, device)
    grid = FourierGrid(images.box_size, images.plane.radius) if grid is None else grid
    if grid.box_size != images.box_size or grid.radius > images.plane.radius:
        raise ValueError(f"images of {images.box_size} px with |k| up to {images.plane.radius} do not fill {grid}")
    # Images whose box is longer than the model's reach |points| = radius only at higher frequencies of their own.
    reach = grid.radius / min(group.frequency_scale for group in images.geometry.groups)
    count = min(images.plane.prefix(reach), images.source.n_coefficients)
    sums = FourierAccumulator(grid, device)
    size = max(1, COEFFICIENTS_PER_BATCH // count)
    others = torch.from_numpy(symmetry.representatives()[1:]).float().to(device)

    def add(here: slice) -> None:
        batch = images.batch(rows[here], count, device)
        scaled = batch.ctf if weights is None else batch.ctf * weights[here, None]
        values, squares = batch.coefficients * scaled, batch.ctf * scaled
        sums.insert(batch.points, values, squares)
        for rotation in others:

            def turn(some: slice, rotation: Tensor = rotation) -> None:
                x, y, z = batch.points[some].unbind(-1)
                rotated = [row[0] * x + row[1] * y + row[2] * z for row in rotation]  # no matmul: exact also with TF32
                sums.insert(torch.stack(rotated, -1), values[some], squares[some])

            in_blocks(turn, len(values), "images of a symmetry")

    for first in monitor.track(range(0, len(rows), size), description, len(rows), size):
        part = slice(first, min(first + size, len(rows)))
        in_blocks(
            lambda here, first=first: add(slice(first + here.start, first + here.stop)),  # type: ignore[misc]
            part.stop - first,
            "images of a reconstruction",
        )
    numerator, weight = (
        sum_over_lattice(friedel_sum(one), symmetry.lattice()) for one in (sums.numerator, sums.weight)
    )
    return BackprojectionSums(grid, numerator, weight, len(rows), symmetry)


def _used_rows(
    images: ParticleImages, indices: Tensor | None, weights: Tensor | None, device: torch.device | str
) -> tuple[Tensor, Tensor | None]:
    """Rows of positive weight, and their weights; refuses weights that are none."""
    rows = torch.arange(images.n) if indices is None else indices.cpu().long()
    if weights is None:
        return rows, None
    if weights.shape != rows.shape:
        raise ValueError(f"weights {tuple(weights.shape)} must have the shape of the indices {tuple(rows.shape)}")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("weights must be finite and not negative")
    used = weights.cpu() > 0
    return rows[used], weights.cpu()[used].float().to(device)


def wiener_precision(sums: BackprojectionSums, fsc: Float[Tensor, " S"]) -> Float64[Tensor, " _"]:
    """Prior precision 1/τ² per shell that a half-map FSC implies for the sums over both halves.

    The ratio of signal to noise of all data is 2 FSC / (1 - FSC); the noise is one over the mean weight, so
    1/τ² = weight (1 - FSC) / (2 FSC).

    Parameters
    ----------
    sums : BackprojectionSums
        Of both halves.
    fsc : Tensor
        (D // 2 + 1,) between the halves' maps.

    Returns
    -------
    Tensor
        (radius + 1,) float64.
    """
    bounded = fsc.double()[: sums.grid.radius + 1].clamp(1e-3, 1.0 - 1e-6)
    bounded[0] = bounded[1]  # the background's normalisation took the mean: its agreement says nothing
    return sums.shell_weight() * (1.0 - bounded) / (2.0 * bounded)
