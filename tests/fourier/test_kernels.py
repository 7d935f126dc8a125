from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierAccumulator, FourierGrid, FourierVolume, slice_points

GRID = FourierGrid(32, 15)


def _problem() -> tuple[FourierVolume, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(GRID.shape, dtype=torch.complex64, generator=generator)
    rotation = torch.from_numpy(Rotation.random(30, random_state=0).as_matrix())
    return FourierVolume(GRID, data), slice_points(HalfPlane(32, 15).kxy, rotation).float()


def test_several_threads_may_call_at_once() -> None:
    volume, points = _problem()
    alone = volume.slice(points)

    def work(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        sums = FourierAccumulator(GRID)
        sums.insert(points, alone, alone.abs())
        return volume.slice(points), sums.numerator

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    for values, numerator in results:
        assert torch.equal(values, alone)
        assert torch.equal(numerator, results[0][1])


def test_views_conjugates_and_other_dtypes_are_taken() -> None:
    volume, points = _problem()
    expected = volume.slice(points)
    torch.testing.assert_close(volume.slice(points.double()), expected)
    torch.testing.assert_close(volume.slice(points.transpose(0, 1)).T, expected)
    lazy, plain = FourierAccumulator(GRID), FourierAccumulator(GRID)
    lazy.insert(points, expected.conj(), expected.abs())
    plain.insert(points, expected.conj().resolve_conj(), expected.abs())
    assert torch.equal(lazy.numerator, plain.numerator)
