"""The job that turns a trained model into states and a landscape (thesis chapter 6).

Stages, each finished on disk before the next begins: a sketch of the particles, a mask, inner products of the volumes
within it, all particles in the space of volume components, clusters, their maps, their particles, densities, report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.volume_clusters import VolumeClusters
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.jobs.given_maps import check_mask_values
from cryodrgn_ext.jobs.job_outputs import group_outputs, kept_files, picture, shown_maps, slices_of_groups
from cryodrgn_ext.jobs.landscape_stages import LandscapeStages
from cryodrgn_ext.jobs.landscape_states import write_state_maps, write_state_particles
from cryodrgn_ext.jobs.options.landscape import LandscapeSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.landscape_report import write_landscape_reports
from cryodrgn_ext.report.pictures import draw_components, draw_density
from cryodrgn_ext.results.chosen_rows import chosen_rows
from cryodrgn_ext.results.landscape_tables import ParticleMapping, read_clusters, read_surface
from cryodrgn_ext.results.latent_tables import LatentTable
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import fingerprint_file, fingerprint_particles, refuse_other_results, write_record
from cryodrgn_ext.results.returned_particles import returned_name
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.workflow.job_result import ALL, JobResult, MaskOutput, ParticleOutput
from cryodrgn_ext.workflow.stages import Stages
from cryodrgn_ext.workflow.threads import use_threads
from cryodrgn_ext.workflow.unfinished_files import remove_unfinished

FEWEST_PARTICLES = 10


def landscape(settings: LandscapeSettings, monitor: Monitor) -> JobResult:
    """Cluster the volumes of a trained model into states, and map all particles onto their principal components.

    Parameters
    ----------
    settings : LandscapeSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        Particles (all, and of each state), the maps of the states and of the components, the mask, the log as PDF.

    Raises
    ------
    InputError
        When the input is no result of a train or abinit job, it has no latents, or the volumes cannot be compared as
        asked.
    JobAborted
        When the user asks for it; everything finished so far stays, and the same call continues.
    """
    use_threads(settings.j)
    monitor.message(f"Reading {settings.in_parts}")
    result = read_learned_result(settings.in_parts)
    refuse_other_results(settings.o, "landscape")
    job = _LandscapeJob(settings, result, result.require_latents(), monitor)
    settings.o.mkdir(parents=True, exist_ok=True)
    remove_unfinished(settings.o)
    return job.run()


class _LandscapeJob:
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    def __init__(
        self, settings: LandscapeSettings, result: LearnedResult, latents: LatentTable, monitor: Monitor
    ) -> None:
        self.settings, self.result, self.monitor = settings, result, monitor
        self.layout = Layout(settings.o)
        rows = chosen_rows(result, settings.indices, monitor)
        possible = min(settings.sketch, len(rows))
        if len(rows) < FEWEST_PARTICLES:
            raise InputError(
                f"a landscape needs at least {FEWEST_PARTICLES} particles, but only {len(rows)} are given."
            )
        if settings.clusters > possible:
            raise InputError(
                f"--clusters is {settings.clusters}, but there are only {possible} sketched volumes: raise --sketch or "
                "ask for fewer clusters."
            )
        model = load_heterogeneity(Layout(result.directory).model)
        given = None if settings.in_mask is None else _working_mask(settings.in_mask, model, monitor)
        solvent = None if result.solvent_mask is None else read_map(result.solvent_mask).data
        if solvent is not None and len(solvent) != model.box_size:
            solvent = None
        z = np.ascontiguousarray(latents.z[rows])
        self.work = LandscapeStages(settings, self.layout, model, z, rows, given, solvent, monitor)

    def run(self) -> JobResult:
        """All stages."""
        begin = time.monotonic()
        settings, layout = self.settings, self.layout
        self._record("running", {})
        self.stages, work = Stages(layout.checkpoint), self.work
        key = fingerprint(
            self.inputs["model"], self.inputs.get("in_mask", {}).get("sha256"), self.inputs.get("indices"),
            work.rows.tolist() if len(work.rows) < self.result.particles.n else None, settings.sketch, settings.seed,
        )  # fmt: skip
        self._stage("sketch", key, "Choosing particles that stand for all", work.choose_sketch, work.sketch_path)
        key = fingerprint(key, settings.mask_level)
        self._stage("mask", key, "Mask", work.make_mask, work.mask_path)
        self._stage("volumes", key, "Comparing volumes within the mask", work.compare, work.gram_path, work.rows_path)
        key = fingerprint(key, settings.components, settings.mapping, settings.mapping_volumes)
        self._stage("mapping", key, "Mapping all particles", work.map_particles, work.mapping_path)
        cut = fingerprint(key, settings.clusters, settings.linkage, settings.metric, settings.min_particles,
                          settings.set_apart)  # fmt: skip
        self._stage("clusters", cut, "Clustering the volumes", work.cluster, work.clusters_path)
        clusters = read_clusters(work.clusters_path)
        name = self._particles_name
        folders = [layout.state(number) for number in range(clusters.n_clusters)]
        self._stage("maps", fingerprint(cut, settings.traversals), "Maps of the states and components",
                    lambda: write_state_maps(work, clusters), layout.root / "components", *folders)  # fmt: skip
        self._stage("particles", fingerprint(cut, settings.star_columns, settings.particles_format),
                    "Writing particles", lambda: write_state_particles(work, clusters, self.result.particles, name),
                    layout.root / "landscape.npz", *(folder / name for folder in (layout.root, *folders)))  # fmt: skip
        self._stage("densities", fingerprint(key, settings.bootstrap), "Density of the particles and its uncertainty",
                    work.densities, *work.surface_paths())  # fmt: skip
        self._stage("layouts", cut, "Layouts of the volumes", work.layouts, layout.root / "sketch.npz")
        summary = self._finish(clusters)
        self._record("finished", summary)
        self.monitor.message(f"Finished in {time.monotonic() - begin:.0f} s: see {layout.report}")
        return self._result(clusters)

    def _stage(self, name: str, key: str, title: str, work: Callable[[], None], *products: Path) -> None:
        self.stages.run(name, key, self.monitor, title, work, products)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What job.yaml says of the inputs."""
        particles = self.result.particles
        record: dict[str, Any] = {
            "in_parts": fingerprint_particles(particles.path, particles.files) | {"particles": particles.n},
            "result": str(self.result.directory.resolve()),
            "model": {path.name: fingerprint_file(path)["sha256"]
                      for path in sorted(Layout(self.result.directory).model.iterdir()) if path.is_file()},
        }  # fmt: skip
        for name in ("in_mask", "indices"):
            if getattr(self.settings, name) is not None:
                record[name] = fingerprint_file(getattr(self.settings, name))
        return record

    def _record(self, status: str, results: dict[str, Any]) -> None:
        write_record(self.layout.root, "landscape", status, self.settings, self.inputs, results)

    @property
    def _particles_name(self) -> str:
        return returned_name(self.result.particles, self.settings.particles_format)

    def _finish(self, clusters: VolumeClusters) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        work = self.work
        mapping = ParticleMapping.read(work.mapping_path)
        surfaces = [read_surface(path) for path in work.surface_paths()]
        _, pca = work.volumes()
        notes = list(self.monitor.warnings)
        if clusters.n_clusters != self.settings.clusters:
            notes.append(
                f"{clusters.n_clusters} states instead of {self.settings.clusters}: small groups that are set apart "
                "are states of their own, and groups of too few particles are none."
            )
        if clusters.stray.any():
            count = int(np.isin(mapping.nearest, np.flatnonzero(clusters.stray)).sum())
            notes.append(
                f"{np.count_nonzero(clusters.stray)} volumes ({count} particles) lie in groups too small to be "
                "states and were put with the nearest one; --min_particles 0 shows them."
            )
        if not mapping.is_exact:
            notes.append(
                f"Volume components of particles are predicted by a map learned from volumes: of those held out it "
                f"misses {100 * mapping.held_out_loss.min():.1f} % of the variance."
            )
        for note in notes:
            self.monitor.message(note)
        self.monitor.poll()
        seconds, kept = self.stages.seconds(), self.settings.components
        write_landscape_reports(
            self.layout, self.settings, work, self.result.particles, clusters, mapping, pca, surfaces, notes, seconds
        )
        return {
            "particles": len(work.rows),
            "sketch": len(clusters.label),
            "explained_variance": [round(float(share), 5) for share in pca.explained_variance_ratio[:kept]],
            "mapping": "exact" if mapping.is_exact else "learned",
            "held_out_loss": None if mapping.is_exact else round(float(mapping.held_out_loss.min()), 6),
            "states": [
                {"state": number, "volumes": int(clusters.n_volumes[number]),
                 "particles": int(clusters.n_particles[number]),
                 "on_data_particle": int(row)}
                for number, row in enumerate(work.rows[work.sketch_index[clusters.medoid]])
            ],
            "density_maxima": [
                {"components": list(components), "position": [round(float(p), 5) for p in maximum.position],
                 "depth_kT": round(float(maximum.depth_kT), 3) if np.isfinite(maximum.depth_kT) else "highest",
                 "depth_sd_kT": round(float(maximum.depth_sd_kT), 3), "stability": round(maximum.stability, 3)}
                for surface, components in surfaces for maximum in surface.maxima if maximum.is_stable
            ],
            "notes": notes,
            "seconds": seconds,
        }  # fmt: skip

    def _result(self, clusters: VolumeClusters) -> JobResult:
        layout, work, name = self.layout, self.work, self._particles_name
        uid, mapping = self.result.particles.uid[work.rows], ParticleMapping.read(work.mapping_path)
        label, centers = clusters.label[mapping.nearest], work.sketch_index[clusters.medoid]
        titles = {number: f"state {number:02d}" for number in range(clusters.n_clusters)}
        by_state = picture(layout, "particles", "Particles over volume components, by state",
                           partial(draw_components, mapping.v, label, centers=centers))  # fmt: skip
        densities = [
            picture(layout, path.stem, "Density of the particles and apparent free energy over volume components",
                    partial(draw_density, path)) for path in work.surface_paths()
        ]  # fmt: skip
        slices = slices_of_groups(layout, titles, "Central slices of the average maps")
        on_data = [layout.state(number) / "on_data.mrc" for number in titles]
        outputs = (
            ParticleOutput(name=ALL, title="All particles, with volume components", path=layout.root / name, uid=uid,
                           coordinates=mapping.v, picture=by_state),
            *group_outputs(layout, titles, name, uid, label),
            *shown_maps(on_data),
            *shown_maps(sorted((layout.root / "components").glob("*.mrc"))),
            MaskOutput(path=layout.root / "mask.mrc", name="compared", title="Region in which volumes were compared",
                       picture=slices),
        )  # fmt: skip
        tables = ("states.npz", "landscape.npz", "sketch.npz")
        return JobResult(layout.root, outputs, layout.logfile, (by_state, *densities, slices), slices,
                         (*kept_files(layout, *tables), *on_data))  # fmt: skip


def _working_mask(path: Path, model: Heterogeneity, monitor: Monitor) -> NDArray[np.float32]:
    """Bring the user's mask to the box of the volumes."""
    given = read_map(path)
    check_mask_values(given, path)
    for note in given.notes:
        monitor.message(f"Note: {note}")
    found: NDArray[np.float32] = working_map(given, model.box_size, model.pixel_size_A, "--in_mask").numpy()
    if not (found > 0.5).any():
        raise InputError(f"{path} has no voxel above 0.5 in a box of {model.box_size}: the region is too small.")
    return found
