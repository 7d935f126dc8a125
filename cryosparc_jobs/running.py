"""Parts that all our External jobs share: a result directory on this machine, the run itself, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.plain_files import write_json
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.record import read_record
from cryodrgn_ext.workflow.directory_lock import directory_lock
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.lifecycle import POLL_S, run_external_job

# In a result directory: which job of which project it belongs to.
ORIGIN_NAME = "cryosparc_job.json"


class Latents(NamedTuple):
    """Latents ``z`` (N, q) float32, and ``uid`` (N,) uint64 of the particles."""

    z: NDArray[np.float32]
    uid: NDArray[np.uint64]


@dataclass(frozen=True)
class FinishedJob:
    """A completed External job.

    Attributes
    ----------
    project, uid : str
        Of the job in CryoSPARC.
    result : JobResult
        The result directory on this machine.
    outputs : tuple of str
        Names of the job's outputs.
    """

    project: str
    uid: str
    result: JobResult
    outputs: tuple[str, ...] = ()

    @property
    def latents(self) -> Latents:
        """Latents (or volume components) of the particles, in the order of the parent's rows.

        Raises
        ------
        InputError
            When the job has none, as a homogeneous one, or one that selects.
        """
        for output in self.result.outputs:
            if isinstance(output, ParticleOutput) and output.coordinates is not None:
                return Latents(np.asarray(output.coordinates, np.float32), output.uid)
        raise InputError(f"{self.project}-{self.uid} has no latents: it is no job that learns any.")


def result_directory(job: ExternalJob, given: str | Path | None) -> Path:
    """Directory of a job's results on this machine: as given, or P1_J43 in the working directory; absolute."""
    return Path(f"{job.project}_{job.uid}" if given is None else given).absolute()


def refuse_results_of_others(directory: str | Path | None, name: str) -> None:
    """Raise InputError when a given directory holds the results of another kind of job."""
    record = None if directory is None else read_record(Path(directory))
    if record is not None and record["job"] != name:
        raise InputError(f"{directory} holds the results of a {record['job']} job: give another directory.")


def run_job(
    job: ExternalJob, directory: Path, name: str, work: Callable[[Monitor], tuple[JobResult, tuple[str, ...]]]
) -> FinishedJob:
    """Run the work of a created and connected job, alone in its result directory.

    Parameters
    ----------
    job : ExternalJob
    directory : Path
        Made when missing.
    name : str
        Of the kind of job, for run.log.
    work : callable
        Returns the result and the names of the outputs.

    Raises
    ------
    BaseException
        See :func:`cryosparc_jobs.lifecycle.run_external_job`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with directory_lock(directory):
        write_json(directory / ORIGIN_NAME, {"project": job.project, "job": job.uid})
        title = f"cryosparc {name} {job.project}-{job.uid}"
        result, outputs = run_external_job(job, directory, title, work, POLL_S)
    return FinishedJob(job.project, job.uid, result, outputs)
