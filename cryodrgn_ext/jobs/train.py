"""The job that learns heterogeneity from a finished refinement: from particles to states with evidence.

Stages, each finished on disk before the next begins, so that a killed job goes on where it stopped: preprocessed
images, consensus, training, states (k-means), volumes, reconstructions of the states, returned particles, report.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
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
from cryodrgn_ext.jobs.train_engine import learn, open_working_images
from cryodrgn_ext.jobs.train_inputs import TrainInputs, check_continuation, engine_key, image_key, read_inputs
from cryodrgn_ext.jobs.volumes import write_volumes
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_latents
from cryodrgn_ext.report.train_report import write_reports
from cryodrgn_ext.results.consensus import Consensus, compare_with_reference, make_consensus, read_consensus
from cryodrgn_ext.results.latent_tables import (
    LatentTable,
    StateTable,
    read_latent_table,
    read_state_table,
    write_latent_table,
    write_state_table,
)
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import RECORD_NAME, read_record, write_record
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    returned_name,
    say_conversion,
    wants_columns,
    write_particles,
)
from cryodrgn_ext.results.states import make_states, read_states
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.workflow.job_result import ALL, JobResult, ParticleOutput, Role
from cryodrgn_ext.workflow.launcher import Team
from cryodrgn_ext.workflow.leftovers import remove_leftovers
from cryodrgn_ext.workflow.stages import Stages
from cryodrgn_ext.workflow.threads import use_threads


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
    use_threads(settings.j)
    monitor.message(f"Reading {settings.in_parts}")
    inputs = read_inputs(settings)
    layout = Layout(settings.o)
    begun = layout.model.exists() or (layout.checkpoint / "training").exists()
    check_continuation(settings, inputs, read_record(settings.o), begun)
    monitor.message(f"{inputs.particles.n} particles of {inputs.native_box} px, worked on in a box of {inputs.box} px")
    for note in inputs.notes:
        monitor.message(f"Note: {note}")
    layout.root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(layout.root)
    return _TrainJob(settings, inputs, layout, monitor).run()


class _TrainJob:
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    def __init__(self, settings: TrainSettings, inputs: TrainInputs, layout: Layout, monitor: Monitor) -> None:
        self.settings, self.inputs, self.layout, self.monitor = settings, inputs, layout, monitor
        self.device = choose_device(settings.device)
        self.stages = Stages(layout.checkpoint)
        self.team = Team("train", settings, monitor)
        self.notes: list[str] = []
        self.returned = returned_name(inputs.particles, settings.particles_format)

    def run(self) -> JobResult:
        """All stages."""
        begin = time.monotonic()
        settings, layout = self.settings, self.layout
        images = self._open_images()
        self.stages.note_seconds(
            "preprocessing", fingerprint(image_key(settings, self.inputs)), time.monotonic() - begin
        )
        self.notes += self.monitor.warnings
        for note in half_set_notes(self.inputs.particles, aligned=True):
            self._note(note)
        self._record("running", {})
        mask_sum = self.inputs.record.get("in_mask", {}).get("sha256")
        key = fingerprint(image_key(settings, self.inputs), mask_sum)
        self._stage("consensus", key, "Consensus by backprojection", lambda: self._consensus(images), layout.consensus)
        consensus = read_consensus(layout.consensus)
        self._note_consensus(consensus)
        key = fingerprint(key, engine_key(settings), self.inputs.record.get("focus_mask", {}).get("sha256"))
        self._stage("training", key, "Training", lambda: self._train(images, consensus), layout.model)
        self.team.dismiss()
        decoded = fingerprint(key, settings.volumes, settings.seed)
        self._stage("volumes", decoded, "Volumes along the latent space", self._volumes, layout.volumes)
        cut = fingerprint(key, settings.states, settings.seed)
        self._stage("states", cut, "Cutting the particles into states", self._cut, layout.states_table)
        table = read_state_table(layout.states_table)
        folders = [layout.state(number) for number in range(len(table.center_index))]
        self._stage("state maps", cut, "Reconstructing the states",
                    lambda: self._make_states(images, table, consensus, cut), *folders)  # fmt: skip
        self._stage("particles", fingerprint(cut, settings.star_columns, self.returned), "Writing particles",
                    lambda: self._write_particles(table),
                    *(where / name for where in [layout.root, *folders] for name in self._returned_names))  # fmt: skip
        results = self._finish(images, table, consensus)
        self._record("finished", results)
        self.monitor.message(f"Finished in {time.monotonic() - begin:.0f} s: see {layout.report}")
        return self._result(table)

    def _stage(self, name: str, key: str, title: str, work: Callable[[], None], *products: Path) -> None:
        self.stages.run(name, key, self.monitor, title, work, products)

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.monitor.message(sentence)

    def _record(self, status: str, results: Mapping[str, Any]) -> None:
        write_record(self.layout.root, "train", status, self.settings, self.inputs.record, results)

    def _open_images(self) -> ParticleImages:
        try:
            return open_working_images(self.settings, self.inputs, self.layout, self.monitor)
        except InputError:
            # Images that cannot be used leave nothing behind; an abort or a kill leaves what can be continued.
            if not (self.layout.root / RECORD_NAME).exists():
                shutil.rmtree(self.layout.checkpoint, ignore_errors=True)
            raise

    def _consensus(self, images: ParticleImages) -> None:
        make_consensus(self.layout.consensus, images, self.inputs.mask, self.device, self.monitor)

    def _note_consensus(self, consensus: Consensus) -> None:
        self._note(f"Consensus of all particles: {consensus.resolution_A:.2f} Å (half-maps, FSC 0.143, masked).")
        if self.inputs.reference is not None:
            self._note(compare_with_reference(consensus, self.inputs.reference))

    def _train(self, images: ParticleImages, consensus: Consensus) -> None:
        written = False

        def write(z: NDArray[np.float32], z_cov: NDArray[np.float32] | None) -> None:
            nonlocal written
            table, particles = LatentTable(z, self.inputs.particles.uid, z_cov), self.inputs.particles
            write_latent_table(self.layout.latents, table, particles.image_name, particles.row_id)
            self.monitor.message(f"Latents of all particles are in {self.layout.latents}")
            written = True

        self.layout.latents.unlink(missing_ok=True)  # of another training
        with self.team.assembled():
            result = learn(self.settings, self.inputs, self.layout, images, consensus, self.monitor, write)
        if not written and result.z.shape[1] > 0:
            write(result.z, result.z_cov)
        with atomic_directory(self.layout.model) as temporary:
            result.save(temporary)

    def _volumes(self) -> None:
        model = load_heterogeneity(self.layout.model)
        if model.z.shape[1] == 0:
            z = np.zeros((1, 0), np.float32)
        else:
            count = min(self.settings.volumes, len(model.z))
            z = cluster_latents(model.z, count, seed=self.settings.seed).center if count else model.z[:0]
        with atomic_directory(self.layout.volumes) as temporary:
            write_volumes(model, z, temporary, self.monitor)

    def _cut(self) -> None:
        if self.settings.zdim == 0:
            table = StateTable(np.zeros(self.inputs.particles.n, np.int32), np.zeros(1, np.int64))
        else:
            z = read_latent_table(self.layout.latents).z
            clusters = cluster_latents(z, self.settings.states, seed=self.settings.seed)
            table = StateTable(clusters.label, clusters.center_index)
        write_state_table(self.layout.states_table, table)

    def _make_states(self, images: ParticleImages, table: StateTable, consensus: Consensus, key: str) -> None:
        make_states(self.layout, images, table, consensus, self.settings.seed, key, self.device, self.monitor)

    def _write_particles(self, table: StateTable) -> None:
        particles = self.inputs.particles
        columns = {}
        if wants_columns(particles, self.settings.star_columns) and self.settings.zdim > 0:
            columns = latent_star_columns(read_latent_table(self.layout.latents).z, table.label)
        say_conversion(particles, Path(self.returned), self.monitor)
        folders = [self.layout.root, *(self.layout.state(number) for number in range(len(table.center_index)))]
        for folder in folders:
            for name in {"particles.star", "particles.cs", "particles.csg"} - set(self._returned_names):
                (folder / name).unlink(missing_ok=True)  # of an earlier run in another format
        for number, folder in enumerate(folders[1:]):
            write_particles(folder / self.returned, particles, np.flatnonzero(table.label == number), columns)
        write_particles(self.layout.root / self.returned, particles, None, columns)

    @property
    def _returned_names(self) -> tuple[str, ...]:
        return (self.returned, "particles.csg") if self.returned.endswith(".cs") else (self.returned,)

    def _finish(self, images: ParticleImages, table: StateTable, consensus: Consensus) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        seconds = self.stages.seconds()
        states = read_states(self.layout, table)
        latents = None if self.settings.zdim == 0 else read_latent_table(self.layout.latents)
        history = load_heterogeneity(self.layout.model).loss_history
        self.monitor.poll()
        verdicts = {state.verdict for state in states}
        if len(states) > 1 and verdicts == {"not tested"}:
            self._note(
                "No state could be tested against random subsets: there are too few particles to tell whether the "
                "states differ."
            )
        elif len(states) > 1 and "distinct" not in verdicts:
            self._note(
                "No state differs from random subsets of its size: these data show no heterogeneity that this job "
                "can prove. Treat the states as one."
            )
        write_reports(
            self.layout, self.settings, self.inputs.particles, latents, table, states, consensus, history, self.notes,
            seconds,
        )  # fmt: skip
        for state in states:
            self.monitor.message(
                f"State {state.number:02d}: {state.particles} particles, {state.resolution_A:.2f} Å, {state.evidence}"
            )
        return {
            "particles": self.inputs.particles.n,
            "box": images.box_size,
            "pixel_size_A": round(images.pixel_size_A, 6),
            "consensus_resolution_A": round(consensus.resolution_A, 3),
            "states": [state.summary() for state in states],
            "notes": self.notes,
            "seconds": seconds,
        }

    def _result(self, table: StateTable) -> JobResult:
        layout, uid = self.layout, self.inputs.particles.uid
        titles = {number: f"state {number:02d}" for number in range(len(table.center_index))}
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
