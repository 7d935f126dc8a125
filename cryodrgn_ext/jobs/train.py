"""The job that learns heterogeneity from a finished refinement: from particles to states with evidence.

Stages, each finished on disk before the next begins, so that a killed job goes on where it stopped: preprocessed
images, consensus, training, states (k-means), volumes, reconstructions of the states, returned particles, report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.held_out import weighed
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.empty_image_table import read_empty_images
from cryodrgn_ext.results.latent_tables import read_state_table
from cryodrgn_ext.results.null_table import against_gain, found_path, weak_null_folder, write_gain
from cryodrgn_ext.results.states import read_states, with_junk_named
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.null_finding import hangs_on_weak_states
from cryodrgn_ext.workflow.given_particles import half_set_notes
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.launcher import ProcessGroup, helper_command
from cryodrgn_ext.workflow.reconstructions import symmetry_key
from cryodrgn_ext.workflow.states_run import StateOptions, StatesRun, report_states
from cryodrgn_ext.workflow.training.null_runs import run_null
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining
from cryodrgn_ext.workflow.training.train_engine import learn, preprocessing
from cryodrgn_ext.workflow.training.train_inputs import TrainInputs, engine_key, image_key, read_inputs

__all__ = ["TrainRun", "report_states", "train"]

HELPER_MODULE = "cryodrgn_ext.cli.helper_process"


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


class TrainRun(StatesRun[TrainSettings, TrainInputs]):
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    name = "train"

    def __init__(self, settings: TrainSettings, inputs: TrainInputs, monitor: Monitor) -> None:
        super().__init__(settings, inputs, monitor)
        command = helper_command(HELPER_MODULE, self.name, settings)
        self.group = ProcessGroup(settings.processes, settings.j, command, monitor)

    @classmethod
    def check(cls, settings: TrainSettings, monitor: Monitor) -> TrainInputs:
        """Read the particles, the masks and the map; see :meth:`JobRun.check`."""
        return read_inputs(settings)

    @property
    def options(self) -> StateOptions:
        """Options of the settings that concern states."""
        return StateOptions.of(self.settings, homogeneous=self.settings.zdim == 0)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs, layout = self.settings, self.inputs, self.layout
        self.say_particles(inputs.particles.n, inputs.native_box, inputs.box, inputs.notes)
        how = preprocessing(settings, inputs)
        images = self.each_time("preprocessing", fingerprint(image_key(settings, inputs)),
                                lambda: self.open_images(inputs.particles, how))  # fmt: skip
        self.note(*half_set_notes(inputs.particles, True, images.half_set.cpu().numpy()))
        key = fingerprint(image_key(settings, inputs), inputs.sha256("in_mask"),
                          *symmetry_key(settings.symmetry))  # fmt: skip
        consensus = self.reconstruct_consensus(images, key)
        key = fingerprint(key, engine_key(settings), inputs.sha256("focus_mask"))
        self.stage("training", key, "Training", lambda: self._train(images, consensus), layout.model)
        self.group.dismiss()
        return self.cut_into_states(images, consensus, key)

    def weigh_weak_claims(self, images: ParticleImages, key: str) -> None:
        """Hold claims so weak that noise alone could make them against the gain of single images, and one structure.

        The training is repeated on images of one structure where the gain does not tell already.
        """
        settings, layout = self.settings, self.layout
        folder = weak_null_folder(layout)
        table = read_state_table(layout.states_table)
        states = with_junk_named(read_states(layout, range(table.n_states)), table.label,
                                 read_empty_images(layout.empty_images))  # fmt: skip
        gained = weighed(load_heterogeneity(layout.model))
        write_gain(layout, gained is None or gained.wins)
        left = against_gain(layout, [state.conclusion for state in states])
        if not settings.check_weak or not hangs_on_weak_states(left):
            found_path(folder).unlink(missing_ok=True)
            return
        sign = "black" if images.data_sign < 0 else "white"
        again = RepeatedTraining(
            settings, self.inputs.box, sign, layout.consensus, (self.inputs.mask, self.inputs.focus)
        )
        self.stage("weak null", key, "Claims are weak: the same training on images of one structure",
                   lambda: run_null(again, lambda: images, settings.seed, folder, self.monitor),
                   found_path(folder))  # fmt: skip

    def _train(self, images: ParticleImages, consensus: Consensus) -> None:
        written = False

        def write(z: NDArray[np.float32], z_cov: NDArray[np.float32] | None) -> None:
            nonlocal written
            self.write_latents(z, z_cov)
            written = True

        self.layout.latents.unlink(missing_ok=True)  # of another training
        with self.group.assembled():
            result = learn(self.settings, self.inputs, self.layout, images, consensus, self.monitor, write)
        if not written and result.z.shape[1] > 0:
            write(result.z, result.z_cov)
        self.write_model(result)
