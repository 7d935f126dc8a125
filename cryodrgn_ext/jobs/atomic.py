"""The job that moves a structure's atoms with the latents of a finished training, as far as the images say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.atoms.structure import Structure, read_structure, residue_centres, residue_widths
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold_motion import CHECKPOINT, CryofoldLearner, FoldSetting
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.engines.atomic.fit import AtomModel
from cryodrgn_ext.engines.atomic.motion import (
    AtomicMotion,
    MotionLearner,
    MotionSettings,
    ResidueEvidence,
    along_motion,
    first_coordinate,
    residue_evidence,
    rms,
    used_columns,
)
from cryodrgn_ext.engines.atomic.placement import place_structure
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.engines.held_out import HeldOut, weighed
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.gaussians import gaussian_map
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.options.atomic import AtomicSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.atomic_report import write_atomic_reports
from cryodrgn_ext.results.atomic_files import (
    ENSEMBLE_NAME,
    FOLD_NAME,
    MOTION_NAME,
    PLACEMENT_NAME,
    RESIDUES_NAME,
    SCRIPT_NAME,
    on_corner,
    placed_structure,
    read_fold,
    read_motion,
    read_placement,
    write_fold,
    write_motion,
    write_placement,
    write_residues,
    write_script,
    write_structures,
)
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result, require_same_images
from cryodrgn_ext.results.record import fingerprint_files, require_record
from cryodrgn_ext.results.returned_particles import returned_name, write_groups
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.job_outputs import kept_files
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun

HALF = 0.5


def atomic(settings: AtomicSettings, monitor: Monitor) -> JobResult:
    """Deform a structure along the latents of a finished training, and say what of it the images determine.

    Parameters
    ----------
    settings : AtomicSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The particles of each state, and the log as PDF; ensembles, residues and the script are kept beside them.

    Raises
    ------
    InputError
        When the result has no latents, or the structure cannot be read or does not fit the map.
    JobAborted
        When the user asks for it; the same call continues.
    """
    return AtomicRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class AtomicInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    result : LearnedResult
    model : Heterogeneity
    structure : Structure
        As the file has it.
    consensus : VolumeMap
        Of all particles of the result.
    resolution_A : float
        Of that map.
    preprocessing : PreprocessSettings
        As in the training.
    """

    result: LearnedResult
    model: Heterogeneity
    structure: Structure
    consensus: VolumeMap
    resolution_A: float
    preprocessing: PreprocessSettings


