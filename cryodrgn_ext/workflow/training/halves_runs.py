"""A training repeated on each half-set by itself: two models that never met, and what they have in common."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.progress import Monitor, QuietMonitor
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.validation.independent_halves import (
    HalvesFinding,
    component_agreement,
    match_states,
    matched_states,
)
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining, Trained

#: Volumes of either model that its components are found in.
VOLUMES = 24


def run_halves(
    training: RepeatedTraining, open_images: Callable[[], ParticleImages], folder: Path, found: Path, monitor: Monitor
) -> None:
    """Train on each half-set, match what both models have, and write it to ``found``.

    Parameters
    ----------
    training : RepeatedTraining
    open_images : callable
        Opens the training's images.
    folder : Path
        For the two trainings; removed when they are done.
    found : Path
    monitor : Monitor
    """
    images, consensus = open_images(), read_consensus(training.consensus)
    quiet = QuietMonitor(monitor)
    label = np.full(images.n, -1, np.int64)
    models: list[Trained] = []
    for half in (1, 2):
        rows = np.flatnonzero(images.half_set.cpu().numpy() == half)
        monitor.message(f"Training on half-set {half}: {len(rows)} images")
        own = folder / f"half{half}"
        own.mkdir(parents=True, exist_ok=True)
        models.append(training.train(half_alone(images, rows, training.settings.seed), own, quiet))
        label[rows] = models[-1].label
    matching = match_states(images, label, consensus, training.settings.seed, quiet)
    states = training.states(images, matching.labels, consensus, quiet)
    finding = HalvesFinding(
        tuple(matched_states(states, matching, images.half_set.cpu().numpy())), tuple(_agreement(models, consensus))
    )
    write_json(found, finding.plain())
    shutil.rmtree(folder)


def read_halves(found: Path) -> HalvesFinding:
    """Read what :func:`run_halves` wrote."""
    return HalvesFinding.of(load_json(found))


def half_alone(images: ParticleImages, rows: NDArray[np.int64], seed: int) -> ParticleImages:
    """Images of one half-set, with halves of their own drawn at random; rows of one image stay together."""
    some = images.subset(torch.from_numpy(rows))
    image = np.arange(some.n) if some.particles is None else some.particles.image_hash
    unique, of_row = np.unique(image, return_inverse=True)
    half = np.random.default_rng([seed, 11]).permutation(np.arange(len(unique)) % 2 + 1)[of_row.reshape(-1)]
    return replace(some, half_set=torch.from_numpy(half.astype(np.int8)))


def _agreement(models: list[Trained], consensus: Consensus) -> list[float]:
    """Share of each component of the first model that the second one has, as fine as the consensus is."""
    box = min(len(consensus.map), 2 * consensus.radius + 2)
    shown = [_volumes(one.model, one.label) for one in models]
    return component_agreement(shown[0], shown[1], consensus.mask, box, models[0].model.z.shape[1])


def _volumes(model: Heterogeneity, label: NDArray[np.integer]) -> list[NDArray[np.float32]]:
    """Volumes at centres of the latents of particles that have a state."""
    z = model.z[label >= 0]
    clusters = cluster_latents(z, min(VOLUMES, max(2, len(z) // 10)))
    return list(model.volumes(z[clusters.center_index]))
