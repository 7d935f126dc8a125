"""Inputs of an abinit job: read, and refused before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings, plan_abinit
from cryodrgn_ext.engines.settings import own_options
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.abinit import AbinitSettings, network_options
from cryodrgn_ext.pose.coordinate_transform import MIRROR
from cryodrgn_ext.pose.found_symmetry import smallest_deg
from cryodrgn_ext.pose.origins import Origins, usable_origins
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import fingerprint_file
from cryodrgn_ext.settings import as_switches, fingerprint
from cryodrgn_ext.workflow.abinit.abinit_tilts import TiltedInputs, read_tilted
from cryodrgn_ext.workflow.continuation import IMAGE_SETTINGS, Continuation
from cryodrgn_ext.workflow.given_particles import read_given_particles, record_particles
from cryodrgn_ext.workflow.job_run import CheckedInputs
from cryodrgn_ext.workflow.working_box import native_box, working_box

#: Poses come out to a degree or so at this box, which a refinement then improves; larger ones cost time.
LARGEST_DEFAULT_BOX = 64
#: Fewer images hardly make a map.
FEWEST_PARTICLES = 40
#: Default of --max_shift_A as a fraction of the extent of the images.
DEFAULT_SHIFT = 0.1
POSE_SETTINGS = ("engine", "starts", "start_particles", "max_shift_A", "use_origins", "symmetry", "seed", "search")
#: Settings that earlier versions did not have, and the value that stands for what they did.
NEWER_SETTINGS = {"search": "exhaustive"}
#: What the network's search depends on besides; with a network, also --zdim.
NETWORK_SETTINGS = ("first_poses", *own_options(NeuralAbinitSettings))
TRAINING_SETTINGS = ("zdim", "fit_contrast", "curve_features", "seed")


@dataclass(frozen=True, kw_only=True)
class AbinitInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    particles : ParticleSet
        With the identity as every rotation, and no shifts: what the file had is gone.
    had_poses : bool
        Whether the file had orientations, which are ignored.
    origins : Origins or None
        Where the file says that particles lie; None when it says nothing.
    native_box : int
        Box of the images on disk (of the optics group with most particles, where groups differ).
    box : int
        Working box.
    extent_A : float
        Edge of the images.
    reference : VolumeMap or None
    tilted : TiltedInputs or None
        Second images of tilt pairs.
    origins_note : str or None
        Why origins of the file cannot be used.
    """

    particles: ParticleSet
    had_poses: bool
    origins: Origins | None
    native_box: int
    box: int
    extent_A: float
    reference: VolumeMap | None
    tilted: TiltedInputs | None = None
    origins_note: str | None = None

    def max_shift_px(self, settings: AbinitSettings) -> float:
        """Farthest shift that is searched, in pixels of the working box."""
        given_A = DEFAULT_SHIFT * self.extent_A if settings.max_shift_A is None else settings.max_shift_A
        return given_A * self.box / self.extent_A


