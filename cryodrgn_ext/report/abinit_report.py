"""report.html and logfile.pdf of an abinit job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cryodrgn_ext.analysis.shown_particles import choose_shown
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.pose.chosen_transform import ChosenTransform
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.map_summaries import consensus_summary
from cryodrgn_ext.report.page import ReportContent, ReportFigure
from cryodrgn_ext.report.plots import central_slices, map_slices
from cryodrgn_ext.report.pose_plots import initialisation_likelihoods, pose_confidence, view_distribution
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.latent_tables import read_latent_table
from cryodrgn_ext.results.particle_columns import shown_particles
from cryodrgn_ext.results.pose_table import PoseTable

FILES = {
    "particles.star": "all particles, with the poses and half-sets that were found",
    "particles.cs": "all particles with poses; particles.csg beside it is for Import Result Group",
    "tilted.star": "the second images of tilt pairs, with their poses",
    "map.mrc": "map of all particles at these poses, in the box that was worked in",
    "half1.mrc": "half-map; half2.mrc is the other",
    "mask.mrc": "soft mask around the density",
    "fsc.star": "FSC between the half-maps, masked",
    "poses.npz": "rotation matrices, shifts in Å, half-sets and log-likelihoods, in the order of the input rows",
    "latents.npz": "latents in the order of the input rows",
    "volumes/": "decoded volumes at centres of the latent cloud",
    "model/": "the trained model",
}


def write_abinit_reports(
    facts: RunFacts,
    particles: ParticleSet,
    poses: PoseTable,
    consensus: Consensus,
    likelihoods: Sequence[float],
    chosen: ChosenTransform,
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    particles : ParticleSet
    poses : PoseTable
        Of all particles.
    consensus : Consensus
        At these poses.
    likelihoods : sequence of float
        Log-likelihood per image that each random initialisation reached.
    chosen : ChosenTransform
        How coordinates and hand were chosen.
    """
    layout = facts.layout
    whole, _ = draw_maps([], consensus.map)
    z = history = shown = None
    if layout.latents.exists():
        z = read_latent_table(layout.latents).z
        history = load_heterogeneity(layout.model).loss_history
        shown = shown_particles(particles, choose_shown(len(z)), poses.rotation)
    content = ReportContent(
        title="Ab initio map and poses",
        z=z,
        n_particles=particles.n,
        box_size=len(consensus.map),
        pixel_size_A=consensus.pixel_size_A,
        loss_history=history or {},
        further=_figures(poses, consensus, likelihoods, chosen),
        consensus=consensus_summary(consensus, particles.n, whole),
        shown=shown,
    )
    facts.write(content, facts.existing(FILES))


def _figures(
    poses: PoseTable, consensus: Consensus, likelihoods: Sequence[float], chosen: ChosenTransform
) -> list[ReportFigure]:
    mirrored = np.roll(consensus.map[::-1], 1, axis=0)  # z inverted about voxel D // 2
    caption = f"Central slices of the map, and of the other hand. {chosen.sentence()}"
    hands = {"map.mrc": central_slices(consensus.map), "other hand\n(not written)": central_slices(mirrored)}
    figures = [
        ReportFigure("Map", caption, map_slices(hands)),
        ReportFigure("Poses", "Directions of view; equal areas of the plot are equal areas of the sphere.",
                     view_distribution(poses.rotation)),
    ]  # fmt: skip
    if len(likelihoods) > 1:
        caption = "Log-likelihood per image that each random initialisation reached; the best one was kept."
        figures.append(ReportFigure("Poses", caption, initialisation_likelihoods(likelihoods)))
    if np.ptp(poses.log_likelihood) > 0:
        caption = "Log-likelihoods of the images at their poses; a hump of its own on the left is often junk."
        figures.append(ReportFigure("Poses", caption, pose_confidence(poses.log_likelihood)))
    return figures
