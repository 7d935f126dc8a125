"""Poses that abinit returns, in the hands of the real RELION: it reconstructs our map, and refines without moving."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.imaging.fsc import fsc
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.jobs import fake_poses
from tests.relion_wrappers.pipeline import SUCCESS, Project

pytestmark = [pytest.mark.relion, pytest.mark.slow]
N, BOX, PIXEL_SIZE_A = 400, 32, 8.0


@dataclass(frozen=True)
class Result:
    """A project in which abinit has run."""

    root: Path

    def relion(self, line: str, timeout: float = 100) -> None:
        """Run a program of RELION in the project; it must succeed."""
        done = subprocess.run(
            line.split(), cwd=self.root, capture_output=True, text=True, timeout=timeout, check=False,
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
    return Result(root)


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
    place = ours.find_uids(refined.uid)
    errors = pose_errors(refined.rotation, refined.shift_A, ours.rotation[place], ours.shift_A[place])
    assert np.median(errors.degrees) < 4.0  # what noise leaves at 8 Å a pixel
    poses = (refined.rotation, refined.shift_A, ours.rotation[place], ours.shift_A[place])
    drift = align_poses(*poses, both_hands=False).change
    assert np.degrees(Rotation.from_matrix(drift.rotation).magnitude()) < 1.5
    assert np.linalg.norm(drift.shift_px) < 0.3 * PIXEL_SIZE_A
    assert np.median(errors.shift_px) < PIXEL_SIZE_A  # lengths in Å here
    curve = fsc(result.map("Refine/run_it002_class001.mrc"), result.map("External/job001/map.mrc"),
                result.map("External/job001/mask.mrc"))  # fmt: skip
    assert curve[1 : BOX // 4 + 1].min() > 0.9


def test_the_job_runs_from_the_pipeline_and_finds_the_poses(tmp_path: Path) -> None:
    """With the real search: its outputs are nodes of the pipeline, its poses those of the simulation."""
    truth = simulate_particles(160, motion=two_domain_protein(0, 0.0), box_size=24, pixel_size_A=10.0, snr=1.0,
                               max_shift_px=1.0, seed=2)  # fmt: skip
    write_relion_project(tmp_path, truth)
    project = Project(tmp_path)
    job = project.add_external("abinit", "--in_parts", "particles.star", "--in_3dref", "reference.mrc", "--starts", "1",
                               "--max_shift_A", "15", "--device", "cpu")  # fmt: skip
    assert project.run_job(job) == SUCCESS, (tmp_path / job / "run.err").read_text()
    assert project.markers(job) == ["RELION_JOB_EXIT_SUCCESS"]
    expected = {"particles.star": 3, "map.mrc": 6, "mask.mrc": 7, "half1.mrc": 10, "logfile.pdf": 13}
    assert {name.removeprefix(job): kind for name, kind in project.nodes().items() if name.startswith(job)} == expected
    returned = read_particles(tmp_path / job / "particles.star", project_dir=tmp_path)
    errors = pose_errors(returned.rotation, returned.shift_A, truth.rotation, truth.shift_px * 10.0)
    assert np.median(errors.degrees) < 6.0  # in the frame and the hand of the reference
    assert np.median(errors.shift_px) < 5.0  # lengths in Å here
