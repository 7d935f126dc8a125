"""Images of bead specimens, made in real space, as a RELION project: projection, CTF, noise, STAR file, stack, truth.

Conventions are RELION's, written here once more on purpose: a point p of the model appears at (A p)[:2] of the image,
A = Euler_angles2matrix(rot, tilt, psi); origins are minus the displacement of the particle; the CTF is positive at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .specimens import FloatArray, Specimen

BATCH = 256
FINEST_SIGMA_PX = 0.7  # below, sampled Gaussians are no longer those of the continuous density


@dataclass(frozen=True)
class Optics:
    """CTF parameters of n particles, RELION's; voltage and the like of all."""

    defocus_u_A: FloatArray
    defocus_v_A: FloatArray
    angle_deg: FloatArray
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1

    def transfer(self, rows: NDArray[np.int64], box: int, pixel_A: float) -> NDArray[np.float32]:
        """(n, D, D // 2 + 1) contrast transfer functions of some particles."""
        volt = 1e3 * self.voltage_kV
        wavelength_A = 12.2643247 / np.sqrt(volt * (1 + 0.978466e-6 * volt))
        kx, ky = np.fft.rfftfreq(box, pixel_A)[None], np.fft.fftfreq(box, pixel_A)[:, None]
        s2, azimuth = kx**2 + ky**2, np.arctan2(ky, kx)
        u, v, angle = (a[rows, None, None] for a in (self.defocus_u_A, self.defocus_v_A, np.deg2rad(self.angle_deg)))
        defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (azimuth - angle)))
        phase = np.pi * wavelength_A * s2 * (defocus - 0.5e7 * self.cs_mm * wavelength_A**2 * s2)
        return np.sin(phase + np.arcsin(self.amplitude_contrast)).astype(np.float32)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ParticleTruth:
    """Truth of n particles.

    Attributes
    ----------
    state : ndarray
        (n,) int of the specimen's states.
    rotation : ndarray
        (n, 3, 3) A of each.
    shift_A : ndarray
        (n, 2).
    scale : ndarray
        (n,) particle scale.
    optics : Optics
    noise_power : ndarray
        (D // 2 + 1,) power of the noise per shell of the image, in units of its mean over pixels.
    snr : float
        Variance of the signal over that of the noise, over the whole image, on average.
    """

    state: NDArray[np.int64]
    rotation: FloatArray
    shift_A: FloatArray
    scale: FloatArray
    optics: Optics
    noise_power: FloatArray
    snr: float


