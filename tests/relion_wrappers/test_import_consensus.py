"""Consensus, import, and what follows as RELION runs them: markers, nodes, and the same map as relion_reconstruct."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project

N, BOX, PIXEL_SIZE_A = 400, 32, 8.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=1.0,
                                   max_shift_px=2.0, seed=4)  # fmt: skip
    write_relion_project(root, particles)
    np.save(root / "z.npy", particles.coordinates[:, :1])
    return root


def program(project: Path, job: str, output: str, *words: str, given: str = "particles.star") -> Path:
    """Run a program as RELION calls it, in the project's directory, with the folder made before."""
    (project / output).mkdir(parents=True)
    inputs = ["--in_parts", given] if given else []
    command = [sys.executable, "-m", "relion_wrappers", job, "--o", output, *inputs, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / output / "RELION_JOB_EXIT_SUCCESS").exists()
    return project / output


def nodes(directory: Path) -> dict[str, str]:
    table = starfile.read(directory / "RELION_OUTPUT_NODES.star", always_dict=True)["output_nodes"]
    return {Path(name).relative_to("External").as_posix().partition("/")[2]: kind
            for name, kind in zip(*table.to_numpy().T, strict=True)}  # fmt: skip


def test_consensus_declares_its_map_and_halves(project: Path) -> None:
    directory = program(project, "consensus", "External/job002/", "--j", "1", "--device", "cpu", "--symmetry")
    assert nodes(directory) == {
        "consensus/map.mrc": "DensityMap.mrc", "consensus/half1.mrc": "DensityMap.mrc.halfmap",
        "consensus/mask.mrc": "Mask3D.mrc", "logfile.pdf": "LogFile.pdf.relion",
    }  # fmt: skip


@pytest.mark.slow
def test_import_declares_particles_and_maps_of_states(project: Path) -> None:
    directory = program(project, "import", "External/job003/", "--j", "1", "--latents", "z.npy", "--states", "2",
                        "--knots", "6", "--volumes", "2", "--device", "cpu")  # fmt: skip
    found = nodes(directory)
    assert found["particles.star"] == "ParticleGroupMetadata.star.relion"
    assert {f"states/state0{number}/{name}" for number in (0, 1) for name in ("particles.star", "map.mrc")} <= set(
        found
    )
    assert starfile.read(directory / "particles.star")["particles"]["cdxLatent1"].nunique() > 10

    path = program(project, "trajectory", "External/job005/", "--frames", "3", given="External/job003/particles.star")
    assert nodes(path) == {f"vol_00{n}.mrc": "DensityMap.mrc" for n in range(3)} | {"logfile.pdf": "LogFile.pdf.relion"}

    runs = ("--in_results", "External/job003/", "External/job003/")
    agreed = nodes(program(project, "compare", "External/job006/", *runs, given=""))
    assert agreed["particles.star"] == "ParticleGroupMetadata.star.relion"
    assert "states/state01/particles.star" in agreed


@pytest.mark.relion
def test_relion_reconstructs_the_same_map(project: Path) -> None:
    directory = program(project, "consensus", "External/job004/", "--j", "1", "--device", "cpu")
    command = ["relion_reconstruct", "--i", "particles.star", "--o", "theirs.mrc", "--ctf"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    maps = []
    for path in (project / "theirs.mrc", directory / "consensus/map.mrc"):
        with mrcfile.open(path) as file:
            maps.append(torch.from_numpy(np.array(file.data, np.float32)))
    with mrcfile.open(directory / "consensus/mask.mrc") as file:
        curve = fsc(maps[0], maps[1], torch.from_numpy(np.array(file.data, np.float32)))
    assert curve[1 : BOX // 4 + 1].min() > 0.95
