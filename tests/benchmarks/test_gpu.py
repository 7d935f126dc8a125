"""The benchmark for graphics cards runs through where there is none, on a device that is not the CPU."""

from __future__ import annotations

import importlib
from itertools import islice
from pathlib import Path

import pytest
import torch

from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from tests.placement.pretended import NAME, PretendedGpu

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_searches_maps_and_loops_run_on_another_device_with_the_results_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    numbers, rates = (importlib.import_module(f"gpu_checks.{name}") for name in ("numbers", "rates"))
    device = torch.device(NAME)
    with PretendedGpu():
        # The engines' part is that of the tests of placement.
        compared = list(islice(numbers.compare_devices(tmp_path, device, 40, 32), 2))
        assert len(compared) == 2
        assert all(one.agrees for one in compared), compared
        images = numbers.simulated(tmp_path, 40, 32)
        consensus = reconstruct_half_maps(images).map
        machine = {"memory_GB_s": 10.0, "float32_Gflop_s": 100.0}
        loops = rates.component_rates(images, consensus, 2, device, machine)
        assert all(loops[name]["us_per_image"] > 0 for name in ("gram", "accumulate"))


def test_the_roofline_counts_what_the_loops_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the box has four times the coefficients; no kernel moves less than it reads and adds at the voxels."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    roofline = importlib.import_module("gpu_checks.roofline")
    small, large = (roofline.accumulate_work(box, 16) for box in (64, 128))
    assert large.bytes / small.bytes == pytest.approx(4, rel=0.01)
    assert small.fused_bytes < 0.5 * small.bytes
    assert large.seconds(3350.0, 67e3) > large.seconds(3350.0, 67e3, fused=True)
    assert large.seconds(1e9, 67e3) == pytest.approx(large.operations / 67e12)
