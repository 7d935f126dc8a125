"""Kernels compile wherever the package lies, and leave torch its threads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from cryodrgn_ext.fourier.compilation import EXACT, compiled


def test_compiles_where_no_cache_can_be_kept() -> None:
    namespace: dict[str, Any] = {"np": np}
    exec("def double(values):\n    for i in range(values.shape[0]):\n        values[i] *= 2", namespace)
    double = compiled(EXACT)(namespace["double"])  # code without a file has no cache
    values = np.arange(3.0)
    double(values)
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
