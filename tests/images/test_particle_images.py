"""ParticleImages: the forward model that a batch promises, prefixes, groups, residence."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.geometry import WorkingGeometry
from cryodrgn_ext.images.particle_images import GroupOptics, ParticleImages

BOX, PIXEL_A = 32, 4.0


def random_ctf(n: int, seed: int = 0) -> CtfParameters:
    g = torch.Generator().manual_seed(seed)
    u = 10000 + 8000 * torch.rand(n, generator=g, dtype=torch.float64)

    def full(value: float) -> Tensor:
        return torch.full((n,), value, dtype=torch.float64)

    return CtfParameters(
        u, u - 300, 3 * torch.rand(n, generator=g, dtype=torch.float64), full(300), full(2.7), full(0.1), full(0),
        full(0), full(1),
    )  # fmt: skip


def bead_transform(beads: Tensor, sigma: float, points: Tensor, box: int) -> Tensor:
    """Exact Fourier transform of Gaussian beads (n, 3) in voxels at points (..., 3) in cycles per box, float64."""
    phase = torch.einsum("...c,nc->...n", points.double(), beads.double()) * (-2 * math.pi / box)
    envelope = torch.exp(-2 * math.pi**2 * sigma**2 * points.double().square().sum(-1) / box**2)
    return torch.polar(torch.ones_like(phase), phase).sum(-1) * envelope


def simulate(n: int, box: int = BOX) -> tuple[Tensor, Tensor, Tensor, CtfParameters, Tensor]:
    """Noiseless images by the definition of image formation, in float64: (images, rotation, shift, ctf, beads)."""
    g = torch.Generator().manual_seed(1)
    beads = (torch.rand(20, 3, generator=g, dtype=torch.float64) - 0.5) * box / 2.5
    rotation = torch.from_numpy(Rotation.random(n, random_state=3).as_matrix())
    shift = 3 * torch.rand(n, 2, generator=g, dtype=torch.float64) - 1.5
    parameters = random_ctf(n)
    plane = HalfPlane(box, box // 2)
    k = plane.kxy.double()
    in_model = torch.einsum("bij,mi->bmj", rotation[:, :2], k)  # R^T (kx, ky, 0)
    ramp = torch.exp(-2j * math.pi * (shift @ k.T) / box)
    ctf_values = ctf(parameters, plane.kxy, PIXEL_A, box, dtype=torch.float64)
    return (
        plane.to_images(bead_transform(beads, 1.5, in_model, box) * ramp * ctf_values),
        rotation, shift, parameters, beads,
    )  # fmt: skip


@pytest.mark.parametrize("working_box", [None, 20])
def test_batch_obeys_the_forward_model_with_the_densities_of_the_full_size_map(working_box: int | None) -> None:
    images, rotation, shift, parameters, beads = simulate(12)
    geometry = WorkingGeometry.make([BOX], [PIXEL_A], working_box)
    particles = ParticleImages.from_tensors(
        images, rotation, shift, PIXEL_A, parameters, pixel_noise_sd=0.7, geometry=geometry
    )
    batch = particles.batch(torch.arange(12))
    # The transform of the same densities sampled in the working box: fewer voxels, so a smaller sum.
    density = (particles.box_size / BOX) ** 3 * bead_transform(beads, 1.5, batch.points, BOX)
    expected = batch.ctf * density
    assert torch.allclose(batch.coefficients, expected.to(torch.complex64), atol=2e-4 * float(expected.abs().max()))
    assert particles.pixel_size_A * particles.box_size == pytest.approx(BOX * PIXEL_A)


def test_lower_band_is_a_prefix_and_rows_may_repeat() -> None:
    images, rotation, shift, parameters, _ = simulate(6)
    particles = ParticleImages.from_tensors(images, rotation, shift, PIXEL_A, parameters, pixel_noise_sd=1.0)
    rows = torch.tensor([4, 0, 4])
    count = particles.plane.prefix(7)
    full, low = particles.batch(rows), particles.batch(rows, n_coefficients=count)
    assert low.coefficients.shape == (3, count)
    torch.testing.assert_close(low.coefficients, full.coefficients[:, :count], rtol=1e-6, atol=1e-6)  # vector tails
    assert torch.equal(low.ctf, full.ctf[:, :count])
    assert torch.equal(low.points, full.points[:, :count])
    torch.testing.assert_close(full.coefficients[0], full.coefficients[2], rtol=1e-6, atol=1e-6)


def test_subset_and_load_give_the_same_numbers() -> None:
    images, rotation, shift, parameters, _ = simulate(8)
    particles = ParticleImages.from_tensors(images, rotation, shift, PIXEL_A, parameters, pixel_noise_sd=1.0)
    chosen = torch.tensor([6, 1, 3])
    expected = particles.batch(chosen)
    for view in (particles.subset(chosen), particles.subset(chosen).load()):
        batch = view.batch(torch.arange(3))
        assert torch.equal(batch.coefficients, expected.coefficients)
        assert torch.equal(batch.ctf, expected.ctf)
        assert torch.equal(batch.points, expected.points)


def test_white_noise_is_whitened_to_unit_power_without_being_told_its_level() -> None:
    noise = 3.0 * torch.randn(1500, BOX, BOX, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(3).expand(1500, 3, 3)
    particles = ParticleImages.from_tensors(noise, eye, torch.zeros(1500, 2), PIXEL_A)
    power = particles.batch(torch.arange(1500)).coefficients.abs().square().mean(0)
    per_shell = torch.stack([power[particles.plane.shell == s].mean() for s in range(1, BOX // 2)])
    assert (per_shell - 1).abs().max() < 0.05
    assert particles.noise_sigma[0, 1:].mean() == pytest.approx(3.0 * BOX, rel=0.01)


def mixed_groups() -> ParticleImages:
    """Two optics groups, the second with a box half as long in Å again, rows interleaved."""
    n = 6
    geometry = WorkingGeometry.make([32, 48], [2.0, 2.0], 16, reference=0)
    g = torch.Generator().manual_seed(5)
    values = torch.randn(n, geometry.plane.n_coefficients, 2, generator=g)
    return ParticleImages(
        source=ResidentCoefficients(values, torch.arange(n)),
        geometry=geometry,
        particles=None,
        rotation=torch.eye(3).expand(n, 3, 3),
        shift_px=torch.zeros(n, 2),
        ctf_parameters=random_ctf(n),
        optics=(GroupOptics(), GroupOptics()),
        half_set=torch.ones(n, dtype=torch.int8),
        optics_index=torch.tensor([0, 1, 0, 1, 1, 0]),
        noise_sigma=torch.stack([torch.full((9,), 2.0), torch.full((9,), 4.0)]),
        window_power=torch.ones(2),
    )


def test_groups_of_different_extent_meet_in_model_coordinates() -> None:
    particles = mixed_groups()
    batch = particles.batch(torch.arange(6))
    k = particles.plane.kxy.float()
    assert torch.allclose(batch.points[0, :, :2], k)
    assert torch.allclose(batch.points[1, :, :2], k * (64 / 96), atol=1e-6)  # a longer box: a finer frequency
    # physical frequency, hence CTF, is that of the image box
    expected = ctf(random_ctf(6).index(torch.tensor([1])), k, 96 / 16, 16)[0] / 4.0
    assert torch.allclose(batch.ctf[1], expected, atol=1e-5)


def test_premultiplied_images_fit_the_model_exactly() -> None:
    images, rotation, shift, parameters, beads = simulate(5)
    plain = ParticleImages.from_tensors(images, rotation, shift, PIXEL_A, parameters, pixel_noise_sd=1.0)
    ctf_values = ctf(parameters, plain.plane.kxy, PIXEL_A, BOX)
    values = torch.view_as_complex(plain.source.values) * ctf_values  # type: ignore[attr-defined]
    multiplied = ParticleImages(
        **{
            **plain.__dict__,
            "source": ResidentCoefficients(torch.view_as_real(values), torch.arange(5)),
            "optics": (GroupOptics(premultiplied=True),),
        }
    )
    batch = multiplied.batch(torch.arange(5))
    expected = batch.ctf * bead_transform(beads, 1.5, batch.points, BOX)
    assert torch.allclose(batch.coefficients, expected.to(torch.complex64), atol=2e-4 * float(expected.abs().max()))
    strong = ctf_values.abs() > 0.1  # there the division gives back what images that were not multiplied hold
    assert torch.allclose(batch.ctf[strong], plain.batch(torch.arange(5)).ctf[strong], rtol=1e-4)
    assert torch.allclose(batch.coefficients[strong], plain.batch(torch.arange(5)).coefficients[strong], rtol=1e-3)


def test_a_mismatch_of_lengths_is_refused() -> None:
    images, rotation, shift, parameters, _ = simulate(4)
    with pytest.raises(ValueError, match="shift_px has 3 rows"):
        ParticleImages.from_tensors(images, rotation, shift[:3], PIXEL_A, parameters, pixel_noise_sd=1.0)
