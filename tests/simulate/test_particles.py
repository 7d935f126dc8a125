from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.simulate import TWO_GROUPS, simulate_particles
from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion
from cryodrgn_ext.simulate.optics import Defocus, SimulatedOptics, contrast_transfer, wavelength_A


class SingleBead(Motion):
    sigma_A = 8.0

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        return ("nothing",)

    @property
    def state_coordinates(self) -> FloatArray:
        return np.zeros((1, 1))

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        return np.zeros((n, 1))

    def beads(self, coordinates: FloatArray) -> Beads:
        point = np.array([20.0, -12.0, 30.0])
        return Beads(np.broadcast_to(point, (len(coordinates), 1, 3)).copy(), np.ones((len(coordinates), 1)))


def test_a_bead_lands_where_rotation_and_shift_say() -> None:
    # Without defocus and aberration the CTF is a constant: the images are plain projections.
    plain = SimulatedOptics(cs_mm=0.0, amplitude_contrast=1.0)
    particles = simulate_particles(40, motion=SingleBead(), snr=None, box_size=72, pixel_size_A=2.0, optics=(plain,))
    flat = replace(particles, defocus=Defocus(np.zeros(40), np.zeros(40), np.zeros(40)))
    images = flat.images().astype(np.float64)
    axis = np.arange(72) - 36
    assert np.allclose(images.sum((1, 2)), 1, atol=1e-5)
    x, y = (images.sum(1) * axis).sum(1), (images.sum(2) * axis).sum(1)
    expected = (flat.rotation @ np.array([20.0, -12.0, 30.0]))[:, :2] / 2.0 + flat.shift_px
    assert np.allclose(np.stack([x, y], axis=1), expected, atol=5e-3)


def test_signal_to_noise_ratio_is_as_asked() -> None:
    particles = simulate_particles(300, box_size=64, snr=0.1, seed=5)
    noisy = particles.images()
    clean = replace(particles, snr=None).images()
    noise = noisy - clean
    assert clean.var(axis=(1, 2)).mean() / noise.var() == pytest.approx(0.1, rel=0.01)
    spectrum = np.abs(np.fft.fft2(noise)) ** 2
    inner, outer = spectrum[:, :8, :8].mean(), spectrum[:, 24:40, 24:40].mean()
    assert inner == pytest.approx(outer, rel=0.05)  # white


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_set() -> None:
    first, again, other = (simulate_particles(150, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.images(), again.images())
    assert np.array_equal(first.euler_deg, again.euler_deg)
    assert not np.array_equal(first.images(), other.images())
    assert not np.array_equal(first.coordinates, other.coordinates)


def test_images_are_the_same_in_any_piece() -> None:
    particles = simulate_particles(300, seed=2)
    whole = particles.images()
    piece = np.concatenate(list(particles.iter_images(100, 290)))
    assert np.array_equal(whole[100:290], piece)


def test_ctf_at_known_points() -> None:
    assert wavelength_A(300.0) == pytest.approx(0.019687, abs=2e-6)
    assert wavelength_A(200.0) == pytest.approx(0.025079, abs=2e-6)
    group = SimulatedOptics(cs_mm=0.0, amplitude_contrast=0.1)
    defocus = Defocus(np.array([15_000.0]), np.array([12_000.0]), np.array([90.0]))
    values = contrast_transfer(defocus, (group,), np.zeros(1, np.int32), 64, 2.0)[0].numpy()
    assert values[0, 0] == pytest.approx(0.1, abs=1e-6)  # amplitude contrast, positive as in RELION
    k = 10 / 128.0
    along_y = np.sin(np.pi * wavelength_A(300.0) * 15_000 * k**2 + np.arcsin(0.1))  # azimuth 90: U acts along y
    along_x = np.sin(np.pi * wavelength_A(300.0) * 12_000 * k**2 + np.arcsin(0.1))
    assert values[10, 0] == pytest.approx(along_y, abs=1e-4)
    assert values[0, 10] == pytest.approx(along_x, abs=1e-4)


def test_two_optics_groups_have_their_own_ctf() -> None:
    particles = simulate_particles(60, optics=TWO_GROUPS, snr=None)
    assert set(particles.optics_index) == {0, 1}
    alone = replace(particles, optics=TWO_GROUPS[:1], optics_index=np.zeros(60, np.int32))
    same = np.isclose(particles.images(), alone.images()).all(axis=(1, 2))
    assert np.array_equal(same, particles.optics_index == 0)


def test_mean_volume_is_the_mean_of_the_particles() -> None:
    particles = simulate_particles(50, motion="compositional")
    mean = particles.volumes(particles.coordinates).mean(0)
    assert np.allclose(particles.mean_volume(), mean, atol=1e-4 * mean.max())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": 5, "box_size": 63}, "even number"),
        ({"n": 5, "snr": 0.0}, "signal-to-noise"),
        ({"n": 5, "motion": "wobble"}, "unknown motion 'wobble'"),
        ({"n": 5, "box_size": 32}, "enlarge the box"),
    ],
)
def test_requests_that_make_no_sense_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        simulate_particles(**wrong)  # type: ignore[arg-type]


def test_other_coordinates_change_the_specimen_only() -> None:
    particles = simulate_particles(30, motion="hinge")
    other = np.linspace(-30, 30, 30)[:, None]
    moved = particles.with_coordinates(other)
    assert np.array_equal(moved.coordinates, other)
    assert np.array_equal(moved.state, particles.motion.state_of(other))
    for name in ("rotation", "shift_px", "half_set"):
        assert np.array_equal(getattr(moved, name), getattr(particles, name))
    with pytest.raises(InputError, match=r"shape \(30, 1\)"):
        particles.with_coordinates(other[1:])
