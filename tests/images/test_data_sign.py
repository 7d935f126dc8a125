"""The sign of the contrast is found in noise, at all defoci, and not claimed without evidence."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.data_sign import PURE, MapSign, map_sign, measure_data_sign, sign_of_found_map
from cryodrgn_ext.images.measurement import decide_data_sign
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.progress import Monitor

BOX, PIXEL_A, N = 48, 4.0, 400


def noisy_images(
    contrast: float, defocus_A: float, noise: float, phase_shift_rad: float = 0.0, density: torch.Tensor | None = None
) -> ParticleImages:
    """An elongated off-centre density, images of given contrast sign with a signal variance of about 1."""
    axis = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    if density is None:
        density = ((x / 10) ** 2 + (y / 6) ** 2 + ((z - 2) / 13) ** 2 < 1).float()
    g = torch.Generator().manual_seed(0)

    def full(value: float) -> torch.Tensor:
        return torch.full((N,), value, dtype=torch.float64)

    parameters = CtfParameters(
        full(defocus_A), full(defocus_A), full(0), full(300), full(2.7), full(0.1), full(phase_shift_rad), full(0),
        full(1),
    )  # fmt: skip
    plane = HalfPlane(BOX, BOX // 2)
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


# Where orientations are known, a map decides


def blobs(signs: list[int], seed: int) -> torch.Tensor:
    """Gaussian blobs of these signs."""
    axis = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = torch.zeros(BOX, BOX, BOX)
    for sign, (a, b, c) in zip(signs, np.random.default_rng(seed).normal(0, 7, (len(signs), 3)), strict=True):
        density += sign * torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 12.5)
    return density


def between(inner: float, outer: float) -> torch.Tensor:
    """A shell between two radii."""
    axis = torch.arange(BOX) - BOX // 2
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return ((square >= inner**2) & (square < outer**2)).float()


WHITE = {
    "ball of three quarters of the box": between(0, 18), "hollow, as ferritin": between(9, 15),
    "blobs": blobs([1] * 12, 0),
}  # fmt: skip
MIXED = {f"blobs of both signs {seed}": blobs([1, -1] * 6, seed) for seed in range(4)}


def purity_of(density: torch.Tensor, contrast: float, noise: float = 4.0) -> float:
    found = MapSign(BOX // 2 - 1)
    found.add(noisy_images(contrast, 12000.0, noise, density=density))
    return found.purity


@pytest.mark.parametrize("name", WHITE)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_map_tells_the_sign_also_of_hollow_particles(name: str, sign: float) -> None:
    assert purity_of(WHITE[name], sign) * sign > PURE


@pytest.mark.parametrize("name", MIXED)
def test_a_volume_that_changes_sign_is_unclear(name: str) -> None:
    assert abs(purity_of(MIXED[name], 1.0)) < PURE


def test_a_map_of_noise_says_nothing() -> None:
    assert purity_of(WHITE["blobs"], 0.0) == 0.0


def test_images_without_orientations_add_nothing() -> None:
    images = noisy_images(1.0, 12000.0, 4.0)
    found = MapSign(BOX // 2 - 1)
    found.add(replace(images, rotation=torch.eye(3).repeat(N, 1, 1)))
    found.add(replace(images, rotation=torch.full((N, 3, 3), torch.nan)))
    assert found.n_images == 0
    assert found.purity == 0.0


def decided(score: float, purity: float | None) -> tuple[int, str]:
    stream = io.StringIO()
    measured = {"contrast_score": score, "contrast_images": 100}
    if purity is not None:
        measured["contrast_purity"] = purity
    return decide_data_sign(PreprocessSettings(), measured, Monitor(stream)), stream.getvalue()


def test_the_map_decides_before_the_blob() -> None:
    assert decided(-12.0, 0.97)[0] == 1  # hollow and white
    assert decided(12.0, -0.97)[0] == -1
    sign, text = decided(-30.0, -0.3)
    assert sign == 1
    assert "do not tell whether particles are white or black" in text
    assert decided(-30.0, 0.0)[0] == -1  # a map of noise
    assert decided(-30.0, None)[0] == -1  # a store of an earlier version


@pytest.mark.parametrize(("contrast", "taken", "said"), [
    (1.0, 1, "map that was found is positive .*particles are white, as taken"),
    (1.0, -1, "map that was found is positive .*particles are black, as taken"),  # inverted when they were read
    (-1.0, 1, "Warning: the map that was found is negative .*--contrast black"),
    (-1.0, -1, "Warning: the map that was found is negative .*--contrast white"),
    (0.0, 1, "does not tell whether particles are white or black"),
])  # fmt: skip
def test_a_map_with_found_orientations_is_asked_again(contrast: float, taken: int, said: str) -> None:
    images = noisy_images(contrast, 15000.0, 2.0)
    assert re.search(said, sign_of_found_map(map_sign(images), taken))
