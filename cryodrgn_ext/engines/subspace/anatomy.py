"""What the consensus says of components before there are any: where they may be, and how the particle may deform.

In few images with much noise components are found only if they have few numbers to be found: in N images, one that each
tells with information L stands out from noise where L exceeds the root of its numbers over N (Baik, Ben Arous and Péché
2005). A region in place of the box divides those numbers by ten or more. Smooth deformations of the consensus, with
which components may begin, have a few dozen in all (normal modes, Jin et al. 2014; Zernike polynomials, Herreros et al.
2021); components are free of them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.regions import moving_region, particle_region, widened
from cryodrgn_ext.engines.subspace.subspace import Subspace

DEGREE = 2  # of the polynomials that displacement and occupancy follow
LEAST_POWER = 1e-6  # of the strongest deformation, of one that is none

Masks = tuple[Float32[Tensor, "D D D"], Float32[Tensor, "D D D"]] | None


@dataclass(frozen=True)
class Deformations:
    """Changes of the consensus, orthonormal over the sphere.

    Attributes
    ----------
    modes : Tensor
        (V, 2, Kp) float32: columns from 1 are smooth displacements and occupancies, without what moves, turns or
        strengthens the whole; then those that move and turn the whole. Column 0 is free.
    smooth, rigid : int
        Number of columns of either kind; there are none where the particle has no extent at the band.
    """

    modes: Float32[Tensor, "V 2 Kp"]
    smooth: int
    rigid: int

    @property
    def count(self) -> int:
        """Number K of all columns."""
        return self.smooth + self.rigid

    def about(self, average: Float32[Tensor, "V 2"]) -> Deformations:
        """The same with a correction (V, 2) of the consensus in column 0."""
        modes = self.modes.clone()
        modes[..., 0] = average
        return replace(self, modes=modes)

    def on(self, device: torch.device) -> Deformations:
        """Copy to a device."""
        return replace(self, modes=self.modes.to(device))


@dataclass(frozen=True)
class Anatomy:
    """A consensus and the user's regions in it.

    Attributes
    ----------
    consensus : ndarray
        (D, D, D).
    particle, focus : Tensor or None
        (D, D, D) soft masks that the user gave.
    """

    consensus: NDArray[np.float32]
    particle: Float32[Tensor, "D D D"] | None = None
    focus: Float32[Tensor, "D D D"] | None = None

    def masks(self, subspace: Subspace | None, radius: int, held: bool) -> Masks:
        """Soft masks (D, D, D) that the consensus' correction and components are held to; None where they are free.

        Free components find what the average has blurred away, too.

        Parameters
        ----------
        subspace : Subspace, optional
            What is known so far.
        radius : int
            Of the band, in cycles per box.
        held : bool
            To the particle; otherwise to the user's focus alone.
        """
        if not held:
            return None if self.focus is None else (torch.ones_like(self.focus), self.focus)
        moving = torch.zeros(self.consensus.shape) if subspace is None else moving_region(subspace, self.focus)
        particle = self.region(radius, moving)
        if self.particle is None:  # half a period: within it what moves is seen where the average is
            particle = torch.maximum(particle, widened(particle, 0.5 * len(self.consensus) / radius))
        return particle, particle if self.focus is None else particle * self.focus

    def region(self, radius: int, moving: Float32[Tensor, "D D D"]) -> Float32[Tensor, "D D D"]:
        """Soft mask (D, D, D) of the particle: the one that was given, or as the consensus shows it at a band."""
        return particle_region(self.consensus, radius, moving) if self.particle is None else self.particle

    def deformations(self, grid: ComponentGrid) -> Deformations:
        """Smooth changes of the consensus: displacements and occupancies that are polynomials of the place.

        Apart from them stands what errors of poses make: moving or turning all of it. What an error of the particle
        scale makes is left out.
        """
        fine = ComponentGrid(min(grid.box_size, 2 * (3 * grid.radius // 2 + 1)), grid.radius)
        whole = torch.from_numpy(self.consensus)
        inside = self.region(grid.radius, torch.zeros(whole.shape))
        inside = inside if self.focus is None else inside * self.focus
        density = fine.to_map(grid.from_map(whole * inside)).double()
        axis = torch.arange(len(density), dtype=torch.float64) - len(density) // 2
        place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
        mass = density.clamp_min(0)
        if not bool(mass.any()):
            return Deformations(torch.zeros(grid.n_voxels, 2, padded(1)), 0, 0)
        place = place - ((place * mass).sum((1, 2, 3)) / mass.sum())[:, None, None, None]
        place = place / ((place.square().sum(0) * mass).sum() / mass.sum()).sqrt()
        slope = torch.stack(torch.gradient(density))
        one = torch.ones_like(density)
        powers = [one] + [place[list(chosen)].prod(0) for degree in range(1, DEGREE + 1)
                          for chosen in combinations_with_replacement(range(3), degree)]  # fmt: skip
        rigid = [density, *slope, *(slope[a] * place[b] - slope[b] * place[a] for a, b in ((0, 1), (0, 2), (1, 2)))]
        soft = [power * part for power in powers for part in (density, *slope)]
        parts = [fine.from_map(part.float().contiguous()).double() for part in (*rigid, *soft)]
        columns = torch.stack(parts, -1)
        smooth = orthonormal(grid, columns, len(rigid))
        whole = orthonormal(grid, columns[..., : len(rigid)], 1)
        count = smooth.shape[-1] + whole.shape[-1]
        out = torch.zeros(grid.n_voxels, 2, padded(count + 1))
        out[..., 1 : count + 1] = torch.cat([smooth, whole], -1).float()
        return Deformations(out, smooth.shape[-1], whole.shape[-1])


def orthonormal(grid: ComponentGrid, parts: Float64[Tensor, "V 2 P"], without: int) -> Float64[Tensor, "V 2 K"]:
    """Orthonormal components over the whole sphere that span all but the first ``without`` ones, less these."""
    weight = grid.multiplicity.double()[:, None, None]
    parts = parts / (weight * parts.square()).sum((0, 1)).clamp_min(1e-300).sqrt()

    def base(columns: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(torch.einsum("vsi,vsj->ij", weight * columns, columns))
        used = values > LEAST_POWER * values[-1]
        found: Tensor = columns @ (vectors[:, used] / values[used].sqrt()).flip(1)
        return found

    taken = base(parts[..., :without])
    rest = parts[..., without:]
    return base(rest - taken @ torch.einsum("vsi,vsj->ij", weight * taken, rest))