class AtomicRun(JobRun[AtomicSettings, AtomicInputs]):
    """One run of the job."""

    name = "atomic"

    @classmethod
    def check(cls, settings: AtomicSettings, monitor: Monitor) -> AtomicInputs:
        """Read the result and the structure; see :meth:`JobRun.check`."""
        structure = read_structure(settings.structure)
        result = read_learned_result(settings.in_parts, settings.project)
        if settings.method == "fast" or (settings.zdim and settings.latents == "training"):
            result.require_latents()
        check_images(result.particles)
        require_same_images(result, settings.project, monitor)
        layout = Layout(result.directory)
        model = load_heterogeneity(layout.model)
        consensus = read_map((layout.root if result.job == "abinit" else layout.consensus) / "map.mrc")
        if consensus.box_size != model.box_size:
            raise InputError(f"{result.directory} has a map and a model of different boxes: train again.")
        learned = require_record(result.directory, result.job)
        finest = 2 * consensus.pixel_size_A
        found = learned["results"].get("consensus_resolution_A", learned["results"].get("resolution_A", finest))
        return AtomicInputs(
            record=result.record() | fingerprint_files({"structure": settings.structure}),
            result=result, model=model, structure=structure, consensus=consensus, resolution_A=float(found),
            preprocessing=PreprocessSettings(
                box_size=model.box_size, mask_diameter_A=learned["settings"].get("mask_diameter_A"),
                data_sign="black" if result.data_sign < 0 else "white",
            ),
        )  # fmt: skip

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, layout, inputs = self.settings, self.layout, self.inputs
        for remark in inputs.structure.remarks:
            self.note(f"{settings.structure.name}: {remark}")
        key = fingerprint(inputs.record["in_parts"]["sha256"], inputs.sha256("structure"), inputs.record["result"],
                          settings.resolution_A)  # fmt: skip
        placed_file, motion_file = layout.root / PLACEMENT_NAME, layout.root / MOTION_NAME
        self.stage("placement", key, "Placing the structure in the consensus map", self._place, placed_file)
        placement = read_placement(placed_file)
        self.note(placement.sentence())
        structure = placed_structure(inputs.structure, placement)
        if settings.method == "cryofold":
            own = [getattr(settings, one.name) for one in fields(CryofoldSettings)]
            key = fingerprint(key, "cryofold", settings.nodes, settings.seed, *own)
            self.stage("motion", key, "Learning the motion of the atoms", lambda: self._fold(structure, key),
                       motion_file, layout.root / FOLD_NAME)  # fmt: skip
        else:
            key = fingerprint(key, settings.nodes, settings.features, settings.rounds, settings.seed)
            self.stage("motion", key, "Fitting the motion of the atoms", lambda: self._learn(structure), motion_file)
        found = Findings.read(layout, settings, inputs, structure)
        self.headline(found.sentence())
        rows = self._write(found)
        write_atomic_reports(self.facts, found.evidence, found.place_A, rows, found.history)
        evidence = found.evidence
        results = {
            "particles": inputs.result.particles.n, "correlation": round(placement.correlation, 4),
            "other_hand": round(placement.other_hand, 4),
            "motion_A": round(rms(evidence.motion_A), 3), "proven_motion_A": round(rms(evidence.proven_A), 3),
            "error_A": round(rms(evidence.error_A), 3),
            "residues": len(evidence.error_A), "determined_residues": int(evidence.determined.sum()),
            "found": found.sentence(), "states": [list(row) for row in rows],
        }  # fmt: skip
        return results, self._result(found)

    @cached_property
    def images(self) -> ParticleImages:
        """All images, preprocessed as in the training."""
        return self.open_images(self.inputs.result.particles, self.inputs.preprocessing)

    def _place(self) -> None:
        consensus = self.inputs.consensus
        box_A = consensus.box_size * consensus.pixel_size_A
        radius = int(box_A / max(self.settings.resolution_A, self.inputs.resolution_A))
        placement = place_structure(self.inputs.structure, consensus.data, consensus.pixel_size_A, radius)
        write_placement(self.layout.root / PLACEMENT_NAME, placement)

    def _learn(self, structure: Structure) -> None:
        settings, images = self.settings, self.images
        centres, _, _ = residue_centres(structure)
        how = MotionSettings(settings.nodes, settings.features, settings.resolution_A, settings.rounds, settings.seed)
        atoms = AtomModel.of(structure, centres, images.pixel_size_A)
        motion = MotionLearner(images, self.inputs.model, atoms, how, self.monitor).run()
        write_motion(self.layout.root / MOTION_NAME, motion)

    def _fold(self, structure: Structure, key: str) -> None:
        settings, images, model = self.settings, self.images, self.inputs.model
        extent_A = images.box_size * images.pixel_size_A / 4  # the thesis' cube in the middle of the box
        chain = CoarseChain.of(structure, settings.backbone, settings.side_chains)
        chain = chain.begun(settings.start, settings.start_noise_A, extent_A, settings.seed)
        given = None if settings.latents == "encoder" else model.z[:, used_columns(model)]
        setting = FoldSetting(settings.resolution_A, settings.nodes, settings.seed, self.layout.checkpoint, key)
        found = CryofoldLearner(images, chain, settings, setting, self.monitor, given).run()
        write_fold(self.layout.root / FOLD_NAME, found.z, found.held_out, found.history, found.width_A)
        write_motion(self.layout.root / MOTION_NAME, found.motion)
        for place in self.layout.checkpoint.glob(CHECKPOINT.format("*")):
            place.unlink()

    def _write(self, found: Findings) -> list[tuple[str, ...]]:
        """Write structures, particles, residues and script; return the rows of the table of states."""
        layout, result = self.layout, self.inputs.result
        consensus = self.inputs.consensus
        frames = along_motion(found.motion, self.settings.models)
        atoms = on_corner(carried_atoms(found.structure, frames), consensus.box_size, consensus.pixel_size_A)
        states = {number: on_corner(carried_atoms(found.structure, centres[None])[0], consensus.box_size,
                                    consensus.pixel_size_A) for number, centres in found.states.items()}  # fmt: skip
        problem = write_structures(layout, found.structure, atoms, states, found.evidence.error_A)
        if problem is not None:
            self.note(f"Note: no ensemble.pdb: {problem}")
        write_residues(layout.root / RESIDUES_NAME, found.structure, found.evidence)
        write_groups(layout, self._particles_name, result.particles, found.members, {})
        write_script(layout, found.maps)
        return found.state_rows()

    @property
    def _particles_name(self) -> str:
        return returned_name(self.inputs.result.particles, self.settings.particles_format)

    def _result(self, found: Findings) -> JobResult:
        layout, particles = self.layout, self.inputs.result.particles
        outputs = tuple(
            ParticleOutput(name=f"state_{number:02d}", title=f"State {number}: particles", uid=particles.uid[rows],
                           path=layout.state(number) / self._particles_name,
                           coordinates=found.place_A[rows, None].astype(np.float32))
            for number, rows in found.members.items()
        )  # fmt: skip
        structures: tuple[str, ...] = (ENSEMBLE_NAME, "ensemble.pdb", RESIDUES_NAME, SCRIPT_NAME, MOTION_NAME)
        structures += (FOLD_NAME,) if self.settings.method == "cryofold" else ()
        return JobResult(layout.root, outputs, layout.logfile, keep=kept_files(layout, *structures))


