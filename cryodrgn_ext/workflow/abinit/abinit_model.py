"""The heterogeneous part of an abinit job: a model on given poses, its latents and volumes."""

from __future__ import annotations

import torch

from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.engines.base import Heterogeneity, get_engine
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.found_poses import TrainedModel
from cryodrgn_ext.results.latent_tables import LatentTable, write_latent_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.workflow.reconstructions import make_consensus


def train_model(
    where: TrainedModel, images: ParticleImages, settings: AbinitSettings, device: torch.device, monitor: Monitor
) -> None:
    """Reconstruct the consensus of the images at their poses, learn the heterogeneity, and save the model."""
    where.root.mkdir(parents=True, exist_ok=True)
    if not where.consensus.exists():
        make_consensus(where.consensus, images, None, device, monitor)
    result = _learn(where, images, read_consensus(where.consensus), settings, monitor)
    with atomic_directory(where.model) as temporary:
        result.save(temporary)


def write_model_results(
    layout: Layout,
    where: TrainedModel,
    images: ParticleImages,
    consensus: Consensus,
    particles: ParticleSet,
    settings: AbinitSettings,
    monitor: Monitor,
) -> None:
    """Learn the heterogeneity and write model/ and latents.npz of the result directory."""
    where.root.mkdir(parents=True, exist_ok=True)
    result = _learn(where, images, consensus, settings, monitor)
    table = LatentTable(result.z, particles.uid, result.z_cov)
    write_latent_table(layout.latents, table, particles.image_name, particles.row_id)
    with atomic_directory(layout.model) as temporary:
        result.save(temporary)


def _learn(
    where: TrainedModel, images: ParticleImages, consensus: Consensus, settings: AbinitSettings, monitor: Monitor
) -> Heterogeneity:
    engine = get_engine(settings.engine)
    # The network's options of the same names are those of the search for poses; here it has its usual recipe.
    own, context = engine.options_of(settings), EngineContext.of(settings, where.training, monitor)
    return engine.train(images, consensus.map, own, context, consensus_radius=consensus.radius)
