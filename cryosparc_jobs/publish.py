"""The states of a finished train or validate job as outputs of an External job.

Per state: particles (the parent's own rows, the rest passed through), a volume with both half-maps, and a mask; of a
train job also all particles with their latents. Clusters of a landscape job have an average map without half-maps, its
mask is one for all, and its coordinates of all particles are those along volume components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.validated_sets import read_set_table
from cryodrgn_ext.metadata.cs import read_cs
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.abinit_pictures import draw_abinit_pictures
from cryodrgn_ext.report.pictures import draw_landscape_pictures, draw_pictures, draw_validation_pictures
from cryodrgn_ext.results.landscape_tables import read_arrays
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryodrgn_ext.results.layout import Layout
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.publication import INPUT, Publication

ALL_PARTICLES = "particles_all"
COMPARED = "mask_compared"
VOLUME_FILES = {"map": "map.mrc", "map_half_A": "half1.mrc", "map_half_B": "half2.mrc"}
MASK_FILES = {"mask": "mask.mrc"}
EXTRA_FILES = ("report.html", "logfile.pdf", "job.yaml", "latents.npz", "states.npz", "sets.npz")
ABINIT_FILES = ("report.html", "logfile.pdf", "job.yaml", "poses.npz", "latents.npz")
LANDSCAPE_FILES = (*EXTRA_FILES, "landscape.npz", "sketch.npz")


@dataclass(frozen=True)
class _Members:
    """Who is in which state: ``uid`` (N,), ``label`` (N,), and the titles of the states to publish by number."""

    uid: NDArray[np.uint64]
    label: NDArray[np.int32]
    titles: Mapping[int, str]


def publish_training(job: ExternalJob, rows: Any, result: Path, monitor: Monitor) -> tuple[str, ...]:
    """Give the states and latents of a finished train job to CryoSPARC.

    Parameters
    ----------
    job : ExternalJob
        Running, with the input ``particles`` connected.
    rows : cryosparc.dataset.Dataset
        The particles that the train job was given, in that order.
    result : Path
        Its result directory.
    monitor : Monitor

    Returns
    -------
    tuple of str
        Names of the outputs.

    Raises
    ------
    InputError
        When the result is not of these particles.
    JobAborted
        When the job no longer runs.
    MasterError
        When CryoSPARC refuses something, or does not keep it.
    """
    layout = Layout(result)
    table = read_state_table(layout.states_table)
    uid = np.asarray(rows["uid"], np.uint64)
    if table.n != len(uid):
        raise InputError(f"{layout.states_table} is of {table.n} particles, but {len(uid)} are connected.")
    latents = read_latent_table(layout.latents) if layout.latents.exists() else None
    if latents is not None:
        wrong = np.flatnonzero(latents.uid != uid)
        if len(wrong):
            raise InputError(
                f"{layout.latents}: row {wrong[0] + 1} is of particle {latents.uid[wrong[0]]}, but the connected one "
                f"is {uid[wrong[0]]}: the result is of other particles."
            )
    titles = {number: f"State {number:02d}" for number in range(len(table.center_index))}
    publication = Publication(job, rows, monitor)
    _add_states(publication, job, layout, _Members(uid, table.label, titles))
    z = None if latents is None else latents.z
    publication.add_particles(ALL_PARTICLES, "All particles, with latents", uid, z)
    pictures = draw_pictures(result, result / "pictures")
    if pictures.latents is not None:
        publication.add_plot(pictures.latents, "Particles in latent space, by state")
        publication.add_output_image(ALL_PARTICLES, pictures.latents)
    else:
        publication.add_output_image(ALL_PARTICLES, pictures.states)
    publication.add_plot(pictures.states, "Central slices of the states")
    publication.add_tile(pictures.states)
    for number, picture in enumerate(pictures.state):
        _add_images(publication, number, picture)
    publication.commit()
    return publication.names


def publish_validation(job: ExternalJob, rows: Any, result: Path, monitor: Monitor) -> tuple[str, ...]:
    """Give the re-reconstructed states of a finished validate job to CryoSPARC; see :func:`publish_training`."""
    layout = Layout(result)
    table = read_set_table(layout.root)
    titles = {number: name[:1].upper() + name[1:] for number, name in table.names.items()}
    publication = Publication(job, rows, monitor)
    _add_states(publication, job, layout, _Members(table.uid, table.label, titles))
    pictures = draw_validation_pictures(result, table.names, result / "pictures")
    publication.add_plot(pictures.fsc, "FSC between half-maps, corrected for the mask")
    publication.add_plot(pictures.states, "Central slices of the maps")
    publication.add_tile(pictures.states)
    for number, picture in zip(table.names, pictures.state, strict=True):
        _add_images(publication, number, picture)
    publication.commit()
    return publication.names


def publish_landscape(job: ExternalJob, rows: Any, result: Path, monitor: Monitor, n_taken: int = 0) -> tuple[str, ...]:
    """Give the clusters and volume components of a finished landscape job to CryoSPARC.

    Parameters
    ----------
    job : ExternalJob
        Running, with the input ``particles`` connected.
    rows : cryosparc.dataset.Dataset
        Of that input; any that hold the particles of the result, in any order.
    result : Path
        Its result directory.
    monitor : Monitor
    n_taken : int
        How many slots components_mode_0 .. the connected particles have already, as those of a train job for its
        latents. They are all replaced, the ones beyond our components by zeros, lest latents stand among them.

    Returns
    -------
    tuple of str
        Names of the outputs.

    Raises
    ------
    InputError
        When the result is not of these particles.
    JobAborted
        When the job no longer runs.
    MasterError
        When CryoSPARC refuses something, or does not keep it.
    """
    layout = Layout(result)
    arrays = read_arrays(layout.root / "landscape.npz")
    uid, v, cluster = arrays["uid"].astype(np.uint64), arrays["v"].astype(np.float32), arrays["cluster"]
    pictures = draw_landscape_pictures(result, result / "pictures")
    publication = Publication(job, rows, monitor)
    for name in LANDSCAPE_FILES:
        publication.add_file(layout.root / name, f"{job.uid}_{name}")
    for number, picture in enumerate(pictures.state):
        stem, title, folder = f"state_{number:02d}", f"State {number:02d}", layout.state(number)
        publication.add_particles(f"particles_{stem}", f"{title}: particles", uid[cluster == number])
        publication.add_map("volume", f"volume_{stem}", f"{title}: average map", {"map": folder / "map.mrc"}, stem)
        publication.add_file(folder / "on_data.mrc", f"states/{job.uid}_{stem}_on_data.mrc")
        for kind in ("particles", "volume"):
            publication.add_output_image(f"{kind}_{stem}", picture)
    mask = {"mask": layout.root / "mask.mrc"}
    publication.add_map("mask", COMPARED, "Region in which volumes were compared", mask, "compared")
    publication.add_output_image(COMPARED, pictures.states)
    n_components = v.shape[1]
    if n_taken > n_components:
        monitor.message(
            f"In {ALL_PARTICLES}, components from components_mode_{n_components} on are zero: the connected particles "
            "had other coordinates there, as latents."
        )
        v = np.pad(v, ((0, 0), (0, n_taken - n_components)))
    publication.add_particles(ALL_PARTICLES, "All particles, with volume components", uid, v)
    publication.add_output_image(ALL_PARTICLES, pictures.particles)
    publication.add_plot(pictures.particles, "Particles over volume components, by state")
    for picture in pictures.densities:
        publication.add_plot(picture, "Density of the particles and apparent free energy over volume components")
    publication.add_plot(pictures.states, "Central slices of the average maps")
    publication.add_tile(pictures.states)
    publication.commit()
    return publication.names


def publish_abinit(job: ExternalJob, rows: Any, result: Path, monitor: Monitor) -> tuple[str, ...]:
    """Give the poses, map, half-maps and mask of a finished abinit job to CryoSPARC; see :func:`publish_training`."""
    layout = Layout(result)
    table = read_cs(result / "particles.cs")
    uid, n = np.asarray(rows["uid"], np.uint64), table.n_rows
    if not np.array_equal(table.uid, uid):
        raise InputError(f"{table.path} has {n} particles that are not the {len(uid)} connected ones in their order: "
                         "the result is of other particles.")  # fmt: skip
    alignments = {name: values for name, values in table.columns.items() if name.startswith("alignments3D/")}
    z = read_latent_table(layout.latents).z if layout.latents.exists() else None
    publication = Publication(job, rows, monitor)
    for name in ABINIT_FILES:
        publication.add_file(result / name, f"{job.uid}_{name}")
    publication.add_particles(INPUT, "Particles with the poses that were found", uid, z, alignments)
    maps = {slot: result / name for slot, name in VOLUME_FILES.items()}
    publication.add_map("volume", "volume", "Ab initio map", maps, "abinit")
    publication.add_map("mask", "mask", "Mask around the density", {"mask": result / "mask.mrc"}, "abinit")
    pictures = draw_abinit_pictures(result, result / "pictures")
    for picture, text in pictures.plots.items():
        publication.add_plot(picture, text)
    publication.add_tile(pictures.map)
    for name, picture in ((INPUT, pictures.views), ("volume", pictures.map), ("mask", pictures.map)):
        publication.add_output_image(name, picture)
    publication.commit()
    return publication.names


def _add_states(publication: Publication, job: ExternalJob, layout: Layout, members: _Members) -> None:
    for name in EXTRA_FILES:
        publication.add_file(layout.root / name, f"{job.uid}_{name}")
    for number, title in members.titles.items():
        folder, stem = layout.state(number), f"state_{number:02d}"
        chosen = members.uid[members.label == number]
        publication.add_particles(f"particles_{stem}", f"{title}: particles", chosen)
        for kind, files in (("volume", VOLUME_FILES), ("mask", MASK_FILES)):
            paths = {slot: folder / file for slot, file in files.items()}
            publication.add_map(kind, f"{kind}_{stem}", f"{title}: {kind}", paths, stem)


def _add_images(publication: Publication, number: int, picture: Path) -> None:
    for kind in ("particles", "volume", "mask"):
        publication.add_output_image(f"{kind}_state_{number:02d}", picture)
