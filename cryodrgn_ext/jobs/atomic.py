"""The job that moves a structure's atoms with the latents of a finished training, as far as the images say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from cryodrgn_ext.atoms.stereochemistry import BROKEN_A, chain_breaks
from cryodrgn_ext.atoms.structure import Structure, read_structure, residue_centres
from cryodrgn_ext.engines.atomic.atomvae import AtomVaeLearner
from cryodrgn_ext.engines.atomic.atomvae_settings import AtomVaeSettings
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold_motion import CryofoldLearner
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.engines.atomic.fit import AtomModel
from cryodrgn_ext.engines.atomic.image_learning import CHECKPOINT, FoldSetting, ImageLearner
from cryodrgn_ext.engines.atomic.motion import (
    MotionLearner,
    MotionSettings,
    along_motion,
    rms,
    used_columns,
)
from cryodrgn_ext.engines.atomic.placement import place_structure
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.options.atomic import AtomicSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.atomic_report import AtomicTables, write_atomic_reports
from cryodrgn_ext.results.atomic_files import (
    ENSEMBLE_NAME,
    FOLD_NAME,
    MOTION_NAME,
    PLACEMENT_NAME,
    RESIDUES_NAME,
    SCRIPT_NAME,
    on_corner,
    placed_structure,
    read_placement,
    write_fold,
    write_motion,
    write_placement,
    write_residues,
    write_script,
    write_structures,
)
from cryodrgn_ext.results.atomic_findings import Findings
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
        given = settings.method == "cryofold" and settings.zdim and settings.latents == "training"
        if settings.method == "fast" or given:
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
        self._say_breaks()
        key = fingerprint(inputs.record["in_parts"]["sha256"], inputs.sha256("structure"), inputs.record["result"],
                          settings.resolution_A)  # fmt: skip
        placed_file, motion_file = layout.root / PLACEMENT_NAME, layout.root / MOTION_NAME
        self.stage("placement", key, "Placing the structure in the consensus map", self._place, placed_file)
        placement = read_placement(placed_file)
        self.note(placement.sentence())
        structure = placed_structure(inputs.structure, placement)
        if settings.method != "fast":
            kind = CryofoldSettings if settings.method == "cryofold" else AtomVaeSettings
            own = [getattr(settings, one.name) for one in fields(kind)]
            key = fingerprint(key, settings.method, settings.nodes, settings.seed, *own)
            self.stage("motion", key, "Learning the motion of the atoms", lambda: self._fold(structure, key),
                       motion_file, layout.root / FOLD_NAME)  # fmt: skip
        else:
            key = fingerprint(key, settings.nodes, settings.features, settings.rounds, settings.seed)
            self.stage("motion", key, "Fitting the motion of the atoms", lambda: self._learn(structure), motion_file)
        found = Findings.read(layout.root, settings, inputs.result, inputs.model, structure)
        self.headline(found.sentence())
        rows = self._write(found)
        evidence, agreement = found.evidence, found.motion.agreement
        if agreement is not None:
            self.note(agreement.sentence())
        figures = found.chemistry(settings.models)
        self.note(*broken_sentences(settings.method, max(one.broken for one in figures.values())))
        chemistry = [(name, *one.row()) for name, one in figures.items()]
        write_atomic_reports(self.facts, found, AtomicTables(rows, chemistry))
        results = {
            "particles": inputs.result.particles.n, "correlation": round(placement.correlation, 4),
            "other_hand": round(placement.other_hand, 4),
            "motion_A": round(rms(evidence.motion_A), 3), "proven_motion_A": round(rms(evidence.proven_A), 3),
            "error_A": round(rms(evidence.error_A), 3),
            "residues": len(evidence.error_A), "determined_residues": int(evidence.determined.sum()),
            "agreeing_residues": None if agreement is None else int(agreement.agrees.sum()),
            "found": found.sentence(), "states": [list(row) for row in rows],
            "stereochemistry": [list(row) for row in chemistry],
        }  # fmt: skip
        return results, self._result(found)

    @cached_property
    def images(self) -> ParticleImages:
        """All images, preprocessed as in the training."""
        return self.open_images(self.inputs.result.particles, self.inputs.preprocessing)

    def _say_breaks(self) -> None:
        """Warn of a structure whose chain is broken where restraints hold what the structure has."""
        breaks = chain_breaks(self.inputs.structure)
        if breaks and self.settings.method == "fast":
            self.note(
                f"Warning: {self.settings.structure.name} has {breaks} bonds between neighbours of a chain that are "
                f"longer than {BROKEN_A:g} Å. Restraints hold distances of the structure as they are: repair it, "
                "or choose --method cryofold, whose bonds are of one length."
            )

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
        settings = self.settings
        setting = FoldSetting(settings.resolution_A, settings.nodes, settings.seed, self.layout.checkpoint, key)
        learner: ImageLearner
        if settings.method == "atomvae":
            learner = AtomVaeLearner(self.images, structure, settings, setting, self.monitor)
        else:
            learner = self._cryofold(structure, setting)
        found = learner.run()
        write_fold(self.layout.root / FOLD_NAME, found)
        write_motion(self.layout.root / MOTION_NAME, found.motion)
        for place in self.layout.checkpoint.glob(CHECKPOINT.format("*")):
            place.unlink()

    def _cryofold(self, structure: Structure, setting: FoldSetting) -> CryofoldLearner:
        settings, images, model = self.settings, self.images, self.inputs.model
        extent_A = images.box_size * images.pixel_size_A / 4  # the thesis' cube in the middle of the box
        chain = CoarseChain.of(structure, settings.backbone, settings.side_chains)
        chain = chain.begun(settings.start, settings.start_noise_A, extent_A, settings.seed)
        given = None if settings.latents == "encoder" else model.z[:, used_columns(model)]
        return CryofoldLearner(images, chain, settings, setting, self.monitor, given)

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
        write_residues(layout.root / RESIDUES_NAME, found.structure, found.evidence, found.motion.agreement)
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
        structures += (FOLD_NAME,) if self.settings.method != "fast" else ()
        return JobResult(layout.root, outputs, layout.logfile, keep=kept_files(layout, *structures))


def broken_sentences(method: str, broken: int) -> tuple[str, ...]:
    """What to say of bonds that the fit broke, of the worst structure."""
    if not broken:
        return ()
    if method != "fast":  # their restraints know no bond between atoms: it may break where all is well
        return (
            f"{broken} bonds between residues are longer than {BROKEN_A:g} Å in the worst structure: its residues are "
            "placed one by one; refine the geometry before a structure is deposited.",
        )
    return (
        f"Warning: the fit broke {broken} bonds of the given structure: from there it did not reach what the images "
        "show. Give a structure of a nearer state, or look at the maps for what no motion of this structure explains.",
    )


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
    found = Findings.read(layout.root, settings, inputs.result, inputs.model, structure)
    results = finished.record["results"]
    tables = [[tuple(row) for row in results.get(name, [])] for name in ("states", "stereochemistry")]
    write_atomic_reports(finished.facts, found, AtomicTables(*tables))
