from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.sharpening import apply_b_factor, guinier_fit, sharpen_half_maps
from cryodrgn_ext.images.maps import read_map, write_map
from tests.fourier.specimens import Blobs, blobs

D = 32


def test_agrees_with_the_full_transform() -> None:
    volume = torch.randn(D, D, D, generator=torch.Generator().manual_seed(0))
    k = np.fft.fftfreq(D, 1.5)
    k2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2
    expected = np.fft.ifftn(np.fft.fftn(volume.double().numpy()) * np.exp(-60.0 * k2 / 4)).real
    np.testing.assert_allclose(apply_b_factor(volume, 60.0, 1.5).numpy(), expected, atol=1e-5)


def test_sharpening_inverts_a_blur() -> None:
    volume = blobs(0, spread_px=3.0).density(D).float()
    blurred = apply_b_factor(volume, 80.0, 2.0)
    assert (blurred - volume).abs().max() > 0.1
    torch.testing.assert_close(apply_b_factor(blurred, -80.0, 2.0), volume, atol=1e-4, rtol=0)


def test_blur_widens_a_gaussian_as_a_debye_waller_factor_does() -> None:
    pixel_size_A, b_A2, width_px = 2.0, 100.0, 1.5
    spot = Blobs(np.zeros((1, 3)), np.array([width_px]), np.ones(1))
    found = apply_b_factor(spot.density(D).float(), b_A2, pixel_size_A)
    wide = np.sqrt(width_px**2 + b_A2 / (8 * np.pi**2) / pixel_size_A**2)  # B = 8 pi^2 <u^2>
    expected = Blobs(np.zeros((1, 3)), np.array([wide]), np.array([(width_px / wide) ** 3])).density(D)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("b_A2", [-40.0, 0.0, 120.0])
def test_guinier_finds_the_b_factor_that_was_applied(b_A2: float) -> None:
    white = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(1))  # flat amplitudes
    estimate = guinier_fit(apply_b_factor(white, b_A2, 1.5), 1.5, low_res_A=10.0).b_factor_A2
    assert estimate == pytest.approx(b_A2, abs=2.0)


def test_guinier_range_is_honoured() -> None:
    white = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(2))
    volume = apply_b_factor(white, 100.0, 1.5)
    assert guinier_fit(volume, 1.5, 12.0, 5.0).b_factor_A2 == pytest.approx(100.0, abs=4.0)
    with pytest.raises(InputError, match=r"covers [012] shells"):
        guinier_fit(volume, 1.5, 10.0, 9.5)


def faded_halves(b_A2: float, pixel_A: float, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    signal = apply_b_factor(torch.randn(64, 64, 64, generator=g), b_A2, pixel_A)
    return signal + noise * torch.randn(64, 64, 64, generator=g), signal + noise * torch.randn(64, 64, 64, generator=g)


def test_sharpening_of_half_maps_gives_back_what_a_blur_took() -> None:
    half1, half2 = faded_halves(100.0, 1.5)
    truth = apply_b_factor(0.5 * (half1 + half2), -100.0, 1.5)
    sharpened, fit = sharpen_half_maps(half1, half2, np.ones(33), 1.5, 5.0)
    assert fit is not None
    assert fit.b_factor_A2 == pytest.approx(100.0, abs=5.0)
    given, _ = sharpen_half_maps(half1, half2, np.ones(33), 1.5, 5.0, b_factor_A2=100.0)
    spectrum, expected = torch.fft.fftn(given), torch.fft.fftn(truth)
    shell = np.linalg.norm(np.stack(np.meshgrid(*[np.fft.fftfreq(64, 1 / 64)] * 3, indexing="ij")), axis=0)
    inside, outside = torch.from_numpy(shell < 64 * 1.5 / 5 - 2), torch.from_numpy(shell > 64 * 1.5 / 5 + 2)
    torch.testing.assert_close(spectrum[inside], expected[inside], atol=1e-2, rtol=1e-3)
    assert spectrum[outside].abs().max() < 1e-3 * expected.abs().max()
    assert torch.isfinite(sharpened).all()


@pytest.mark.relion
def test_relion_postprocess_finds_the_same_b_factor_and_map(tmp_path: Path) -> None:
    pixel_A, resolution_A = 1.5, 4.5
    half1, half2 = faded_halves(60.0, pixel_A, noise=0.25)
    for number, half in enumerate((half1, half2), 1):
        write_map(tmp_path / f"run_half{number}_class001_unfil.mrc", half.numpy(), pixel_A, None)
    write_map(tmp_path / "mask.mrc", np.ones((64, 64, 64), np.float32), pixel_A, None)
    command = ["relion_postprocess", "--i", "run_half1_class001_unfil.mrc", "--o", "post/post", "--mask", "mask.mrc",
               "--angpix", str(pixel_A), "--auto_bfac", "--autob_lowres", "10", "--autob_highres", str(resolution_A),
               "--randomize_at_A", "9", "--low_pass", str(resolution_A)]  # fmt: skip
    (tmp_path / "post").mkdir()
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    theirs = float(starfile.read(tmp_path / "post/post.star")["general"]["rlnBfactorUsedForSharpening"])
    sharpened, fit = sharpen_half_maps(half1, half2, fsc(half1, half2), pixel_A, resolution_A)
    assert fit is not None
    assert fit.b_factor_A2 == pytest.approx(-theirs, abs=3.0)
    assert np.corrcoef(sharpened.numpy().ravel(), read_map(tmp_path / "post/post.mrc").data.ravel())[0, 1] > 0.99
