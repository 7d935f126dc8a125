"""Outputs of a finished job of ours as outputs of an External job: one way for all jobs.

Particles are the parent's own rows, with what the job found of them (poses, latents) and the rest passed through; a map
is a volume, with its half-maps, and its mask an output of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import (
    ALL,
    JobResult,
    MapOutput,
    MaskOutput,
    Output,
    ParticleOutput,
    Picture,
    Role,
)
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.publication import Publication

HALF_SLOTS = ("map_half_A", "map_half_B")


def publish(
    job: ExternalJob, rows: Any, result: JobResult, monitor: Monitor, *, n_taken: int = 0, subset: bool = False
) -> tuple[str, ...]:
    """Give the outputs of a finished job to CryoSPARC.

    Parameters
    ----------
    job : ExternalJob
        Running, with the input ``particles`` connected.
    rows : cryosparc.dataset.Dataset
        Of that input; any that hold the particles of the result, in any order.
    result : JobResult
    monitor : Monitor
    n_taken : int
        How many slots components_mode_0 .. the connected particles have already, as those of a train job for its
        latents. They are all replaced, the ones beyond ours by zeros, lest coordinates of two kinds stand together.
    subset : bool
        Whether the connected particles may be some of those of the result; what is not among them is left out.

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
    publication = Publication(job, rows, monitor)
    for path in result.keep:
        publication.add_file(path, _kept_name(job, path, result.directory))
    outputs = [output for output in result.outputs if output.role is not Role.EXTRA]
    uids = _connected(rows, outputs, monitor) if subset else {}
    for output in sorted(outputs, key=lambda one: one.name == ALL):  # all particles come last
        if isinstance(output, ParticleOutput):
            if uids.get(output.name, output.uid).size:
                _add_particles(publication, output, uids.get(output.name, output.uid), n_taken, monitor)
        else:
            _add_map(publication, output)
    for picture in result.plots:
        publication.add_plot(picture.file, picture.caption)
    if result.card is not None:
        publication.add_tile(result.card.file)
    publication.commit()
    return publication.names


def _connected(rows: Any, outputs: list[Output], monitor: Monitor) -> dict[str, NDArray[np.uint64]]:
    """Particles of each output that are among the connected ones, by the output's name.

    Raises
    ------
    InputError
        When none of the results is.
    """
    ours = np.asarray(rows["uid"], np.uint64)
    particles = [output for output in outputs if isinstance(output, ParticleOutput)]
    kept = {output.name: output.uid[np.isin(output.uid, ours)] for output in particles}
    results = [output for output in particles if output.role is Role.RESULT]
    if results and not any(kept[output.name].size for output in results):
        raise InputError(
            f"None of the particles of {', '.join(output.title.lower() for output in results)} is among those of the "
            'job: name the particles of the project with particles=("J42", "particles") (--particles J42 particles).'
        )
    for output in particles:
        if kept[output.name].size < output.uid.size:
            monitor.message(f"{output.title}: {kept[output.name].size} of {output.uid.size} particles are those of the "
                            "job; the others are left out.")  # fmt: skip
    return kept


def _add_particles(
    publication: Publication, output: ParticleOutput, uid: NDArray[np.uint64], n_taken: int, monitor: Monitor
) -> None:
    name = _named("particles", output)
    coordinates = output.coordinates
    if coordinates is not None and n_taken > coordinates.shape[1]:
        count = coordinates.shape[1]
        monitor.message(
            f"In {name}, components from components_mode_{count} on are zero: the connected particles had other "
            "coordinates there."
        )
        coordinates = np.pad(coordinates, ((0, 0), (0, n_taken - count)))
    if uid is not output.uid and (coordinates is not None or output.columns):
        kept = np.isin(output.uid, uid)
        coordinates = None if coordinates is None else coordinates[kept]
        columns = {field: values[kept] for field, values in output.columns.items()}
    else:
        columns = dict(output.columns)
    publication.add_particles(name, output.title, uid, coordinates, columns)
    _add_picture(publication, name, output.picture)


def _add_map(publication: Publication, output: MapOutput | MaskOutput) -> None:
    if isinstance(output, MaskOutput):
        publication.add_map("mask", _named("mask", output), output.title, {"mask": output.path}, output.name)
        _add_picture(publication, _named("mask", output), output.picture)
        return
    files = {"map": output.path, **dict(zip(HALF_SLOTS, output.half_maps, strict=False))}
    publication.add_map("volume", _named("volume", output), f"{output.title}: map", files, output.name)
    _add_picture(publication, _named("volume", output), output.picture)
    if output.mask is not None:
        name = _named("mask", output)
        publication.add_map("mask", name, f"{output.title}: mask", {"mask": output.mask}, output.name)
        _add_picture(publication, name, output.picture)


def _add_picture(publication: Publication, name: str, picture: Picture | None) -> None:
    if picture is not None:
        publication.add_output_image(name, picture.file)


def _named(kind: str, output: Output) -> str:
    return f"{kind}_{output.name}" if output.name else kind


def _kept_name(job: ExternalJob, path: Path, directory: Path) -> str:
    """Name of a result file in the External job: it bears the job's uid, and lies at most one folder deep."""
    *folder, name = path.relative_to(directory).parts
    return "/".join([*folder[:1], "_".join([job.uid, *folder[1:], name])])
