"""Reading and checking what is taken over of another program: particles, their poses, and their latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.selection import read_index_file
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.metadata.cryodrgn_particles import STACKS, read_stack, with_pickled_poses
from cryodrgn_ext.metadata.cryodrgn_pickle import read_indices, read_poses
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.image_sample import fingerprint_images
from cryodrgn_ext.metadata.latent_files import MatchedLatents, latents_of_particles, match_latents, read_latent_file
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.import_latents import ImportSettings
from cryodrgn_ext.results.record import fingerprint_files, fingerprint_particles
from cryodrgn_ext.workflow.given_maps import read_mask, read_refinement_map
from cryodrgn_ext.workflow.given_particles import read_given_particles
from cryodrgn_ext.workflow.states_run import StatesInputs
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A, working_box

LARGEST_DEFAULT_BOX = 128


@dataclass(frozen=True, kw_only=True)
class ImportInputs(StatesInputs):
    """Checked inputs.

    Attributes
    ----------
    z : ndarray
        (N, q) float32.
    z_cov : ndarray or None
        (N, q, q) float32.
    notes : tuple of str
        How particles and latents were matched, and what a user should know of the files.
    """

    z: NDArray[np.float32]
    z_cov: NDArray[np.float32] | None
    notes: tuple[str, ...]


def read_import_inputs(settings: ImportSettings) -> ImportInputs:
    """Read particles and latents, and match them.

    Raises
    ------
    InputError
        In one sentence, for whatever is wrong with the files or does not fit together.
    """
    point_group(settings.symmetry)  # refuses names that there are not
    particles, in_parts = _read_particles(settings)
    given = settings.latents
    latents = latents_of_particles(particles) if given is None else read_latent_file(given)
    match = match_latents(latents, particles)
    notes = [*particles.notes, _matching(settings, match, particles.n)]
    if len(match.rows) < particles.n:
        particles = particles.subset(match.rows)
    if particles.n < max(10, 2 * settings.states):
        raise InputError(f"{latents.path} has {particles.n} latents, too few for {settings.states} states.")
    check_images(particles)
    native, pixel_A = native_box(particles), native_pixel_A(particles)
    record: dict[str, Any] = {
        "in_parts": in_parts | {"particles": particles.n}, "images": fingerprint_images(particles),
    }  # fmt: skip
    record |= fingerprint_files({
        "latents": settings.latents, "poses": settings.poses, "ctf": settings.ctf, "ind": settings.ind,
        "in_mask": settings.in_mask, "in_3dref": settings.in_3dref,
    })  # fmt: skip
    mask, theirs = settings.in_mask, settings.in_3dref
    return ImportInputs(
        record=record, particles=particles, z=match.z, z_cov=match.z_cov, notes=tuple(notes), native_box=native,
        box=working_box(settings.box, native, LARGEST_DEFAULT_BOX),
        mask=read_mask(mask, "--in_mask", native, pixel_A),
        reference=read_refinement_map(theirs, "--in_3dref", native, pixel_A),
    )  # fmt: skip


def _read_particles(settings: ImportSettings) -> tuple[ParticleSet, dict[str, Any]]:
    """Particles with the poses and rows that the settings name, and the fingerprint of their files."""
    if settings.in_parts.suffix.lower() in STACKS:
        if settings.poses is None or settings.ctf is None:
            raise InputError(
                f"{settings.in_parts} is a stack of images: give --poses and --ctf, the pickles of cryodrgn for it."
            )
        particles = read_stack(settings.in_parts, settings.poses, settings.ctf, settings.datadir)
        particles = _rows(settings, particles)
        # The pickles say which particles these are; a stack may have a terabyte.
        return particles, fingerprint_particles(settings.poses, [settings.poses, settings.ctf])
    if settings.ctf is not None or settings.datadir is not None:
        name = "ctf" if settings.ctf is not None else "datadir"
        raise InputError(f"--{name} is for a stack of images; {settings.in_parts} has a CTF and images of its own.")
    particles = read_given_particles(
        settings.in_parts, settings.o, settings.project, require_poses=settings.poses is None
    )
    if settings.poses is None:
        particles = _rows(settings, particles)
    else:  # one for each particle, or, as runs write them that find poses, one for each that was trained on
        few = _rows(settings, particles)
        if len(read_poses(settings.poses).rotation) == few.n:
            particles = with_pickled_poses(few, settings.poses)
        else:
            particles = _rows(settings, with_pickled_poses(particles, settings.poses))
    return particles, fingerprint_particles(settings.in_parts, particles.files)


def _rows(settings: ImportSettings, particles: ParticleSet) -> ParticleSet:
    if settings.ind is None:
        return particles
    if settings.ind.suffix == ".pkl":  # the latents are in the order of these rows
        return particles.subset(read_indices(settings.ind, particles.n))
    return particles.subset(read_index_file(settings.ind, particles.n))


def _matching(settings: ImportSettings, match: MatchedLatents, n_particles: int) -> str:
    n = len(match.rows)
    if settings.latents is None:
        return f"The latents are those that {settings.in_parts} carries."
    if match.joined_by == "order":
        return (
            f"{settings.latents} does not say which particles its {n} latents belong to: they were matched with "
            f"{settings.in_parts} in order."
        )
    rest = f"; the other {n_particles - n} are left out" if n < n_particles else ""
    return f"{n} latents were matched with their particles by {match.joined_by}{rest}."
