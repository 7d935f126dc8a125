"""The part that train and import share: consensus, then from latents and a model to states with evidence and report."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.indistinct_clusters import join_indistinct
from cryodrgn_ext.analysis.latents import cluster_latents, distinct_latents
from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.import_latents import ImportSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_latents
from cryodrgn_ext.report.states_report import StatesReport, write_states_reports
from cryodrgn_ext.results.associations import read_associations, write_associations
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.decoded_volumes import decode_at_centers
from cryodrgn_ext.results.empty_image_table import read_empty_images, write_empty_images
from cryodrgn_ext.results.latent_tables import (
    LatentTable,
    StateTable,
    read_latent_table,
    read_state_table,
    write_latent_table,
    write_state_table,
)
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.results.maps_for_relion import with_measured_sign
from cryodrgn_ext.results.null_table import against_gain, read_weak_null
from cryodrgn_ext.results.population_table import claimed_populations, populations_sentence
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    remove_other_formats,
    returned_name,
    returned_names,
    say_conversion,
    wants_columns,
    write_groups,
    write_particles,
)
from cryodrgn_ext.results.states import StateResult, read_states, with_junk_named, write_state
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.associations import associate
from cryodrgn_ext.validation.consensus import compare_with_reference
from cryodrgn_ext.validation.empty_images import find_empty_images
from cryodrgn_ext.validation.states import StateMasks, SubsetDraws, fewest_of_a_state, iterate_states
from cryodrgn_ext.validation.verdict import overall
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.job_outputs import (
    group_outputs,
    kept_files,
    map_with_halves,
    picture,
    shown_maps,
    slices_of_groups,
)
from cryodrgn_ext.workflow.job_result import ALL, JobResult, ParticleOutput, Role
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun, S
from cryodrgn_ext.workflow.populations import find_populations
from cryodrgn_ext.workflow.reconstructions import make_consensus, make_missing_states

#: Spread of the particles' scales, in their mean, from which a user should fit them.
UNEVEN = 0.2


@dataclass(frozen=True)
class StateOptions:
    """Options of a job's settings that decide what is made of its latents.

    Attributes
    ----------
    states, volumes : int
        Numbers of states and of decoded volumes.
    seed : int
    device : str
    star_columns, particles_format : str
        See :func:`wants_columns` and :func:`returned_name`.
    homogeneous : bool
        Whether there are no latents.
    symmetry : str
        Point group that is imposed on the consensus and the states.
    mask_diameter_A : float or None
        Of the disc that images are cut to, where the user gave one.
    """

    states: int
    volumes: int
    seed: int
    device: str
    star_columns: str
    particles_format: str
    homogeneous: bool = False
    symmetry: str = "C1"
    mask_diameter_A: float | None = None

    @classmethod
    def of(cls, settings: TrainSettings | ImportSettings, homogeneous: bool = False) -> StateOptions:
        """Options of a job's settings."""
        return cls(settings.states, settings.volumes, settings.seed, settings.device, settings.star_columns,
                   settings.particles_format, homogeneous, settings.symmetry, settings.mask_diameter_A)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StatesInputs(CheckedInputs):
    """Base of the checked inputs of a job that ends in states.

    Attributes
    ----------
    particles : ParticleSet
    native_box : int
        Box of the images on disk (of the optics group with most particles, where groups differ).
    box : int
        Working box.
    mask, reference : VolumeMap or None
        As the user gave them.
    """

    particles: ParticleSet
    native_box: int
    box: int
    mask: VolumeMap | None
    reference: VolumeMap | None


I = TypeVar("I", bound=StatesInputs)  # noqa: E741


