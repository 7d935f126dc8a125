from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier import kernels
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


def test_compiles_where_no_cache_can_be_kept() -> None:
    namespace: dict[str, object] = {"np": np}
    exec("def double(values):\n    for i in range(values.shape[0]):\n        values[i] *= 2", namespace)
    compiled = kernels._compiled(namespace["double"])  # type: ignore[arg-type]  # code without a file has no cache
    values = np.arange(3.0)
    compiled(values)
    np.testing.assert_array_equal(values, [0.0, 2.0, 4.0])


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_keeps_its_number_of_threads(threads: int) -> None:
    """Numba's pool sets the number of threads of the process; then torch would add in another order than before."""
    program = (
        f"import torch; torch.set_num_threads({threads})\n"
        "from cryodrgn_ext.fourier.slices import FourierVolume\n"
        "FourierVolume.from_map(torch.ones(8, 8, 8)).slice(torch.ones(5, 3))\n"
        f"assert torch.get_num_threads() == {threads}, torch.get_num_threads()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
