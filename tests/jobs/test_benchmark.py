"""The job that compares a result with a known truth: figures that follow from what was planted, and refusals."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryodrgn_ext.analysis.cryobench import fsc_auc, perfect_auc
from cryodrgn_ext.analysis.populations import adjusted_rand, population_error
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.benchmark import benchmark
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.benchmark import BenchmarkSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.truth_figures import Truth, area_figures, latent_figures
from tests.jobs.conftest import PIXEL_SIZE_A, FinishedProject, N
from tests.jobs.fake_engine import FakeEngine

SETTINGS = BenchmarkSettings(in_result=Path("out"), labels=Path("labels.txt"), o=Path("figures.yaml"), images=12)


def figures(settings: BenchmarkSettings) -> dict[str, float]:
    benchmark(replace(settings, overwrite=True), SilentMonitor())
    found: dict[str, float] = yaml.safe_load(Path("figures.yaml").read_text())
    return found


def states() -> np.ndarray:
    with np.load("out/states.npz") as arrays:
        label: np.ndarray = arrays["label"]
    return label


def test_states_that_are_the_truth_under_other_numbers_are_perfect(
    finished: FinishedProject, engine: FakeEngine
) -> None:
    np.savetxt("labels.txt", np.array([7, 3, 5])[states()], "%d")
    found = figures(SETTINGS)
    assert found["adjusted_rand_index"] == 1.0
    assert found["population_error"] == 0.0
    np.savetxt("labels.txt", np.random.default_rng(0).integers(0, 3, N), "%d")
    assert abs(figures(SETTINGS)["adjusted_rand_index"]) < 0.1


def test_volumes_are_compared_with_the_map_of_each_images_own_state(
    finished: FinishedProject, engine: FakeEngine
) -> None:
    """The fake's volumes are the consensus times a number: its FSC with the consensus is perfect."""
    np.savetxt("labels.txt", states(), "%d")
    consensus = read_map(Path("out/consensus/map.mrc")).data
    other = np.random.default_rng(1).normal(size=consensus.shape).astype(np.float32)
    for number, one in enumerate((consensus, consensus, other)):
        write_map(Path(f"true{number}.mrc"), one, PIXEL_SIZE_A, None)
    found = figures(replace(SETTINGS, true_maps=("true0.mrc", "true1.mrc", "true2.mrc")))
    assert found["perfect_fsc_auc"] == pytest.approx((len(consensus) // 2 - 1) / len(consensus))
    unlike = fsc_auc(consensus, other)
    assert found["worst_conformation_fsc_auc"] == pytest.approx(unlike, abs=1e-4)
    assert found["per_conformation_fsc_auc"] == pytest.approx((2 * perfect_auc(len(consensus)) + unlike) / 3, abs=1e-4)


def test_the_truth_of_simulate_and_true_poses(finished: FinishedProject, engine: FakeEngine) -> None:
    truth = next(Path().rglob("truth.npz"))
    particles = read_particles("particles.star")
    moved = particles.with_poses(particles.rotation, particles.shift_A + np.array([3.0, 0.0]))
    write_particles_star(moved.subset(np.arange(N)[::-1]), "true.star")
    said = io.StringIO()
    settings = replace(SETTINGS, labels=None, truth=truth, true_poses=Path("true.star"))
    benchmark(settings, Monitor(said))
    found = yaml.safe_load(Path("figures.yaml").read_text())
    assert found["median_orientation_error_deg"] < 0.01
    assert found["rms_shift_error_A"] == pytest.approx(3.0, abs=0.2), (
        "views of all directions: no shift of the molecule"
    )
    assert 0 < found["per_image_fsc_auc_of_perfect"] < 1
    assert all(name.removeprefix("ceiling_") in said.getvalue() for name in found)
    assert "neighbourhood_similarity_percent" in found


def test_what_the_images_allow_stands_beside_each_figure(finished: FinishedProject, engine: FakeEngine) -> None:
    """The fake's latents are random and its volumes the consensus: true labels and true maps reach more."""
    settings = replace(SETTINGS, labels=None, truth=next(Path().rglob("truth.npz")))
    said = io.StringIO()
    benchmark(settings, Monitor(said))
    found = yaml.safe_load(Path("figures.yaml").read_text())
    assert found["ceiling_r2_of_50_neighbours"] > 0.5 > found["r2_of_50_neighbours"]
    assert found["ceiling_spearman_of_50_neighbours"] > 0.8
    assert found["ceiling_per_image_fsc_auc"] > found["per_image_fsc_auc"]
    assert found["per_image_fsc_auc_of_ceiling"] == pytest.approx(
        found["per_image_fsc_auc"] / found["ceiling_per_image_fsc_auc"], rel=0.05
    )
    line = next(line for line in said.getvalue().splitlines() if line.startswith("r2_of_50"))
    assert line.split()[2] == f"{found['ceiling_r2_of_50_neighbours']:.5g}"
    assert not any(name.startswith("ceiling") for name in figures(replace(settings, ceiling=False)))
    next(Path().rglob("*.mrcs")).unlink()
    with pytest.raises(InputError, match="--ceiling no"):
        benchmark(replace(settings, overwrite=True), SilentMonitor())


def test_latents_that_are_the_truth_are_perfect_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(size=(400, 1))
    truth = Truth(np.zeros(400, np.int64), angle, None)
    best, noise = latent_figures(angle * 3, truth), latent_figures(rng.normal(size=(400, 2)), truth)
    assert best["neighbourhood_similarity_percent"] > 85  # of a neighbourhood that counts the particle itself
    assert best["r2_of_50_neighbours"] > 0.95
    assert best["information_imbalance_latents_to_truth"] < 0.05
    assert noise["neighbourhood_similarity_percent"] < 20
    assert noise["r2_of_50_neighbours"] < 0.1


def test_populations_are_matched_one_to_one() -> None:
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    assert population_error(np.repeat([2, 0, 1], [50, 30, 20]), truth) == 0
    assert population_error(np.repeat([2, 0, 1], [60, 20, 20]), truth) == pytest.approx(0.1)
    assert population_error(np.repeat([0, 1], [80, 20]), truth) == pytest.approx(0.3)
    assert adjusted_rand(np.zeros(100, int), truth) == 0


def test_conformations_count_alike_however_many_images_they_have() -> None:
    found = area_figures(np.array([0.4, 0.4, 0.4, 0.1]), np.array([0, 0, 0, 1]), 64)
    assert found["per_image_fsc_auc"] == pytest.approx(0.325)
    assert found["per_conformation_fsc_auc"] == pytest.approx(0.25)
    assert found["worst_conformation_fsc_auc"] == pytest.approx(0.1)
    assert found["per_image_fsc_auc_of_perfect"] == pytest.approx(0.325 / (31 / 64))


def test_what_does_not_fit_is_one_sentence(finished: FinishedProject, engine: FakeEngine) -> None:
    np.savetxt("labels.txt", states()[:50], "%d")
    with pytest.raises(InputError, match=f"has 50 particles, but the result has {N}"):
        benchmark(SETTINGS, SilentMonitor())
    with pytest.raises(InputError, match="give --truth"):
        benchmark(replace(SETTINGS, labels=None), SilentMonitor())
    np.savetxt("labels.txt", states(), "%d")
    with pytest.raises(InputError, match="name 3 states, but 1 --true_maps"):
        benchmark(replace(SETTINGS, true_maps=("a.mrc",)), SilentMonitor())
    Path("labels.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="cannot be read as whole numbers"):
        benchmark(SETTINGS, SilentMonitor())