class StatesRun(JobRun[S, I], Generic[S, I]):
    """Base of a run that ends in states; a subclass makes the latents and the model."""

    def __init__(self, settings: S, inputs: I, monitor: Monitor) -> None:
        super().__init__(settings, inputs, monitor)
        self.device = choose_device(self.options.device)
        self.particles = inputs.particles
        self.returned = returned_name(inputs.particles, self.options.particles_format)

    @property
    @abstractmethod
    def options(self) -> StateOptions:
        """Options of the settings that concern states."""

    def reconstruct_consensus(self, images: ParticleImages, key: str) -> Consensus:
        """Do the stage of the consensus; note its resolution, and how it agrees with the user's map."""
        layout, given = self.layout, self.inputs.reference
        self.stage("consensus", key, "Consensus by backprojection",
                   lambda: make_consensus(layout.consensus, images, self.inputs.mask, self.device, self.monitor,
                                          point_group(self.options.symmetry), self.options.mask_diameter_A),
                   layout.consensus)  # fmt: skip
        consensus = read_consensus(layout.consensus)
        self.note(*consensus.sentences)
        if given is not None:
            theirs = working_map(given, len(consensus.map), consensus.pixel_size_A, "--in_3dref")
            self.note(compare_with_reference(consensus.map, theirs, consensus.mask, consensus.pixel_size_A,
                                             consensus.radius))  # fmt: skip
        return consensus

    def write_latents(self, z: NDArray[np.float32], z_cov: NDArray[np.float32] | None) -> None:
        """Write latents.npz."""
        table, particles = LatentTable(z, self.inputs.particles.uid, z_cov), self.inputs.particles
        write_latent_table(self.layout.latents, table, particles.image_name, particles.row_id)
        self.monitor.message(f"Latents of all particles are in {self.layout.latents}")

    def write_model(self, model: Heterogeneity) -> None:
        """Write model/, atomically."""
        with atomic_directory(self.layout.model) as temporary:
            model.save(temporary)

    def cut_into_states(
        self, images: ParticleImages, consensus: Consensus, key: str
    ) -> tuple[Mapping[str, Any], JobResult]:
        """All stages after the latents; ``key`` is the fingerprint of what these are made of."""
        options, layout = self.options, self.layout
        decoded = fingerprint(key, options.volumes, options.seed)
        self.stage("volumes", decoded, "Volumes along the latent space",
                   lambda: decode_at_centers(layout, options.volumes, options.seed, self.monitor),
                   layout.volumes)  # fmt: skip
        cut = fingerprint(key, options.states, options.seed)
        self.stage("states", cut, "Cutting the particles into states", lambda: self._cut(images),
                   layout.states_table)  # fmt: skip
        table = read_state_table(layout.states_table)
        folders = [layout.state(number) for number in range(table.n_states)]
        files = [where / name for where in (layout.root, *folders) for name in returned_names(self.returned)]
        self.stage("state maps", cut, "Reconstructing the states",
                   lambda: self._make_states(images, table, consensus, cut), *folders)  # fmt: skip
        self.weigh_weak_claims(images, cut)
        self.particles = with_measured_sign(self.particles, consensus.data_sign)
        self.stage("particles", fingerprint(cut, options.star_columns, self.returned), "Writing particles",
                   lambda: self._write_particles(table), *files)  # fmt: skip
        self.note_data_sign((layout.consensus, *folders), consensus.data_sign, self.particles, self.returned)
        return self._finish(images, table, consensus), self._result(table)

    def weigh_weak_claims(self, images: ParticleImages, key: str) -> None:
        """Hold weak claims against what is found where there is nothing, if the job can; ``key`` is of its states."""

    def _cut(self, images: ParticleImages) -> None:
        """Write the states; images that cannot be used belong to none."""
        latents = None if self.options.homogeneous else read_latent_table(self.layout.latents)
        z, z_cov = (None, None) if latents is None else (latents.z, latents.z_cov)
        table, apart = cut_latents(z, z_cov, images.unusable, self.options.states, self.options.seed)
        if z is not None and table.n_states < self.options.states:
            why = (
                "all latents are the same, nothing was learnt"
                if table.n_states == 1
                else "beside the large differences among the latents, further ones would be cut where no image can "
                "tell them apart"
            )
            self.monitor.message(f"{table.n_states} states instead of {self.options.states}: {why}.")
        if len(apart):
            self.monitor.warn(
                f"Warning: the latents of {len(apart)} particles are far from all others, such as those of "
                f"{self.inputs.particles.describe_row(int(apart[0]))}: so few are no states; they are in the nearest "
                "ones."
            )
        write_state_table(self.layout.states_table, table)

    def _make_states(self, images: ParticleImages, table: StateTable, consensus: Consensus, key: str) -> None:
        make_missing_states(
            self.layout, range(table.n_states), key,
            lambda missing: iterate_states(
                images, table.label, consensus, StateMasks(consensus.mask), only=missing,
                draws=SubsetDraws(seed=self.options.seed), device=self.device, monitor=self.monitor,
            ),
            lambda state: write_state(self.layout.state(state.label), state, key),
            self.monitor,
        )  # fmt: skip
        z = None if self.options.homogeneous else read_latent_table(self.layout.latents).z
        found = associate(images, consensus.map, consensus.symmetry, table.label, z, self.options.seed)
        write_associations(self.layout, found)
        find_populations(self.layout, range(table.n_states), images, table.label, consensus, self.options.seed,
                         self.device)  # fmt: skip
        self._name_empty_images(images, consensus)

    def _name_empty_images(self, images: ParticleImages, consensus: Consensus) -> None:
        """Say and list which images show no particle; they stay in their states."""
        found = find_empty_images(images, consensus.map)
        write_empty_images(self.layout.empty_images, images, found)
        if len(rows := found.empty_rows):
            self.monitor.warn(
                f"Warning: {len(rows)} of {images.n} images show nothing of the consensus (no particle, ice, another "
                f"thing), such as {self.inputs.particles.describe_row(int(rows[0]))}: see {self.layout.empty_images}. "
                "select --junk no takes them out, to train again without them."
            )
        if found.spread > UNEVEN and getattr(self.settings, "fit_contrast", "") == "no":
            self.monitor.warn(
                f"How strongly particles show differs by {100 * found.spread:.0f} % (standard deviation; thickness of "
                "ice, errors of poses), and latents may follow that: train with --fit_contrast auto, which fits it."
            )

    def _write_particles(self, table: StateTable) -> None:
        particles, name = self.particles, self.returned
        columns = {}
        if wants_columns(particles, self.options.star_columns) and not self.options.homogeneous:
            columns = latent_star_columns(read_latent_table(self.layout.latents).z, table.label)
        say_conversion(particles, self.layout.root / name, self.monitor)
        rows = {number: np.flatnonzero(table.label == number) for number in range(table.n_states)}
        write_groups(self.layout, name, particles, rows, columns)
        remove_other_formats(self.layout.root, name)
        write_particles(self.layout.root / name, particles, None, columns)

    def _finish(self, images: ParticleImages, table: StateTable, consensus: Consensus) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        states = named_states(self.layout, table)
        latents = None if self.options.homogeneous else read_latent_table(self.layout.latents)
        model = load_heterogeneity(self.layout.model)
        gained = self.note_single_images(model)
        self.monitor.poll()
        found = self._overall(states)
        self.headline(found)
        explained, populations = read_associations(self.layout), claimed_populations(self.layout, states)
        report = StatesReport(self.inputs.particles, latents, table, states, consensus, model.loss_history, explained,
                              populations)  # fmt: skip
        write_states_reports(self.facts, report)
        for state in states:
            self.monitor.message(f"State {state.number:02d}: {state.sentence()}")
        if populations:
            self.monitor.message(populations_sentence(populations))
        return {
            "particles": self.inputs.particles.n,
            "box": images.box_size,
            "pixel_size_A": round(images.pixel_size_A, 6),
            "consensus_resolution_A": round(consensus.resolution_A, 3),
            "data_sign": consensus.data_sign,
            "found": found,
            "states": [state.summary() for state in states],
            "explained_by": explained,
            "populations": populations,
            **gained,
        }

    def _overall(self, states: Sequence[StateResult]) -> str:
        if self.options.homogeneous:
            return "One structure was reconstructed: nothing was asked about its heterogeneity."
        null = read_weak_null(self.layout)
        found = overall([state.conclusion for state in states])
        return found if null is None else f"{found} {null.sentence()}"

    def _result(self, table: StateTable) -> JobResult:
        layout, uid = self.layout, self.inputs.particles.uid
        titles = {number: f"state {number:02d}" for number in range(table.n_states)}
        plots = [slices_of_groups(layout, titles, "Central slices of the states")]
        z = None if self.options.homogeneous else read_latent_table(layout.latents).z
        if z is not None:
            rows = np.flatnonzero(table.label >= 0)
            draw = partial(draw_latents, z[rows], table.label[rows], centers=np.searchsorted(rows, table.center_index))
            plots.insert(0, picture(layout, "latents", "Particles in latent space, by state", draw))
        everything = ParticleOutput(name=ALL, title="All particles, with latents", path=layout.root / self.returned,
                                    uid=uid, coordinates=z, picture=plots[0])  # fmt: skip
        outputs = (
            everything,
            *group_outputs(layout, titles, self.returned, uid, table.label),
            *shown_maps(sorted(layout.volumes.glob("vol_*.mrc"))),
            map_with_halves(layout.consensus, name="consensus", title="Consensus", role=Role.EXTRA),
        )
        return JobResult(layout.root, outputs, layout.logfile, tuple(plots), plots[-1],
                         kept_files(layout, "latents.npz", "states.npz"))  # fmt: skip


