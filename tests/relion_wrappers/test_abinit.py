"""Poses that abinit returns, in the hands of the real RELION: it reconstructs our map, and refines without moving."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.pose.origins import judge_origins, read_origins
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate import SimulatedParticles, simulate_particles, two_domain_protein, write_relion_project
from tests.jobs import fake_poses
from tests.patience import HANGS_S
from tests.relion_wrappers.pipeline import SUCCESS, Project

pytestmark = [pytest.mark.relion, pytest.mark.slow]
N, BOX, PIXEL_SIZE_A = 400, 32, 8.0


@dataclass(frozen=True)
class Result:
    """A project in which abinit has run."""

    root: Path
    truth: SimulatedParticles | None = None

    def relion(self, line: str) -> None:
        """Run a program of RELION in the project; it must succeed."""
        done = subprocess.run(
            line.split(), cwd=self.root, capture_output=True, text=True, timeout=HANGS_S, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    def map(self, name: str) -> torch.Tensor:
        with mrcfile.open(self.root / name) as file:
            return torch.from_numpy(np.array(file.data, np.float32))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The search is a stand-in that knows the truth but finds it turned, shifted and mirrored."""
    root = tmp_path_factory.mktemp("abinit_relion")
    particles = simulate_particles(N, motion=two_domain_protein(0, 0.0), box_size=BOX, pixel_size_A=PIXEL_SIZE_A,
                                   snr=1.5, max_shift_px=2.0, seed=3)  # fmt: skip
    write_relion_project(root, particles)
    with pytest.MonkeyPatch.context() as patch:
        fake_poses.install(patch, particles.rotation, particles.shift_px * PIXEL_SIZE_A)
        patch.chdir(root)
        abinit(AbinitSettings(in_parts=Path("particles.star"), o=Path("External/job001"), device="cpu"),
               SilentMonitor())  # fmt: skip
    return Result(root, particles)


