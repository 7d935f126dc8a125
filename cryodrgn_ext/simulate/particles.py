"""Simulated particles: poses, CTF, noise and exact images of a specimen with known heterogeneity.

All parameters are drawn at once (a few hundred bytes per particle); images are made in chunks, so that memory does
not grow with the number of particles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.simulate.motions import MOTIONS, Motion
from cryodrgn_ext.simulate.optics import ONE_GROUP, Defocus, SimulatedOptics, contrast_transfer
from cryodrgn_ext.simulate.projection import bead_volume, project_beads

CHUNK = 128
SIGNAL_SAMPLE = 2048
DEFOCUS_RANGE_A = (10_000.0, 25_000.0)  # the mean of U and V is uniform in it
MAX_ASTIGMATISM_A = 400.0  # U - V is uniform between 0 and this
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedParticles:
    """``N`` simulated particles; images come from :meth:`images` and :meth:`iter_images`.

    Conventions are the project's: ``R p`` is where the model point ``p`` appears in the image before the shift,
    ``shift_px`` is the displacement of the particle from pixel D // 2 (x, y), protein is white on black.

    Attributes
    ----------
    motion : Motion
        The specimen.
    coordinates : ndarray
        (N, L) true coordinates, see ``motion.coordinate_names``.
    state : ndarray
        (N,) int32 number of the nearest state of the specimen.
    euler_deg : ndarray
        (N, 3) RELION's rot, tilt, psi.
    shift_px : ndarray
        (N, 2) x, y.
    defocus : Defocus
    optics : tuple of SimulatedOptics
    optics_index : ndarray
        (N,) int32 into ``optics``.
    half_set : ndarray
        (N,) int8, 1 or 2.
    box_size : int
    pixel_size_A : float
    snr : float or None
        Variance of the signal over variance of the noise, over the whole image; None for no noise.
    seed : int
    """

    motion: Motion
    coordinates: FloatArray
    state: NDArray[np.int32]
    euler_deg: FloatArray
    shift_px: FloatArray
    defocus: Defocus
    optics: tuple[SimulatedOptics, ...]
    optics_index: NDArray[np.int32]
    half_set: NDArray[np.int8]
    box_size: int
    pixel_size_A: float
    snr: float | None
    seed: int

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.state)

    def with_coordinates(self, coordinates: FloatArray) -> SimulatedParticles:
        """Return the same particles with other true coordinates (N, L) of the specimen.

        Raises
        ------
        InputError
            When the shape does not fit.
        """
        if coordinates.shape != self.coordinates.shape:
            raise InputError(
                f"coordinates of shape {self.coordinates.shape} expected for this motion, got {coordinates.shape}"
            )
        return replace(self, coordinates=coordinates, state=self.motion.state_of(coordinates))

    @cached_property
    def rotation(self) -> FloatArray:
        """(N, 3, 3) float64, maps model coordinates to image coordinates."""
        matrices: FloatArray = Rotation.from_euler("ZYZ", self.euler_deg, degrees=True).as_matrix()
        return np.ascontiguousarray(matrices.transpose(0, 2, 1))

    @cached_property
    def noise_sigma(self) -> float:
        """Standard deviation of the white noise; from the mean signal variance of up to 2,048 images."""
        if self.snr is None:
            return 0.0
        sample = np.unique(np.linspace(0, self.n - 1, min(self.n, SIGNAL_SAMPLE)).astype(np.int64))
        total = 0.0
        for start in range(0, len(sample), CHUNK):
            total += float(self.clean_images(sample[start : start + CHUNK]).double().var(dim=(1, 2)).sum())
        # Five digits: the same number whatever the order in which threads added up the sum.
        return float(f"{np.sqrt(total / len(sample) / self.snr):.5g}")

    def clean_spectra(self, indices: NDArray[np.int64]) -> Tensor:
        """CTF-multiplied noiseless Fourier transforms, (B, D, D // 2 + 1) complex64, phase origin at pixel (0, 0)."""
        beads = self.motion.beads(self.coordinates[indices])
        in_image = np.matmul(beads.position_A, self.rotation[indices][:, :2].transpose(0, 2, 1)) / self.pixel_size_A
        in_image += self.shift_px[indices][:, None]
        spectra = project_beads(
            torch.from_numpy(in_image).float(),
            torch.from_numpy(beads.weight).float(),
            self.motion.sigma_A / self.pixel_size_A,
            self.box_size,
        )
        chosen = Defocus(self.defocus.u_A[indices], self.defocus.v_A[indices], self.defocus.angle_deg[indices])
        return spectra * contrast_transfer(
            chosen, self.optics, self.optics_index[indices], self.box_size, self.pixel_size_A
        )

    def clean_images(self, indices: NDArray[np.int64]) -> Tensor:
        """(B, D, D) float32 images without noise."""
        spectra = self.clean_spectra(np.asarray(indices, dtype=np.int64))
        images: Tensor = torch.fft.irfft2(spectra, s=(self.box_size, self.box_size))
        return images

    def iter_images(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Images ``start``..``stop`` in order with noise, in pieces (b, D, D) float32 of at most 128.

        The noise of an image depends on the seed and its number only.
        """
        stop = self.n if stop is None else stop
        for first in range(start - start % CHUNK, stop, CHUNK):
            numbers = np.arange(first, min(first + CHUNK, self.n))
            images: NDArray[np.float32] = self.clean_images(numbers).numpy()
            if self.snr is not None:
                rng = np.random.default_rng([self.seed, 3, first // CHUNK])
                noise = rng.standard_normal(images.shape, dtype=np.float32)
                images = images + np.float32(self.noise_sigma) * noise
            yield images[max(0, start - first) : stop - first]

    def images(self) -> NDArray[np.float32]:
        """All images at once, (N, D, D) float32; for sets that fit into memory."""
        out = np.empty((self.n, self.box_size, self.box_size), np.float32)
        row = 0
        for piece in self.iter_images():
            out[row : row + len(piece)] = piece
            row += len(piece)
        return out

    def volumes(self, coordinates: FloatArray | None = None) -> NDArray[np.float32]:
        """True densities (P, D, D, D), axes z, y, x, at ``coordinates`` (P, L); at the numbered states when omitted."""
        return np.stack(list(self.iter_volumes(coordinates)))

    def iter_volumes(self, coordinates: FloatArray | None = None) -> Iterator[NDArray[np.float32]]:
        """As :meth:`volumes`, one after the other."""
        beads = self.motion.beads(self.motion.state_coordinates if coordinates is None else coordinates)
        for position, weight in zip(beads.position_A, beads.weight, strict=True):
            yield bead_volume(
                torch.from_numpy(position / self.pixel_size_A),
                torch.from_numpy(weight),
                self.motion.sigma_A / self.pixel_size_A,
                self.box_size,
            ).numpy()

    def mean_volume(self) -> NDArray[np.float32]:
        """True average density (D, D, D): the numbered states weighted by their occupancies."""
        occupancy = np.bincount(self.state, minlength=len(self.motion.state_coordinates)) / self.n
        mean = np.zeros((self.box_size,) * 3)
        for share, volume in zip(occupancy.tolist(), self.iter_volumes(), strict=True):
            mean += share * volume
        return mean.astype(np.float32)


def simulate_particles(
    n: int,
    *,
    motion: Motion | str = "hinge",
    box_size: int = 64,
    pixel_size_A: float = 4.0,
    snr: float | None = 0.1,
    max_shift_px: float = 3.0,
    optics: tuple[SimulatedOptics, ...] = ONE_GROUP,
    seed: int = 0,
) -> SimulatedParticles:
    """Draw the parameters of ``n`` particles in random orientations.

    Parameters
    ----------
    n : int
        Number of particles.
    motion : Motion or str
        Specimen, or its name in ``MOTIONS``.
    box_size : int
        Even number of pixels.
    pixel_size_A : float
    snr : float or None
        Variance of signal over variance of white noise in the whole image; None for noiseless images.
    max_shift_px : float
        Particles are off centre by up to this in x and in y.
    optics : tuple of SimulatedOptics
        Particles are dealt to the groups at random.
    seed : int
        Everything follows from it, bit for bit.

    Raises
    ------
    InputError
        When the request makes no sense (box odd or too small for the specimen, ...).
    """
    if n < 1:
        raise InputError(f"the number of particles to simulate must be at least 1, got {n}")
    if box_size < 8 or box_size % 2:
        raise InputError(f"the box size must be an even number of at least 8 pixels, got {box_size}")
    if snr is not None and not snr > 0:
        raise InputError(f"the signal-to-noise ratio must be positive, got {snr}")
    if isinstance(motion, str):
        if motion not in MOTIONS:
            raise InputError(f"unknown motion '{motion}'; choose one of {', '.join(MOTIONS)}")
        motion = MOTIONS[motion](seed)
    needed_px = 2 * ((motion.radius_A + 2 * motion.sigma_A) / pixel_size_A + max_shift_px)
    if needed_px > box_size:
        raise InputError(
            f"the specimen (radius {motion.radius_A:.0f} Å) needs a box of at least {int(np.ceil(needed_px))} pixels "
            f"at {pixel_size_A:g} Å per pixel, got {box_size}; enlarge the box or the pixel"
        )
    rng = np.random.default_rng([seed, 1])
    # Rounded to what a STAR file carries, so that the file and the images agree exactly.
    euler_deg = np.stack(
        [rng.uniform(-180, 180, n), np.rad2deg(np.arccos(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=1
    ).round(6)
    shift_px = (rng.uniform(-max_shift_px, max_shift_px, (n, 2)) * pixel_size_A).round(6) / pixel_size_A
    mean_defocus = rng.uniform(*DEFOCUS_RANGE_A, n)
    astigmatism = rng.uniform(0, MAX_ASTIGMATISM_A, n)
    defocus = Defocus(
        (mean_defocus + 0.5 * astigmatism).round(6),
        (mean_defocus - 0.5 * astigmatism).round(6),
        rng.uniform(-90, 90, n).round(6),
    )
    optics_index = rng.integers(0, len(optics), n).astype(np.int32)
    half_set = rng.permutation(np.arange(n) % 2 + 1).astype(np.int8)
    coordinates = motion.sample(n, np.random.default_rng([seed, 2]))
    return SimulatedParticles(
        motion=motion,
        coordinates=coordinates,
        state=motion.state_of(coordinates),
        euler_deg=euler_deg,
        shift_px=shift_px,
        defocus=defocus,
        optics=optics,
        optics_index=optics_index,
        half_set=half_set,
        box_size=box_size,
        pixel_size_A=pixel_size_A,
        snr=snr,
        seed=seed,
    )
