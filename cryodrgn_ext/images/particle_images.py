"""The images as engines and reconstruction see them: whitened, centred Fourier coefficients with CTF and points.

In every batch, for a map V of positive density in model coordinates,

    coefficients ≈ ctf * V̂(points) + n,        E|n|² = ``window_power`` (<= 1)

where data sign, shift, noise colour and beam tilt have been taken care of. Backprojection, likelihoods and engines
need no other knowledge of files, optics or conventions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Complex64, Float, Float32, Int64, Integer
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import slice_points
from cryodrgn_ext.images.coefficient_source import CoefficientSource, ResidentCoefficients, SubsetCoefficients
from cryodrgn_ext.images.geometry import WorkingGeometry, crop_index, crop_transform
from cryodrgn_ext.images.image_statistics import ImageStatistics, Remark
from cryodrgn_ext.images.noise import NoiseEstimator
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.images.preprocessing import RELION_BACKGROUND_RADIUS

if TYPE_CHECKING:
    from cryodrgn_ext.metadata.particles import ParticleSet

#: Least |CTF| that premultiplied images are divided by.
PREMULTIPLIED_FLOOR = 0.1


@dataclass(frozen=True)
class GroupOptics:
    """Optics that all images of a group share beyond the particles' own CTF parameters.

    Attributes
    ----------
    gamma_offset : Tensor, optional
        (M,) radians added to the CTF's phase (even Zernike terms).
    mag_matrix : Tensor, optional
        (2, 2) anisotropic magnification, applied to frequencies.
    premultiplied : bool
        The images were multiplied by their CTF.
    """

    gamma_offset: Float[Tensor, " M"] | None = None
    mag_matrix: Float[Tensor, "2 2"] | None = None
    premultiplied: bool = False


@dataclass(frozen=True)
class ImageBatch:
    """Some images, ready for a likelihood or a backprojection.

    Attributes
    ----------
    index : Tensor
        (B,) int64 particle rows.
    coefficients : Tensor
        (B, M') complex64, whitened, centred, of positive data sign.
    ctf : Tensor
        (B, M') float32 CTF / sigma, with the sign that makes density positive; 0 where a coefficient is absent.
    points : Tensor
        (B, M', 3) float32 x, y, z in cycles per box of the model.
    """

    index: Int64[Tensor, " B"]
    coefficients: Complex64[Tensor, "B M"]
    ctf: Float32[Tensor, "B M"]
    points: Float32[Tensor, "B M 3"]


@dataclass(frozen=True)
class ParticleImages:
    """All particles of a job. Make it with :func:`cryodrgn_ext.images.dataset.open_images` or :meth:`from_tensors`.

    Attributes
    ----------
    source : CoefficientSource
    geometry : WorkingGeometry
    particles : ParticleSet, optional
        The metadata; None for simulated tensors.
    rotation : Tensor
        (N, 3, 3) float32, model to image coordinates.
    shift_px : Tensor
        (N, 2) float32 displacement (x, y) of the particle from the box centre, in working pixels of its group.
    ctf_parameters : CtfParameters, optional
        Of each particle; None when the images have no CTF.
    optics : tuple of GroupOptics
        Of each optics group.
    half_set : Tensor
        (N,) int8: 1 or 2.
    optics_index : Tensor
        (N,) int64.
    noise_sigma : Tensor
        (G, D // 2 + 1) float32: standard deviation of a coefficient's noise per shell of the image box, E|n|² = sigma²,
        in the units of the working geometry.
    window_power : Tensor
        (G,) float32: mean of the squared window, the noise power of a whitened coefficient.
    data_sign : int
        1 when particles are white in their files, -1 when they are dark there and were inverted.
    statistics : ImageStatistics, optional
        What was found of each image. Those that cannot be used have coefficients and a CTF of 0: they weigh nothing.
    remarks : tuple of Remark
        What a user should know of these images; none of a subset.
    """

    source: CoefficientSource
    geometry: WorkingGeometry
    particles: ParticleSet | None
    rotation: Float32[Tensor, "N 3 3"]
    shift_px: Float32[Tensor, "_ 2"]
    ctf_parameters: CtfParameters | None
    optics: tuple[GroupOptics, ...]
    half_set: Integer[Tensor, " N"]
    optics_index: Int64[Tensor, " N"]
    noise_sigma: Float32[Tensor, "G S"]
    window_power: Float32[Tensor, " G"]
    data_sign: int = 1
    statistics: ImageStatistics | None = None
    remarks: tuple[Remark, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.rotation)
        for name in ("shift_px", "half_set", "optics_index"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, rotation has {n}")
        g = len(self.geometry.groups)
        for name in ("optics", "noise_sigma", "window_power"):
            if len(getattr(self, name)) != g:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {g} optics groups")

    @property
    def n(self) -> int:
        """Number of particles N."""
        return len(self.rotation)

    @property
    def plane(self) -> HalfPlane:
        """The coefficients' frequencies."""
        return self.geometry.plane

    @property
    def box_size(self) -> int:
        """Pixels of the working box."""
        return self.geometry.plane.box_size

    @property
    def pixel_size_A(self) -> float:
        """Pixel size of the working box, in Å."""
        return self.geometry.pixel_size_A

    @classmethod
    def from_tensors(
        cls,
        images: Float[Tensor, "N D D"],
        rotation: Float[Tensor, "N 3 3"],
        shift_px: Float[Tensor, "_ 2"],
        pixel_size_A: float,
        ctf_parameters: CtfParameters | None = None,
        half_set: Integer[Tensor, " N"] | None = None,
        pixel_noise_sd: float | None = None,
        geometry: WorkingGeometry | None = None,
    ) -> ParticleImages:
        """Particles of one optics group from real images in memory (tests, simulations); no window, no normalisation.

        Parameters
        ----------
        images : Tensor
            (N, D, D) real, white on black.
        rotation : Tensor
            (N, 3, 3).
        shift_px : Tensor
            (N, 2) x, y displacement from the box centre in pixels of ``images``.
        pixel_size_A : float
            Pixel size of ``images``.
        ctf_parameters : CtfParameters, optional
            One entry per image; no CTF when omitted.
        half_set : Tensor, optional
            (N,) 1 or 2; even and odd rows when omitted.
        pixel_noise_sd : float, optional
            Standard deviation of white noise per pixel; when omitted the noise power per shell is estimated from the
            surroundings of the particles (which needs noisy images).
        geometry : WorkingGeometry, optional
            Box to crop to, and largest |k| kept; the box of ``images`` and its Nyquist frequency when omitted.
        """
        n, box = len(images), int(images.shape[-1])
        geometry = geometry or WorkingGeometry.make([box], [pixel_size_A], None)
        if pixel_noise_sd is None:
            estimator = NoiseEstimator(box, RELION_BACKGROUND_RADIUS * box, torch.ones(box, box))
            sample = images[:: max(1, n // 1000)].float()
            estimator.add(sample)
            sigma = estimator.shell_power().sqrt()[: geometry.plane.box_size // 2 + 1].float()
        else:
            sigma = torch.full((geometry.plane.box_size // 2 + 1,), float(pixel_noise_sd) * box)
        index, sign = crop_index(geometry.plane, box)
        gain = sign / sigma[geometry.plane.shell]
        values = torch.cat([crop_transform(part.float(), index, gain) for part in images.split(512)])
        working_shift = shift_px.float() * (pixel_size_A / geometry.pixel_size_A)
        return cls(
            source=ResidentCoefficients(torch.view_as_real(values), torch.arange(n)),
            geometry=geometry,
            particles=None,
            rotation=rotation.float(),
            shift_px=working_shift,
            ctf_parameters=ctf_parameters,
            optics=(GroupOptics(),),
            half_set=(torch.arange(n) % 2 + 1 if half_set is None else half_set).to(torch.int8),
            optics_index=torch.zeros(n, dtype=torch.int64),
            noise_sigma=(sigma * geometry.groups[0].value_scale)[None],
            window_power=torch.ones(1),
        )

    def subset(self, indices: Integer[Tensor, " n"]) -> ParticleImages:
        """The particles ``indices`` (int64 rows), in that order, without copying coefficients."""
        parameters = self.ctf_parameters
        return replace(
            self,
            source=SubsetCoefficients(self.source, indices.cpu()),
            particles=None if self.particles is None else self.particles.subset(indices.cpu().numpy()),
            rotation=self.rotation[indices.to(self.rotation.device)],
            shift_px=self.shift_px[indices.to(self.rotation.device)],
            ctf_parameters=parameters if parameters is None else parameters.index(indices.to(parameters.scale.device)),
            half_set=self.half_set[indices.cpu()],
            optics_index=self.optics_index[indices.cpu()],
            statistics=None if self.statistics is None else self.statistics.subset(indices.cpu().numpy()),
            remarks=(),
        )

    @property
    def unusable(self) -> NDArray[np.bool_]:
        """(N,) images that hold nothing: they stay rows, and belong to no state."""
        return np.zeros(self.n, np.bool_) if self.statistics is None else self.statistics.unusable

    @property
    def n_usable(self) -> int:
        """Number of images that hold something."""
        return int(np.count_nonzero(~self.unusable))

    @property
    def poses(self) -> Poses:
        """Rotations and shifts of all particles."""
        return Poses(self.rotation, self.shift_px)

    def with_poses(self, poses: Poses) -> ParticleImages:
        """The same images with other poses (N,), brought to where the present ones are."""
        there = poses.to(self.rotation.device, torch.float32)
        return replace(self, rotation=there.rotation, shift_px=there.shift_px)

    def load(self, device: torch.device | str = "cpu", n_coefficients: int | None = None) -> ParticleImages:
        """Everything resident on ``device``, coefficients as float32 and cut to the first ``n_coefficients``."""
        count = self.source.n_coefficients if n_coefficients is None else n_coefficients
        values = torch.empty(self.n, count, 2, device=device)
        for rows in torch.arange(self.n).split(4096):
            values[rows[0] : rows[-1] + 1] = torch.view_as_real(self.source.gather(rows, count)).to(device)
        return replace(
            self,
            source=ResidentCoefficients(values, torch.arange(self.n, device=device)),
            rotation=self.rotation.to(device),
            shift_px=self.shift_px.to(device),
            ctf_parameters=None if self.ctf_parameters is None else self.ctf_parameters.to(device),
        )

    def batch(
        self,
        indices: Integer[Tensor, " B"],
        n_coefficients: int | None = None,
        device: torch.device | str | None = None,
    ) -> ImageBatch:
        """Coefficients, CTF and slice points of some particles.

        Parameters
        ----------
        indices : Tensor
            (B,) int64 particle rows, any order, repeats allowed.
        n_coefficients : int, optional
            Only the first M' coefficients (a lower band, see :meth:`HalfPlane.prefix`).
        device : torch.device or str, optional
            Where the batch shall be; where the poses are (see :meth:`load`) when omitted.
        """
        device = self.rotation.device if device is None else device
        count = self.source.n_coefficients if n_coefficients is None else n_coefficients
        if not 1 <= count <= self.source.n_coefficients:
            raise ValueError(f"n_coefficients must lie in 1..{self.source.n_coefficients}, got {count}")
        rows = indices.to(self.rotation.device)
        kxy = self.plane.kxy[:count].to(device)
        coefficients = self.source.gather(rows, count).to(device)
        coefficients = coefficients * shift_phases(kxy, -self.shift_px[rows].to(device), self.box_size)
        group_of = self.optics_index[indices.cpu()]
        ctf_of_all = torch.empty(len(rows), count, device=device)
        points = torch.empty(len(rows), count, 3, device=device)
        for g in group_of.unique().tolist():
            members = (group_of == g).nonzero()[:, 0]
            alone = len(members) == len(rows)
            own = rows if alone else rows[members.to(rows.device)]
            ctf_values, factor, group_points = self._group_batch(g, own, kxy)
            if factor is not None:
                coefficients[members.to(device)] *= factor
            if alone:
                ctf_of_all, points = ctf_values, group_points
            else:
                ctf_of_all[members.to(device)], points[members.to(device)] = ctf_values, group_points
        return ImageBatch(indices.to(device), coefficients, ctf_of_all, points)

    def planes(self, rows: Integer[Tensor, " B"]) -> Float32[Tensor, "B 2 3"]:
        """Central sections (B, 2, 3) float32: image frequency (kx, ky) lies at kx planes[:, 0] + ky planes[:, 1].

        The same points as in :class:`ImageBatch`, in cycles per box of the model.
        """
        plane = self.rotation[rows.to(self.rotation.device)][:, :2].contiguous()
        group_of = self.optics_index[rows.cpu()]
        for g in group_of.unique().tolist():
            matrix = self._group_matrix(g)
            if matrix is not None:
                members = (group_of == g).nonzero()[:, 0].to(plane.device)
                plane[members] = matrix.to(plane).mT @ plane[members]
        return plane

    def _group_matrix(self, g: int) -> Tensor | None:
        """(2, 2) applied to the image frequencies of an optics group, None for the identity."""
        scale, magnification = self.geometry.groups[g].frequency_scale, self.optics[g].mag_matrix
        if magnification is not None:
            return magnification * scale
        return None if scale == 1.0 else torch.eye(2) * scale

    def _group_batch(self, g: int, rows: Tensor, kxy: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """CTF / sigma (B, M'), what to multiply the coefficients by (or None), and points (B, M', 3)."""
        device, count = kxy.device, len(kxy)
        group, optics = self.geometry.groups[g], self.optics[g]
        shell = self.plane.shell[:count]
        gain = (1.0 / self.noise_sigma[g][shell]).to(device)
        gain[self.plane.prefix(group.max_radius) :] = 0.0
        matrix = self._group_matrix(g)
        rotation = self.rotation[rows].to(device)
        points = slice_points(kxy, rotation, None if matrix is None else matrix.to(device))
        if self.ctf_parameters is None:
            return gain.expand(len(rows), count).clone(), None, points
        offset = None if optics.gamma_offset is None else optics.gamma_offset[:count].to(device)
        parameters = self.ctf_parameters.index(rows).to(device)
        ctf_values = ctf(parameters, kxy, group.pixel_size_A, self.box_size, offset, optics.mag_matrix)
        if not optics.premultiplied:
            return ctf_values * gain, None, points
        # The files hold CTF (CTF V + n). Dividing by the CTF gives back what other images hold; near its zeros, where
        # nothing was recorded, by a floor, which leaves the model exact and the noise there smaller than assumed.
        inverse = torch.where(ctf_values < 0, -1.0, 1.0) / ctf_values.abs().clamp_min(PREMULTIPLIED_FLOOR)
        return ctf_values.square() * inverse * gain, inverse, points


def group_pixel_A(images: ParticleImages) -> NDArray[np.float64]:
    """(N,) size of a working pixel of each image's optics group."""
    sizes = np.array([group.pixel_size_A for group in images.geometry.groups])
    return np.asarray(sizes[images.optics_index.cpu().numpy()], np.float64)