def test_relion_reconstructs_our_map(result: Result) -> None:
    result.relion("relion_reconstruct --i External/job001/particles.star --o theirs.mrc --ctf")
    curve = fsc(result.map("theirs.mrc"), result.map("External/job001/map.mrc"),
                result.map("External/job001/mask.mrc"))  # fmt: skip
    assert curve[1 : BOX // 4 + 1].min() > 0.95
    result.relion("relion_reconstruct --i External/job001/particles.star --o half.mrc --ctf --subset 1")
    halves = [fsc(result.map("half.mrc"), result.map(f"External/job001/half{i}.mrc"))[1 : BOX // 4 + 1].mean()
              for i in (1, 2)]  # fmt: skip
    assert halves[0] > 0.95
    assert 1 - halves[0] < 0.5 * (1 - halves[1])  # rlnRandomSubset means the same half


def test_a_refinement_from_map_and_poses_stays_in_place(result: Result) -> None:
    """Two iterations of local searches (a few degrees about the poses in the STAR file), from our map."""
    (result.root / "Refine").mkdir()
    result.relion(
        "relion_refine --i External/job001/particles.star --ref External/job001/map.mrc --o Refine/run --iter 2 "
        "--ctf --K 1 --particle_diameter 220 --tau2_fudge 2 --healpix_order 4 --sigma_ang 2 --offset_range 2 "
        "--offset_step 1 --ini_high 20 --flatten_solvent --zero_mask --norm --scale --pad 1 --j 1 --oversampling 1 "
        "--dont_combine_weights_via_disc --preread_images --random_seed 1"
    )
    ours = read_particles(result.root / "External/job001/particles.star")
    refined = read_particles(result.root / "Refine/run_it002_data.star", project_dir=result.root)
    place = match_rows(refined, ours).rows
    pairs = Poses.of(refined.rotation, refined.shift_A), Poses.of(ours.rotation[place], ours.shift_A[place])
    errors = pose_errors(*pairs)
    assert np.median(errors.degrees) < 4.0  # what noise leaves at 8 Å a pixel
    drift = align_poses(*pairs, both_hands=False).transform
    assert np.degrees(Rotation.from_matrix(drift.rotation).magnitude()) < 1.5
    assert np.linalg.norm(drift.shift_px) < 0.3 * PIXEL_SIZE_A
    assert np.median(errors.shift_px) < PIXEL_SIZE_A  # lengths in Å here
    curve = fsc(result.map("Refine/run_it002_class001.mrc"), result.map("External/job001/map.mrc"),
                result.map("External/job001/mask.mrc"))  # fmt: skip
    assert curve[1 : BOX // 4 + 1].min() > 0.9


def test_origins_of_relions_2d_classes_centre_the_particles(tmp_path: Path) -> None:
    """RELION's own Class2D says where particles lie; a search that looks hardly farther finds the poses from there."""
    truth = simulate_particles(240, motion=two_domain_protein(0, 0.0), box_size=BOX, pixel_size_A=PIXEL_SIZE_A,
                               snr=0.7, max_shift_px=4.0, seed=4)  # fmt: skip
    written = write_relion_project(tmp_path, truth)
    labels = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset")
    write_particles_star(read_particles(written.particles_star), tmp_path / "picked.star", dropped_columns=labels)
    (tmp_path / "Class2D").mkdir()
    Result(tmp_path).relion(
        "relion_refine --i picked.star --o Class2D/run --iter 4 --K 2 --ctf --particle_diameter 200 --tau2_fudge 2 "
        "--flatten_solvent --zero_mask --oversampling 1 --psi_step 24 --offset_range 5 --offset_step 2 --norm --scale "
        "--dont_combine_weights_via_disc --preread_images --pool 30 --j 1 --random_seed 1"
    )
    classified = read_particles(tmp_path / "Class2D/run_it004_data.star", project_dir=tmp_path, require_poses=False)
    place = match_rows(classified, read_particles(written.particles_star)).rows
    for axis in (0, 1):  # x is x and y is y, and the sign is ours
        assert np.corrcoef(classified.shift_A[:, axis], truth.shift_px[place, axis])[0, 1] > 0.5
    eye = np.broadcast_to(np.eye(3), (classified.n, 3, 3))
    images = open_images(classified.with_poses(eye, np.zeros((classified.n, 2))), tmp_path / "store")
    origins = read_origins(classified)
    assert origins is not None
    judged = judge_origins(images, origins, "auto", SilentMonitor())
    assert judged.used
    assert judged.snr > 1.3 * judged.snr_without


def test_a_selection_by_its_latents_goes_back_to_relion(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of select takes the particles.star of an abinit job with --zdim, and RELION its subset."""
    monkeypatch.chdir(result.root)
    assert result.truth is not None
    fake_poses.install(monkeypatch, result.truth.rotation, result.truth.shift_px * PIXEL_SIZE_A)
    abinit(AbinitSettings(in_parts=Path("particles.star"), o=Path("External/job002"), zdim=2, volumes=0, device="cpu"),
           SilentMonitor())  # fmt: skip
    given = "--o External/job003/ --in_parts External/job002/particles.star --clusters 2 --cluster 1"
    # In a process of its own, as RELION starts it: it forks, which threads of this one would not survive.
    subprocess.run([sys.executable, "-m", "relion_wrappers", "select", *given.split()], check=True, cwd=result.root)
    subset = read_particles("External/job003/particles.star")
    everything = read_particles("External/job002/particles.star")
    rows = match_rows(subset, everything).rows
    assert 0 < len(rows) < N
    np.testing.assert_array_equal(subset.euler_deg, everything.euler_deg[rows])
    result.relion("relion_reconstruct --i External/job003/particles.star --o subset.mrc --ctf")
    curve = fsc(result.map("subset.mrc"), result.map("External/job002/map.mrc"),
                result.map("External/job002/mask.mrc"))  # fmt: skip
    assert curve[1:6].min() > 0.9  # in the frame of the map that the poses go with


def test_the_job_runs_from_the_pipeline_and_finds_the_poses(tmp_path: Path) -> None:
    """With the real search: its outputs are nodes of the pipeline, its poses those of the simulation."""
    truth = simulate_particles(160, motion=two_domain_protein(0, 0.0), box_size=24, pixel_size_A=10.0, snr=1.0,
                               max_shift_px=1.0, seed=2)  # fmt: skip
    write_relion_project(tmp_path, truth)
    project = Project(tmp_path)
    job = project.add_external("abinit", "--in_parts", "particles.star", "--in_3dref", "reference.mrc", "--starts", "1",
                               "--start_particles", "100", "--max_shift_A", "10", "--device", "cpu")  # fmt: skip
    assert project.run_job(job) == SUCCESS, (tmp_path / job / "run.err").read_text()
    assert project.markers(job) == ["RELION_JOB_EXIT_SUCCESS"]
    expected = {"particles.star": 3, "map.mrc": 6, "mask.mrc": 7, "half1.mrc": 10, "logfile.pdf": 13}
    assert {name.removeprefix(job): kind for name, kind in project.nodes().items() if name.startswith(job)} == expected
    returned = read_particles(tmp_path / job / "particles.star", project_dir=tmp_path)
    errors = pose_errors(Poses.of(returned.rotation, returned.shift_A), Poses.of(truth.rotation, truth.shift_px * 10.0))
    assert np.median(errors.degrees) < 6.0  # in the frame and the hand of the reference
    assert np.median(errors.shift_px) < 5.0  # lengths in Å here
