"""Microscope of the simulations: optics groups, defocus per particle, and the contrast transfer function.

The CTF is written here once more in plain form, apart from :mod:`cryodrgn_ext.fourier.ctf`, on purpose: images are
then made by one formula and analysed by another, so that a mistake in either shows up in every end-to-end test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SimulatedOptics:
    """One optics group of a simulation.

    Attributes
    ----------
    name : str
    voltage_kV, cs_mm, amplitude_contrast : float
    phase_shift_deg : float
        Of a phase plate, the same for all particles of the group.
    """

    name: str = "opticsGroup1"
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift_deg: float = 0.0


ONE_GROUP = (SimulatedOptics(),)
TWO_GROUPS = (SimulatedOptics(), SimulatedOptics("opticsGroup2", 200.0, 1.4, 0.07, 0.0))


@dataclass(frozen=True)
class Defocus:
    """Defocus of every particle, arrays (N,): ``u_A`` >= ``v_A`` in Å (positive = underfocus), azimuth in degrees."""

    u_A: NDArray[np.float64]
    v_A: NDArray[np.float64]
    angle_deg: NDArray[np.float64]


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic wavelength of electrons in Å."""
    volts = voltage_kV * 1e3
    return 12.2643247 / math.sqrt(volts * (1.0 + volts * 0.978466e-6))


def contrast_transfer(
    defocus: Defocus,
    optics: tuple[SimulatedOptics, ...],
    optics_index: NDArray[np.int32],
    box_size: int,
    pixel_size_A: float,
) -> Tensor:
    """CTF of each particle on the ``rfft2`` grid, with RELION's sign: positive at low frequencies in underfocus.

    ``sin(pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + phase shift + asin(Q))`` (Rohou & Grigorieff 2015, eq. 3-5), so
    that protein is brighter than the background, as RELION's "invert contrast" at extraction leaves it.

    Returns
    -------
    Tensor
        (B, D, D // 2 + 1) float32.
    """
    frequency = np.fft.fftfreq(box_size) / pixel_size_A
    ky, kx = np.meshgrid(frequency, np.abs(frequency[: box_size // 2 + 1]), indexing="ij")
    k2 = torch.from_numpy(kx**2 + ky**2).float()
    cos_2azimuth = torch.from_numpy(np.cos(2 * np.arctan2(ky, kx))).float()
    sin_2azimuth = torch.from_numpy(np.sin(2 * np.arctan2(ky, kx))).float()
    length = np.array([wavelength_A(group.voltage_kV) for group in optics])[optics_index]
    cs_A = np.array([group.cs_mm * 1e7 for group in optics])[optics_index]
    constant = np.array(
        [math.asin(group.amplitude_contrast) + math.radians(group.phase_shift_deg) for group in optics]
    )[optics_index]
    twice_angle = np.deg2rad(2 * defocus.angle_deg)
    half_difference = 0.5 * (defocus.u_A - defocus.v_A)

    def per_image(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).float()[:, None, None]

    quadratic = per_image(math.pi * length * 0.5 * (defocus.u_A + defocus.v_A))
    quadratic = quadratic + per_image(math.pi * length * half_difference * np.cos(twice_angle)) * cos_2azimuth
    quadratic = quadratic + per_image(math.pi * length * half_difference * np.sin(twice_angle)) * sin_2azimuth
    quartic = per_image(-0.5 * math.pi * cs_A * length**3)
    return torch.sin((quadratic + quartic * k2) * k2 + per_image(constant))
