"""What reconstruction with the true labels reaches on the same images: the most that volumes of a model can be held to.

Each state's map is made of its own images and of those of states whose true maps are near, with weights that fall with
the distance of the maps: the widths of this kernel are those that are best for the true maps, shell by shell and the
same for all states. Maps are cut to where the true maps have density. Nothing of this is known to a user; a model of
all images can come near, and can do better where its maps say more of a state than the images near it do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.cryobench import curve_area, fsc_curve
from cryodrgn_ext.fourier.masks import threshold_mask
from cryodrgn_ext.fourier.point_groups import PointGroup
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import backproject

FloatArray = NDArray[np.float64]
#: Shares of all images that the kernel reaches; beside these, the state's own images alone, and all images alike.
SHARES = (40, 20, 10, 5, 3)


@dataclass(frozen=True)
class TrueLabels:
    """Images with their true states.

    Attributes
    ----------
    images : ParticleImages
    state : ndarray
        (N,) 0 to S - 1.
    maps : ndarray
        (S, D, D, D) true maps, in the box of the images.
    symmetry : PointGroup
        Imposed on the maps that are made.
    """

    images: ParticleImages
    state: NDArray[np.int64]
    maps: NDArray[np.float32]
    symmetry: PointGroup

    def areas(self, states: Sequence[int], device: torch.device | str, monitor: Monitor) -> FloatArray:
        """Area under the FSC with its true map, by CryoBench's measure, of the map of each of some states.

        Parameters
        ----------
        states : sequence of int
            P of them, each with at least one image.
        device : torch.device or str
        monitor : Monitor

        Returns
        -------
        ndarray
            (P,).
        """
        mask = threshold_mask(torch.from_numpy(self.maps.max(axis=0)), self.images.pixel_size_A).numpy()
        everything = self.map_of(np.ones(self.images.n), device) * mask
        curves = []
        for state in monitor.track(states, "Reconstructing with true labels", len(states)):
            truth = self.maps[state]
            made = [self.map_of(weight, device) * mask for weight in self.kernels(state)]
            curves.append([fsc_curve(one, truth) for one in (*made, everything)])
        by_width = np.array(curves)  # states, widths, shells
        best = by_width.mean(axis=0).argmax(axis=0)
        chosen = by_width[:, best, np.arange(by_width.shape[2])]
        return np.array([curve_area(curve) for curve in chosen])

    def kernels(self, state: int) -> list[FloatArray]:
        """Weights (N,) of the images in a state's map: the own images alone, then ever wider kernels."""
        distance = np.sqrt(np.mean((self.maps - self.maps[state]) ** 2, axis=(1, 2, 3), dtype=np.float64))
        own = (self.state == state).astype(np.float64)
        count = np.bincount(self.state, minlength=len(self.maps))
        order = np.argsort(distance, kind="stable")
        reached = np.cumsum(count[order])
        found = [own]
        for share in SHARES:
            # The first state beyond those that hold so many images has no weight any more.
            beyond = int(np.searchsorted(reached, len(self.state) / share)) + 1
            reach = distance[order[beyond]] if beyond < len(order) else np.inf
            weight = np.maximum(1 - (distance / reach) ** 2, 0.0) if reach > 0 else (distance == 0).astype(float)
            found.append(weight[self.state])
        return found

    def map_of(self, weight: FloatArray, device: torch.device | str) -> NDArray[np.float32]:
        """(D, D, D) unfiltered map of the images with these weights (N,)."""
        rows = torch.from_numpy(np.flatnonzero(weight))
        sums = backproject(self.images, rows, torch.from_numpy(weight)[rows], None, self.symmetry, device)
        return np.asarray(sums.solve().cpu().numpy(), np.float32)
