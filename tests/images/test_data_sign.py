"""The sign of the contrast is found in noise, at all defoci, and not claimed without evidence."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.data_sign import measure_data_sign
from cryodrgn_ext.images.particle_images import ParticleImages

BOX, PIXEL_A, N = 48, 4.0, 400


def noisy_images(contrast: float, defocus_A: float, noise: float, phase_shift_rad: float = 0.0) -> ParticleImages:
    """An elongated off-centre density, images of given contrast sign with a signal variance of about 1."""
    axis = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = ((x / 10) ** 2 + (y / 6) ** 2 + ((z - 2) / 13) ** 2 < 1).float()
    g = torch.Generator().manual_seed(0)

    def full(value: float) -> torch.Tensor:
        return torch.full((N,), value, dtype=torch.float64)

    parameters = CtfParameters(
        full(defocus_A), full(defocus_A), full(0), full(300), full(2.7), full(0.1), full(phase_shift_rad), full(0),
        full(1),
    )  # fmt: skip
    plane = HalfPlane(BOX, BOX // 2 - 1)
    rotation = torch.from_numpy(Rotation.random(N, random_state=0).as_matrix()).float()
    clean = FourierVolume.from_map(density).slice(slice_points(plane.kxy, rotation))
    images = plane.to_images(clean * ctf(parameters, plane.kxy, PIXEL_A, BOX))
    images = contrast * images / images.std() + noise * torch.randn(N, BOX, BOX, generator=g)
    return ParticleImages.from_tensors(images, rotation, torch.zeros(N, 2), PIXEL_A, parameters, pixel_noise_sd=noise)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("defocus_A", "phase_shift_rad"), [(5000.0, 0.0), (15000.0, 0.0), (35000.0, 0.0), (3000.0, 1.5)]
)
def test_sign_is_found_at_every_defocus(sign: int, defocus_A: float, phase_shift_rad: float) -> None:
    evidence = measure_data_sign(noisy_images(float(sign), defocus_A, 4.0, phase_shift_rad))
    assert evidence.sign == sign
    assert evidence.n_images == N


def test_noise_alone_says_nothing() -> None:
    assert measure_data_sign(noisy_images(0.0, 15000.0, 1.0)).sign == 0


def test_one_image_is_no_evidence() -> None:
    assert measure_data_sign(noisy_images(1.0, 15000.0, 1.0).subset(torch.tensor([0]))).sign == 0
