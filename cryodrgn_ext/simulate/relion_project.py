"""Simulated particles as a RELION project directory: what a user has after a finished refinement, plus the truth."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path, atomic_write_text, claim_room
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import threshold_mask
from cryodrgn_ext.images.map_origin import Kind, Origin, masking
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.simulate.particles import SimulatedParticles
from cryodrgn_ext.simulate.truth import ground_truth, save_truth

PARTICLES_PER_MICROGRAPH = 100
CELLS_PER_SIDE = 16  # of a micrograph; a particle has a cell of its own
CELL_PX = 256  # at least: micrographs of 4,096 px
MASK_THRESHOLD = 0.05  # of the maximum
MASK_DILATION_A = 8.0
MASK_EDGE_A = 16.0


@dataclass(frozen=True)
class RelionProject:
    """Paths of a written project; all files lie below ``directory``."""

    directory: Path
    particles_star: Path
    stack: Path
    reference: Path
    mask: Path
    truth: Path


def write_relion_project(
    directory: str | os.PathLike[str],
    particles: SimulatedParticles,
    *,
    normalise: bool = True,
    monitor: Monitor | None = None,
) -> RelionProject:
    """Write images, STAR file, reference, mask and ground truth as a RELION project.

    ``Particles/particles.mrcs`` (float32), ``particles.star`` (RELION 3.1, opened alike by 4 and 5),
    ``reference.mrc`` (true average density), ``mask.mrc`` (soft, around all states), ``default_pipeline.star``
    (an empty pipeline, left alone when there is one) and ``truth.npz``.

    Parameters
    ----------
    directory : path-like
        Created when missing; files of the same names in it are replaced.
    particles : SimulatedParticles
    normalise : bool
        Scale each image to background mean 0 and standard deviation 1, as RELION's extraction does.
    monitor : Monitor, optional

    Returns
    -------
    RelionProject

    Raises
    ------
    InputError
        When the directory cannot be written.
    """
    monitor = SilentMonitor() if monitor is None else monitor
    root = Path(directory)
    project = RelionProject(
        root, root / "particles.star", root / "Particles" / "particles.mrcs", root / "reference.mrc",
        root / "mask.mrc", root / "truth.npz",
    )  # fmt: skip
    try:
        project.stack.parent.mkdir(parents=True, exist_ok=True)
        _write_stack(project.stack, particles, normalise, monitor)
        atomic_write_text(project.particles_star, star_text(particles, "Particles/particles.mrcs"))
        truth = Origin(Kind.SIMULATED, "mean of the true volumes of all particles")
        write_map(project.reference, particles.mean_volume(), particles.pixel_size_A, truth)
        around = masking("around the simulated specimen")
        write_map(project.mask, specimen_mask(particles), particles.pixel_size_A, around)
        save_truth(project.truth, ground_truth(particles))
        if not (root / "default_pipeline.star").exists():
            atomic_write_text(root / "default_pipeline.star", empty_pipeline())
    except OSError as error:
        raise InputError(f"the simulated project cannot be written to {root}: {error.strerror or error}") from error
    return project


def empty_pipeline() -> str:
    """Return the text of ``default_pipeline.star`` of a project without jobs."""
    return own_star_text({"pipeline_general": {"rlnPipeLineJobCounter": 1}})


def background_radius_px(particles: SimulatedParticles) -> float:
    """Radius beyond which an image shows background only, as a user would set it for RELION's normalisation."""
    reach = particles.motion.radius_A / particles.pixel_size_A + float(np.abs(particles.shift_px).max())
    return min(reach, particles.box_size / 2 - 2)


def normalise_images(images: NDArray[np.float32], radius_px: float) -> NDArray[np.float32]:
    """Subtract mean and divide by standard deviation of the pixels farther than ``radius_px`` from pixel D // 2."""
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    background = images[:, axis[:, None] ** 2 + axis[None, :] ** 2 > radius_px**2]
    spread = background.std(axis=1)[:, None, None]
    centred = images - background.mean(axis=1)[:, None, None]
    normalised: NDArray[np.float32] = centred / np.where(spread > 0, spread, 1)
    return normalised


