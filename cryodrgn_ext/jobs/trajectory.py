"""The job that decodes volumes along a path through latent space, with the particles beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.analysis.trajectories import (
    Trajectory,
    along_component,
    anchor_particles,
    nearest_of_frames,
    straight,
    through_density,
    through_graph,
)
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.metadata.latent_files import read_positions
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.plots import central_slices
from cryodrgn_ext.report.trajectory_report import write_trajectory_reports
from cryodrgn_ext.results.chosen_rows import chosen_rows
from cryodrgn_ext.results.decoded_volumes import decode_volumes, volume_name
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import fingerprint_files
from cryodrgn_ext.results.trajectory_files import SCRIPT_NAME, write_chimerax_script, write_nearest
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.job_outputs import kept_files, shown_maps
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun

IndexArray = NDArray[np.int64]
DEFAULT_FRAMES = 10
MOST_FRAMES = 999  # ChimeraX opens the files in the order of their names
SHOWN_FRAMES = 8
LEVEL_PERCENTILE = 99.99


def trajectory(settings: TrajectorySettings, monitor: Monitor) -> JobResult:
    """Decode volumes along a path, and list the particles nearest to each.

    Parameters
    ----------
    settings : TrajectorySettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The volumes in order, and the log as PDF.

    Raises
    ------
    InputError
        When the input is no result of a train or abinit job, it has no latents, or the path cannot be led as asked.
    """
    return TrajectoryRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class TrajectoryInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    result : LearnedResult
    model : Heterogeneity
    rows : ndarray
        (n,) int64 rows of the input that are looked at.
    z : ndarray
        (n, q) float32 their latents.
    path : Trajectory
        Through them.
    """

    result: LearnedResult
    model: Heterogeneity
    rows: IndexArray
    z: NDArray[np.float32]
    path: Trajectory


