"""Search over all orientations by either algorithm of Zhong 2022.

``exhaustive`` (Algorithm 2, cryoDRGN2) scores the whole base grid and refines the best rotations, each with its best
shift. ``branch_and_bound`` (Algorithm 1, cryoDRGN and CryoSPARC) subdivides poses, rotations with shifts, and drops
those that bounds exclude; as it subdivides more finely and keeps neighbours of the best pose, it is given more poses to
keep and one more subdivision.
"""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.branch_and_bound import branch_and_bound
from cryodrgn_ext.pose.estimates import ScoredPoses
from cryodrgn_ext.pose.model import SliceModel
from cryodrgn_ext.pose.reconstruct_settings import SearchAlgorithm
from cryodrgn_ext.pose.search import SearchSettings, search

#: Poses that branch and bound keeps for each rotation that the exhaustive search keeps, and its further subdivisions.
KEPT_PER_ROTATION, FURTHER_SUBDIVISIONS = 4, 1


def search_orientations(
    algorithm: SearchAlgorithm,
    images: ParticleImages,
    model: SliceModel | FourierVolume,
    settings: SearchSettings,
    rows: Int[Tensor, " N"] | None = None,
) -> ScoredPoses:
    """Find candidates for the pose of every image; ``settings`` are those of the exhaustive search.

    Parameters
    ----------
    algorithm : {"exhaustive", "branch_and_bound"}
    images : ParticleImages
        Their poses are not used.
    model : SliceModel or FourierVolume
    settings : SearchSettings
    rows : Tensor, optional
        (N,) int64 particles to search for; all when omitted.

    Raises
    ------
    InputError
        When a setting does not fit the images.
    """
    if algorithm == "exhaustive":
        return search(images, model, settings, rows)
    finer = replace(
        settings,
        refinements=settings.refinements + FURTHER_SUBDIVISIONS,
        keep=KEPT_PER_ROTATION * settings.keep,
    )
    return branch_and_bound(images, model, finer, rows)
