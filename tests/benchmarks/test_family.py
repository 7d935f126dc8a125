"""The family of simulated sets and the limit of their data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    run("family.py", "--o", folder, "--sets", 0, "--plain", "--mass", 500, "--box", 32, "--pixel", 8, "--images", 300,
        "--snr", 0.5)  # fmt: skip
    return folder / "set00"


def test_true_labels_and_poses_give_true_volumes_and_exact_inference_the_motion(small: Path) -> None:
    """The package reads the particles file and reconstructs: conventions of both agree, though they share no code."""
    found = json.loads(run("limit.py", small, "--images", 100))["limit"]
    assert found["volumes"]["whole"] > 0.7
    assert found["latents"]["r2"] > 0.8
    by_band = list(found["latents"]["by_band"].values())
    assert by_band[-1] > by_band[0]


def test_a_seed_gives_the_same_images_and_another_other_ones(tmp_path: Path, small: Path) -> None:
    words = ("--sets", 0, "--plain", "--mass", 500, "--box", 32, "--pixel", 8, "--images", 300, "--snr", 0.5)
    run("family.py", "--o", tmp_path / "same", *words)
    run("family.py", "--o", tmp_path / "other", *words, "--seed", 1)
    stacks = [(folder / "Particles" / "particles.mrcs").read_bytes()[1024:]
              for folder in (small, tmp_path / "same" / "set00", tmp_path / "other" / "set00")]  # fmt: skip
    assert stacks[0] == stacks[1]
    assert stacks[0] != stacks[2]


def test_every_kind_can_be_made(tmp_path: Path) -> None:
    run("family.py", "--o", tmp_path, "--count", 7, "--size", 0.01, "--box", 32)
    kinds = {json.loads((folder / "set.json").read_text())["kind"] for folder in tmp_path.iterdir()}
    assert len(kinds) == 7
    for folder in tmp_path.iterdir():
        with np.load(folder / "truth.npz") as truth:
            assert np.isfinite(truth["position_A"]).all()
            assert truth["occupancy"].sum() == pytest.approx(1)
