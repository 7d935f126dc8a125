"""The job that tests states: reconstructed anew from the original images, at their full size, in two halves.

What it adds to the states that a train job leaves: maps at the box of the images, a mask of each state's own, the FSC
corrected for the mask by phase randomisation, more random subsets, and sets of particles of the user's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import resolution_A
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.plain_files import load_arrays
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.evidence_tables import OnRequest, evidence_tables
from cryodrgn_ext.report.pictures import draw_fsc
from cryodrgn_ext.report.validate_report import write_validation_reports
from cryodrgn_ext.results.associations import read_associations, write_associations
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.empty_image_table import read_empty_images
from cryodrgn_ext.results.fsc_tables import CORRECTED
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.maps_for_relion import with_measured_sign, write_maps_for_relion
from cryodrgn_ext.results.null_table import against_gain, read_weak_null
from cryodrgn_ext.results.population_table import claimed_populations, populations_sentence
from cryodrgn_ext.results.returned_particles import returned_name, write_groups
from cryodrgn_ext.results.states import StateResult, read_states, with_junk_named, write_state
from cryodrgn_ext.results.validated_sets import TABLE_NAME, write_set_table
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.associations import associate
from cryodrgn_ext.validation.consensus import solvent_mask
from cryodrgn_ext.validation.independent_halves import HalvesFinding
from cryodrgn_ext.validation.null_finding import NullFinding
from cryodrgn_ext.validation.planted import PowerFinding
from cryodrgn_ext.validation.states import State, StateMasks, SubsetDraws, iterate_states
from cryodrgn_ext.validation.verdict import LIKELY, PROVEN, overall
from cryodrgn_ext.workflow.corrected_maps import FOLDER, found_path, make_corrected_maps, read_corrected
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.given_particles import half_set_notes
from cryodrgn_ext.workflow.job_outputs import (
    group_outputs,
    kept_files,
    map_with_halves,
    picture,
    shown_maps,
    slices_of_groups,
)
from cryodrgn_ext.workflow.job_result import JobResult, Role
from cryodrgn_ext.workflow.job_run import JobRun
from cryodrgn_ext.workflow.populations import find_populations
from cryodrgn_ext.workflow.reconstructions import make_consensus, make_missing_states, symmetry_key
from cryodrgn_ext.workflow.relion_check import NO_PROOF, RelionCheck, check_sentence, read_check
from cryodrgn_ext.workflow.sharpened_maps import SHARPENED_NAME, half_map_curves, sharpened, write_sharpened
from cryodrgn_ext.workflow.training.trials import Trials
from cryodrgn_ext.workflow.validation_inputs import ValidateInputs, read_inputs

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
    monitor.message(f"Reading {settings.in_parts}")
    return ValidateRun.start(settings, monitor)


class ValidateRun(JobRun[ValidateSettings, ValidateInputs]):
    """One run of the job."""

    name = "validate"

    @classmethod
    def check(cls, settings: ValidateSettings, monitor: Monitor) -> ValidateInputs:
        """Read the result, the sets and the mask; see :meth:`JobRun.check`."""
        return read_inputs(settings, monitor)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        inputs, layout, settings = self.inputs, self.layout, self.settings
        particles, names, label = inputs.result.particles, inputs.sets.names, inputs.sets.label
        self._note_inputs()
        key = fingerprint(
            inputs.record["in_parts"]["sha256"], inputs.box, inputs.preprocessing.mask_diameter_A,
            inputs.preprocessing.data_sign, inputs.sha256("in_mask"),
            *symmetry_key(settings.symmetry),
        )  # fmt: skip
        self.stage("consensus", key, "Consensus by backprojection", self._consensus, layout.consensus)
        consensus = read_consensus(layout.consensus)
        self.note(*consensus.sentences)
        key = fingerprint(key, inputs.sets.digest, settings.random_subsets, settings.seed)
        self.stage("sets", fingerprint(key, sorted(names)), "Reconstructing the sets",
                   lambda: self._reconstruct(consensus, key), *(layout.state(number) for number in names))  # fmt: skip
        rows = {number: np.flatnonzero(label == number) for number in names}
        particles = with_measured_sign(particles, consensus.data_sign)
        write_groups(layout, self._particles_name, particles, rows, {})
        write_set_table(layout.root, inputs.sets, particles.uid)
        folders = (layout.consensus, *(layout.state(number) for number in names))
        self.note_data_sign(folders, consensus.data_sign, particles, self._particles_name)
        self._note_cautions()
        null, halves, power = self._repeated(key)
        empty = read_empty_images(Layout(inputs.result.directory).empty_images)
        own = weighed_states(inputs.result.directory, with_junk_named(read_states(layout, names), label, empty))
        states = dict(zip(names, judged_states(own, null, halves), strict=True))
        found = overall([state.conclusion for state in states.values()], "set" if settings.indices else "state")
        asked_for = [one.sentence() for one in (null, halves) if one is not None]
        if power is not None:
            asked_for.append(power.sentence(any(one.conclusion.claim in (PROVEN, LIKELY) for one in states.values())))
        found = " ".join([found, *asked_for])
        self.headline(found)
        for number, state in states.items():
            self.monitor.message(f"{names[number]}: {state.sentence()}")
        self.monitor.poll()
        checked = self._relion_check(rows, consensus, key)
        fits = self._sharpen(states)
        titles = {name: states[number] for number, name in names.items()}
        explained, populations = read_associations(layout), self._populations(states)
        asked = OnRequest(None if halves is None else halves.plain(), () if power is None else power.plain(), checked,
                          self._motion_corrected(consensus, key))  # fmt: skip
        tables = evidence_tables(explained, [state.summary() for state in states.values()], asked, populations)
        write_validation_reports(self.facts, titles, fits, consensus, particles.n, tables)
        self._drop_images()
        results = {
            "particles": particles.n, "box": inputs.box, "pixel_size_A": round(consensus.pixel_size_A, 6),
            "consensus_resolution_A": round(consensus.resolution_A, 3), "symmetry": consensus.symmetry.name,
            "data_sign": consensus.data_sign,
            "random_subsets": settings.random_subsets,
            "found": found,
            "null": None if null is None else null.plain(),
            "independent_halves": None if halves is None else halves.plain(),
            "power": [] if power is None else power.plain(),
            "relion_check": checked,
            "motion_corrected": list(asked.corrected),
            "states": [state.summary() | {"name": names[number]} for number, state in states.items()],
            "explained_by": explained,
            "populations": populations,
            "b_factors_A2": {name: round(fit.b_factor_A2, 2) for name, fit in fits.items()},
        }  # fmt: skip
        return results, self._result(states, consensus)

    def _drop_images(self) -> None:
        for folder in () if self.settings.keep_images else ("images", "null_images"):
            shutil.rmtree(self.layout.checkpoint / folder, ignore_errors=True)

    def _populations(self, states: Mapping[int, StateResult]) -> list[dict[str, Any]]:
        """Populations, where sets are claimed; say them."""
        found = claimed_populations(self.layout, list(states.values()))
        if found:
            self.monitor.message(populations_sentence(found, self.inputs.sets.names))
        return found

    def _repeated(self, key: str) -> tuple[NullFinding | None, HalvesFinding | None, PowerFinding | None]:
        """Repeat the training as often as asked; of images of one structure, else what it did by itself, if it did."""
        settings, training, layout = self.settings, self.inputs.training, self.layout
        by_itself = read_weak_null(Layout(self.inputs.result.directory))
        if training is None:
            return by_itself, None, None
        trials = Trials(training, layout, key, settings.seed, self.stage, lambda: self._trained_images, self.monitor)
        nulls = max(settings.null, settings.power)
        null = trials.null(nulls) if nulls else by_itself
        power = trials.power(settings.power, self.inputs.sets.label) if settings.power else None
        return null, trials.halves() if settings.independent_halves else None, power

    def _motion_corrected(self, consensus: Consensus, key: str) -> list[dict[str, Any]]:
        """Move all particles to each set; nothing when that was not asked for."""
        latents, sets, layout = self.inputs.result.latents, self.inputs.sets, self.layout
        if not self.settings.motion_corrected or latents is None:
            return []
        self.stage("motion-corrected maps", fingerprint(key, sorted(sets.names)), "All particles, moved to each set",
                   lambda: make_corrected_maps(layout, self.images, latents, sets, consensus, self.settings.seed,
                                               self.monitor),
                   found_path(layout), *(layout.state(number) / FOLDER for number in sets.names))  # fmt: skip
        write_maps_for_relion([layout.state(number) / FOLDER for number in sets.names], consensus.data_sign,
                              self._particles_name)  # fmt: skip
        found = read_corrected(layout)
        for one in found:
            self.monitor.message(f"{sets.names[one['state']]}, all particles moved there: {one['resolution_A']:.2f} Å, "
                                 f"{one['moving_resolution_A']:.2f} Å where it moves")  # fmt: skip
        return found

    def _relion_check(
        self, rows: Mapping[int, NDArray[np.int64]], consensus: Consensus, key: str
    ) -> list[dict[str, Any]]:
        """Let RELION reconstruct the sets; none when that was not asked for."""
        if self.settings.relion_check == "no":
            return []
        found, names = self.layout.checkpoint / "relion_check.json", self.inputs.sets.names
        refine = self.settings.relion_check == "refine"

        def check() -> None:
            half_set = np.where(self.images.unusable, 0, self.images.half_set.cpu().numpy())
            RelionCheck(self.inputs.result.particles, half_set, self.settings.symmetry, consensus.data_sign,
                        self.layout, self.monitor, refine, self.settings.j).run(rows, consensus, found)  # fmt: skip

        how = ("refine",) if refine else ()
        self.stage("relion check", fingerprint(key, sorted(names), *how), "RELION's own reconstructions", check, found)
        checked = read_check(found)
        for one in checked:
            self.note(check_sentence(names[one["state"]], one))
        self.note(NO_PROOF)
        return checked

    @cached_property
    def _trained_images(self) -> ParticleImages:
        """The images as the training had them."""
        training = self.inputs.training
        assert training is not None
        if training.preprocessing == self.inputs.preprocessing:
            return self.images
        return self.open_images(self.inputs.result.particles, training.preprocessing, "null_images")

    def _sharpen(self, states: Mapping[int, StateResult]) -> dict[str, GuinierFit]:
        """Write sharpened.mrc of each set whose resolution allows it; return the Guinier plots by name."""
        fits = {}
        for number, state in states.items():
            name = self.inputs.sets.names[number]
            fit, sentence = write_sharpened(self.layout.state(number), np.array(state.fsc), self.settings.b_factor)
            self.monitor.message(f"{name}: {sentence}")
            if fit is not None:
                fits[name] = fit
        return fits

    def _note_inputs(self) -> None:
        inputs = self.inputs
        self.note(*(() if inputs.mask is None else inputs.mask.notes))
        full = inputs.native_box - inputs.native_box % 2
        if inputs.box < full:
            self.note(
                f"Maps are in a box of {inputs.box} px; the images have {inputs.native_box} px: full size is --box "
                f"{full}."
            )
        self.note(*half_set_notes(inputs.result.particles, aligned=True))

    def _note_cautions(self) -> None:
        if self.inputs.result.states is not None and not self.settings.indices:
            self.note(CAUTION)
        if self.inputs.own_poses:
            self.note(POSES_CAUTION)

    @cached_property
    def images(self) -> ParticleImages:
        """All images, preprocessed at the box of the maps; only opened when something is to be reconstructed."""
        return self.open_images(self.inputs.result.particles, self.inputs.preprocessing)

    @property
    def _particles_name(self) -> str:
        return returned_name(self.inputs.result.particles, self.settings.particles_format)

    def _consensus(self) -> None:
        make_consensus(self.layout.consensus, self.images, self.inputs.mask, self.inputs.device, self.monitor,
                       point_group(self.settings.symmetry), self.inputs.preprocessing.mask_diameter_A)  # fmt: skip

    def _reconstruct(self, consensus: Consensus, key: str) -> None:
        masks = StateMasks(consensus.mask, self._own_mask if self.inputs.mask is None else None)
        draws = SubsetDraws(self.settings.random_subsets, self.settings.seed)
        make_missing_states(
            self.layout, self.inputs.sets.names, key,
            lambda missing: iterate_states(
                self.images, self.inputs.sets.label, consensus, masks, only=missing, draws=draws,
                device=self.inputs.device, monitor=self.monitor,
            ),
            lambda state: self._write(state, key),
            self.monitor,
        )  # fmt: skip
        latents = self.inputs.result.latents
        found = associate(self.images, consensus.map, consensus.symmetry, self.inputs.sets.label,
                          None if latents is None else latents.z, self.settings.seed)  # fmt: skip
        write_associations(self.layout, found)
        find_populations(self.layout, sorted(self.inputs.sets.names), self.images, self.inputs.sets.label, consensus,
                         self.settings.seed, self.inputs.device)  # fmt: skip

    def _own_mask(self, volume: NDArray[np.float32], common: torch.Tensor) -> torch.Tensor:
        """Mask of a set from its own map; the common one where the map shows nothing."""
        try:
            return solvent_mask(volume, self.images.pixel_size_A)
        except InputError:
            return common

    def _write(self, state: State, key: str) -> None:
        """Write a set with its FSC corrected for the mask, which decides its resolution."""
        curves = half_map_curves(state.half1, state.half2, state.mask, state.fsc, self.settings.seed)
        best = curves[CORRECTED]
        state = replace(state, fsc=best, resolution_A=resolution_A(best, state.pixel_size_A, len(state.map)))
        write_state(self.layout.state(state.label), state, key, curves)

    def _result(self, states: Mapping[int, StateResult], consensus: Consensus) -> JobResult:
        layout, names, label = self.layout, self.inputs.sets.names, self.inputs.sets.label
        curves = {name: np.array(states[number].fsc) for number, name in names.items()}
        plots = (
            picture(layout, "fsc", "FSC between half-maps, corrected for the mask",
                    partial(draw_fsc, curves, consensus.pixel_size_A)),
            slices_of_groups(layout, names, "Central slices of the maps"),
        )  # fmt: skip
        outputs = (
            *group_outputs(layout, names, self._particles_name, self.inputs.result.particles.uid, label),
            *shown_maps(path for number in names if (path := layout.state(number) / SHARPENED_NAME).exists()),
            map_with_halves(layout.consensus, name="consensus", title="Consensus", role=Role.EXTRA),
            *(
                map_with_halves(
                    folder, name=f"all_particles_{number:02d}", role=Role.EXTRA, title=f"All particles as in {name}"
                )
                for number, name in names.items()
                if (folder := layout.state(number) / FOLDER).exists()
            ),
        )
        return JobResult(layout.root, outputs, layout.logfile, plots, plots[-1], kept_files(layout, TABLE_NAME))


def weighed_states(result: Path, states: Sequence[StateResult]) -> list[StateResult]:
    """States with weak claims taken back when the model of the result that they are of gains nothing."""
    left = against_gain(Layout(result), [state.conclusion for state in states])
    return [state.concluded(one) for state, one in zip(states, left, strict=True)]


def judged_states(states: Sequence[StateResult], *against: NullFinding | HalvesFinding | None) -> list[StateResult]:
    """States with their conclusions held against what repeated trainings found, where there were any."""
    for finding in against:
        if finding is not None:
            states = [state.concluded(finding.judge(state.conclusion)) for state in states]
    return list(states)


def report_validate(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When a file of the result is gone.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, ValidateSettings)
    names = {one["state"]: one["name"] for one in finished.record["results"]["states"]}
    null, halves = (finished.record["results"].get(name) for name in ("null", "independent_halves"))
    empty = read_empty_images(Layout(Path(finished.record["inputs"]["result"])).empty_images)
    named = with_junk_named(read_states(layout, names), load_arrays(layout.root / TABLE_NAME, "label")["label"], empty)
    judged = judged_states(
        weighed_states(Path(finished.record["inputs"]["result"]), named), None if null is None else NullFinding(**null),
        None if halves is None else HalvesFinding.of(halves),
    )  # fmt: skip
    states = dict(zip(names.values(), judged, strict=True))
    found = {name: sharpened(layout.state(state.number), np.array(state.fsc), settings.b_factor)
             for name, state in states.items()}  # fmt: skip
    fits = {name: fit for name, sharp in found.items() if sharp is not None and (fit := sharp[1]) is not None}
    n_particles = finished.record["results"]["particles"]
    explained = finished.record["results"].get("explained_by", [])
    asked = OnRequest(halves, *(finished.record["results"].get(name, []) for name in
                                ("power", "relion_check", "motion_corrected")))  # fmt: skip
    tables = evidence_tables(explained, [state.summary() for state in states.values()], asked,
                             claimed_populations(layout, judged))  # fmt: skip
    write_validation_reports(finished.facts, states, fits, read_consensus(layout.consensus), n_particles, tables)
    monitor.poll()
