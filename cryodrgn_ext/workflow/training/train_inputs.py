"""Inputs of a train job: read, and refused before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cryodrgn_ext.engines.choice import choose_engine
from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS, SubspaceSettings
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import fingerprint_files
from cryodrgn_ext.settings import as_switches, fingerprint
from cryodrgn_ext.workflow.continuation import IMAGE_SETTINGS, Continuation
from cryodrgn_ext.workflow.given_maps import check_regions, read_mask, read_refinement_map
from cryodrgn_ext.workflow.given_particles import read_given_particles, record_particles
from cryodrgn_ext.workflow.states_run import StatesInputs
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A, working_box

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


@dataclass(frozen=True, kw_only=True)
class TrainInputs(StatesInputs):
    """Checked inputs.

    Attributes
    ----------
    focus : VolumeMap or None
        The region of interest, as the user gave it.
    """

    focus: VolumeMap | None

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
    particles = read_given_particles(settings.in_parts, settings.o, settings.project)
    if particles.n < 2 * settings.states or particles.n < 10:
        raise InputError(
            f"{settings.in_parts} has {particles.n} particles, too few to learn from and to cut into "
            f"{settings.states} states."
        )
    # Names that there are not, and options that contradict each other, are refused before anything is computed.
    point_group(settings.symmetry)
    resolve(settings, settings.seed, particles.n)
    _refuse_contradictions(settings)
    check_images(particles)
    record = record_particles(settings.in_parts, particles)
    native = native_box(particles)
    box = working_box(settings.box, native, LARGEST_DEFAULT_BOX)
    pixel_A = native_pixel_A(particles)
    maps = {
        name: read(path, f"--{name}", native, pixel_A)
        for name, path, read in (
            ("in_mask", settings.in_mask, read_mask),
            ("focus_mask", settings.focus_mask, read_mask),
            ("in_3dref", settings.in_3dref, read_refinement_map),
        )
    }
    check_regions(maps["in_mask"], settings.in_mask, maps["focus_mask"], settings.focus_mask, box)
    record |= fingerprint_files(
        {"in_mask": settings.in_mask, "focus_mask": settings.focus_mask, "in_3dref": settings.in_3dref}
    )
    layout = Layout(settings.o)
    begun = layout.model.exists() or (layout.checkpoint / "training").exists()
    return TrainInputs(
        record=record, particles=particles, native_box=native, box=box, mask=maps["in_mask"], focus=maps["focus_mask"],
        reference=maps["in_3dref"],
        continuation=Continuation("training", begun, MASKS, (*IMAGE_SETTINGS, *ENGINE_SETTINGS, "symmetry")),
    )  # fmt: skip


def _refuse_contradictions(settings: TrainSettings) -> None:
    engine = choose_engine(settings.engine, settings)
    if engine == "neural" and settings.focus_mask is not None:
        raise InputError("--focus_mask works with --engine subspace only: choose that engine, or leave the mask out.")
    if engine == "subspace" and not 1 <= settings.zdim <= MOST_COMPONENTS:
        raise InputError(
            f"--engine subspace takes 1 to {MOST_COMPONENTS} components, not --zdim {settings.zdim}: choose another "
            "number, or --engine neural."
        )


def image_key(settings: TrainSettings, inputs: TrainInputs) -> str:
    """Fingerprint of all that decides the preprocessed images."""
    plain = settings.to_mapping()
    return fingerprint(inputs.record["in_parts"]["sha256"], inputs.box, {name: plain[name] for name in IMAGE_SETTINGS})


def engine_key(settings: TrainSettings) -> str:
    """Fingerprint of all settings that decide what is learned."""
    plain = as_switches(settings.to_mapping())
    return fingerprint({name: plain[name] for name in (*ENGINE_SETTINGS, "epochs")})
