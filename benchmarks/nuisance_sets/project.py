"""Images of the specimen with a fault, as a RELION project, and what exact inference could tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.simulate.optics import Defocus, SimulatedOptics, contrast_transfer
from cryodrgn_ext.simulate.projection import project_beads

from .faults import Fault
from .specimen import SIGMA_A, FloatArray, Specimen, draw_coordinates, possible_coordinates

BOX, PIXEL_A, PER_MICROGRAPH, BATCH = 48, 5.0, 50, 256
Images = NDArray[np.float32]
OPTICS_NAMES = ("OpticsGroupName", "OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast",
                "ImagePixelSize", "ImageSize", "ImageDimensionality")  # fmt: skip
PARTICLE_NAMES = ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "AngleRot", "AngleTilt", "AnglePsi",
                  "OriginXAngst", "OriginYAngst", "CoordinateX", "CoordinateY", "RandomSubset", "OpticsGroup",
                  "ImageName", "MicrographName")  # fmt: skip


@dataclass
class Particles:
    """What is true of n particles; see :class:`.faults.Fault` for what is said of them instead.

    Attributes
    ----------
    coordinate : ndarray
        (n,) of the motion.
    turn : Rotation
        Of the model into the image, n.
    shift_A : ndarray
        (n, 2).
    defocus : Defocus
    phase_shift_deg : float
    pixel_A : ndarray
        (n,) true pixel size.
    """

    coordinate: FloatArray
    turn: Rotation
    shift_A: FloatArray
    defocus: Defocus
    phase_shift_deg: float
    pixel_A: FloatArray

    def transfer(self, rows: NDArray[np.int64]) -> Images:
        """(n, D, D // 2 + 1) contrast transfer functions."""
        d = Defocus(self.defocus.u_A[rows], self.defocus.v_A[rows], self.defocus.angle_deg[rows])
        optics = (SimulatedOptics(phase_shift_deg=self.phase_shift_deg),)
        return contrast_transfer(d, optics, np.zeros(len(rows), np.int32), BOX, PIXEL_A).numpy()

    def project(self, places: FloatArray, rows: NDArray[np.int64], shift_A: FloatArray | None = None) -> Images:
        """(n, D, D) projections of beads (n, B, 3) in Å without CTF."""
        turn, shift = self.turn[rows].as_matrix(), (self.shift_A if shift_A is None else shift_A)[rows]
        place = (np.matmul(places, turn[:, :2].transpose(0, 2, 1)) + shift[:, None]) / self.pixel_A[rows, None, None]
        weight = torch.ones(place.shape[:2])
        spectra = project_beads(torch.from_numpy(place).float(), weight, SIGMA_A / PIXEL_A, BOX)
        return np.asarray(torch.fft.irfft2(spectra, s=(BOX, BOX)).numpy(), np.float32)


def _batches(count: int) -> list[NDArray[np.int64]]:
    return np.split(np.arange(count), range(BATCH, count, BATCH))


def _with_transfer(images: Images, transfer: Images) -> Images:
    return np.fft.irfft2(np.fft.rfft2(images) * transfer, s=(BOX, BOX)).astype(np.float32)


def draw_particles(fault: Fault, motion: str, count: int, rng: np.random.Generator) -> Particles:
    """Draw what is true of the particles."""
    tilt = np.arccos(rng.uniform(-1, 1, count))
    near = rng.random(count) < fault.cone
    tilt[near] = np.arccos(rng.uniform(np.cos(np.deg2rad(25)), 1, near.sum()))
    angles = np.stack([rng.uniform(-np.pi, np.pi, count), tilt, rng.uniform(-np.pi, np.pi, count)], axis=1)
    mean, astigmatism = rng.uniform(10_000, 25_000, count), rng.uniform(0, 400, count)
    group = np.arange(count) * 2 // count
    return Particles(
        draw_coordinates(motion, count, rng), Rotation.from_euler("ZYZ", angles).inv(),
        rng.uniform(-1, 1, (count, 2)) * fault.off_centre_px * PIXEL_A,
        Defocus(mean + astigmatism / 2, mean - astigmatism / 2, rng.uniform(-90, 90, count)),
        fault.phase_shift_deg, (PIXEL_A * (1 + fault.magnification * group)).astype(np.float64),
    )  # fmt: skip


def _signal(
    fault: Fault, motion: str, specimen: Specimen, p: Particles, rng: np.random.Generator
) -> tuple[Images, float]:
    """(n, D, D) images without noise, and the variance that the specimen alone has on average."""
    count = len(p.coordinate)
    images = np.empty((count, BOX, BOX), np.float32)
    for rows in _batches(count):
        beads = specimen.beads(motion, p.coordinate[rows])
        if fault.expanded:
            beads = np.concatenate([beads, beads * np.array([-1.0, -1.0, 1.0])], axis=1) * 0.8
        images[rows] = _with_transfer(p.project(beads, rows), p.transfer(rows))
    variance = float(images.var(axis=(1, 2)).mean())
    kind = rng.random(count)
    images[kind < fault.empty] = 0
    if fault.contaminant:
        stranger = Specimen(1000).body[:100] * 0.8
        _replace(images, p, np.flatnonzero(kind < fault.contaminant), stranger[None], 2.0)
    if fault.ice:
        blobs = np.repeat(rng.uniform(-0.4, 0.4, (4, 3)) * BOX * PIXEL_A, 30, axis=0) + rng.normal(0, 18, (120, 3))
        _replace(images, p, np.flatnonzero(kind < fault.ice), blobs[None], 3.0)
    if fault.neighbours:
        rows = np.flatnonzero(rng.random(count) < fault.neighbours)
        where, far = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.42, 0.55, count) * BOX * PIXEL_A
        away = p.shift_A + far[:, None] * np.stack([np.cos(where), np.sin(where)], axis=1)
        other = p.project(specimen.beads("none", np.zeros(len(rows))), rng.permutation(count)[: len(rows)], away)
        images[rows] += _with_transfer(other, p.transfer(rows))
    images *= rng.uniform(1 - fault.contrast, 1 + fault.contrast, (count, 1, 1)).astype(np.float32)
    return images, variance


