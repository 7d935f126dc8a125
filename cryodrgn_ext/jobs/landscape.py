"""The job that makes states and a landscape of a trained model (Zhong 2022, chapter 6).

Stages, each finished on disk before the next begins: a sketch of the particles, a mask, inner products of the volumes
within it, all particles in the space of volume components, clusters, their maps, their particles, densities, report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.loops import closure_of_particles
from cryodrgn_ext.analysis.sketch import Sketch
from cryodrgn_ext.analysis.surfaces import Surface, density_surface
from cryodrgn_ext.analysis.volume_basis import volume_basis
from cryodrgn_ext.analysis.volume_landscape import (
    ClusterOptions,
    ComparedVolumes,
    Landscape,
    cluster_volumes,
    compare_volumes,
    comparison_mask,
    density_components,
    sketch_by_volumes,
    volume_planes,
)
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.map_origin import masking
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.plain_files import write_arrays
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.landscape_report import write_landscape_reports
from cryodrgn_ext.report.pictures import draw_components, draw_density
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.chosen_rows import chosen_rows
from cryodrgn_ext.results.landscape_states import write_state_maps, write_state_particles
from cryodrgn_ext.results.landscape_summary import landscape_results, landscape_sentences
from cryodrgn_ext.results.landscape_tables import (
    LandscapeFiles,
    read_arrays,
    read_clusters,
    read_gram,
    read_mapping,
    read_surface,
    write_clusters,
    write_gram,
    write_mapping,
    write_surface,
)
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import fingerprint_file, fingerprint_files, require_record
from cryodrgn_ext.results.returned_particles import returned_name
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.verdict import NOT_TESTED, Conclusion, overall
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.given_maps import read_working_mask
from cryodrgn_ext.workflow.job_outputs import group_outputs, kept_files, picture, shown_maps, slices_of_groups
from cryodrgn_ext.workflow.job_result import ALL, JobResult, MaskOutput, ParticleOutput
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun

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
    monitor.message(f"Reading {settings.in_parts}")
    return LandscapeRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class LandscapeInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    result : LearnedResult
    model : Heterogeneity
    z : ndarray
        (n, q) float32 latents of the particles that are looked at.
    rows : ndarray
        (n,) int64 their rows of the input.
    given_mask : ndarray or None
        (D, D, D) the user's region.
    solvent_mask : ndarray or None
        (D, D, D) of the job that trained the model.
    """

    result: LearnedResult
    model: Heterogeneity
    z: NDArray[np.float32]
    rows: NDArray[np.int64]
    given_mask: NDArray[np.float32] | None
    solvent_mask: NDArray[np.float32] | None