class TrajectoryRun(JobRun[TrajectorySettings, TrajectoryInputs]):
    """One run of the job."""

    name = "trajectory"

    @classmethod
    def check(cls, settings: TrajectorySettings, monitor: Monitor) -> TrajectoryInputs:
        """Read the result and lead the path; see :meth:`JobRun.check`."""
        result = read_learned_result(settings.in_parts, settings.project)
        latents = result.require_latents()
        rows = chosen_rows(result, settings.indices, monitor)
        z = latents.z[rows]
        path = find_path(settings, z, rows)
        files = fingerprint_files({"anchors": settings.anchors, "indices": settings.indices})
        return TrajectoryInputs(
            record={"images": result.found_images, "result": str(result.directory.resolve()), **files},
            result=result, rows=rows, z=z, path=path, model=load_heterogeneity(Layout(result.directory).model),
        )  # fmt: skip

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Decode the volumes and list the particles."""
        inputs, layout, path = self.inputs, self.layout, self.inputs.path
        for number in path.breaks:
            self.note(
                f"Anchors {number + 1} and {number + 2} of the path are not connected in the graph of nearest "
                "neighbours: the path jumps from one to the other; raise --mean_neighbors and --max_neighbors, or use "
                "--method density."
            )
        self.monitor.message(f"A path of {path.n_frames} volumes, {path.position[-1]:.3g} units of the latents long")
        level, slices = self._write_frames()
        near = nearest_of_frames(inputs.z, path.z, self.settings.nearest)
        write_nearest(layout.root, inputs.result.particles, inputs.rows, near)
        write_chimerax_script(layout.root, level)
        write_trajectory_reports(self.facts, inputs.z, path.z, slices)
        self.monitor.message(f"{path.n_frames} volumes in {layout.root}; open {layout.root / SCRIPT_NAME} in ChimeraX")
        results = {
            "volumes": path.n_frames,
            "anchors": inputs.rows[path.anchors].tolist(),
            "not_connected": [number + 1 for number in path.breaks],
            "contour_level": level,
            "position": [round(float(value), 6) for value in path.position],
        }
        maps = shown_maps(layout.root / volume_name(number) for number in range(path.n_frames))
        return results, JobResult(layout.root, tuple(maps), layout.logfile, keep=kept_files(layout))

    def _write_frames(self) -> tuple[float, dict[int, NDArray[np.float32]]]:
        """Write vol_NNN.mrc and z_values.txt; return one contour level for all, and slices of some frames."""
        n, directory = self.inputs.path.n_frames, self.layout.root
        shown = set(_shown(n))
        levels, slices = [], {}
        volumes = decode_volumes(self.inputs.model, self.inputs.path.z, directory, self.monitor)
        for number, volume in enumerate(volumes):
            levels.append(0.5 * float(np.percentile(volume, LEVEL_PERCENTILE)))
            if number in shown:
                slices[number] = central_slices(volume)
        names = {volume_name(number) for number in range(n)}
        for earlier in directory.glob("vol_*.mrc"):
            if earlier.name not in names:
                earlier.unlink()  # of a longer path: the script opens all that there are
        return float(np.median(levels)), slices


def report_trajectory(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When the result that the path leads through, or a volume, is gone.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, TrajectorySettings)
    inputs = TrajectoryRun.check(replace(settings, in_parts=finished.learned(settings.in_parts)), monitor)
    slices = {number: central_slices(read_map(layout.root / volume_name(number)).data)
              for number in _shown(inputs.path.n_frames)}  # fmt: skip
    write_trajectory_reports(finished.facts, inputs.z, inputs.path.z, slices)


def _shown(n: int) -> list[int]:
    """Numbers of the frames whose slices the report shows."""
    numbers: list[int] = np.linspace(0, n - 1, min(SHOWN_FRAMES, n)).round().astype(int).tolist()
    return numbers


def find_path(settings: TrajectorySettings, z: NDArray[np.float32], rows: IndexArray) -> Trajectory:
    """Lead the path that the settings describe through latents (n, q) of the particles in ``rows`` (n,).

    Raises
    ------
    InputError
        When anchors do not exist or do not suit the method, or the path is too long to be opened as a series.
    """
    frames = DEFAULT_FRAMES if settings.frames is None else settings.frames
    if settings.method == "pc":
        if settings.anchors is not None or settings.anchor_particles:
            raise InputError("--method pc has no anchors: leave them out, or choose graph, density or line.")
        return along_component(z, settings.pc, frames, (settings.percentile_low, settings.percentile_high))
    if settings.anchors is not None and settings.anchor_particles:
        raise InputError("give --anchors or --anchor_particles, not both.")
    if settings.method == "line" and settings.anchors is not None:
        return straight(read_positions(settings.anchors, z.shape[1]), frames)
    anchors = _anchors(settings, z, rows).tolist()
    if settings.method == "line":
        return straight(z[anchors], frames)
    workers = settings.j or 1
    if settings.method == "density":
        return through_density(
            z, anchors, n_frames=frames, n_neighbors=settings.max_neighbors, seed=settings.seed, workers=workers
        )
    path = through_graph(
        z, anchors, mean_neighbors=settings.mean_neighbors, max_neighbors=settings.max_neighbors,
        n_frames=settings.frames, seed=settings.seed, workers=workers,
    )  # fmt: skip
    if path.n_frames > MOST_FRAMES:
        raise InputError(f"the path visits {path.n_frames} particles: give --frames to take some of them, evenly.")
    return path


def _anchors(settings: TrajectorySettings, z: NDArray[np.float32], rows: IndexArray) -> IndexArray:
    """Anchors as positions in ``rows``."""
    if settings.anchors is not None:
        return anchor_particles(z, read_positions(settings.anchors, z.shape[1]))
    if settings.anchor_particles:
        wanted = np.array(settings.anchor_particles, np.int64)
        place = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        absent = np.flatnonzero(rows[place] != wanted)
        if len(absent):
            raise InputError(
                f"--anchor_particles names particle {wanted[absent[0]]}, which is not among the {len(rows)} particles "
                "that are looked at (rows count from 0)."
            )
        return place.astype(np.int64)
    return cluster_latents(z, settings.anchor_clusters, seed=settings.seed).center_index
