"""Result of a train or an abinit job, as the jobs that go on from it need it: particles, latents, states, model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import find_project_directory, is_missing
from cryodrgn_ext.metadata.image_names import stack_file
from cryodrgn_ext.metadata.image_sample import fingerprint_images
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.latent_tables import LatentTable, StateTable, read_latent_table, read_state_table
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.maps_for_relion import with_measured_sign
from cryodrgn_ext.results.record import fingerprint_particles, is_unchanged, read_record, require_record

#: Jobs that leave a model with latents, or say that there is none.
LEARNING_JOBS = ("train", "abinit", "import")
TABLES = (".star", ".cs", ".csg")


@dataclass(frozen=True)
class LearnedResult:
    """Contents of the result directory of a train or an abinit job.

    Attributes
    ----------
    job : str
        Which of both it is.
    directory : Path
    particles : ParticleSet
        Those of the train job's input; those that the abinit job returned, with its poses and half-sets.
    latents : LatentTable or None
        None after a homogeneous job.
    states : StateTable or None
        None after a homogeneous job and after abinit, which cuts none; the clusters of a landscape job on this result
        where that was given.
    only_state : int or None
        The state whose folder or particles were given as the input; None for the whole result.
    states_directory : Path or None
        Where the states are when a landscape job was given.
    listed : ndarray or None
        (n,) int64, increasing: the rows that the given file of particles still has, where rows were taken out of it.
    unusable : ndarray
        (m,) int64 rows of images that cannot be used: the job gave them no state.
    images : mapping
        Where the images were when the result was made, and their fingerprint; empty in results of earlier versions.
    data_sign : int
        -1 when the particles are dark in their images, while maps are white.
    """

    job: str
    directory: Path
    particles: ParticleSet
    latents: LatentTable | None
    states: StateTable | None
    only_state: int | None = None
    states_directory: Path | None = None
    listed: NDArray[np.int64] | None = None
    images: Mapping[str, Any] = field(default_factory=dict)
    data_sign: int = 1
    unusable: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def found_images(self) -> dict[str, Any]:
        """Where the images are now, with their fingerprint then: for job.yaml of a job that goes on from this one."""
        return {**self.images, "directory": str(self.particles.project_dir.absolute())}

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows (n,), increasing, that were given: all, or those of a state, and of these what the file still lists.

        Without images that cannot be used, which have no state.
        """
        rows = np.setdiff1d(self.rows_given, self.unusable)
        return rows if self.listed is None else np.intersect1d(rows, self.listed)

    @property
    def rows_given(self) -> NDArray[np.int64]:
        """Rows (n,), increasing, of all particles, or of the state that was given."""
        if self.only_state is not None and self.states is not None:
            return np.flatnonzero(self.states.label == self.only_state)
        return np.arange(self.particles.n)

    def require_latents(self) -> LatentTable:
        """Return the latents; InputError says what to do where there are none."""
        if self.latents is None:
            raise InputError(f"{self.directory} has no latents: {self._homogeneous}")
        return self.latents

    def require_states(self) -> StateTable:
        """Return the states; InputError says what to do where there are none."""
        if self.states is None and self.latents is not None:
            raise InputError(
                f"{self.directory} has no states: abinit cuts none; select by --clusters and --cluster, or run "
                "landscape on it and give that job."
            )
        if self.states is None:
            raise InputError(f"{self.directory} has no states: {self._homogeneous}")
        return self.states

    @property
    def _homogeneous(self) -> str:
        if self.job == "train":
            return "it is a homogeneous reconstruction; train with --zdim 1 or more, and give that job."
        return (
            f"it is an abinit job without --zdim; train on {Layout(self.directory).particles} first, and give that job."
        )

    def record(self) -> dict[str, Any]:
        """Particles and directory, as job.yaml of a job that goes on from here keeps them."""
        particles = fingerprint_particles(self.particles.path, self.particles.files)
        return {
            "in_parts": particles | {"particles": self.particles.n},
            "images": self.found_images,
            "result": str(self.directory.resolve()),
        }

    @property
    def solvent_mask(self) -> Path | None:
        """The mask around the density of all particles, at the box of the model; None where it is gone."""
        layout = Layout(self.directory)
        path = (layout.root if self.job == "abinit" else layout.consensus) / "mask.mrc"
        return path if path.exists() else None


def read_learned_result(given: Path, project: Path | None = None) -> LearnedResult:
    """Read particles, latents and states of a train or an abinit job.

    Of a train job the particles are the original file's, when it is still there unchanged, since nothing about them
    has changed; of an abinit job they are those that it returned, whose poses go with the model.

    Parameters
    ----------
    given : Path
        The result directory, or any file of particles in it; that of a state stands for the particles of this state.
        That of a landscape job stands for the job that it looked at, with its clusters in the place of states.
    project : Path, optional
        To which the paths of images are relative; where they were found when the result was made, if not given.

    Rows that the user has taken out of that file since stay out: see :attr:`LearnedResult.rows`.

    Raises
    ------
    InputError
        When it is no finished job of these kinds, or its files do not fit together.
    """
    result = _read_result(given, project)
    if given.suffix.lower() not in TABLES or not given.is_file():
        return result
    listed = read_particles(given, result.particles.project_dir, require_poses=False)
    if np.array_equal(listed.uid, result.particles.uid[result.rows_given]):
        return result
    return replace(result, listed=np.unique(match_rows(listed, result.particles, as_list=True).rows))