def profiles(place_px: FloatArray, sigma_px: float, box: int) -> NDArray[np.float32]:
    """(..., n, D) samples of Gaussians at places (..., n) from the centre of the box, of height 1, along one axis.

    Those that are finer than the pixels are limited to the frequencies that these hold, as in images that were
    cropped in Fourier space.
    """
    axis = (np.arange(box) - box // 2).astype(np.float32)
    if sigma_px >= FINEST_SIGMA_PX:
        width = np.float32(np.sqrt(0.5) / sigma_px)
        return np.asarray(np.exp(-np.square((axis - place_px[..., None]) * width)), np.float32)
    k = (np.arange(box // 2 + 1) / box).astype(np.float32)
    power = np.sqrt(2 * np.pi) * sigma_px * np.exp(-2 * np.square(np.pi * k * sigma_px)) / box
    power[1:] *= 2
    power[-1] *= 0.5
    phase, wave = 2 * np.pi * k * place_px[..., None].astype(np.float32), 2 * np.pi * np.outer(k, axis)
    even = np.matmul((np.cos(phase) * power).astype(np.float32), np.cos(wave).astype(np.float32))
    odd = np.matmul((np.sin(phase) * power).astype(np.float32), np.sin(wave).astype(np.float32))
    return np.asarray(even + odd)


def project(
    specimen: Specimen, state: NDArray[np.int64], rotation: FloatArray, shift_A: FloatArray, box: int, pixel_A: float
) -> NDArray[np.float32]:
    """Exact projections (n, D, D): sums of Gaussians at the beads of each particle's state."""
    place = np.matmul(specimen.position_A[state], rotation[:, :2].transpose(0, 2, 1).astype(np.float32))
    place = (place + shift_A[:, None].astype(np.float32)) / np.float32(pixel_A)
    across, down = (profiles(place[..., i], specimen.sigma_A / pixel_A, box) for i in (0, 1))
    down = down.transpose(0, 2, 1) * specimen.weight[state][:, None]
    return np.matmul(down, across)  # type: ignore[no-any-return]


def shells(box: int) -> NDArray[np.int64]:
    """(D, D // 2 + 1) nearest shell of each coefficient of rfft2, at most D // 2."""
    ky, kx = np.fft.fftfreq(box, 1 / box)[:, None], np.fft.rfftfreq(box, 1 / box)[None]
    return np.minimum(np.rint(np.hypot(kx, ky)), box // 2).astype(np.int64)  # type: ignore[no-any-return]


def clean_spectra(specimen: Specimen, truth: ParticleTruth, rows: NDArray[np.int64], box: int, pixel_A: float,
                  state: NDArray[np.int64] | None = None) -> NDArray[np.complex64]:  # fmt: skip
    """Fourier transforms (n, D, D // 2 + 1) of particles ``rows`` without noise and scale, CTF applied."""
    chosen = truth.state[rows] if state is None else state
    images = project(specimen, chosen, truth.rotation[rows], truth.shift_A[rows], box, pixel_A)
    return (np.fft.rfft2(images) * truth.optics.transfer(rows, box, pixel_A)).astype(np.complex64)


def noise_deviation(specimen: Specimen, truth: ParticleTruth, box: int, pixel_A: float) -> float:
    """Standard deviation of a pixel's noise that gives the signal-to-noise ratio, from up to 512 images."""
    rows = np.unique(np.linspace(0, len(truth.state) - 1, min(512, len(truth.state))).astype(np.int64))
    variance = [
        float(np.fft.irfft2(clean_spectra(specimen, truth, part, box, pixel_A)).var(axis=(1, 2)).sum())
        for part in np.split(rows, range(BATCH, len(rows), BATCH))
    ]
    return float(np.sqrt(sum(variance) / len(rows) / truth.snr))


def write_stack(path: Path, specimen: Specimen, truth: ParticleTruth, box: int, pixel_A: float, seed: int,
                recorded_box: int = 0) -> float:  # fmt: skip
    """Write the images, each divided by its noise's deviation as RELION's normalisation does; return that deviation.

    With ``recorded_box`` they are what cropping in Fourier space makes of images of that box, which have the
    signal-to-noise ratio: a coefficient's noise stays, and there are fewer of them.
    """
    recorded, n = recorded_box or box, len(truth.state)
    deviation = noise_deviation(specimen, truth, recorded, pixel_A * box / recorded) * box / recorded
    filter_ = np.sqrt(truth.noise_power)[shells(box)].astype(np.float32)
    rng = np.random.default_rng([seed, 3])
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new_mmap(path, (n, box, box), mrc_mode=2, overwrite=True) as stack:
        for start in range(0, n, BATCH):
            rows = np.arange(start, min(start + BATCH, n))
            signal = clean_spectra(specimen, truth, rows, box, pixel_A)
            noise = np.fft.rfft2(rng.standard_normal((len(rows), box, box), dtype=np.float32)) * filter_
            scale = (truth.scale[rows] / deviation).astype(np.float32)[:, None, None]
            stack.data[rows] = np.fft.irfft2(signal * scale + noise).astype(np.float32)
        stack.voxel_size = pixel_A
        stack.set_image_stack()
        stack.update_header_stats()
    return deviation


def euler_angles_deg(rotation: FloatArray) -> FloatArray:
    """(n, 3) rot, tilt, psi of matrices A (n, 3, 3)."""
    return np.asarray(Rotation.from_matrix(rotation.transpose(0, 2, 1)).as_euler("ZYZ", degrees=True))


def write_star(path: Path, euler: FloatArray, shift_A: FloatArray, optics: Optics, half_set: NDArray[np.int64],
               box: int, pixel_A: float) -> None:  # fmt: skip
    """RELION 3.1 particles of ``Particles/particles.mrcs`` beside it."""
    optics_table = {
        "OpticsGroupName": "opticsGroup1", "OpticsGroup": 1, "Voltage": optics.voltage_kV,
        "SphericalAberration": optics.cs_mm, "AmplitudeContrast": optics.amplitude_contrast,
        "ImagePixelSize": pixel_A, "ImageSize": box, "ImageDimensionality": 2,
    }  # fmt: skip
    columns = ["ImageName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "AngleRot",
               "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "RandomSubset"]  # fmt: skip
    lines = ["", "data_optics", "", "loop_", *(f"_rln{name}" for name in optics_table)]
    lines += [" ".join(map(str, optics_table.values())), "", "data_particles", "", "loop_"]
    lines += [f"_rln{name}" for name in columns]
    numbers = np.column_stack([optics.defocus_u_A, optics.defocus_v_A, optics.angle_deg, 0 * optics.angle_deg,
                               euler, -shift_A])  # fmt: skip
    for i, (row, half) in enumerate(zip(numbers, half_set, strict=True), 1):
        lines.append(f"{i:06d}@Particles/particles.mrcs 1 {' '.join(f'{v:.6f}' for v in row)} {half}")
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
