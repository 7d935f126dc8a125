"""Where the components of a subspace live: a half-sphere of Fourier voxels as one compact list.

One grid point per cycle per box. Rows run along x >= 0; a table of (z, y) gives where each row starts, so that the
corners of a trilinear cell are found without a search and no memory is spent outside the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.fourier.simd import WIDTH
from cryodrgn_ext.fourier.slices import FourierGrid, grid_to_map, gridding_correction, map_to_grid


def padded(count: int) -> int:
    """``count`` rounded up to a multiple of :data:`WIDTH`, so that the compiled loops need no remainder."""
    return -(-count // WIDTH) * WIDTH


@dataclass(frozen=True)
class ComponentGrid:
    """Compact half-sphere of Fourier voxels.

    Attributes
    ----------
    box_size : int
        Voxels D along each edge of the real-space map.
    radius : int
        Largest |k| that can be interpolated, in cycles per box.
    """

    box_size: int
    radius: int

    @property
    def half(self) -> int:
        """Index of the origin along z and y in :attr:`table`."""
        return self.radius + 1

    @property
    def cube(self) -> FourierGrid:
        """The rectangular half-volume that holds the sphere."""
        return FourierGrid(self.box_size, self.radius, 1)

    @cached_property
    def coordinates(self) -> Tensor:
        """(V, 3) int64 z, y, x of the voxels: all corners of cells that reach into the sphere."""
        h = self.half
        k = torch.arange(-h, h + 1)
        near = (k.abs() - 1).clamp_min(0) ** 2
        keep = near[:, None, None] + near[None, :, None] + near[None, None, h:] <= self.radius**2
        found: Tensor = keep.nonzero()
        return found - torch.tensor([h, h, 0])

    @cached_property
    def coarse(self) -> ComponentGrid:
        """The same voxels for maps of the same extent with no more samples than the band needs."""
        return ComponentGrid(min(self.box_size, 2 * self.radius + 2), self.radius)

    @cached_property
    def _gridding(self) -> Tensor:
        return gridding_correction(self.box_size, 1)

    @property
    def n_voxels(self) -> int:
        """Number V of voxels in the list."""
        return len(self.coordinates)

    @cached_property
    def table(self) -> Int64[Tensor, "Z Z"]:
        """(2 half + 1, 2 half + 1) int64: the voxel (z, y, x) is at ``table[z + half, y + half] + x`` of the list."""
        h = self.half
        row = (self.coordinates[:, 0] + h) * (2 * h + 1) + self.coordinates[:, 1] + h
        length = torch.bincount(row, minlength=(2 * h + 1) ** 2)
        return (torch.cumsum(length, 0) - length).reshape(2 * h + 1, 2 * h + 1)

    @cached_property
    def cube_index(self) -> Int64[Tensor, " V"]:
        """(V,) int64: flat index of each voxel in an array of shape ``cube.shape``."""
        h = self.half
        z, y, x = self.coordinates.unbind(1)
        return ((z + h) * (2 * h + 1) + y + h) * (h + 1) + x

    @cached_property
    def norm(self) -> Float32[Tensor, " V"]:
        """(V,) float32 |k| in cycles per box."""
        return (self.coordinates.double() ** 2).sum(1).sqrt().float()

    @cached_property
    def shell(self) -> Int64[Tensor, " V"]:
        """(V,) int64 nearest-integer shell, at most ``radius``: the rim belongs to the last shell."""
        return self.norm.double().round().long().clamp_max(self.radius)

    @cached_property
    def shell_count(self) -> Float64[Tensor, " S"]:
        """(radius + 1,) float64 number of voxels per shell."""
        return torch.bincount(self.shell, minlength=self.radius + 1).double()

    @cached_property
    def multiplicity(self) -> Float32[Tensor, " V"]:
        """(V,) float32: how many voxels of the whole sphere each stands for; 0 on the rim beyond ``radius``."""
        twice = torch.where(self.coordinates[:, 2] == 0, 1.0, 2.0)
        return twice * (self.norm <= self.radius)

    @cached_property
    def meridian(self) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """Voxels (P,) of the plane x = 0, and their Friedel partners (P,)."""
        h = self.half
        own = (self.coordinates[:, 2] == 0).nonzero()[:, 0]
        z, y, _ = self.coordinates[own].unbind(1)
        return own, self.table[h - z, h - y]

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device], Any]:
        return {}

    def _on(self, name: str, device: torch.device) -> Any:
        """Return what an attribute holds, on a device: copied there once, as it is wanted for every component."""
        if (name, device) not in self._moved:
            held = getattr(self, name)
            self._moved[name, device] = (
                tuple(one.to(device) for one in held) if isinstance(held, tuple) else held.to(device)
            )
        return self._moved[name, device]

    def shell_mean(self, values: Float[Tensor, "V ..."]) -> Float64[Tensor, "S ..."]:
        """Mean over each shell: (V, ...) -> (radius + 1, ...) float64."""
        total = torch.zeros(self.radius + 1, *values.shape[1:], dtype=torch.float64, device=values.device)
        total.index_add_(0, self._on("shell", values.device), values.double())
        count: Tensor = self._on("shell_count", values.device)
        return total / count.clamp_min(1).reshape(-1, *[1] * (values.dim() - 1))

    def add_partners(self, real: Float[Tensor, "V ..."] | None, split: Float[Tensor, "V 2 Q"] | None) -> None:
        """Complete sums on the plane x = 0 by their Friedel partners, in place.

        Samples are added once, on the side x >= 0; on the plane x = 0 the partners' share is missing.

        Parameters
        ----------
        real : Tensor, optional
            (V, ...) sums of real weights.
        split : Tensor, optional
            (V, 2, Q) sums of real and imaginary parts.
        """
        sums = real if real is not None else split
        if sums is None:
            return
        own, partner = self._on("meridian", sums.device)
        if real is not None:
            real[own] += real[partner]
        if split is not None:
            mirrored = split[partner]
            mirrored[:, 1] *= -1
            split[own] += mirrored

    def to_map(self, values: Float[Tensor, "V 2"]) -> Float[Tensor, "D D D"]:
        """Real map (D, D, D) of one component (V, 2): inverse transform, and the interpolation's sinc squared.

        Slices interpolate between grid points; in real space that multiplies what the grid holds by sinc^2.
        """
        cube = torch.zeros(self.cube.shape, dtype=torch.complex64, device=values.device)
        inside = torch.where(self._on("norm", values.device)[:, None] <= self.radius, values, 0.0).contiguous()
        cube.view(-1)[self._on("cube_index", values.device)] = torch.view_as_complex(inside)
        gridding: Tensor = self._on("_gridding", values.device)
        return grid_to_map(cube, self.cube) * gridding

    def from_map(self, volume: Float[Tensor, "D D D"]) -> Float[Tensor, "V 2"]:
        """Component (V, 2) of a real map (D, D, D), the inverse of :meth:`to_map` within the band."""
        corrected = volume.float() / self._on("_gridding", volume.device)
        cube = map_to_grid(corrected, self.cube).reshape(-1)
        values = torch.view_as_real(cube[self._on("cube_index", volume.device)]).contiguous()
        return torch.where(self._on("norm", volume.device)[:, None] <= self.radius, values, 0.0)

    def moved_to(self, values: Float[Tensor, "V 2 *columns"], other: ComponentGrid) -> Float[Tensor, "W 2 *columns"]:
        """Components (V, 2, Q) on another grid of the same box: cropped, or filled with zeros."""
        h, o = self.half, other.half
        known = (other.coordinates.abs() <= h).all(1).nonzero()[:, 0]
        z, y, x = other.coordinates[known].unbind(1)
        row = self.table[z + h, y + h]
        flat = self.table.reshape(-1)
        ends = torch.cat([flat[1:], torch.tensor([self.n_voxels])]).reshape(2 * h + 1, 2 * h + 1)
        held = row + x < ends[z + h, y + h]
        del o
        out = values.new_zeros(other.n_voxels, *values.shape[1:])
        out[known[held].to(values.device)] = values[(row + x)[held].to(values.device)]
        return out
