"""What a train job reads and refuses before it computes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import InputError, ResumeError
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.jobs.given_maps import read_mask, read_refinement_map
from cryodrgn_ext.jobs.given_particles import read_given_particles
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.results.record import fingerprint_file, fingerprint_particles
from cryodrgn_ext.settings import fingerprint

LARGEST_DEFAULT_BOX = 128
# What may change between a run and its Continue although the training has begun.
FREE_SETTINGS = frozenset({"epochs", "device", "memory_GB", "checkpoint_minutes"})
ENGINE_SETTINGS = (
    "engine",
    *dict.fromkeys(
        field.name
        for options in (NeuralSettings, SubspaceSettings, ComputeSettings)
        for field in fields(options)
        if field.name not in FREE_SETTINGS
    ),
)
MASKS = ("in_mask", "focus_mask")
IMAGE_SETTINGS = ("box", "mask_diameter_A", "contrast")


@dataclass(frozen=True)
class TrainInputs:
    """Checked inputs.

    Attributes
    ----------
    particles : ParticleSet
    record : dict
        Fingerprints of the files, for job.yaml.
    native_box : int
        Box of the images on disk (of the optics group with most particles, where groups differ).
    box : int
        Working box.
    mask, focus, reference : VolumeMap or None
        As the user gave them.
    """

    particles: ParticleSet
    record: dict[str, Any]
    native_box: int
    box: int
    mask: VolumeMap | None
    focus: VolumeMap | None
    reference: VolumeMap | None

    @property
    def notes(self) -> tuple[str, ...]:
        """How the files were understood, one sentence each."""
        maps = (self.mask, self.focus, self.reference)
        return (*self.particles.notes, *(note for given in maps if given is not None for note in given.notes))


def read_inputs(settings: TrainSettings) -> TrainInputs:
    """Read and check everything that the job starts from.

    Raises
    ------
    InputError
        In one sentence, for whatever is wrong with the files or does not fit together.
    """
    particles = read_given_particles(settings.in_parts, settings.o)
    if particles.n < 2 * settings.states or particles.n < 10:
        raise InputError(
            f"{settings.in_parts} has {particles.n} particles, too few to learn from and to cut into "
            f"{settings.states} states."
        )
    # Options that contradict each other are refused before anything is computed.
    resolve(settings, settings.seed, particles.n)
    check_images(particles)
    record = {"in_parts": fingerprint_particles(settings.in_parts, particles.files) | {"particles": particles.n}}
    native = native_box(particles)
    box = working_box(settings.box, native, LARGEST_DEFAULT_BOX)
    maps: dict[str, VolumeMap | None] = {}
    for name in (*MASKS, "in_3dref"):
        path: Path | None = getattr(settings, name)
        maps[name] = None
        if path is not None:
            read = read_mask if name in MASKS else read_refinement_map
            maps[name] = read(path, f"--{name}", native, native_pixel_A(particles))
            record[name] = fingerprint_file(path)
    return TrainInputs(particles, record, native, box, maps["in_mask"], maps["focus_mask"], maps["in_3dref"])


def native_box(particles: ParticleSet) -> int:
    """Return the box of the optics group with most particles, which sets the model's extent (see images.pipeline)."""
    largest = _largest_group(particles)
    box = particles.optics[largest].box_size
    if box is not None:
        return box
    row = int(np.argmax(particles.optics_index == largest))
    return read_stack_header(particles.stack_paths[int(particles.stack_id[row])]).nx


def native_pixel_A(particles: ParticleSet) -> float:
    """Return the pixel size of the optics group with most particles."""
    return particles.optics[_largest_group(particles)].pixel_size_A


def _largest_group(particles: ParticleSet) -> int:
    return int(np.bincount(particles.optics_index, minlength=len(particles.optics)).argmax())


def working_box(given: int | None, native: int, largest_default: int) -> int:
    """Return the box to work in: as given, or that of the images, even and at most ``largest_default``.

    Raises
    ------
    InputError
        When the given one is odd or exceeds the images.
    """
    if given is None:
        return min(native - native % 2, largest_default)
    if given > native:
        raise InputError(f"--box is {given}, but the images have only {native} pixels.")
    if given % 2:
        raise InputError(f"--box must be even, not {given}.")
    return given


def check_continuation(
    settings: TrainSettings, inputs: TrainInputs, earlier: Mapping[str, Any] | None, trained: bool
) -> None:
    """Compare a Continue with what the directory holds.

    Parameters
    ----------
    settings : TrainSettings
        Of this run.
    inputs : TrainInputs
    earlier : mapping or None
        job.yaml of the earlier run.
    trained : bool
        Whether the training has begun: before that, any setting may change.

    Raises
    ------
    ResumeError
        When the particles are others, or a setting that the training depends on has changed.
    """
    if earlier is None:
        return
    if earlier["job"] != "train":
        raise ResumeError(f"{settings.o} holds the results of a {earlier['job']} job: give another directory.")
    before = earlier["inputs"].get("in_parts", {})
    if before.get("sha256") not in (None, inputs.record["in_parts"]["sha256"]):
        raise ResumeError(
            f"{settings.o} was begun with {before.get('path')}, which has changed or is another file than "
            f"{settings.in_parts}: start a new job for other particles."
        )
    if not trained:
        return
    for name in MASKS:
        if earlier["inputs"].get(name, {}).get("sha256") != inputs.record.get(name, {}).get("sha256"):
            raise ResumeError(
                f"--{name} is another than when {settings.o} was begun: the training cannot be continued with it; "
                "restore the mask, or start a new job."
            )
    now, then = settings.to_mapping(), earlier["settings"]
    for name in (*IMAGE_SETTINGS, *ENGINE_SETTINGS):
        if name in then and then[name] != now[name]:
            raise ResumeError(
                f"--{name} was {then[name]} when {settings.o} was begun and is {now[name]} now: the training cannot be "
                "continued with another value; restore it, or start a new job."
            )


def image_key(settings: TrainSettings, inputs: TrainInputs) -> str:
    """Fingerprint of all that decides the preprocessed images."""
    plain = settings.to_mapping()
    return fingerprint(inputs.record["in_parts"]["sha256"], inputs.box, {name: plain[name] for name in IMAGE_SETTINGS})


def engine_key(settings: TrainSettings) -> str:
    """Fingerprint of all settings that decide what is learned."""
    plain = settings.to_mapping()
    return fingerprint({name: plain[name] for name in (*ENGINE_SETTINGS, "epochs")})
