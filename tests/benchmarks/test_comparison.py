"""The measures and the table of the comparison with the public peer (benchmarks/comparison)."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison.table import add_comparison, text_table

from cryodrgn_ext.analysis.cryobench import fsc_auc, information_imbalance, neighbourhood_similarity

MEASURE = Path(__file__).parents[2] / "benchmarks" / "comparison" / "measure.py"


def brute_force_auc(a: np.ndarray, b: np.ndarray) -> float:
    """CryoBench's area shell by shell: shell i holds i - 1 <= |k| < i."""
    box = len(a)
    k = np.arange(-(box // 2), box // 2)
    norm = np.sqrt(sum(axis.astype(float) ** 2 for axis in np.meshgrid(k, k, k)))
    fa, fb = (np.fft.fftshift(np.fft.fftn(v)) for v in (a, b))
    curve = [1.0]
    for i in range(1, box // 2):
        x, y = (f[(norm >= i - 1) & (norm < i)] for f in (fa, fb))
        curve.append(abs((np.vdot(x, y) / np.sqrt(np.vdot(x, x) * np.vdot(y, y))).real))
    return float(sum((p + q) / 2 / box for p, q in itertools.pairwise(curve)))


def test_cryobench_area_follows_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 16, 16, 16))
    assert fsc_auc(a, a) == pytest.approx(7 / 16)
    assert fsc_auc(a + b, a) == pytest.approx(brute_force_auc(a + b, a))


def test_neighbourhood_similarity_is_full_for_equal_spaces_and_chance_for_unrelated_ones() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(1500, 2))
    assert neighbourhood_similarity(3 * truth, truth) == pytest.approx(100)
    assert neighbourhood_similarity(rng.normal(size=(1500, 4)), truth) == pytest.approx(10, abs=1.5)


def test_information_imbalance_is_small_for_equal_spaces_and_one_for_unrelated_ones() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(800, 1))
    to_truth, from_truth = information_imbalance(np.hstack([truth, truth]), truth)
    assert to_truth < 0.02
    assert from_truth < 0.02
    assert information_imbalance(rng.normal(size=(800, 3)), truth)[0] == pytest.approx(1, abs=0.1)


def result(steps: list[tuple[float, float]], volumes_s: float, area: float) -> dict[str, Any]:
    """A program's figures: (seconds, R2) of each epoch."""
    epochs = [{"seconds": seconds, "r2": r2, "ari": 0.0} for seconds, r2 in steps]
    return {
        "epochs": epochs, "r2": steps[-1][1], "ari": 0.0, "seconds_to_volumes": volumes_s, "fsc_area": area,
        "fsc_area_moving": area,
    }  # fmt: skip


def test_ratios_count_from_the_first_epoch_that_is_as_good_and_none_is_given_where_none_is() -> None:
    results = {
        "cryodrgn": result([(100, 0.7), (200, 0.9), (300, 0.9)], 330, 0.8),
        "auto": result([(10, 0.95)], 11, 0.85),
        "preset": result([(50, 0.5), (80, 0.92)], 90, 0.7),
    }
    add_comparison(results, discrete=False)
    assert results["cryodrgn"]["reach_latents"] == 200
    assert results["auto"]["ratio_latents"] == 20
    assert results["auto"]["ratio_fsc"] == 30
    assert results["preset"]["reach_latents"] == 80
    assert results["preset"]["ratio_fsc"] is None
    table = text_table({"linear64": results}).splitlines()
    assert len(table) == 4
    assert "20.0" in table[2]


def test_a_measured_command_reports_its_own_memory_and_when_it_printed(tmp_path: Path) -> None:
    record, log = tmp_path / "record.json", tmp_path / "log.txt"
    code = "import time; held = bytearray(150_000_000); time.sleep(0.3); print('done')"
    command = [sys.executable, "-I", str(MEASURE), str(record), str(log), sys.executable, "-u", "-c", code]
    assert subprocess.run(command, check=False).returncode == 0
    found = json.loads(record.read_text())
    assert 140 < found["peak_memory_MB"] < 220
    seconds, text = log.read_text().split()
    assert text == "done"
    assert 0.3 <= float(seconds) <= found["seconds"]


def test_a_failed_command_leaves_no_record(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-I", str(MEASURE), str(record), str(tmp_path / "log.txt"), sys.executable, "-c", "1/0"]
    assert subprocess.run(command, check=False).returncode == 1
    assert not record.exists()
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