def _read_result(given: Path, project: Path | None) -> LearnedResult:
    directory = find_result_directory(given)
    found = read_record(directory)
    if found is not None and found["job"] == "landscape":
        return _read_landscape_result(given, directory, found, project)
    record = require_record(directory, *LEARNING_JOBS)
    job, layout = record["job"], Layout(directory)
    if record.get("status") != "finished":
        raise InputError(f"the {job} job in {directory} is not finished: continue it first.")
    original = record["inputs"]["in_parts"]
    if job == "train" and is_unchanged(original):
        particles = read_of_result(Path(original["absolute_path"]), record, project)
    else:
        particles = read_of_result(layout.particles, record, project)
    sign = int(record["results"].get("data_sign", 1))
    particles = with_measured_sign(particles, sign)
    homogeneous = record["settings"].get("zdim") == 0
    latents = None if homogeneous else read_latent_table(layout.latents)
    states = None if homogeneous or job == "abinit" else read_state_table(layout.states_table)
    for what, n in (
        (layout.latents, None if latents is None else latents.n),
        (layout.states_table, None if states is None else states.n),
    ):
        if n is not None and n != particles.n:
            raise InputError(
                f"{what} has {n} particles, but {particles.path} has {particles.n}: they do not belong together."
            )
    if latents is not None and not np.array_equal(latents.uid, particles.uid):
        row = int(np.argmin(latents.uid == particles.uid))
        raise InputError(f"{layout.latents} and {particles.path} name different images from row {row + 1} on.")
    return LearnedResult(job, directory, particles, latents, states, _state_given(given, layout, states),
                         images=record["inputs"].get("images", {}), data_sign=sign,
                         unusable=np.flatnonzero(states.label < 0) if states is not None else np.empty(0, np.int64),
                         )  # fmt: skip


def read_result_or_particles(given: Path, project: Path | None = None) -> LearnedResult | ParticleSet:
    """Read a learned result where ``given`` belongs to one, see :func:`read_learned_result`, else a particles file.

    Raises
    ------
    InputError
        When it is neither.
    """
    try:
        record = read_record(find_result_directory(given))
    except InputError:
        record = None
    if record is not None and record["job"] in (*LEARNING_JOBS, "landscape"):
        return read_learned_result(given, project)
    return read_particles(given, project)


def read_of_result(
    path: Path, record: Mapping[str, Any], project: Path | None, require_poses: bool = True
) -> ParticleSet:
    """Read particles that a job worked on or returned: their images are where they were then, unless given otherwise.

    Parameters
    ----------
    path : Path
        The file of particles.
    record : mapping
        job.yaml of the job.
    project : Path or None
        What the user says.
    require_poses : bool

    Raises
    ------
    InputError
        See :func:`cryodrgn_ext.metadata.particles.read_particles`.
    """
    inputs = record["inputs"]
    then = inputs.get("images", {}).get("directory", record.get("project_directory"))
    if project is None and then is not None and Path(then).is_dir():
        particles = read_particles(path, then, require_poses)
        if not is_missing(particles.stack_paths[0]):
            return particles
    particles = read_particles(path, project, require_poses)
    if project is not None or not is_missing(particles.stack_paths[0]):
        return particles
    original = inputs.get("in_parts", {}).get("absolute_path")  # a job may return particles far from their project
    if original is None:
        return particles
    found = find_project_directory(Path(original), [stack_file(name) for name in particles.stack_names])
    return read_particles(path, found.path, require_poses)


def require_same_images(result: LearnedResult, project: Path | None, monitor: Monitor) -> None:
    """Hold the images that a job is about to read against those that its input was made of.

    Parameters
    ----------
    result : LearnedResult
    project : Path or None
        Directory that the user gave: then other images are warned about instead of refused.
    monitor : Monitor

    Raises
    ------
    InputError
        When they are others: same names in another project, or stacks that were written anew.
    """
    if "sha256" not in result.images:
        return
    found = fingerprint_images(result.particles)
    if (found["rows"], found["sha256"]) == (result.images.get("rows"), result.images["sha256"]):
        return
    sentence = (
        f"the images in {found['directory']} are not those that {result.directory} was made of, which were in "
        f"{result.images.get('directory')}"
    )
    if project is None:
        raise InputError(f"{sentence}: restore these, give their directory with --project, or train anew.")
    monitor.warn(f"{sentence[0].upper()}{sentence[1:]}: they are used, as --project says so.")


def _read_landscape_result(
    given: Path, directory: Path, record: Mapping[str, Any], project: Path | None
) -> LearnedResult:
    if record.get("status") != "finished":
        raise InputError(f"the landscape job in {directory} is not finished: continue it first.")
    learned = Path(record["inputs"]["result"])
    if not learned.is_dir():
        raise InputError(f"the landscape in {directory} was made of {learned}, which is not there any more.")
    result = _read_result(learned, project)
    layout = Layout(directory)
    states = read_state_table(layout.states_table)
    if states.n != result.particles.n:
        raise InputError(
            f"{layout.states_table} has {states.n} particles, but {learned} has {result.particles.n}: it was trained "
            "anew; run landscape again."
        )
    only = _state_given(given, layout, states)
    return replace(result, states=states, only_state=only, states_directory=directory)


def _state_given(given: Path, layout: Layout, states: StateTable | None) -> int | None:
    """Which state's folder ``given`` is, or lies in; None when it means the whole result."""
    for number in range(0 if states is None else len(states.center_index)):
        if given.resolve().is_relative_to(layout.state(number).resolve()):
            return number
    return None
