from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.simulate import load_truth, simulate_particles
from cryodrgn_ext.simulate.truth import ground_truth, save_truth


def test_truth_survives_the_file_and_renders_the_same_volumes(tmp_path: Path) -> None:
    particles = simulate_particles(30, motion="discrete", seed=3)
    save_truth(tmp_path / "truth.npz", ground_truth(particles))
    truth = load_truth(tmp_path / "truth.npz")
    assert np.array_equal(truth.coordinates, particles.coordinates)
    assert np.array_equal(truth.state, particles.state)
    assert truth.coordinate_names == ("state",)
    assert truth.n_states == 10
    assert np.allclose(truth.volumes(), particles.volumes(), atol=1e-4 * particles.volumes().max())


def test_a_smaller_box_is_the_fourier_crop_of_the_larger() -> None:
    truth = ground_truth(simulate_particles(5, motion="rigid", box_size=80, pixel_size_A=2.5))
    large, small = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(truth.volume(0)))), truth.volume(0, box_size=48)
    middle = slice(40 - 23, 40 + 24)
    cropped = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(small)))[1:, 1:, 1:]
    assert np.allclose(large[middle, middle, middle], cropped, atol=1e-3 * np.abs(large).max())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz does not exist: give the truth\.npz"):
        load_truth(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match=r"text\.npz cannot be read"):
        load_truth(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz .*has no 'coordinates'"):
        load_truth(tmp_path / "other.npz")