class LandscapeRun(JobRun[LandscapeSettings, LandscapeInputs]):
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    name = "landscape"

    def __init__(self, settings: LandscapeSettings, inputs: LandscapeInputs, monitor: Monitor) -> None:
        super().__init__(settings, inputs, monitor)
        self.files = LandscapeFiles(self.layout)

    @classmethod
    def check(cls, settings: LandscapeSettings, monitor: Monitor) -> LandscapeInputs:
        """Read the result, the rows that are looked at, and the mask; see :meth:`JobRun.check`."""
        result = read_learned_result(settings.in_parts, settings.project)
        latents = result.require_latents()
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
        folder = Layout(result.directory).model
        model = load_heterogeneity(folder)
        sums = {path.name: fingerprint_file(path)["sha256"] for path in sorted(folder.iterdir()) if path.is_file()}
        solvent = None if result.solvent_mask is None else read_map(result.solvent_mask).data
        return LandscapeInputs(
            record=result.record() | {"model": sums} | fingerprint_files(
                {"in_mask": settings.in_mask, "indices": settings.indices}
            ),
            result=result, model=model, z=np.ascontiguousarray(latents.z[rows]), rows=rows,
            given_mask=read_working_mask(settings.in_mask, model.box_size, model.pixel_size_A, monitor),
            solvent_mask=solvent if solvent is not None and len(solvent) == model.box_size else None,
        )  # fmt: skip

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs, layout, files = self.settings, self.inputs, self.layout, self.files
        everything = len(inputs.rows) == inputs.result.particles.n
        key = fingerprint(
            inputs.record["model"], inputs.sha256("in_mask"), inputs.record.get("indices"),
            None if everything else inputs.rows.tolist(), settings.sketch, settings.seed,
        )  # fmt: skip
        self.stage("sketch", key, "Choosing particles that stand for all", self._choose_sketch, files.sketch)
        key = fingerprint(key, settings.mask_level)
        self.stage("mask", key, "Mask", self._make_mask, files.mask)
        self.stage("volumes", key, "Comparing volumes within the mask", self._compare, files.gram, files.rows)
        key = fingerprint(key, settings.components, settings.mapping, settings.mapping_volumes)
        self.stage("mapping", key, "Mapping all particles", self._map_particles, files.mapping)
        cut = fingerprint(key, settings.clusters, settings.linkage, settings.metric, settings.min_particles,
                          settings.set_apart)  # fmt: skip
        self.stage("clusters", cut, "Clustering the volumes", self._cluster, files.clusters)
        found, name = self._read(), self._particles_name
        folders = [layout.state(number) for number in range(found.clusters.n_clusters)]
        self.stage("maps", fingerprint(cut, settings.traversals), "Maps of the states and components",
                   lambda: write_state_maps(files, found, settings.components, settings.traversals, self.monitor),
                   files.components, *folders)  # fmt: skip
        self.stage("particles", fingerprint(cut, settings.star_columns, settings.particles_format),
                   "Writing particles",
                   lambda: write_state_particles(files, found, inputs.result.particles, name, settings.star_columns,
                                                 self.monitor),
                   files.particle_table, *(folder / name for folder in (layout.root, *folders)))  # fmt: skip
        sign = inputs.result.data_sign
        self.note_data_sign(folders, sign, inputs.result.particles, name)
        densities = self._densities(found)
        self.stage("densities", fingerprint(key, settings.bootstrap), "Density of the particles and its uncertainty",
                   lambda: self._write_densities(found), *densities)  # fmt: skip
        self.stage("layouts", cut, "Layouts of the volumes", lambda: self._write_sketch(found), files.sketch_table)
        closure = closure_of_particles(found.mapping.v, settings.seed)
        self.note(*landscape_sentences(found, settings.clusters, closure))
        self.headline(self._found)
        self.monitor.poll()
        surfaces = self.write_reports(self.facts)
        results = landscape_results(found, settings.components, surfaces, closure) | {"found": self._found}
        return results, self._result(found)

    def write_reports(self, facts: RunFacts) -> list[tuple[Surface, tuple[int, ...]]]:
        """Write report.html and logfile.pdf from what the stages have left; return the densities."""
        found = self._read()
        surfaces = [read_surface(path) for path in self._densities(found)]
        write_landscape_reports(facts, self.inputs.result.particles, found, surfaces)
        return surfaces

    def _choose_sketch(self) -> None:
        settings, inputs = self.settings, self.inputs
        sketch = sketch_by_volumes(
            inputs.model, inputs.z, settings.sketch, given_mask=inputs.given_mask, solvent_mask=inputs.solvent_mask,
            mask_level=settings.mask_level, seed=settings.seed,
        )  # fmt: skip
        if len(sketch.index) < max(2, settings.clusters):
            raise InputError(
                f"the particles have only {len(sketch.index)} different volumes, too few for {settings.clusters} "
                "clusters."
            )
        write_arrays(self.files.sketch, {"index": sketch.index, "nearest": sketch.label})

    def _make_mask(self) -> None:
        model, given = self.inputs.model, self.inputs.given_mask
        if given is None:
            sketch_z = self.inputs.z[self._sketch().index]
            mask = comparison_mask(model, sketch_z, self.settings.mask_level, self.monitor)
        else:
            mask = given > 0.5
        said = masking("where volumes are compared" if given is None else "given, where volumes are compared")
        write_map(self.files.mask, mask.astype(np.float32), model.pixel_size_A, said)
        self.monitor.message(f"{np.count_nonzero(mask)} of {mask.size} voxels are in the mask")

    def _compare(self) -> None:
        basis = volume_basis(self.inputs.model, self.inputs.z[self._sketch().index])
        write_gram(self.files.gram, compare_volumes(basis, self._mask(), self.files.rows, self.monitor))

    def _map_particles(self) -> None:
        settings, files = self.settings, self.files
        compared = ComparedVolumes(
            self.inputs.model, self.inputs.z, self._sketch(), self._mask(), np.load(files.rows, mmap_mode="r"),
            read_gram(files.gram),
        )  # fmt: skip
        mapping = compared.map_particles(
            settings.components, settings.mapping, settings.mapping_volumes, settings.seed, self.monitor
        )
        write_mapping(files.mapping, mapping)

    def _cluster(self) -> None:
        given = self.settings
        options = ClusterOptions(given.clusters, given.linkage, given.metric, given.min_particles, given.set_apart,
                                 given.seed, given.j or 1)  # fmt: skip
        clusters = cluster_volumes(read_gram(self.files.gram), read_mapping(self.files.mapping), options)
        write_clusters(self.files.clusters, clusters)

    def _sketch(self) -> Sketch:
        arrays = read_arrays(self.files.sketch)
        return Sketch(arrays["index"].astype(np.int64), arrays["nearest"].astype(np.int32))

    def _mask(self) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = read_map(self.files.mask).data > 0.5
        return mask

    def _read(self) -> Landscape:
        """Read what the stages up to the clusters have left."""
        inputs, files = self.inputs, self.files
        return Landscape(
            inputs.model, inputs.z, inputs.rows, self._sketch().index, read_gram(files.gram).pca(),
            read_mapping(files.mapping), read_clusters(files.clusters),
        )  # fmt: skip

    @property
    def _particles_name(self) -> str:
        return returned_name(self.inputs.result.particles, self.settings.particles_format)

    def _densities(self, found: Landscape) -> list[Path]:
        return [self.files.density(components) for components in density_components(found.mapping.v.shape[1])]

    def _write_densities(self, found: Landscape) -> None:
        v = found.mapping.v
        for components in density_components(v.shape[1]):
            self.monitor.poll()
            columns = v[:, [number - 1 for number in components]]
            surface = density_surface(columns, replicates=self.settings.bootstrap, seed=self.settings.seed)
            write_surface(self.files.density(components), surface, components)

    def _write_sketch(self, found: Landscape) -> None:
        """Write sketch.npz: the sketched particles, and their volumes in several planes."""
        settings, index, pca, clusters = self.settings, found.sketch_index, found.pca, found.clusters
        distances = read_gram(self.files.gram).distances(settings.metric)
        arrays: dict[str, NDArray[np.generic]] = {
            "row": found.rows[index], "z": found.z[index], "cluster": clusters.label, "stray": clusters.reassigned,
            "particles": np.bincount(found.mapping.nearest, minlength=len(index)), "tree": clusters.tree,
            "v": pca.coordinates[:, : settings.components], "variance": pca.variance,
            "explained_variance_ratio": pca.explained_variance_ratio,
        }  # fmt: skip
        write_arrays(self.files.sketch_table, {**arrays, **volume_planes(pca, distances, settings.seed)})

    @property
    def _found(self) -> str:
        """Verdict on the clusters: they are the model's, and only images can tell whether they are real."""
        result = self.inputs.result
        own = overall([Conclusion(NOT_TESTED, reason="run validate on this directory: it asks the images")], "cluster")
        earlier = require_record(result.directory, result.job)["results"].get("found")
        return own if earlier is None else f"{own} Of its own states the {result.job} job says: {earlier}"

    def _result(self, found: Landscape) -> JobResult:
        layout, name = self.layout, self._particles_name
        uid, v, label = self.inputs.result.particles.uid[found.rows], found.mapping.v, found.label
        titles = {number: f"state {number:02d}" for number in range(found.clusters.n_clusters)}
        by_state = picture(layout, "particles", "Particles over volume components, by state",
                           partial(draw_components, v, label, centers=found.center_index))  # fmt: skip
        densities = [
            picture(layout, path.stem, "Density of the particles and apparent free energy over volume components",
                    partial(draw_density, path)) for path in self._densities(found)
        ]  # fmt: skip
        slices = slices_of_groups(layout, titles, "Central slices of the average maps")
        on_data = [layout.state(number) / "on_data.mrc" for number in titles]
        outputs = (
            ParticleOutput(name=ALL, title="All particles, with volume components", path=layout.root / name, uid=uid,
                           coordinates=v, picture=by_state),
            *group_outputs(layout, titles, name, uid, label),
            *shown_maps(on_data),
            *shown_maps(sorted(self.files.components.glob("*.mrc"))),
            MaskOutput(path=self.files.mask, name="compared", title="Region in which volumes were compared",
                       picture=slices),
        )  # fmt: skip
        tables = ("states.npz", "landscape.npz", "sketch.npz")
        return JobResult(layout.root, outputs, layout.logfile, (by_state, *densities, slices), slices,
                         (*kept_files(layout, *tables), *on_data))  # fmt: skip


def report_landscape(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When the result that the landscape was made of, or what its stages left in checkpoint/, is gone.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, LandscapeSettings)
    if not LandscapeFiles(layout).gram.exists():
        raise InputError(f"{layout.checkpoint} is gone, which the report of a landscape is made from: run it again.")
    given = replace(settings, in_parts=finished.learned(settings.in_parts))
    run = LandscapeRun(settings, LandscapeRun.check(given, monitor), monitor)
    run.write_reports(finished.facts)
