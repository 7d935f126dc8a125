"""Whether particles differ in how strongly they show, told by the images before anything else is learned."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.particle_scale import ScaleSpread, probability_of_nothing, relative_spread, scale_error

MOST_IMAGES = 2000
MEASURED_RADIUS = 16
LEAST_FITTED = 0.02  # to begin with, where the user wants scales fitted whatever images say


def measure_scales(images: ParticleImages, make_band: Callable[[ParticleImages, int], Band]) -> ScaleSpread:
    """Spread of the scales at which images hold the consensus, beyond what their noise makes.

    Up to :data:`MOST_IMAGES` images, spread evenly; those that hold no particle do not count.

    Parameters
    ----------
    images : ParticleImages
    make_band : callable
        images, radius -> Band.
    """
    chosen = torch.linspace(0, images.n - 1, min(images.n, MOST_IMAGES)).long().unique()
    chosen = chosen[torch.from_numpy(~images.unusable)[chosen]]
    if len(chosen) == 0:
        return ScaleSpread(0.0, float("inf"))
    band = make_band(images.subset(chosen), min(MEASURED_RADIUS, images.plane.radius))
    blank = torch.zeros(band.grid.n_voxels, 2, padded(1), device=band.device)
    scale, power, noise = [], [], []
    for chunk in band.chunks(torch.arange(len(chosen))):
        inner, cross = (x.double().flatten() for x in band.operators.gram(blank, 1, chunk))
        counted = chunk.whitened_ctf != 0
        norm = (chunk.values.abs().square() * counted).sum(1).double()
        inner = inner.clamp_min(torch.finfo(torch.float32).tiny)
        left = (norm - cross.square() / inner).clamp_min(0) / counted.sum(1).clamp_min(1)
        scale.append((cross / inner).cpu())
        power.append(inner.cpu())
        noise.append(left.cpu())
    found = torch.cat(scale).numpy()
    doubt = scale_error(torch.cat(power).numpy(), torch.cat(noise).numpy())
    return relative_spread(found, doubt, probability_of_nothing(found, doubt))


def fitted_spread(wanted: str, found: ScaleSpread) -> float:
    """Spread of the scales that a fit begins with; 0 where scales are not fitted.

    Parameters
    ----------
    wanted : str
        ``yes``, ``no``, or ``auto``: where images differ beyond chance.
    found : ScaleSpread
    """
    there = found.variance > SURE * found.error
    if wanted == "no" or (wanted == "auto" and not there):
        return 0.0
    return max(found.deviation, LEAST_FITTED)
