"""The job that decodes volumes along a path through latent space, with the particles beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents, principal_components
from cryodrgn_ext.analysis.trajectories import (
    FrameParticles,
    Trajectory,
    along_component,
    anchor_particles,
    nearest_of_frames,
    straight,
    through_density,
    through_graph,
)
from cryodrgn_ext.durable_files import atomic_path, atomic_write_text
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.jobs.job_outputs import kept_files, shown_maps
from cryodrgn_ext.jobs.options.trajectory import TrajectorySettings
from cryodrgn_ext.jobs.volumes import volume_name
from cryodrgn_ext.metadata.latent_files import read_positions
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.landscape_plots import path_in_plane
from cryodrgn_ext.report.page import ReportContent, ReportFigure
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.report.plots import central_slices, map_slices
from cryodrgn_ext.report.train_report import command_line
from cryodrgn_ext.results.chosen_rows import chosen_rows
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import fingerprint_file, refuse_other_results, versions, write_record
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.threads import use_threads
from cryodrgn_ext.workflow.unfinished_files import remove_unfinished

IndexArray = NDArray[np.int64]
DEFAULT_FRAMES = 10
MOST_FRAMES = 999  # ChimeraX opens the files in the order of their names
SCRIPT_NAME = "trajectory.cxc"
SHOWN_FRAMES = 8
LEVEL_PERCENTILE = 99.99
NEAREST_COLUMNS = ("cdxFrame", "cdxRow", "cdxUid", "rlnImageName", "cdxLatentDistance")
FILES = {
    "vol_NNN.mrc": "the volumes in order",
    "z_values.txt": "their latents",
    "nearest_particles.star": "the particles nearest to each volume",
    SCRIPT_NAME: "opens the series in ChimeraX at one contour level",
    "job.yaml": "settings, versions, seed, inputs",
    "run.log": "everything that the run said",
}


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
    use_threads(settings.j)
    result = read_learned_result(settings.in_parts)
    refuse_other_results(settings.o, "trajectory")
    latents = result.require_latents()
    rows = chosen_rows(result, settings.indices, monitor)
    z = latents.z[rows]
    path = find_path(settings, z, rows)
    for number in path.breaks:
        monitor.warn(
            f"Anchors {number + 1} and {number + 2} of the path are not connected in the graph of nearest neighbours: "
            "the path jumps from one to the other; raise --mean_neighbors and --max_neighbors, or use --method density."
        )
    model = load_heterogeneity(Layout(result.directory).model)
    settings.o.mkdir(parents=True, exist_ok=True)
    remove_unfinished(settings.o)
    monitor.message(f"A path of {path.n_frames} volumes, {path.position[-1]:.3g} units of the latents long")
    level, slices = _write_frames(model, path, settings.o, monitor)
    near = nearest_of_frames(z, path.z, settings.nearest)
    _write_nearest(settings.o / "nearest_particles.star", result, rows, near)
    atomic_write_text(settings.o / SCRIPT_NAME, chimerax_script(level))
    _write_reports(settings, result, z, path, slices, monitor.warnings)
    inputs: dict[str, Any] = {"result": str(result.directory.resolve())}
    for name in ("anchors", "indices"):
        if getattr(settings, name) is not None:
            inputs[name] = fingerprint_file(getattr(settings, name))
    results = {
        "volumes": path.n_frames,
        "anchors": rows[path.anchors].tolist(),
        "not_connected": [number + 1 for number in path.breaks],
        "contour_level": float(level),
        "position": [round(float(value), 6) for value in path.position],
    }
    write_record(settings.o, "trajectory", "finished", settings, inputs, results)
    monitor.message(f"{path.n_frames} volumes in {settings.o}; open {settings.o / SCRIPT_NAME} in ChimeraX")
    layout = Layout(settings.o)
    maps = shown_maps(settings.o / volume_name(number) for number in range(path.n_frames))
    return JobResult(settings.o, tuple(maps), layout.logfile, keep=kept_files(layout))


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


def _write_frames(
    model: Heterogeneity, path: Trajectory, directory: Path, monitor: Monitor
) -> tuple[float, dict[int, NDArray[np.float32]]]:
    """Write vol_NNN.mrc and z_values.txt; return one contour level for all, and slices of some frames."""
    shown = set(np.linspace(0, path.n_frames - 1, min(SHOWN_FRAMES, path.n_frames)).round().astype(int).tolist())
    levels, slices = [], {}
    for number, volume in enumerate(monitor.track(model.volumes(path.z), "Decoding volumes", path.n_frames)):
        write_map(directory / volume_name(number), volume, model.pixel_size_A)
        levels.append(0.5 * float(np.percentile(volume, LEVEL_PERCENTILE)))
        if number in shown:
            slices[number] = central_slices(volume)
    names = {volume_name(number) for number in range(path.n_frames)}
    for stale in directory.glob("vol_*.mrc"):
        if stale.name not in names:
            stale.unlink()  # of an earlier, longer path: the script opens all that there are
    with atomic_path(directory / "z_values.txt") as temporary:
        np.savetxt(temporary, path.z, fmt="%.8g")
    return float(np.median(levels)), slices


def _write_nearest(path: Path, result: LearnedResult, rows: IndexArray, near: FrameParticles) -> None:
    """One line per frame and neighbour: frame, row of the input, identifier, image, distance in latent space."""
    particles = result.particles
    lines = ["", "# version 30001", "", "data_nearest_particles", "", "loop_"]
    lines += [f"_{name} #{number}" for number, name in enumerate(NEAREST_COLUMNS, 1)]
    for frame, (members, distances) in enumerate(zip(rows[near.index], near.distance, strict=True)):
        lines += [
            f"{frame} {row} {particles.uid[row]} {particles.image_name[row]} {distance:.6g}"
            for row, distance in zip(members, distances, strict=True)
        ]
    atomic_write_text(path, "\n".join(lines) + "\n\n")


def chimerax_script(level: float) -> str:
    """Commands for ChimeraX, which runs a script in the script's own directory."""
    return (
        "# The volumes of the trajectory as a series at one contour level: open this file in ChimeraX.\n"
        "open vol_*.mrc vseries true\n"
        f"volume #1 style surface step 1 level {level:.6g}\n"
        "view\n"
        "vseries slider #1\n"
    )


def _write_reports(
    settings: TrajectorySettings,
    result: LearnedResult,
    z: NDArray[np.float32],
    path: Trajectory,
    slices: dict[int, NDArray[np.float32]],
    warnings: list[str],
) -> None:
    drawn = map_slices({f"volume {number:03d}": planes for number, planes in slices.items()})
    figures = [ReportFigure("Volumes", "Central slices of some of the volumes, one grey scale.", drawn)]
    if z.shape[1] > 1:
        components = principal_components(z)
        line = (path.z - components.mean) @ components.axes[:2].T
        drawn = path_in_plane(components.projections[:, :2], line, ("PC 1", "PC 2"))
        figures.append(ReportFigure("Path", "The path among the particles; numbers are those of the volumes.", drawn))
    content = ReportContent(
        title="Trajectory",
        command=command_line("trajectory", settings),
        z=z,
        settings=settings.to_mapping(),
        versions=versions(),
        seed=settings.seed,
        n_particles=len(z),
        messages=warnings,
        further=figures,
        files=FILES,
    )
    layout = Layout(settings.o)
    write_report_html(layout.report, content)
    write_logfile_pdf(layout.logfile, content)