def read_inputs(settings: AbinitSettings) -> AbinitInputs:
    """Read and check everything that the job starts from.

    Raises
    ------
    InputError
        In one sentence, for whatever is wrong with the files or does not fit together.
    """
    if settings.in_3dref is not None and settings.flip_hand:
        raise InputError(
            "--flip_hand and --in_3dref are both given, but the reference decides the hand: leave one out."
        )
    _check_symmetry(settings)
    particles = read_given_particles(settings.in_parts, settings.o, settings.project, require_poses=False)
    if particles.n < FEWEST_PARTICLES:
        raise InputError(
            f"{settings.in_parts} has {particles.n} particles, too few for a map from nothing: give at least "
            f"{FEWEST_PARTICLES}, better thousands."
        )
    check_images(particles)
    record = record_particles(settings.in_parts, particles)
    native = native_box(particles)
    box = working_box(settings.box, native, LARGEST_DEFAULT_BOX)
    largest = int(np.bincount(particles.optics_index, minlength=len(particles.optics)).argmax())
    extent_A = native * particles.optics[largest].pixel_size_A
    if settings.max_shift_A is not None and settings.max_shift_A > 0.5 * extent_A:
        raise InputError(
            f"--max_shift_A is {settings.max_shift_A:g} Å, more than half of the images ({extent_A:.0f} Å wide): "
            "extract particles that lie farther off the centre again."
        )
    reference = None
    if settings.in_3dref is not None:
        reference = read_map(settings.in_3dref)
        if reference.pixel_size_A <= 0:
            raise InputError(f"{settings.in_3dref} has no pixel size in its header: set it first.")
        record["in_3dref"] = fingerprint_file(settings.in_3dref)
    tilted = read_tilted(settings, particles)
    unused = () if settings.engine == "neural" else network_options(settings)
    if unused:
        raise InputError(
            f"--{unused[0]} works with --engine neural only, and the engine is {settings.engine}: choose that engine, "
            "or leave the option out."
        )
    if settings.engine == "neural":  # options that contradict each other are refused before anything is computed
        plan_abinit(settings, settings.seed, particles.n, box, box // 2)
    if tilted is not None:
        record["tilted_parts"] = tilted.record
    origins, origins_note = usable_origins(particles, extent_A, settings.use_origins)
    eye = np.broadcast_to(np.eye(3), (particles.n, 3, 3))
    unaligned = particles.with_poses(eye, np.zeros((particles.n, 2)))
    return AbinitInputs(
        record=record, particles=unaligned, had_poses=particles.has_poses, origins=origins, native_box=native, box=box,
        extent_A=extent_A, reference=reference, tilted=tilted, origins_note=origins_note,
        continuation=_continuation(settings),
    )  # fmt: skip


def _check_symmetry(settings: AbinitSettings) -> None:
    """Refuse a symmetry that there is not, or that other options do not go with."""
    group = point_group(settings.symmetry)
    if group.order == 1:
        return
    if settings.zdim > 0 or settings.engine == "neural":
        option = "--engine neural" if settings.engine == "neural" else f"--zdim {settings.zdim}"
        raise InputError(
            f"--symmetry {settings.symmetry} and {option} are both given: find the map with the symmetry first, and "
            "train on its particles.star (after relion_particle_symmetry_expand where the motion breaks it)."
        )
    if settings.in_3dref is not None:
        raise InputError(
            f"--symmetry {settings.symmetry} and --in_3dref are both given, but the axes of the symmetry decide the "
            "coordinates: leave one out (--flip_hand returns the other hand)."
        )
    mirrored = MIRROR @ group.rotations @ MIRROR
    if settings.flip_hand and smallest_deg(mirrored, group.rotations).max() > 1.0:
        raise InputError(
            f"--flip_hand turns the axes of {settings.symmetry} away from RELION's: find the map without it, and "
            "mirror map and poses where they are used (relion_image_handler --invert_hand for the map)."
        )


def _continuation(settings: AbinitSettings) -> Continuation:
    """Once the search has begun, what poses depend on may not change; coordinates, hand and ``--zdim`` still may."""
    checkpoint = Layout(settings.o).checkpoint
    begun = (checkpoint / "search").exists() or (checkpoint / "found").exists()
    return Continuation("search", begun, ("tilted_parts",), (*IMAGE_SETTINGS, *_pose_settings(settings)))


def image_key(settings: AbinitSettings, inputs: AbinitInputs) -> str:
    """Fingerprint of all that decides the preprocessed images."""
    return fingerprint(inputs.record["in_parts"]["sha256"], inputs.box, _some(settings, IMAGE_SETTINGS))


def pose_key(settings: AbinitSettings, inputs: AbinitInputs) -> str:
    """Fingerprint of all that decides the poses before their coordinates are chosen."""
    tilted = inputs.sha256("tilted_parts")
    return fingerprint(image_key(settings, inputs), _some(settings, _pose_settings(settings)), tilted)


def transform_key(settings: AbinitSettings, inputs: AbinitInputs) -> str:
    """Fingerprint of all that decides poses and map of a homogeneous result."""
    return fingerprint(pose_key(settings, inputs), settings.flip_hand, inputs.sha256("in_3dref"))


def training_key(settings: AbinitSettings, inputs: AbinitInputs) -> str:
    """Fingerprint of all that decides a heterogeneous result."""
    return fingerprint(transform_key(settings, inputs), _some(settings, TRAINING_SETTINGS))


def _pose_settings(settings: AbinitSettings) -> tuple[str, ...]:
    """Names of the settings that the search depends on."""
    return (*POSE_SETTINGS, *NETWORK_SETTINGS, "zdim") if settings.engine == "neural" else POSE_SETTINGS


def _some(settings: AbinitSettings, names: tuple[str, ...]) -> dict[str, Any]:
    plain = as_switches(settings.to_mapping())
    # None is a value of some: only those that are newer are left out.
    return {name: plain[name] for name in names if name not in NEWER_SETTINGS or plain[name] != NEWER_SETTINGS[name]}