@dataclass(frozen=True)
class Findings:
    """What follows from a motion.

    Attributes
    ----------
    inputs : AtomicInputs
    structure : Structure
        In the frame of the map.
    motion : AtomicMotion
    held_out : HeldOut or None
        What single images gain by the model that their latents are of.
    history : ndarray
        Loss of each pass, where the atoms were learned in passes.
    """

    inputs: AtomicInputs
    structure: Structure
    motion: AtomicMotion
    held_out: HeldOut | None
    history: NDArray[np.float64]

    @classmethod
    def read(cls, layout: Layout, settings: AtomicSettings, inputs: AtomicInputs, structure: Structure) -> Findings:
        """From the files of the finished stages."""
        motion = read_motion(layout.root / MOTION_NAME)
        held_out, history = weighed(inputs.model), np.empty(0)
        if settings.method == "cryofold":
            own, history = read_fold(layout.root / FOLD_NAME)
            held_out = own if settings.latents == "encoder" else held_out
        return cls(inputs, structure, motion, held_out, history)

    @cached_property
    def evidence(self) -> ResidueEvidence:
        """Of each residue."""
        _, electrons, residue = residue_centres(self.structure)
        return residue_evidence(self.motion, residue, electrons)

    @cached_property
    def place_A(self) -> NDArray[np.float64]:
        """(N,) place of each particle along the largest motion."""
        place: NDArray[np.float64] = self.motion.probability @ first_coordinate(self.motion)
        return place

    @cached_property
    def members(self) -> dict[int, NDArray[np.int64]]:
        """Rows of the particles of each state of the result; none where it has no states."""
        states = self.inputs.result.states
        if states is None:
            return {}
        used = self.motion.probability.sum(axis=1) > HALF
        rows = {number: np.flatnonzero((states.label == number) & used) for number in range(states.n_states)}
        return {number: found for number, found in rows.items() if len(found)}

    @cached_property
    def states(self) -> dict[int, NDArray[np.float64]]:
        """Centres (C, 3) of each state: the mean over where its particles may lie."""
        return {
            number: np.tensordot(self.motion.probability[rows].mean(axis=0), self.motion.positions, axes=1)
            for number, rows in self.members.items()
        }

    @cached_property
    def maps(self) -> dict[int, Path]:
        """Maps of the states, from the particles alone, of those states that have one."""
        result = self.inputs.result
        layout = Layout(result.states_directory or result.directory)
        paths = {number: (layout.state(number) / "map.mrc").resolve() for number in self.members}
        return {number: path for number, path in paths.items() if path.exists()}

    def state_rows(self) -> list[tuple[str, ...]]:
        """Name, particles, and resolution to which structure and map agree (FSC 0.5), of each state."""
        rows: list[tuple[str, ...]] = []
        for number, members in self.members.items():
            agree = "no map"
            if number in self.maps:
                volume = read_map(self.maps[number])
                agree = f"{self._agreement_A(volume, self.states[number]):.1f}"
            rows.append((f"state {number}", str(len(members)), agree))
        return rows

    def _agreement_A(self, volume: VolumeMap, centres: NDArray[np.float64]) -> float:
        _, electrons, _ = residue_centres(self.structure)
        pixel = volume.pixel_size_A
        rendered = gaussian_map(
            volume.box_size, torch.from_numpy(centres / pixel).float(), torch.from_numpy(electrons).float(),
            torch.from_numpy(residue_widths(self.structure) / pixel).float(),
        )  # fmt: skip
        curve = fsc(rendered, torch.from_numpy(volume.data))
        return resolution_A(curve, pixel, volume.box_size, HALF)

    def sentence(self) -> str:
        """What was found, in one sentence."""
        return self.evidence.sentence(self.held_out)


def report_atomic(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When the result that the job went on from, the structure or a file of the job is gone.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, AtomicSettings)
    inputs = AtomicRun.check(replace(settings, in_parts=finished.learned(settings.in_parts)), monitor)
    structure = placed_structure(inputs.structure, read_placement(layout.root / PLACEMENT_NAME))
    found = Findings.read(layout, settings, inputs, structure)
    rows = [tuple(row) for row in finished.record["results"]["states"]]
    write_atomic_reports(finished.facts, found.evidence, found.place_A, rows, found.history)
