"""Inputs of a validate job: a result, sets of its particles, a mask, and how the images are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result, require_same_images
from cryodrgn_ext.results.record import fingerprint_file, fingerprint_files, require_record
from cryodrgn_ext.results.validated_sets import ValidatedSets, choose_sets
from cryodrgn_ext.workflow.given_maps import read_mask
from cryodrgn_ext.workflow.job_run import CheckedInputs
from cryodrgn_ext.workflow.relion_check import require_relion
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A, working_box

LARGEST_DEFAULT_BOX = 256


@dataclass(frozen=True, kw_only=True)
class ValidateInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    result : LearnedResult
    sets : ValidatedSets
    native_box, box : int
        Of the images on disk, and of the maps.
    mask : VolumeMap or None
        As the user gave it.
    preprocessing : PreprocessSettings
    device : torch.device
    own_poses : bool
        Whether the poses of both halves were found with one model.
    training : RepeatedTraining or None
        Where it shall be repeated.
    """

    result: LearnedResult
    sets: ValidatedSets
    native_box: int
    box: int
    mask: VolumeMap | None
    preprocessing: PreprocessSettings
    device: torch.device
    own_poses: bool
    training: RepeatedTraining | None


def read_inputs(settings: ValidateSettings, monitor: Monitor) -> ValidateInputs:
    """Read and check the result, the sets and the mask; see :meth:`JobRun.check`.

    Raises
    ------
    InputError
        When the result, its images, a set or the mask cannot be used.
    """
    point_group(settings.symmetry)  # refuses names that there are not
    result = read_learned_result(settings.in_parts, settings.project)
    sets = choose_sets(result, settings.state, settings.indices, monitor)
    for sentence in result.particles.notes:
        monitor.message(f"Note: {sentence}")
    if not result.particles.project_dir.samefile(Path.cwd()):
        monitor.message(f"Images are read from {result.particles.project_dir}")
    check_images(result.particles)
    if settings.relion_check != "no":
        require_relion(result.particles, settings.relion_check == "refine")
    require_same_images(result, settings.project, monitor)
    native = native_box(result.particles)
    pixel_A = native_pixel_A(result.particles)
    box = working_box(settings.box, native, LARGEST_DEFAULT_BOX)
    mask = read_mask(settings.in_mask, "--in_mask", native, pixel_A)
    record = result.record() | fingerprint_files({"in_mask": settings.in_mask})
    if settings.indices:
        record["indices"] = [fingerprint_file(Path(name)) for name in settings.indices]
    record_of_result = require_record(result.directory, result.job)
    learned = record_of_result["settings"]
    preprocessing = preprocessing_as_learned(record_of_result, box, settings.mask_diameter_A)
    repeated = settings.null or settings.power or settings.independent_halves
    if settings.power and len(set(sets.label.tolist())) < 2:
        raise InputError("--power plants the differences between states, but there is one set of all: leave it out.")
    if settings.motion_corrected and result.latents is None:
        raise InputError(f"--motion_corrected needs latents, but {result.directory} has none: leave it out.")
    own_poses = result.job == "abinit" and (result.latents is not None or learned.get("engine") == "neural")
    return ValidateInputs(
        record=record, result=result, sets=sets, native_box=native, box=box, mask=mask, preprocessing=preprocessing,
        device=choose_device(settings.device), own_poses=own_poses,
        training=RepeatedTraining.of(result) if repeated else None,
    )  # fmt: skip


def preprocessing_as_learned(
    record: Mapping[str, Any], box: int, mask_diameter_A: float | None = None
) -> PreprocessSettings:
    """How a job that is to look at a result's images prepares them: as the job that learned from them did.

    Parameters
    ----------
    record : mapping
        job.yaml of that job.
    box : int
    mask_diameter_A : float, optional
        Instead of that job's.
    """
    diameter_A = record["settings"].get("mask_diameter_A") if mask_diameter_A is None else mask_diameter_A
    return PreprocessSettings(box_size=box, mask_diameter_A=diameter_A, data_sign=_data_sign(record))


def _data_sign(record: Mapping[str, Any]) -> str:
    """The sign that the job took the images for: it decided by other sizes, and its maps are compared with these."""
    sign = record.get("results", {}).get("data_sign")
    found: str = record["settings"].get("contrast", "auto") if sign is None else "black" if sign < 0 else "white"
    return found
