"""The job that tests states: reconstructed anew from the original images, at their full size, in two halves.

What it adds to the states that a train job leaves: maps at the box of the images, a mask of each state's own, the FSC
corrected for the mask by phase randomisation, more random subsets, and sets of particles of the user's own.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import corrected_fsc, fsc, resolution_A
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.given_maps import read_mask
from cryodrgn_ext.jobs.given_particles import half_set_notes
from cryodrgn_ext.jobs.job_outputs import group_outputs, kept_files, map_with_halves, picture, slices_of_groups
from cryodrgn_ext.jobs.options.validate import ValidateSettings
from cryodrgn_ext.jobs.train_inputs import native_box, native_pixel_A, working_box
from cryodrgn_ext.jobs.validated_sets import TABLE_NAME, ValidatedSets, choose_sets, write_set_table
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_fsc
from cryodrgn_ext.report.validate_report import write_validation_reports
from cryodrgn_ext.results.consensus import Consensus, make_consensus, read_consensus, solvent_mask
from cryodrgn_ext.results.fsc_tables import CORRECTED, MASKED, UNMASKED
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import (
    fingerprint_file,
    fingerprint_particles,
    read_record,
    refuse_other_results,
    write_record,
)
from cryodrgn_ext.results.returned_particles import returned_name, write_particles
from cryodrgn_ext.results.states import StateResult, read_state, write_state
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.states import State, iterate_states
from cryodrgn_ext.workflow.job_result import JobResult, Role
from cryodrgn_ext.workflow.leftovers import remove_leftovers
from cryodrgn_ext.workflow.stages import Stages
from cryodrgn_ext.workflow.threads import use_threads

LARGEST_DEFAULT_BOX = 256
CAUTION = (
    "The states come from latents that one model learned from both halves: the maps are of independent halves, the "
    "choice of particles is not."
)
POSES_CAUTION = (
    "The poses of both halves were found with one model (abinit), so take the resolutions for upper estimates; refine "
    "the particles from independent halves for final ones."
)


def validate(settings: ValidateSettings, monitor: Monitor) -> JobResult:
    """Reconstruct sets of particles from their original images in two halves, and test each against chance.

    Parameters
    ----------
    settings : ValidateSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        For each set its particles, map, half-maps and mask; the consensus; and the log as PDF.

    Raises
    ------
    InputError
        When the result, its images, a set or the mask cannot be used.
    JobAborted
        When the user asks for it; the same call continues.
    """
    use_threads(settings.j)
    monitor.message(f"Reading {settings.in_parts}")
    result = read_learned_result(settings.in_parts)
    refuse_other_results(settings.o, "validate")
    sets = choose_sets(settings, result, monitor)
    job = _ValidateJob(settings, result, sets, monitor)
    job.check()
    settings.o.mkdir(parents=True, exist_ok=True)
    remove_leftovers(settings.o)
    return job.run()


@dataclass
class _ValidateJob:
    """One run of the job: inputs, then stages that hand on through the result directory."""

    settings: ValidateSettings
    result: LearnedResult
    sets: ValidatedSets
    monitor: Monitor

    def __post_init__(self) -> None:
        record = read_record(self.result.directory)
        self.trained: dict[str, Any] = {} if record is None else record["settings"]
        self.layout = Layout(self.settings.o)
        self.notes: list[str] = []

    def check(self) -> None:
        """Find out what cannot work before anything is written."""
        particles = self.result.particles
        check_images(particles)
        native = native_box(particles)
        self.box = working_box(self.settings.box, native, LARGEST_DEFAULT_BOX)
        self.mask: VolumeMap | None = None
        if self.settings.in_mask is not None:
            self.mask = read_mask(self.settings.in_mask, "--in_mask", native, native_pixel_A(particles))
            for note in self.mask.notes:
                self._note(note)
        self.device = choose_device(self.settings.device)
        full = native - native % 2
        if self.box < full:
            self._note(f"Maps are in a box of {self.box} px; the images have {native} px: full size is --box {full}.")
        for note in half_set_notes(particles, aligned=True):
            self._note(note)

    def run(self) -> JobResult:
        """All stages."""
        begin = time.monotonic()
        layout, settings = self.layout, self.settings
        stages = Stages(layout.checkpoint)
        write_record(layout.root, "validate", "running", settings, self.inputs, {})
        key = fingerprint(
            self.inputs["in_parts"]["sha256"], self.box, self._mask_diameter_A, self.trained.get("contrast"),
            self.inputs.get("in_mask", {}).get("sha256"),
        )  # fmt: skip
        stages.run("consensus", key, self.monitor, "Consensus by backprojection", self._consensus, [layout.consensus])
        consensus = read_consensus(layout.consensus)
        self._note(f"Consensus of all particles: {consensus.resolution_A:.2f} Å (half-maps, FSC 0.143, masked).")
        key = fingerprint(key, self.sets.digest, settings.random_subsets, settings.seed)
        folders = [layout.state(number) for number in self.sets.names]
        stages.run("sets", fingerprint(key, sorted(self.sets.names)), self.monitor, "Reconstructing the sets",
                   lambda: self._reconstruct(consensus, key), folders)  # fmt: skip
        self._write_particles()
        write_set_table(layout.root, self.sets, self.result.particles.uid)
        if self.result.states is not None and not self.settings.indices:
            self._note(CAUTION)
        if self.result.job == "abinit" and (self.result.latents is not None or self.trained.get("engine") == "neural"):
            self._note(POSES_CAUTION)
        states = {number: self._read(number) for number in self.sets.names}
        for number, state in states.items():
            self._say(self.sets.names[number], state)
        self.monitor.poll()
        elapsed_s = sum(stages.seconds().values())
        titles = {f"{name}": states[number] for number, name in self.sets.names.items()}
        write_validation_reports(layout, settings, titles, consensus, self.result.particles.n, self.notes, elapsed_s)
        results = {
            "particles": self.result.particles.n, "box": self.box, "pixel_size_A": round(consensus.pixel_size_A, 6),
            "consensus_resolution_A": round(consensus.resolution_A, 3), "random_subsets": settings.random_subsets,
            "states": [state.summary() | {"name": self.sets.names[number]} for number, state in states.items()],
            "notes": self.notes, "seconds": stages.seconds(),
        }  # fmt: skip
        write_record(layout.root, "validate", "finished", settings, self.inputs, results)
        if not settings.keep_images:
            shutil.rmtree(layout.checkpoint / "images", ignore_errors=True)
        self.monitor.message(f"Finished in {time.monotonic() - begin:.0f} s: see {layout.report}")
        return self._result(states, consensus)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What job.yaml says of the inputs."""
        particles = self.result.particles
        record: dict[str, Any] = {
            "in_parts": fingerprint_particles(particles.path, particles.files) | {"particles": particles.n},
            "result": str(self.result.directory.resolve()),
        }
        if self.settings.in_mask is not None:
            record["in_mask"] = fingerprint_file(self.settings.in_mask)
        if self.settings.indices:
            record["indices"] = [fingerprint_file(Path(name)) for name in self.settings.indices]
        return record

    @property
    def _mask_diameter_A(self) -> float | None:
        given = self.settings.mask_diameter_A
        return self.trained.get("mask_diameter_A") if given is None else given

    @cached_property
    def images(self) -> ParticleImages:
        """All images, preprocessed at the box of the maps; only opened when something is to be reconstructed."""
        preprocessing = PreprocessSettings(
            box_size=self.box,
            mask_diameter_A=self._mask_diameter_A,
            contrast=self.trained.get("contrast", "auto"),
        )
        store = self.layout.checkpoint / "images"
        try:
            images = open_images(self.result.particles, store, preprocessing, self.monitor, rebuild=True)
        except InputError:
            if not self.layout.consensus.exists():  # images that cannot be used leave nothing behind
                shutil.rmtree(self.layout.checkpoint, ignore_errors=True)
            raise
        self.notes += self.monitor.warnings
        return images

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.monitor.message(sentence)

    def _consensus(self) -> None:
        make_consensus(self.layout.consensus, self.images, self.mask, self.device, self.monitor)

    def _reconstruct(self, consensus: Consensus, key: str) -> None:
        layout = self.layout
        layout.states.mkdir(parents=True, exist_ok=True)
        for folder in layout.states.glob("state[0-9]*"):
            if folder.name not in {layout.state(number).name for number in self.sets.names}:
                shutil.rmtree(folder)  # of an earlier run with other sets
        found = {number: read_state(layout.state(number)) for number in self.sets.names}
        missing = [number for number, state in found.items() if state is None or state.key != key]
        if not missing:
            return
        states = iterate_states(
            self.images, self.sets.label, consensus, mask=consensus.mask, only=missing,
            random_subsets=self.settings.random_subsets,
            state_mask=self._own_mask if self.mask is None else None,
            seed=self.settings.seed, device=self.device, monitor=self.monitor,
        )  # fmt: skip
        for state in states:
            self.monitor.poll()
            self._write(state, key)

    def _own_mask(self, volume: NDArray[np.float32], common: torch.Tensor) -> torch.Tensor:
        """Mask of a set from its own map; the common one where the map shows nothing."""
        try:
            return solvent_mask(volume, self.images.pixel_size_A)
        except InputError:
            return common

    def _write(self, state: State, key: str) -> None:
        """Write a set with its FSC corrected for the mask, which decides its resolution."""
        half1, half2 = torch.from_numpy(state.half1), torch.from_numpy(state.half2)
        beyond = np.flatnonzero(state.fsc == 0.0)  # the images' band
        curves = {
            CORRECTED: corrected_fsc(half1, half2, torch.from_numpy(state.mask), self.settings.seed),
            UNMASKED: fsc(half1, half2),
            MASKED: state.fsc,
        }
        for curve in curves.values():
            curve[beyond] = 0.0
        best = curves[CORRECTED]
        state = replace(state, fsc=best, resolution_A=resolution_A(best, state.pixel_size_A, len(state.map)))
        write_state(self.layout.state(state.label), state, key, curves)

    def _read(self, number: int) -> StateResult:
        state = read_state(self.layout.state(number))
        if state is None:
            raise InputError(f"{self.layout.state(number)} is missing or damaged: delete it and run the job again.")
        return state

    def _say(self, name: str, state: StateResult) -> None:
        self.monitor.message(f"{name}: {state.particles} particles, {state.resolution_A:.2f} Å, {state.evidence}")

    def _particles_name(self) -> str:
        return returned_name(self.result.particles, self.settings.particles_format)

    def _write_particles(self) -> None:
        for number in self.sets.names:
            path = self.layout.state(number) / self._particles_name()
            write_particles(path, self.result.particles, np.flatnonzero(self.sets.label == number), {})

    def _result(self, states: Mapping[int, StateResult], consensus: Consensus) -> JobResult:
        layout, names = self.layout, self.sets.names
        curves = {name: np.array(states[number].fsc) for number, name in names.items()}
        plots = (
            picture(layout, "fsc", "FSC between half-maps, corrected for the mask",
                    partial(draw_fsc, curves, consensus.pixel_size_A)),
            slices_of_groups(layout, names, "Central slices of the maps"),
        )  # fmt: skip
        outputs = (
            *group_outputs(layout, names, self._particles_name(), self.result.particles.uid, self.sets.label),
            map_with_halves(layout.consensus, name="consensus", title="Consensus", role=Role.EXTRA),
        )
        return JobResult(layout.root, outputs, layout.logfile, plots, plots[-1], kept_files(layout, TABLE_NAME))
