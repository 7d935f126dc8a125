from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.half_plane import HalfPlane


@pytest.mark.parametrize(("box", "radius"), [(8, 3), (8, 4), (16, 5), (64, 31), (20, 10)])
def test_every_coefficient_of_the_disc_is_listed_once_or_its_partner(box: int, radius: int) -> None:
    plane = HalfPlane(box, radius)
    listed = {(int(kx), int(ky)) for kx, ky in plane.kxy}
    disc = {
        (kx, ky)
        for kx in range(-radius, radius + 1)
        for ky in range(-radius, radius + 1)
        if kx * kx + ky * ky <= radius * radius and 2 * max(abs(kx), abs(ky)) < box  # no Nyquist line
    }
    partners = {(-kx, -ky) for kx, ky in listed}
    assert len(listed) == plane.n_coefficients
    assert listed | partners == disc
    assert listed & partners == {(0, 0)}
    assert plane.multiplicity.sum() == len(disc)


def test_a_lower_band_is_a_prefix() -> None:
    plane = HalfPlane(32, 15)
    assert (plane.norm.diff() >= 0).all()
    for radius in (1, 4, 9.5, 15):
        count = plane.prefix(radius)
        assert (plane.norm[:count] <= radius).all()
        assert (plane.norm[count:] > radius).all()
    lower = HalfPlane(32, 9)
    assert torch.equal(lower.kxy, plane.kxy[: plane.prefix(9)])


def test_coefficients_are_the_dft_about_the_centre_pixel() -> None:
    d = 12
    plane = HalfPlane(d, 5)
    image = np.random.default_rng(0).normal(size=(d, d))
    x = np.arange(d) - d // 2
    expected = [
        sum(image[iy, ix] * np.exp(-2j * np.pi * (kx * x[ix] + ky * x[iy]) / d) for iy in range(d) for ix in range(d))
        for kx, ky in plane.kxy.tolist()
    ]
    found = plane.from_images(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_images_of_coefficients_are_the_band_limited_images() -> None:
    d = 32
    plane = HalfPlane(d, 10)
    images = torch.randn(3, d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = plane.from_images(images)
    once = plane.to_images(coefficients)
    spectrum = torch.fft.fft2(images)
    k = torch.fft.fftfreq(d, 1 / d)
    spectrum[:, k[:, None] ** 2 + k[None, :] ** 2 > 100] = 0
    torch.testing.assert_close(once, torch.fft.ifft2(spectrum).real)
    torch.testing.assert_close(plane.from_images(once), coefficients)


def test_parseval_with_the_multiplicity() -> None:
    d = 16
    plane = HalfPlane(d, 7)
    images = plane.to_images(plane.from_images(torch.randn(1, d, d, dtype=torch.float64)))
    power = (plane.from_images(images).abs() ** 2 * plane.multiplicity).sum()
    torch.testing.assert_close(power / d**2, (images**2).sum())


@pytest.mark.parametrize(("box", "radius"), [(7, 2), (8, 5), (8, 0), (2, 1)])
def test_impossible_geometry_is_refused(box: int, radius: int) -> None:
    with pytest.raises(ValueError, match="must"):
        HalfPlane(box, radius)


def test_images_of_another_box_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 8 px expected"):
        HalfPlane(8, 3).from_images(torch.zeros(1, 10, 10))