def picked_places(particles: SimulatedParticles) -> NDArray[np.float64]:
    """(N, 2) x, y in pixels of particles on their micrographs, none nearer to another than its diameter or half a box.

    Every particle lies in a cell of its own of a square grid, anywhere in it but near the right and the lower edge.
    """
    rng, n = np.random.default_rng([particles.seed, 4]), particles.n
    apart_px = max(2 * particles.motion.radius_A / particles.pixel_size_A, particles.box_size / 2)
    cell_px = max(CELL_PX, 1.5 * apart_px)
    micrographs = -(-n // PARTICLES_PER_MICROGRAPH)
    cell = rng.random((micrographs, CELLS_PER_SIDE**2)).argsort(axis=1)[:, :PARTICLES_PER_MICROGRAPH].ravel()[:n]
    corner = np.stack([cell % CELLS_PER_SIDE, cell // CELLS_PER_SIDE], axis=1)
    return corner * cell_px + apart_px / 2 + rng.uniform(0, cell_px - apart_px, (n, 2))


def _write_stack(path: Path, particles: SimulatedParticles, normalise: bool, monitor: Monitor) -> None:
    box = particles.box_size
    radius_px = background_radius_px(particles)
    with (
        atomic_path(path) as temporary,
        mrcfile.new_mmap(temporary, (particles.n, box, box), mrc_mode=2, overwrite=True) as stack,
    ):
        claim_room(temporary)
        row = 0
        for piece in monitor.track(particles.iter_images(), "simulating images", particles.n, 128):
            images = normalise_images(piece, radius_px) if normalise else piece
            stack.data[row : row + len(images)] = images
            row += len(images)
        stack.voxel_size = particles.pixel_size_A
        stack.set_image_stack()
        stack.update_header_stats()


def specimen_mask(particles: SimulatedParticles) -> NDArray[np.float32]:
    """Soft mask (D, D, D) in 0..1 around the densities of all numbered states."""
    highest = functools.reduce(np.maximum, particles.iter_volumes())
    threshold = MASK_THRESHOLD * float(highest.max())
    mask = threshold_mask(torch.from_numpy(highest), particles.pixel_size_A, threshold, MASK_DILATION_A, MASK_EDGE_A)
    return np.asarray(mask.numpy(), np.float32)


def star_text(particles: SimulatedParticles, stack_name: str) -> str:
    """STAR file (RELION 3.1: data_optics and data_particles) of particles whose images are in ``stack_name``."""
    n, groups = particles.n, particles.optics
    micrograph = np.arange(n) // PARTICLES_PER_MICROGRAPH + 1
    coordinates = picked_places(particles)
    origin_A = -particles.shift_px * particles.pixel_size_A
    optics = {
        "rlnOpticsGroupName": [group.name for group in groups],
        "rlnOpticsGroup": np.arange(1, len(groups) + 1),
        "rlnVoltage": [group.voltage_kV for group in groups],
        "rlnSphericalAberration": [group.cs_mm for group in groups],
        "rlnAmplitudeContrast": [group.amplitude_contrast for group in groups],
        "rlnImagePixelSize": [particles.pixel_size_A] * len(groups),
        "rlnImageSize": [particles.box_size] * len(groups),
        "rlnImageDimensionality": [2] * len(groups),
    }
    rows = {
        "rlnCoordinateX": coordinates[:, 0],
        "rlnCoordinateY": coordinates[:, 1],
        "rlnImageName": [f"{i:06d}@{stack_name}" for i in range(1, n + 1)],
        "rlnMicrographName": [f"MotionCorr/mic{i:05d}.mrc" for i in micrograph],
        "rlnOpticsGroup": particles.optics_index + 1,
        "rlnDefocusU": particles.defocus.u_A,
        "rlnDefocusV": particles.defocus.v_A,
        "rlnDefocusAngle": particles.defocus.angle_deg,
        "rlnPhaseShift": np.array([group.phase_shift_deg for group in groups])[particles.optics_index],
        "rlnAngleRot": particles.euler_deg[:, 0],
        "rlnAngleTilt": particles.euler_deg[:, 1],
        "rlnAnglePsi": particles.euler_deg[:, 2],
        "rlnOriginXAngst": origin_A[:, 0],
        "rlnOriginYAngst": origin_A[:, 1],
        "rlnRandomSubset": particles.half_set,
    }
    return own_star_text({"optics": optics, "particles": rows})
