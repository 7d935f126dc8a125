"""The job that reconstructs all particles in two halves by backprojection: a check of a refinement's metadata.

Its map shows within a minute whether poses, CTF, pixel size and sign of a file are understood, before anything is
learned from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.fourier.fsc import resolution_A
from cryodrgn_ext.fourier.point_groups import PointGroup, point_group
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.consensus import ConsensusSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.consensus_report import write_consensus_reports
from cryodrgn_ext.report.pictures import draw_fsc, draw_slices
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.fsc_tables import CORRECTED, write_fsc_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import fingerprint_files
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.given_maps import read_mask
from cryodrgn_ext.workflow.given_particles import half_set_notes, read_given_particles, record_particles
from cryodrgn_ext.workflow.job_outputs import kept_files, map_with_halves, picture
from cryodrgn_ext.workflow.job_result import JobResult, MapOutput, Role
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun
from cryodrgn_ext.workflow.reconstructions import make_consensus
from cryodrgn_ext.workflow.sharpened_maps import SHARPENED_NAME, half_map_curves, sharpened, write_sharpened
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A, working_box

LARGEST_DEFAULT_BOX = 256


def consensus(settings: ConsensusSettings, monitor: Monitor) -> JobResult:
    """Reconstruct all particles in two halves, with mask, FSC corrected for it, and a sharpened map.

    Parameters
    ----------
    settings : ConsensusSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        Map, half-maps, mask, sharpened map, and the log as PDF.

    Raises
    ------
    InputError
        When the particles, their images or the mask cannot be used, or the symmetry has no such name.
    """
    monitor.message(f"Reading {settings.in_parts}")
    return ConsensusRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class ConsensusInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    particles : ParticleSet
    preprocessing : PreprocessSettings
        With the box of the maps.
    mask : VolumeMap or None
        As the user gave it.
    symmetry : PointGroup
    device : torch.device
    """

    particles: ParticleSet
    preprocessing: PreprocessSettings
    mask: VolumeMap | None
    symmetry: PointGroup
    device: torch.device


class ConsensusRun(JobRun[ConsensusSettings, ConsensusInputs]):
    """One run of the job."""

    name = "consensus"

    @classmethod
    def check(cls, settings: ConsensusSettings, monitor: Monitor) -> ConsensusInputs:
        """Read the particles and the mask; see :meth:`JobRun.check`."""
        symmetry = point_group(settings.symmetry)
        particles = read_given_particles(settings.in_parts, settings.o, settings.project)
        check_images(particles)
        record = record_particles(settings.in_parts, particles)
        native = native_box(particles)
        mask = read_mask(settings.in_mask, "--in_mask", native, native_pixel_A(particles))
        preprocessing = PreprocessSettings(
            box_size=working_box(settings.box, native, LARGEST_DEFAULT_BOX),
            mask_diameter_A=settings.mask_diameter_A,
            data_sign=settings.contrast,
        )
        return ConsensusInputs(
            record=record | fingerprint_files({"in_mask": settings.in_mask}), particles=particles,
            preprocessing=preprocessing, mask=mask, symmetry=symmetry, device=choose_device(settings.device),
        )  # fmt: skip

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs, folder = self.settings, self.inputs, self.layout.consensus
        self.note(*inputs.particles.notes, *half_set_notes(inputs.particles, aligned=True))
        key = fingerprint(
            inputs.record["in_parts"]["sha256"], inputs.sha256("in_mask"), settings.box,
            settings.mask_diameter_A, settings.contrast, inputs.symmetry.name,
        )  # fmt: skip
        self.stage("consensus", key, "Reconstructing all particles in two halves", self._reconstruct, folder)
        found, curves = _read_curves(self.layout, settings)
        write_fsc_table(folder / "fsc.star", curves, found.pixel_size_A, len(found.map))
        curve = curves[CORRECTED]
        resolution = float(resolution_A(curve, found.pixel_size_A, len(found.map)))
        self.note(f"Resolution of all particles: {resolution:.2f} Å (FSC 0.143 between half-maps, corrected for the "
                  "mask).")  # fmt: skip
        name = f"particles.{inputs.particles.source.format}"
        self.note_data_sign([folder], found.data_sign, inputs.particles, name)
        fit, sentence = write_sharpened(folder, curve, settings.b_factor)
        self.note(f"The map was {sentence}.")
        self.monitor.poll()
        write_consensus_reports(self.facts, found, curves, fit, inputs.particles.n)
        if not settings.keep_images:
            shutil.rmtree(self.layout.checkpoint / "images", ignore_errors=True)
        results = {
            "particles": inputs.particles.n, "box": len(found.map), "pixel_size_A": round(found.pixel_size_A, 6),
            "symmetry": inputs.symmetry.name, "resolution_A": round(resolution, 3),
            "b_factor_A2": None if fit is None else round(fit.b_factor_A2, 2),
        }  # fmt: skip
        return results, self._result(curve, found.pixel_size_A)

    def _reconstruct(self) -> None:
        make_consensus(self.layout.consensus, self._images(), self.inputs.mask, self.inputs.device, self.monitor,
                       self.inputs.symmetry, self.inputs.preprocessing.mask_diameter_A)  # fmt: skip

    def _images(self) -> ParticleImages:
        return self.open_images(self.inputs.particles, self.inputs.preprocessing)

    def _result(self, curve: np.ndarray[Any, np.dtype[np.float64]], pixel_size_A: float) -> JobResult:
        layout, folder = self.layout, self.layout.consensus
        slices = picture(layout, "consensus", "Central slices of the map",
                         partial(draw_slices, {"consensus": folder / "map.mrc"}))  # fmt: skip
        plots = (slices, picture(layout, "fsc", "FSC between half-maps, corrected for the mask",
                                 partial(draw_fsc, {"consensus": curve}, pixel_size_A)))  # fmt: skip
        outputs = [map_with_halves(folder, name="consensus", title="Consensus", picture=slices)]
        if (folder / SHARPENED_NAME).exists():
            outputs.append(MapOutput(path=folder / SHARPENED_NAME, name="sharpened", title="Sharpened map",
                                     role=Role.EXTRA))  # fmt: skip
        return JobResult(layout.root, tuple(outputs), layout.logfile, plots, slices, kept_files(layout))


def report_consensus(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When a map is gone.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, ConsensusSettings)
    found, curves = _read_curves(layout, settings)
    sharp = sharpened(layout.consensus, curves[CORRECTED], settings.b_factor)
    n_particles = finished.record["results"]["particles"]
    write_consensus_reports(finished.facts, found, curves, None if sharp is None else sharp[1], n_particles)
    monitor.poll()


def _read_curves(layout: Layout, settings: ConsensusSettings) -> tuple[Consensus, dict[str, NDArray[np.float64]]]:
    """The consensus, and its FSC curves by RELION's label."""
    folder = layout.consensus
    found = read_consensus(folder)
    half1, half2 = read_map(folder / "half1.mrc").data, read_map(folder / "half2.mrc").data
    return found, half_map_curves(half1, half2, found.mask, found.fsc, settings.seed)
