"""Second images of tilt pairs in an abinit job: read and checked, and returned with their poses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cryodrgn_ext.engines.neural.tilt_pairs import tilt_rotation
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.metadata.tilt_pairs import pair_rows
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.origins import Origins, usable_origins
from cryodrgn_ext.results.found_poses import FoundPoses
from cryodrgn_ext.results.pose_table import PoseTable
from cryodrgn_ext.results.record import fingerprint_particles
from cryodrgn_ext.workflow.given_particles import read_given_particles
from cryodrgn_ext.workflow.working_box import native_box

STEM = "tilted"


@dataclass(frozen=True)
class TiltedInputs:
    """The tilted particles, without poses and in the order of the others.

    Attributes
    ----------
    particles : ParticleSet
    record : dict
        Fingerprint of their files.
    origins : Origins or None
        Where the file says that they lie.
    matched : str
        How pairs were found.
    """

    particles: ParticleSet
    record: dict[str, Any]
    origins: Origins | None = None
    matched: str = ""


def read_tilted(settings: AbinitSettings, first: ParticleSet) -> TiltedInputs | None:
    """Read ``--tilted_parts``, the second image of every particle, and pair it with the first ones; None without it.

    Raises
    ------
    InputError
        When it does not go with the engine, the hand that is asked for, or the first images.
    """
    path = settings.tilted_parts
    if path is None:
        return None
    if settings.engine != "neural":
        raise InputError("--tilted_parts works with --engine neural only: choose that engine, or leave the file out.")
    if settings.flip_hand:
        raise InputError(
            "--flip_hand and --tilted_parts are both given, but tilts tell the hand: leave --flip_hand out, or change "
            "the sign of --tilt_deg."
        )
    tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg)
    names = tuple(f"{STEM}.{suffix}" for suffix in ("star", "cs", "csg"))
    particles = read_given_particles(path, settings.o, settings.project, require_poses=False, returned=names)
    record = fingerprint_particles(path, particles.files) | {"particles": particles.n}
    pairs = pair_rows(first, particles)
    particles = particles.subset(pairs.rows)
    same = particles.image_hash == first.image_hash
    if same.any():
        row = int(np.argmax(same))
        raise InputError(
            f"{particles.describe_row(row)}: is the same image as in {settings.in_parts}: give the images of the "
            "tilted stage."
        )
    check_images(particles)
    if native_box(particles) != native_box(first):
        raise InputError(
            f"the images in {path} are {native_box(particles)} px wide, those in {settings.in_parts} "
            f"{native_box(first)} px: extract both in the same box."
        )
    eye = np.broadcast_to(np.eye(3), (particles.n, 3, 3))
    # Those of the first images decide whether there must be any.
    choice = "no" if settings.use_origins == "no" else "auto"
    origins, _ = usable_origins(particles, native_box(particles) * float(particles.pixel_size_A.max()), choice)
    return TiltedInputs(particles.with_poses(eye, np.zeros((particles.n, 2))), record, origins, pairs.said)


def tilted_table(tilted: ParticleImages, first: PoseTable, found: FoundPoses, settings: AbinitSettings) -> PoseTable:
    """Poses of the second images, in the coordinates of those of the first ones and in their half-sets."""
    if found.tilted_shift_px is None:
        raise ValueError("no shifts of tilted images were found")
    tilt = tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg).numpy().astype(np.float64)
    poses = Poses.of(tilt @ found.poses.rotation.numpy(), found.tilted_shift_px)
    table = PoseTable.from_working(tilted, poses, found.log_likelihood)
    return replace(table, half_set=first.half_set)
