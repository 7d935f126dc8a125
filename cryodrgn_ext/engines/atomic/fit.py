"""Fitting a structure's deformations at all nodes of latent space at once: data, restraints, smoothness in the latents.

The parameters are turns and shifts of frames (:mod:`.frames`), each a sum of smooth features of the latents with a
Gaussian prior. The negative log-posterior is minimised by L-BFGS, in stages: low frequencies and long stretches of
chain first, then finer ones of both. How density falls off with frequency (widths, B-factors, solvent) is one free
scale for each shell, found in closed form between the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.structure import Structure, residue_centres, residue_widths
from cryodrgn_ext.engines.atomic.frames import FrameLevel, deformed, frame_levels
from cryodrgn_ext.engines.atomic.node_sums import NodeSums, grid_shells
from cryodrgn_ext.engines.atomic.restraints import Restraints
from cryodrgn_ext.fourier.gaussians import gaussian_spectrum
from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume
from cryodrgn_ext.progress import Monitor

#: Resolutions of the stages before the last, Å.
STAGES_A = (20.0, 14.0, 10.0)
ROUNDS, STEPS = 2, 12
#: Standard deviation of what a frame of a level adds to the motion, Å.
FRAME_SD_A = 5.0


@dataclass(frozen=True)
class AtomModel:
    """A structure in the frame of a map, as Gaussians that can be moved.

    Attributes
    ----------
    base_A : Tensor
        (C, 3) centres in Å from the centre of the box.
    electrons, width_A : Tensor
        (C,).
    residue : ndarray
        (C,) of each centre.
    levels : list of FrameLevel
    restraints : Restraints
    pixel_size_A : float
    """

    base_A: Float[Tensor, "C 3"]
    electrons: Float[Tensor, " C"]
    width_A: Float[Tensor, " C"]
    residue: NDArray[np.int64]
    levels: list[FrameLevel]
    restraints: Restraints
    pixel_size_A: float

    @classmethod
    def of(cls, structure: Structure, placed: NDArray[np.float64], pixel_size_A: float) -> AtomModel:
        """Model of a structure whose centres (C, 3) were placed in a map, in Å from the centre of the box."""
        _, electrons, residue = residue_centres(structure)
        return cls(
            torch.from_numpy(placed).float(),
            torch.from_numpy(electrons).float(),
            torch.from_numpy(residue_widths(structure)).float(),
            residue,
            frame_levels(structure.chain, residue),
            Restraints.of(placed, residue, structure.chain),
            pixel_size_A,
        )

    def spectrum(self, positions_A: Float[Tensor, "C 3"], grid: FourierGrid, blurred: bool) -> Tensor:
        """Transform of the structure on a grid; ``blurred`` as sums of images are, by their spreading onto points."""
        voxels = positions_A / self.pixel_size_A
        share = voxels / (grid.box_size * grid.oversampling)
        factor = (torch.sinc(share) ** 2).prod(dim=1) if blurred else 1.0 / torch.sinc(share.norm(dim=1)) ** 2
        return gaussian_spectrum(grid, voxels, self.electrons * factor, self.width_A / self.pixel_size_A)


class AtomFit:
    """Motions of one structure at all nodes.

    Parameters
    ----------
    model : AtomModel
    features : Tensor
        (K, F) float32 values of the features at the nodes; the first is 1, the others have the prior's variance.
    sums : NodeSums
    """

    def __init__(self, model: AtomModel, features: Float[Tensor, "K F"], sums: NodeSums) -> None:
        self.model, self.features, self.sums = model, features, sums
        size = features.shape[1]
        self.motion = [torch.zeros(size, level.count, 6) for level in model.levels]
        self.scale = torch.zeros(sums.grid.radius + 2)
        self.history: list[float] = []

    @property
    def positions(self) -> Float[Tensor, "K C 3"]:
        """Centres (K, C, 3) in Å at the nodes."""
        return self.at(self.features)

    def at(self, features: Float[Tensor, "P F"]) -> Float[Tensor, "P C 3"]:
        """Centres (P, C, 3) in Å at places of the given features (P, F)."""
        with torch.no_grad():
            return self._deformed(self.motion, features)

    def run(self, resolution_A: float, monitor: Monitor, last_only: bool = False) -> None:
        """Fit in stages up to a resolution in Å; ``last_only`` improves what is there already."""
        box_A = self.sums.grid.box_size * self.model.pixel_size_A
        finest = min(self.sums.grid.radius, int(box_A / resolution_A))
        radii = sorted({min(finest, max(4, round(box_A / stage))) for stage in (*STAGES_A, resolution_A)})
        # The last stage moves all levels, each one before it one less.
        active_of = {radius: max(2, len(self.model.levels) - before) for before, radius in enumerate(radii[::-1])}
        plan = [(radius, step) for radius in (radii[-1:] if last_only else radii) for step in range(ROUNDS)]
        for radius, step in monitor.track(plan, "Fitting atoms", len(plan)):
            if step == 0:
                sums = self.sums.band(radius)
                clashing = self.model.restraints.close_pairs(self.positions)
            self._rescale(sums)
            self._descend(sums, active_of[radius], clashing)

    def volumes(self, radius: int) -> list[FourierVolume]:
        """Volumes of the nodes for slicing, to a radius in cycles per box."""
        grid = FourierGrid(self.sums.grid.box_size, radius, 2)
        k = torch.arange(-grid.half, grid.half + 1) / grid.oversampling
        norm = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, grid.half :] ** 2).sqrt()
        low = norm.long().clamp_max(len(self.scale) - 2)
        part = (norm - low).clamp_max(1.0)
        scale = self.scale[low] * (1 - part) + self.scale[low + 1] * part
        with torch.no_grad():
            return [FourierVolume(grid, self.model.spectrum(one, grid, False) * scale) for one in self.positions]

    def _deformed(self, motion: Sequence[Tensor], features: Tensor) -> Tensor:
        at = [torch.einsum("kf,fnd->knd", features, one) for one in motion]
        return deformed(self.model.base_A, self.model.levels, at)

    def _rescale(self, sums: NodeSums) -> None:
        """Best scale of each shell, at least 0, for the structures as they are."""
        shell = grid_shells(sums.grid).flatten()
        top, bottom = torch.zeros(2, int(shell.max()) + 1, dtype=torch.float64)
        with torch.no_grad():
            for node, positions in enumerate(self.positions):
                spectrum = self.model.spectrum(positions, sums.grid, True).flatten()
                cross = (sums.numerator[node].flatten().conj() * spectrum).real
                top += torch.bincount(shell, cross.double(), len(top))
                power = sums.weight[node].flatten() * spectrum.abs().square()
                bottom += torch.bincount(shell, power.double(), len(top))
        scale = torch.where(bottom > 0, top / bottom.clamp_min(1e-30), 0).clamp_min(0).float()
        radius = sums.grid.radius
        self.scale[: radius + 1] = scale[: radius + 1]
        self.scale[0] = self.scale[1]
        self.scale[radius + 1 :] = self.scale[radius]

    def _descend(self, sums: NodeSums, active: int, clashing: Tensor) -> None:
        """Some steps of L-BFGS of the coarsest ``active`` levels."""
        moving = [one.requires_grad_() for one in self.motion[:active]]
        scale = self.scale[grid_shells(sums.grid).clamp_max(len(self.scale) - 1)]
        optimiser = torch.optim.LBFGS(moving, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> Float64[Tensor, ""]:
            optimiser.zero_grad()
            positions = self._deformed(moving, self.features)
            held = positions.detach().requires_grad_()
            data = sum(self._misfit(sums, scale, node, held[node]) for node in range(len(held)))
            # Nodes are not independent structures: there are as many as features.
            energy = self.model.restraints.energy(positions, clashing).double().mean() * self.features.shape[1]
            prior = sum((0.5 * (one / FRAME_SD_A).square().sum().double() for one in moving), energy)
            assert held.grad is not None
            (prior + (positions * held.grad).sum()).backward()
            return torch.as_tensor(data, dtype=torch.float64) + prior.detach()

        self.history.append(float(optimiser.step(loss)))
        self.motion = [one.detach() for one in self.motion]

    def _misfit(self, sums: NodeSums, scale: Tensor, node: int, positions: Tensor) -> float:
        """Negative log-likelihood at one node, its gradient added to that of ``positions`` (C, 3)."""
        spectrum = self.model.spectrum(positions, sums.grid, True) * scale
        cross = (sums.numerator[node].conj() * spectrum).real
        value = (sums.weight[node] * spectrum.abs().square() - 2 * cross).sum(dtype=torch.float64)
        value.backward()
        return float(value.detach())
