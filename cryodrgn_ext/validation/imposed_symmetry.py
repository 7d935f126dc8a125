"""Whether particles have the symmetry that was imposed on their map, about the axes that it has in RELION.

A wrong point group, or one whose axes lie elsewhere (other programs lay those of D, T, O and I differently), averages
what is not alike: maps become smooth, and what single images show beyond them looks like heterogeneity. Images of one
half are held against maps of the other half, with and without the symmetry. Where the particle has it, the map with it
holds the same signal and less noise; where not, images agree better with the map without. That holds also where the
refinement has left all poses in one asymmetric unit, which shows a map without symmetry from some sides only: those
from which the images look at it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, reconstruct_half_maps

MOST_IMAGES = 10_000
IMAGES_PER_BATCH = 256
#: Shells are compared in which the halves of the symmetric map agree so well.
RESOLVED = 0.5
#: What the map with symmetry leaves of the images more than that without, to be said: in standard errors of the mean
#: over the images, and as a share of what a map explains of them.
STANDARD_ERRORS, SHARE = 5.0, 0.02


def symmetry_fault(
    images: ParticleImages, halves: HalfMaps, mask: Tensor, device: torch.device | str, monitor: Monitor
) -> str | None:
    """Return what speaks against the symmetry of a map of all images, in one sentence; None where nothing does.

    Parameters
    ----------
    images : ParticleImages
    halves : HalfMaps
        Of the images, with ``halves.symmetry`` imposed.
    mask : Tensor
        (D, D, D) of the particle.
    device : torch.device or str
    monitor : Monitor
    """
    unresolved = np.flatnonzero(halves.fsc < RESOLVED)
    radius = int(unresolved[0]) - 1 if len(unresolved) else len(halves.fsc) - 1
    if halves.symmetry.order == 1 or radius < 2:
        return None
    rows = _sample(images)
    plain = reconstruct_half_maps(images, rows, mask=mask, device=device, monitor=monitor)
    with_symmetry, without, empty = (
        torch.cat([_left(images, rows[images.half_set[rows] == 2 - other], volume, mask, radius, device)
                   for other, volume in enumerate(pair)])
        for pair in ((halves.half1, halves.half2), (plain.half1, plain.half2), (None, None))
    )  # fmt: skip
    worse = with_symmetry - without
    mean, explained = float(worse.mean()), float((empty - without).mean())
    error = float(worse.std()) / len(worse) ** 0.5
    if explained <= 0 or mean < STANDARD_ERRORS * error or mean < SHARE * explained:
        return None
    return (
        f"the particles do not have the symmetry {halves.symmetry.name} about RELION's axes: imposing it loses "
        f"{100 * mean / explained:.0f} % of what a map without it explains of the images ({mean / error:.0f} standard "
        "errors). Leave --symmetry out, or turn map and poses so that the axes are RELION's; other programs lay the "
        "axes of a point group differently."
    )


def _sample(images: ParticleImages) -> Tensor:
    """(n,) rows of images that hold something, spread over the file, of each half."""
    usable = torch.from_numpy(~images.unusable)
    chosen = []
    for half in (1, 2):
        rows = ((images.half_set.cpu() == half) & usable).nonzero()[:, 0]
        step = torch.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES // 2)).long()
        chosen.append(rows[step])
    return torch.cat(chosen)


def _left(
    images: ParticleImages,
    rows: Tensor,
    volume: NDArray[np.float32] | None,
    mask: Tensor,
    radius: int,
    device: torch.device | str,
) -> Tensor:
    """(n,) float64 power of images that a map, or none, leaves unexplained up to ``radius``."""
    seen = None
    if volume is not None:
        seen = FourierVolume.from_map((torch.from_numpy(volume) * mask.cpu()).to(device), radius=radius)
    count = min(images.plane.prefix(radius), images.source.n_coefficients)
    found = []
    for some in rows.split(IMAGES_PER_BATCH):
        batch = images.batch(some, count, device)
        rest = batch.coefficients if seen is None else batch.coefficients - batch.ctf * seen.slice(batch.points)
        found.append(rest.abs().square().sum(dim=1).double().cpu())
    return torch.cat(found)
