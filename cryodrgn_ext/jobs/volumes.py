"""The job that decodes volumes at given latent positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.metadata.latent_files import read_positions
from cryodrgn_ext.options.volumes import VolumesSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.decoded_volumes import write_volumes
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.learned_result import LEARNING_JOBS
from cryodrgn_ext.results.record import fingerprint_file, require_record
from cryodrgn_ext.workflow.job_outputs import shown_maps
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun


def volumes(settings: VolumesSettings, monitor: Monitor) -> JobResult:
    """Decode one volume per row of a file of latents.

    Parameters
    ----------
    settings : VolumesSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        vol_000.mrc, vol_001.mrc, ... in ``settings.o``.

    Raises
    ------
    InputError
        When the directory holds no model, or the latents do not fit it.
    """
    return VolumesRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class VolumesInputs(CheckedInputs):
    """The model, and the latents (P, q) to decode."""

    model: Heterogeneity
    z: NDArray[np.float32]


class VolumesRun(JobRun[VolumesSettings, VolumesInputs]):
    """One run of the job."""

    name = "volumes"

    @classmethod
    def check(cls, settings: VolumesSettings, monitor: Monitor) -> VolumesInputs:
        """Read the model and the latents; see :meth:`JobRun.check`."""
        directory = find_result_directory(settings.in_result)
        require_record(directory, *LEARNING_JOBS)
        model = load_heterogeneity(Layout(directory).model)
        z = read_positions(settings.z, model.z.shape[1])
        record = {"z": fingerprint_file(settings.z), "in_result": str(directory)}
        return VolumesInputs(record=record, model=model, z=z)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Decode the volumes."""
        paths = write_volumes(self.inputs.model, self.inputs.z, self.layout.root, self.monitor)
        self.monitor.message(f"{len(paths)} volumes in {self.layout.root}")
        return {"volumes": len(paths)}, JobResult(self.layout.root, tuple(shown_maps(paths)))