def _replace(images: Images, p: Particles, rows: NDArray[np.int64], beads: FloatArray, strength: float) -> None:
    """Put other beads (1, B, 3) in the place of particles."""
    other = p.project(np.broadcast_to(beads, (len(rows), *beads.shape[1:])), rows)
    images[rows] = np.float32(strength) * _with_transfer(other, p.transfer(rows))


def _noise(fault: Fault, shape: tuple[int, ...], rng: np.random.Generator) -> Images:
    """Noise of unit variance."""
    noise: FloatArray = rng.standard_normal(shape, dtype=np.float32).astype(np.float64)
    if fault.coloured:
        frequency = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX)[None])
        noise = np.fft.irfft2(np.fft.rfft2(noise) * (0.5 + 3 * np.exp(-frequency / 0.05)), s=(BOX, BOX))
        noise = noise / noise.std()
    ramp = (np.arange(BOX) - BOX // 2) / BOX
    slope = fault.gradient * rng.normal(size=(2, shape[0], 1, 1))
    noise = noise + slope[0] * ramp[:, None] + slope[1] * ramp
    hot = rng.choice(shape[0], fault.hot, replace=False)
    noise[hot, rng.integers(BOX, size=fault.hot), rng.integers(BOX, size=fault.hot)] += 3000
    return noise.astype(np.float32)


def write_set(
    directory: Path, fault: Fault, motion: str, count: int, snr: float, seed: int
) -> tuple[FloatArray, float]:
    """Write particles.star and its stack.

    Returns
    -------
    coordinate : ndarray
        (n,) of each row of the STAR file.
    limit : float
        Share of the coordinate's variance that the posterior mean by exact maps and poses explains; nan without motion.
    """
    rng, specimen = np.random.default_rng([seed, 5]), Specimen(seed)
    count = fault.images or count
    p = draw_particles(fault, motion, count // 2 if fault.copies or fault.expanded else count, rng)
    signal, variance = _signal(fault, motion, specimen, p, rng)
    deviation = np.sqrt(variance / snr)
    images = signal / np.float32(deviation) + _noise(fault, signal.shape, rng)
    unknown = motion == "none" or fault.expanded  # exact maps of the dimer are not made
    limit = np.nan if unknown else _limit(specimen, motion, p, images * deviation, deviation)
    stored, given = np.arange(len(images)), _given_turns(fault, p, rng)
    if fault.copies or fault.expanded:
        again = given * Rotation.from_euler("z", 180, degrees=True) if fault.expanded else given
        given, stored = Rotation.concatenate([given, again]), np.tile(stored, 2)
    half = rng.permutation(np.arange(len(stored)) % 2 + 1)
    if fault.copies:
        half = np.repeat([1, 2], len(images))
    if fault.expanded:
        half = np.tile(half[: len(images)], 2)
    if fault.copies:  # other images by name
        images, stored = np.concatenate([images, images]), np.arange(2 * len(images))
    _write(directory, images, stored, given, p, fault, half, rng)
    return np.tile(p.coordinate, len(given) // len(p.coordinate)), float(limit)


def _given_turns(fault: Fault, p: Particles, rng: np.random.Generator) -> Rotation:
    """Orientations that the refinement found."""
    turn = Rotation.from_rotvec(np.deg2rad(fault.turn_deg) * rng.normal(size=(len(p.coordinate), 3))) * p.turn
    second = np.deg2rad(fault.frames_deg) * (rng.integers(2, size=len(p.coordinate))[:, None]) * np.array([0, 0.6, 0.8])
    return turn * Rotation.from_rotvec(second)


def _write(directory: Path, images: Images, stored: NDArray[np.int64], given: Rotation, p: Particles, fault: Fault,
           half: NDArray[np.int64], rng: np.random.Generator) -> None:  # fmt: skip
    """Write the stack and the STAR file; rows of ``stored`` name images."""
    (directory / "Particles").mkdir(parents=True, exist_ok=True)
    with mrcfile.new(directory / "Particles" / "particles.mrcs", overwrite=True) as stack:
        stack.set_data(images)
        stack.voxel_size = PIXEL_A
        stack.set_image_stack()
    of = np.tile(np.arange(len(p.coordinate)), len(stored) // len(p.coordinate))
    error = fault.defocus_A * rng.normal(size=len(p.coordinate))
    origin = -(p.shift_A + fault.shift_A * rng.normal(size=p.shift_A.shape))
    numbers = np.column_stack([
        (p.defocus.u_A + error)[of], (p.defocus.v_A + error)[of], p.defocus.angle_deg[of],
        np.full(len(of), p.phase_shift_deg), given.inv().as_euler("ZYZ", degrees=True), origin[of],
        rng.uniform(0, 4000, (len(of), 2)),
    ])  # fmt: skip
    lines = ["", "data_optics", "", "loop_", *(f"_rln{name}" for name in OPTICS_NAMES)]
    groups = 2 if fault.magnification else 1
    lines += [f"opticsGroup{g} {g} 300 2.7 0.1 {PIXEL_A} {BOX} 2" for g in range(1, groups + 1)]
    lines += ["", "data_particles", "", "loop_", *(f"_rln{name}" for name in PARTICLE_NAMES)]
    for row, (values, image) in enumerate(zip(numbers, stored, strict=True)):
        group = 1 + of[row] * groups // len(p.coordinate)
        micrograph = f"mic{of[row] // PER_MICROGRAPH + 1:04d}.mrc"
        written = [*(f"{value:.6f}" for value in values), half[row], group]
        lines.append(" ".join(map(str, [*written, f"{image + 1:06d}@Particles/particles.mrcs", micrograph])))
    (directory / "particles.star").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _limit(specimen: Specimen, motion: str, p: Particles, images: Images, deviation: float) -> float:
    """Share of the variance of the coordinate that exact inference explains, from up to 500 images."""
    rows = np.arange(min(500, len(p.coordinate)))
    if motion == "rare":  # all of the few, and as many others
        rows = np.concatenate([np.flatnonzero(p.coordinate > 0), np.flatnonzero(p.coordinate == 0)[:400]])
    at, misfit = possible_coordinates(motion), []
    for one in at:
        expected = _with_transfer(p.project(specimen.beads(motion, np.full(len(rows), one)), rows), p.transfer(rows))
        misfit.append(((images[rows] - expected) ** 2).sum(axis=(1, 2)) / (2 * deviation**2))
    weight = np.exp(np.min(misfit, axis=0) - np.array(misfit))
    mean = (weight * at[:, None]).sum(axis=0) / weight.sum(axis=0)
    return float(np.corrcoef(mean, p.coordinate[rows])[0, 1] ** 2)