def report_states(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished train or import job again.

    Raises
    ------
    InputError
        When a file of the result is gone.
    """
    layout = finished.layout
    result = read_learned_result(layout.root)
    table = read_state_table(layout.states_table)
    states, consensus = named_states(layout, table), read_consensus(layout.consensus)
    history = load_heterogeneity(layout.model).loss_history
    explained = finished.record["results"].get("explained_by", [])
    report = StatesReport(result.particles, result.latents, table, states, consensus, history, explained,
                          claimed_populations(layout, states))  # fmt: skip
    write_states_reports(finished.facts, report)
    monitor.poll()


def named_states(layout: Layout, table: StateTable) -> list[StateResult]:
    """Read the states, with those named that are mostly images without a particle."""
    states = read_states(layout, range(table.n_states))
    named, null = with_junk_named(states, table.label, read_empty_images(layout.empty_images)), read_weak_null(layout)
    judged = against_gain(layout, [one.conclusion for one in named])
    return [one.concluded(left if null is None else null.judge(left)) for one, left in zip(named, judged, strict=True)]


def cut_latents(
    z: NDArray[np.float32] | None,
    z_cov: NDArray[np.float32] | None,
    unusable: NDArray[np.bool_],
    n_states: int,
    seed: int,
) -> tuple[StateTable, NDArray[np.int64]]:
    """Cut particles into states by k-means of their latents.

    Parameters
    ----------
    z : ndarray or None
        (N, q); None for one state of all.
    z_cov : ndarray or None
        (N, q, q) their covariances, where the engine gives them.
    unusable : ndarray
        (N,) images that belong to no state.
    n_states : int
    seed : int

    Returns
    -------
    StateTable
    ndarray
        Rows of the few particles far from all others, which are no states.
    """
    rows = np.flatnonzero(~unusable)
    label = np.full(len(unusable), -1, np.int32)
    if z is None:
        label[rows] = 0
        return StateTable(label, rows[:1]), np.empty(0, np.int64)
    n_states = distinct_latents(z[rows], n_states)
    clusters = cluster_latents(z[rows], n_states, seed=seed, fewest=fewest_of_a_state(len(rows), n_states))
    if z_cov is not None:
        clusters = join_indistinct(z[rows], z_cov[rows], clusters)
    label[rows] = clusters.label
    return StateTable(label, rows[clusters.center_index]), rows[clusters.apart]
