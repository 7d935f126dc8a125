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


def test_an_antibody_is_seen_as_cropping_finer_images_shows_it(tmp_path: Path) -> None:
    """Images of few pixels are the low frequencies of many, and their noise is what cropping leaves of it."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from scipy.spatial.transform import Rotation
from simulated_family.bead_images import profiles, project
from simulated_family.specimens import make_specimen
antibody = make_specimen("antibody", 150, 1200, 2.0, 0, np.random.default_rng(0))
state, turn = np.array([0, 30, 60]), Rotation.random(3, random_state=1).as_matrix()
shift = np.array([[-30.0, 0.0], [5.0, 30.0], [11.0, -7.0]])
fine, coarse = (project(antibody, state, turn, shift, box, 384 / box) for box in (256, 64))
middle = np.fft.fftshift(np.fft.fft2(fine), axes=(1, 2))[:, 96:160, 96:160]
cropped = np.fft.ifft2(np.fft.ifftshift(middle, axes=(1, 2))).real / 16
assert np.abs(cropped - coarse).max() < 1e-3 * coarse.max()
first, *_, last = np.linalg.norm(antibody.position_A[0] - antibody.position_A, axis=2).max(1)
assert 0 == first < last
"""
    done = subprocess.run([sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = ("--sets", 0, "--kind", "antibody", "--images", 40)
    noise = {}
    for box in (32, 64):
        run("family.py", "--o", tmp_path / str(box), *words, "--box", box)
        with np.load(tmp_path / str(box) / "set00" / "truth.npz") as truth:
            noise[box] = float(truth["noise_deviation"])
            assert len(truth["occupancy"]) == 100
    assert noise[64] == pytest.approx(2 * noise[32])
