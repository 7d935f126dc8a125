from __future__ import annotations

import numpy as np
import torch

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases


def test_integer_shift_is_a_roll() -> None:
    d = 16
    plane = HalfPlane(d, 7)
    images = plane.to_images(plane.from_images(torch.randn(2, d, d, dtype=torch.float64)))
    shift = torch.tensor([[3.0, 0.0], [-1.0, 5.0]], dtype=torch.float64)  # x, y
    moved = plane.to_images(plane.from_images(images) * shift_phases(plane.kxy, shift, d))
    torch.testing.assert_close(moved[0], images[0].roll(3, dims=1))
    torch.testing.assert_close(moved[1], images[1].roll((5, -1), dims=(0, 1)))


def test_subpixel_shift_moves_a_gaussian() -> None:
    d = 32
    grid = np.arange(d) - d // 2

    def spot(x: float, y: float) -> torch.Tensor:
        return torch.from_numpy(np.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / 8.0))

    plane = HalfPlane(d, 15)
    shift = torch.tensor([[1.37, -2.61]], dtype=torch.float64)
    moved = plane.to_images(plane.from_images(spot(0.5, 1.0)[None]) * shift_phases(plane.kxy, shift, d))[0]
    torch.testing.assert_close(moved, spot(0.5 + 1.37, 1.0 - 2.61), atol=1e-6, rtol=0)


def test_phases_agree_with_loops_and_compose() -> None:
    d = 12
    kxy = HalfPlane(d, 5).kxy
    shift = torch.tensor([[0.3, -0.7], [2.2, 1.1]], dtype=torch.float64)
    found = shift_phases(kxy, shift, d)
    assert found.dtype == torch.complex128
    for b in range(2):
        for m, (kx, ky) in enumerate(kxy.tolist()):
            expected = np.exp(-2j * np.pi * (kx * float(shift[b, 0]) + ky * float(shift[b, 1])) / d)
            assert abs(complex(found[b, m]) - expected) < 1e-12
    torch.testing.assert_close(found[0] * found[1], shift_phases(kxy, shift.sum(0, keepdim=True), d)[0])
    assert shift_phases(kxy, shift.float(), d).dtype == torch.complex64
