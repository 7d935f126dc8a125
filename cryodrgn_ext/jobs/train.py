"""The job that learns heterogeneity from a finished refinement: from particles to states with evidence.

Stages, each finished on disk before the next begins, so that a killed job goes on where it stopped: preprocessed
images, consensus, training, states (k-means), volumes, reconstructions of the states, returned particles, report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.jobs.given_particles import half_set_notes
from cryodrgn_ext.jobs.job_outputs import (
    group_outputs,
    kept_files,
    map_with_halves,
    picture,
    shown_maps,
    slices_of_groups,
)
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.reconstructions import make_consensus, make_missing_states
from cryodrgn_ext.jobs.train_engine import learn, preprocessing
from cryodrgn_ext.jobs.train_inputs import TrainInputs, engine_key, image_key, read_inputs
from cryodrgn_ext.jobs.volumes import decode_at_centers
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_latents
from cryodrgn_ext.report.train_report import write_reports
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.latent_tables import (
    LatentTable,
    StateTable,
    read_latent_table,
    read_state_table,
    write_latent_table,
    write_state_table,
)
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
from cryodrgn_ext.results.states import read_states, write_state
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.consensus import compare_with_reference
from cryodrgn_ext.validation.states import iterate_states
from cryodrgn_ext.workflow.job_result import ALL, JobResult, ParticleOutput, Role
from cryodrgn_ext.workflow.job_run import JobRun
from cryodrgn_ext.workflow.launcher import ProcessGroup, helper_command

HELPER_MODULE = "cryodrgn_ext.jobs.helper_process"


def train(settings: TrainSettings, monitor: Monitor) -> JobResult:
    """Learn the heterogeneity of a finished refinement, and return states with evidence.

    Parameters
    ----------
    settings : TrainSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        Particles (all, and of each state), maps, half-maps, masks, and the log as PDF.

    Raises
    ------
    InputError
        When the particles, their images, or a map cannot be used.
    ResumeError
        When the directory holds a job with other particles or another training.
    JobAborted
        When the user asks for it; everything finished so far stays, and the same call continues.
    """
    monitor.message(f"Reading {settings.in_parts}")
    return TrainRun.start(settings, monitor)


class TrainRun(JobRun[TrainSettings, TrainInputs]):
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    name = "train"

    def __init__(self, settings: TrainSettings, inputs: TrainInputs, monitor: Monitor) -> None:
        super().__init__(settings, inputs, monitor)
        self.device = choose_device(settings.device)
        command = helper_command(HELPER_MODULE, self.name, settings)
        self.group = ProcessGroup(settings.processes, settings.j, command, monitor)
        self.returned = returned_name(inputs.particles, settings.particles_format)

    @classmethod
    def check(cls, settings: TrainSettings, monitor: Monitor) -> TrainInputs:
        """Read the particles, the masks and the map; see :meth:`JobRun.check`."""
        return read_inputs(settings)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs, layout = self.settings, self.inputs, self.layout
        self.say_particles(inputs.particles.n, inputs.native_box, inputs.box, inputs.notes)
        how = preprocessing(settings, inputs)
        images = self.each_time("preprocessing", fingerprint(image_key(settings, inputs)),
                                lambda: self.open_images(inputs.particles, how))  # fmt: skip
        for sentence in half_set_notes(inputs.particles, aligned=True):
            self.note(sentence)
        key = fingerprint(image_key(settings, inputs), inputs.record.get("in_mask", {}).get("sha256"))
        self.stage("consensus", key, "Consensus by backprojection",
                   lambda: make_consensus(layout.consensus, images, inputs.mask, self.device, self.monitor),
                   layout.consensus)  # fmt: skip
        consensus = read_consensus(layout.consensus)
        self._note_consensus(consensus)
        key = fingerprint(key, engine_key(settings), inputs.record.get("focus_mask", {}).get("sha256"))
        self.stage("training", key, "Training", lambda: self._train(images, consensus), layout.model)
        self.group.dismiss()
        decoded = fingerprint(key, settings.volumes, settings.seed)
        self.stage("volumes", decoded, "Volumes along the latent space",
                   lambda: decode_at_centers(layout, settings.volumes, settings.seed, self.monitor),
                   layout.volumes)  # fmt: skip
        cut = fingerprint(key, settings.states, settings.seed)
        self.stage("states", cut, "Cutting the particles into states", self._cut, layout.states_table)
        table = read_state_table(layout.states_table)
        folders = [layout.state(number) for number in range(table.n_states)]
        files = [where / name for where in (layout.root, *folders) for name in returned_names(self.returned)]
        self.stage("state maps", cut, "Reconstructing the states",
                   lambda: self._make_states(images, table, consensus, cut), *folders)  # fmt: skip
        self.stage("particles", fingerprint(cut, settings.star_columns, self.returned), "Writing particles",
                   lambda: self._write_particles(table), *files)  # fmt: skip
        return self._finish(images, table, consensus), self._result(table)

    def _note_consensus(self, consensus: Consensus) -> None:
        self.note(f"Consensus of all particles: {consensus.resolution_A:.2f} Å (half-maps, FSC 0.143, masked).")
        if self.inputs.reference is not None:
            pixel_A = consensus.pixel_size_A
            theirs = working_map(self.inputs.reference, len(consensus.map), pixel_A, "--in_3dref")
            self.note(compare_with_reference(consensus.map, theirs, consensus.mask, pixel_A, consensus.radius))

    def _train(self, images: ParticleImages, consensus: Consensus) -> None:
        written = False

        def write(z: NDArray[np.float32], z_cov: NDArray[np.float32] | None) -> None:
            nonlocal written
            table, particles = LatentTable(z, self.inputs.particles.uid, z_cov), self.inputs.particles
            write_latent_table(self.layout.latents, table, particles.image_name, particles.row_id)
            self.monitor.message(f"Latents of all particles are in {self.layout.latents}")
            written = True

        self.layout.latents.unlink(missing_ok=True)  # of another training
        with self.group.assembled():
            result = learn(self.settings, self.inputs, self.layout, images, consensus, self.monitor, write)
        if not written and result.z.shape[1] > 0:
            write(result.z, result.z_cov)
        with atomic_directory(self.layout.model) as temporary:
            result.save(temporary)

    def _cut(self) -> None:
        if self.settings.zdim == 0:
            table = StateTable(np.zeros(self.inputs.particles.n, np.int32), np.zeros(1, np.int64))
        else:
            z = read_latent_table(self.layout.latents).z
            clusters = cluster_latents(z, self.settings.states, seed=self.settings.seed)
            table = StateTable(clusters.label, clusters.center_index)
        write_state_table(self.layout.states_table, table)

    def _make_states(self, images: ParticleImages, table: StateTable, consensus: Consensus, key: str) -> None:
        make_missing_states(
            self.layout, range(table.n_states), key,
            lambda missing: iterate_states(
                images, table.label, consensus, mask=consensus.mask, only=missing, seed=self.settings.seed,
                device=self.device, monitor=self.monitor,
            ),
            lambda state: write_state(self.layout.state(state.label), state, key),
            self.monitor,
        )  # fmt: skip

    def _write_particles(self, table: StateTable) -> None:
        particles, name = self.inputs.particles, self.returned
        columns = {}
        if wants_columns(particles, self.settings.star_columns) and self.settings.zdim > 0:
            columns = latent_star_columns(read_latent_table(self.layout.latents).z, table.label)
        say_conversion(particles, self.layout.root / name, self.monitor)
        rows = {number: np.flatnonzero(table.label == number) for number in range(table.n_states)}
        write_groups(self.layout, name, particles, rows, columns)
        remove_other_formats(self.layout.root, name)
        write_particles(self.layout.root / name, particles, None, columns)

    def _finish(self, images: ParticleImages, table: StateTable, consensus: Consensus) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        states = read_states(self.layout, range(table.n_states))
        latents = None if self.settings.zdim == 0 else read_latent_table(self.layout.latents)
        history = load_heterogeneity(self.layout.model).loss_history
        self.monitor.poll()
        if (caution := _caution([state.verdict for state in states])) is not None:
            self.note(caution)
        write_reports(
            self.layout, self.settings, self.inputs.particles, latents, table, states, consensus, history, self.notes,
            self.stages.seconds(),
        )  # fmt: skip
        for state in states:
            self.monitor.message(f"State {state.number:02d}: {state.sentence()}")
        return {
            "particles": self.inputs.particles.n,
            "box": images.box_size,
            "pixel_size_A": round(images.pixel_size_A, 6),
            "consensus_resolution_A": round(consensus.resolution_A, 3),
            "states": [state.summary() for state in states],
        }

    def _result(self, table: StateTable) -> JobResult:
        layout, uid = self.layout, self.inputs.particles.uid
        titles = {number: f"state {number:02d}" for number in range(table.n_states)}
        plots = [slices_of_groups(layout, titles, "Central slices of the states")]
        z = None if self.settings.zdim == 0 else read_latent_table(layout.latents).z
        if z is not None:
            draw = partial(draw_latents, z, table.label, centers=table.center_index)
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


def _caution(verdicts: Collection[str]) -> str | None:
    """What the user has to know when no state is proven to differ from the others."""
    if len(verdicts) < 2 or "distinct" in verdicts:
        return None
    if set(verdicts) == {"not tested"}:
        return (
            "No state could be tested against random subsets: there are too few particles to tell whether the states "
            "differ."
        )
    return (
        "No state differs from random subsets of its size: these data show no heterogeneity that this job can prove. "
        "Treat the states as one."
    )
