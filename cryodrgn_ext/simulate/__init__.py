"""Simulated particle sets with known heterogeneity: exact images of bead models, written as RELION projects."""

from __future__ import annotations

from cryodrgn_ext.simulate.motions import MOTIONS, Motion, RareStateMotion, choose_motion, two_domain_protein
from cryodrgn_ext.simulate.optics import ONE_GROUP, TWO_GROUPS, SimulatedOptics
from cryodrgn_ext.simulate.particles import SimulatedParticles, simulate_particles
from cryodrgn_ext.simulate.relion_project import RelionProject, empty_pipeline, write_relion_project
from cryodrgn_ext.simulate.truth import GroundTruth, load_truth

__all__ = [
    "MOTIONS",
    "ONE_GROUP",
    "TWO_GROUPS",
    "GroundTruth",
    "Motion",
    "RareStateMotion",
    "RelionProject",
    "SimulatedOptics",
    "SimulatedParticles",
    "choose_motion",
    "empty_pipeline",
    "load_truth",
    "simulate_particles",
    "two_domain_protein",
    "write_relion_project",
]
