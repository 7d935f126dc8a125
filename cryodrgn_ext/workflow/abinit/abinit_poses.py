"""Between the job and the algorithms: poses of all particles from nothing, and poses against each image's own volume.

Everything that the job knows of :mod:`cryodrgn_ext.pose.abinit` stands here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cryodrgn_ext.engines.base import Heterogeneity, Linear
from cryodrgn_ext.engines.context import work_bytes
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.abinit import reconstruct
from cryodrgn_ext.pose.heterogeneous import LinearVolumes, refine_with_volumes
from cryodrgn_ext.pose.reconstruct_settings import DEFAULT_MASK_RADIUS, ReconstructSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.found_poses import FoundPoses


def find_poses(
    images: ParticleImages, settings: AbinitSettings, max_shift_px: float, checkpoint_dir: Path, monitor: Monitor
) -> FoundPoses:
    """Find poses and map from nothing; an interrupted search goes on from its checkpoint."""
    found = reconstruct(images, _search_settings(images, settings, max_shift_px), checkpoint_dir, monitor)
    for number, one in enumerate(found.initialisations, 1):
        hand = ", in the other hand" if one.mirrored else ""
        monitor.message(
            f"Random initialisation {number} (seed {one.seed}): {one.log_likelihood:.2f} nats per image; "
            f"{100 * one.agreement:.0f} % of its particles agree with the best one{hand}"
        )
    likelihoods = tuple(one.log_likelihood for one in found.initialisations)
    return FoundPoses(
        found.poses, found.log_likelihood, found.map, found.fsc, likelihoods, verdict=found.verdict,
        symmetry=found.symmetry,
    )  # fmt: skip


def refine_poses(
    images: ParticleImages,
    model: Heterogeneity,
    settings: AbinitSettings,
    max_shift_px: float,
    radius: int,
    monitor: Monitor,
) -> FoundPoses:
    """Improve the poses that ``images`` have, each against the volume that the model gives it, up to a shell."""
    if not isinstance(model, Linear):
        raise TypeError(f"poses are refined against sums of maps, which {type(model).__name__} does not give")
    form = model.linear_form()
    volumes = LinearVolumes(
        torch.from_numpy(form.mean),
        torch.from_numpy(np.stack(list(form.components()))),
        torch.from_numpy(form.weights(model.z)),
    )
    refined = refine_with_volumes(images, volumes, _search_settings(images, settings, max_shift_px), radius, monitor)
    return FoundPoses(refined.poses, refined.log_likelihood.numpy(), form.mean, np.ones(images.box_size // 2 + 1), ())


def _search_settings(images: ParticleImages, settings: AbinitSettings, max_shift_px: float) -> ReconstructSettings:
    limit = None
    if settings.mask_diameter_A is not None:
        limit = min(0.5 * settings.mask_diameter_A / images.pixel_size_A, DEFAULT_MASK_RADIUS * images.box_size)
    return ReconstructSettings(
        initialisations=settings.starts,
        initialisation_particles=settings.start_particles,
        symmetry=settings.symmetry if settings.zdim == 0 and settings.engine != "neural" else "C1",
        search=settings.search,  # type: ignore[arg-type]  # the declaration lists the same words
        max_shift_px=max_shift_px,
        mask_radius_px=limit,
        seed=settings.seed,
        device=choose_device(settings.device).type,
        memory_bytes=int(work_bytes(settings)),
    )
