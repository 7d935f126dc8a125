"""Images of several optics groups: other boxes, other pixel sizes, anisotropic magnification, premultiplied CTF."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.geometry import WorkingGeometry
from cryodrgn_ext.images.particle_images import GroupOptics, ParticleImages
from tests.engines.contexts import context
from tests.engines.linear_set import BOX, PIXEL_A, _bead_transform, bead_map, correlation
from tests.engines.subspace.test_engine import explained_by

N = 600


def mixed_set(premultiplied: bool = False) -> tuple[ParticleImages, np.ndarray, np.ndarray, np.ndarray]:
    """Images, the true coordinate, base map and mode map; groups of two extents, the second magnified unevenly."""
    g = torch.Generator().manual_seed(3)
    base, mode = torch.randn(40, 3, generator=g) * 3.0, torch.randn(16, 3, generator=g) * 2.0 + 3.0
    base_weight, mode_weight = torch.ones(40), torch.where(torch.arange(16) < 8, 1.0, -1.0)
    y = torch.randn(N, generator=g)
    magnification = torch.tensor([[1.03, 0.01], [0.01, 0.97]])
    geometry = WorkingGeometry.make([BOX, 40], [PIXEL_A, PIXEL_A], BOX, reference=0)
    full = torch.ones(N)
    defocus = 10_000 + 15_000 * torch.rand(N, generator=g)
    parameters = CtfParameters(
        defocus_u_A=defocus, defocus_v_A=defocus + 200, defocus_angle_rad=full * 0.3, voltage_kV=full * 300,
        cs_mm=full * 2.7, amplitude_contrast=full * 0.1, phase_shift_rad=full * 0, b_factor_A2=full * 0, scale=full,
    )  # fmt: skip
    noise = 0.07 * BOX
    images = ParticleImages(
        source=ResidentCoefficients(torch.zeros(N, geometry.plane.n_coefficients, 2), torch.arange(N)),
        geometry=geometry,
        particles=None,
        rotation=torch.as_tensor(Rotation.random(N, rng=1).as_matrix(), dtype=torch.float32),
        shift_px=4 * torch.rand(N, 2, generator=g) - 2,
        ctf_parameters=parameters,
        optics=(GroupOptics(), GroupOptics(mag_matrix=magnification, premultiplied=premultiplied)),
        half_set=(torch.arange(N) // 2 % 2 + 1).to(torch.int8),
        optics_index=torch.arange(N) % 2,
        noise_sigma=torch.full((2, BOX // 2 + 1), noise),
        window_power=torch.ones(2),
    )
    plain = replace(images, optics=(GroupOptics(), GroupOptics(mag_matrix=magnification)))
    batch = plain.batch(torch.arange(N))
    truth = _bead_transform(batch.points, base, base_weight) + y[:, None] * _bead_transform(
        batch.points, mode, mode_weight
    )
    values = batch.ctf * truth + torch.view_as_complex(torch.randn(*truth.shape, 2, generator=g) * 0.5**0.5)
    if premultiplied:  # the file holds CTF (CTF V + n)
        ctf_values = batch.ctf * images.noise_sigma[0, 0]
        values = torch.where((images.optics_index == 1)[:, None], values * ctf_values, values)
    angle = -2 * math.pi * images.shift_px @ images.plane.kxy.float().T / BOX
    stored = torch.view_as_real((values * torch.polar(torch.ones_like(angle), angle)).contiguous())
    images = replace(images, source=ResidentCoefficients(stored, torch.arange(N)))
    return images, y.numpy(), bead_map(base, base_weight), bead_map(mode, mode_weight)


def test_central_sections_are_the_points_of_the_batch() -> None:
    images = mixed_set()[0]
    rows = torch.tensor([5, 0, 3, 17, 2])
    planes = images.planes(rows)
    k: Tensor = images.plane.kxy.float()
    points = k[:, :1] * planes[:, None, 0] + k[:, 1:] * planes[:, None, 1]
    assert torch.allclose(points, images.batch(rows).points, atol=1e-5)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_groups_of_different_optics_tell_one_truth(premultiplied: bool) -> None:
    images, y, base_map, mode_map = mixed_set(premultiplied)
    result = train(images, base_map, SubspaceSettings(zdim=2), context())
    for group in (0, 1):
        assert explained_by(result.z[group::2], y[group::2]) > 0.95
    high, low = result.volumes(np.stack([result.z[y > 1].mean(0), result.z[y < -1].mean(0)]))
    assert correlation(high - low, mode_map) > 0.85
