"""What a train or an abinit job learned, as the jobs that go on from it need it: particles, latents, states, model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import find_project_directory, is_missing
from cryodrgn_ext.metadata.image_names import stack_file
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.results.latent_tables import LatentTable, StateTable, read_latent_table, read_state_table
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.record import fingerprint_particles, is_unchanged, read_record, require_record

#: Jobs that leave a model with latents, or say that there is none.
LEARNING_JOBS = ("train", "abinit", "import")
TABLES = (".star", ".cs", ".csg")


@dataclass(frozen=True)
class LearnedResult:
    """What there is in the result directory of a train or an abinit job.

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
    """

    job: str
    directory: Path
    particles: ParticleSet
    latents: LatentTable | None
    states: StateTable | None
    only_state: int | None = None
    states_directory: Path | None = None
    listed: NDArray[np.int64] | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows (n,), increasing, that were given: all, or those of a state, and of these what the file still lists."""
        rows = np.arange(self.particles.n)
        if self.only_state is not None and self.states is not None:
            rows = np.flatnonzero(self.states.label == self.only_state)
        return rows if self.listed is None else np.intersect1d(rows, self.listed)

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
            return "it is a homogeneous reconstruction."
        return (
            f"it is an abinit job without --zdim; train on {Layout(self.directory).particles} first, and give that job."
        )

    def record(self) -> dict[str, Any]:
        """Particles and directory, as job.yaml of a job that goes on from here keeps them."""
        particles = fingerprint_particles(self.particles.path, self.particles.files)
        return {"in_parts": particles | {"particles": self.particles.n}, "result": str(self.directory.resolve())}

    @property
    def solvent_mask(self) -> Path | None:
        """The mask around the density of all particles, at the box of the model; None where it is gone."""
        layout = Layout(self.directory)
        path = (layout.root if self.job == "abinit" else layout.consensus) / "mask.mrc"
        return path if path.exists() else None


def read_learned_result(given: Path) -> LearnedResult:
    """Read particles, latents and states of a train or an abinit job.

    Of a train job the particles are the original file's, when it is still there unchanged, since nothing about them
    has changed; of an abinit job they are those that it returned, whose poses go with the model.

    Parameters
    ----------
    given : Path
        The result directory, or any file of particles in it; that of a state stands for the particles of this state.
        That of a landscape job stands for the job that it looked at, with its clusters in the place of states.

    Rows that the user has taken out of that file since stay out: see :attr:`LearnedResult.rows`.

    Raises
    ------
    InputError
        When it is no finished job of these kinds, or its files do not fit together.
    """
    result = _read_result(given)
    if given.suffix.lower() not in TABLES or not given.is_file():
        return result
    listed = read_particles(given, require_poses=False)
    if np.array_equal(listed.uid, result.particles.uid[result.rows]):
        return result
    return replace(result, listed=np.unique(match_rows(listed, result.particles, as_list=True).rows))


def _read_result(given: Path) -> LearnedResult:
    directory = find_result_directory(given)
    found = read_record(directory)
    if found is not None and found["job"] == "landscape":
        return _read_landscape_result(given, directory, found)
    record = require_record(directory, *LEARNING_JOBS)
    job, layout = record["job"], Layout(directory)
    if record.get("status") != "finished":
        raise InputError(f"the {job} job in {directory} is not finished: continue it first.")
    original = record["inputs"]["in_parts"]
    if job == "train" and is_unchanged(original):
        particles = read_particles(Path(original["absolute_path"]))
    else:
        particles = _returned_particles(layout.particles, Path(original["absolute_path"]))
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
    return LearnedResult(job, directory, particles, latents, states, _state_given(given, layout, states))


def read_result_or_particles(given: Path) -> LearnedResult | ParticleSet:
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
        return read_learned_result(given)
    return read_particles(given)


def _returned_particles(path: Path, original: Path) -> ParticleSet:
    """Particles as a job returned them; their stacks may be found from the original file only."""
    particles = read_particles(path)
    if not is_missing(particles.stack_paths[0]):
        return particles
    project = find_project_directory(original, stack_file(particles.stack_names[0]), None)
    return read_particles(path, project_dir=project)


def _read_landscape_result(given: Path, directory: Path, record: Mapping[str, Any]) -> LearnedResult:
    if record.get("status") != "finished":
        raise InputError(f"the landscape job in {directory} is not finished: continue it first.")
    learned = Path(record["inputs"]["result"])
    if not learned.is_dir():
        raise InputError(f"the landscape in {directory} was made of {learned}, which is not there any more.")
    result = _read_result(learned)
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
