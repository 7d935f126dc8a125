"""Particles that the user gives a job: read, and refused where the job would misunderstand them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.pipeline import HALF_SET_SEED
from cryodrgn_ext.metadata.ctf_applied import refuse_phase_flipped
from cryodrgn_ext.metadata.half_sets import HalfSet, HalfSetChoice, choose_half_sets, neighbour_notes
from cryodrgn_ext.metadata.image_sample import fingerprint_images
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.tilt_series import refuse_tilt_series, suspected_tilts
from cryodrgn_ext.results.layout import find_result_directory
from cryodrgn_ext.results.learned_result import LEARNING_JOBS, read_of_result
from cryodrgn_ext.results.record import fingerprint_particles, read_record
from cryodrgn_ext.results.returned_particles import RETURNED_NAMES

#: Jobs that return particles, whose images are where they were then.
RETURNING_JOBS = (*LEARNING_JOBS, "landscape", "select", "validate")


def read_given_particles(
    path: Path,
    output: Path,
    project: Path | None,
    require_poses: bool = True,
    returned: tuple[str, ...] = RETURNED_NAMES,
) -> ParticleSet:
    """Read the particles that a job works on.

    Parameters
    ----------
    path : Path
    output : Path
        The result directory.
    project : Path or None
        To which the paths of images are relative, as the user says.
    require_poses : bool
    returned : tuple of str
        Names of the files that the job will write there.

    Raises
    ------
    InputError
        When they cannot be read, are tilt images of particles, phase-flipped or of two contrasts, or would be
        overwritten by what the job returns.
    """
    record = _record_of(path) if project is None else None
    if record is None:
        particles = read_particles(path, project, require_poses)
    else:
        particles = read_of_result(path, record, project, require_poses)
    refuse_tilt_series(particles)
    refuse_phase_flipped(particles)
    _refuse_two_contrasts(particles)
    inputs = {file.resolve() for file in particles.files}
    for name in returned:
        if (output / name).resolve() in inputs:
            raise InputError(
                f"--o is {output}, where the returned particles would overwrite {name}, the input: inputs are never "
                "overwritten; give another directory."
            )
    return particles


def _refuse_two_contrasts(particles: ParticleSet) -> None:
    dark = particles.source.dark_on_light(particles.row_id)
    if 0 < dark < particles.n:
        raise InputError(
            f"{particles.path}: {dark} of its {particles.n} particles are dark on light (blob/sign -1) and the others "
            "are not, but one contrast is taken for all images: import the images with one sign, or work on those of "
            "each sign alone"
        )


def record_particles(given: Path, particles: ParticleSet) -> dict[str, Any]:
    """Return what job.yaml says of particles: their file, and where and what their images are.

    Parameters
    ----------
    given : Path
        What the user named: a file, or the directory of a CryoSPARC job.
    particles : ParticleSet
        Whose images have been checked (:func:`cryodrgn_ext.metadata.image_checks.check_images`).
    """
    files = fingerprint_particles(given, particles.files)
    return {"in_parts": files | {"particles": particles.n}, "images": fingerprint_images(particles)}


def _record_of(path: Path) -> dict[str, Any] | None:
    """Return job.yaml of the job that returned a file of particles; None when it is of another program."""
    try:
        record = read_record(find_result_directory(path))
    except InputError:
        return None
    return record if record is not None and record["job"] in RETURNING_JOBS else None


def half_set_notes(particles: ParticleSet, aligned: bool, used: HalfSet | None = None) -> tuple[str, ...]:
    """Say which half-sets a job works with, where they are not simply those of the file.

    Parameters
    ----------
    particles : ParticleSet
    aligned : bool
        Whether the poses of the file are used.
    used : (N,) int8, optional
        Half-sets of the images, where these have been read: drawn anew, and said so, when pixels are there twice.
    """
    choice = choose_half_sets(particles, HALF_SET_SEED)
    if used is not None and (used != choice.half_set).any():
        choice = HalfSetChoice(used, False, neighbour_notes(particles, used))
    notes = (*suspected_tilts(particles), *choice.notes)
    if choice.from_file or not aligned:
        return notes
    return (*notes, "As their poses were not refined in these halves, the resolutions may be too good.")
