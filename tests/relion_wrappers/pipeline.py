"""A RELION project made by RELION itself, and its pipeline driven from Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile

from cryodrgn_ext.simulate import empty_pipeline
from tests.patience import HANGS_S

BOX = 32
PIXEL_SIZE_A = 6.0
PER_STATE = 120
RUNNING, SCHEDULED, SUCCESS, FAILURE, ABORTED = range(5)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Project:
    """A project directory."""

    root: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the project; it must succeed."""
        done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, timeout=HANGS_S, check=False,
                              env=environment())  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program in the project."""
        return subprocess.Popen(words, cwd=self.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env=environment(), start_new_session=True)  # fmt: skip

    def add(self, *words: str) -> str:
        """Add a job; return its directory, External/job003/."""
        number = int(starfile.read(self.root / "default_pipeline.star", always_dict=True)["pipeline_general"]
                     ["rlnPipeLineJobCounter"])  # fmt: skip
        self.run("relion_pipeliner", *words)
        (name,) = [name for name in self.statuses() if f"job{number:03d}/" in name]
        return name

    def add_external(self, template: str, *options: str) -> str:
        """Write a template with our own command and add it to the pipeline."""
        self.run(str(scripts() / "cryodrgn-ext"), "relion", "template", template, "--project", ".", *options)
        return self.add("--addJobFromStar", f"cdx_{template}_job.star")

    def run_job(self, job: str) -> int:
        """Run a job to its end through the pipeliner; return its status."""
        self.run("relion_pipeliner", "--sec_wait_after", "1", "--RunJobs", job)
        return self.statuses()[job]

    def statuses(self) -> dict[str, int]:
        """Status of every job in the pipeline."""
        table = self.table("pipeline_processes")
        return dict(zip(table["rlnPipeLineProcessName"], table["rlnPipeLineProcessStatus"], strict=True))

    def nodes(self) -> dict[str, int]:
        """Type of every node in the pipeline."""
        table = self.table("pipeline_nodes")
        return dict(zip(table["rlnPipeLineNodeName"], table["rlnPipeLineNodeType"], strict=True))

    def table(self, name: str) -> dict[str, list[Any]]:
        """One table of default_pipeline.star."""
        return {key: list(values) for key, values in
                starfile.read(self.root / "default_pipeline.star", always_dict=True)[name].items()}  # fmt: skip

    def markers(self, job: str) -> list[str]:
        """Marker files of a job."""
        return sorted(path.name for path in (self.root / job).glob("RELION_JOB_*"))


def scripts() -> Path:
    """Folder of the console scripts of this Python."""
    return Path(sysconfig.get_path("scripts"))


def environment() -> dict[str, str]:
    """Environment of a user's shell, one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{scripts()}{os.pathsep}{os.environ['PATH']}"}


def make_project(root: Path) -> Project:
    """Make a project whose particles relion_project simulated from two conformations."""
    project = Project(root)
    (root / "default_pipeline.star").write_text(empty_pipeline())
    (root / "Sim").mkdir()
    rng = np.random.default_rng(0)
    rows: list[list[str]] = []
    for state in (0, 1):
        with mrcfile.new(root / f"Sim/state{state}.mrc") as file:
            file.set_data(conformation(state))
            file.voxel_size = PIXEL_SIZE_A
        rows += simulate(project, state, rng)
    order = rng.permutation(len(rows))
    text = star_text(["rlnImageName", *COLUMNS, "rlnRandomSubset", "rlnMicrographName"],
                     [[*rows[k], str(i % 2 + 1), f"mic{i // 20}.mrc"] for i, k in enumerate(order)])  # fmt: skip
    (root / "Sim/particles.star").write_text(text)
    shutil.copy(root / "Sim/state0.mrc", root / "Sim/reference.mrc")
    return project


def conformation(state: int) -> np.ndarray:
    """(32, 32, 32) a body of two balls and an arm that points elsewhere in the other state."""
    axis = (np.arange(BOX) - BOX // 2).astype(np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((BOX, BOX, BOX), np.float32)
    for cx, cy, cz in ((0, 0, 0), (3, 2, -3), *(((-5, 3, 3), (-8, 4, 3)) if state == 0 else ((0, -6, 4), (0, -9, 4)))):
        volume += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 4.0)
    return volume


COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusU",
           "rlnDefocusV", "rlnDefocusAngle", "rlnOpticsGroup"]  # fmt: skip
OPTICS = f"""
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
opticsGroup1 1 300.000000 2.700000 0.100000 {PIXEL_SIZE_A:.6f} {BOX} 2
"""


def star_text(columns: list[str], rows: list[list[str]]) -> str:
    """A particles STAR file of RELION 3.1."""
    header = ["", "# version 30001", "", "data_particles", "", "loop_"]
    header += [f"_{column} #{number}" for number, column in enumerate(columns, 1)]
    return OPTICS + "\n".join([*header, *(" ".join(row) for row in rows), ""])


def simulate(project: Project, state: int, rng: np.random.Generator) -> list[list[str]]:
    """Project one conformation with RELION, noise and normalisation included; return the rows of its images."""
    n = PER_STATE
    defocus = rng.uniform(8000, 20000, n)
    values = [rng.uniform(-180, 180, n), np.degrees(np.arccos(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n),
              rng.uniform(-9, 9, n), rng.uniform(-9, 9, n), defocus, defocus - rng.uniform(0, 300, n),
              rng.uniform(0, 180, n)]  # fmt: skip
    rows = [[*(f"{value:.4f}" for value in row), "1"] for row in zip(*values, strict=True)]
    (project.root / f"Sim/angles{state}.star").write_text(star_text(COLUMNS, rows))
    for command in (
        f"relion_project --i Sim/state{state}.mrc --ang Sim/angles{state}.star --o Sim/proj{state} --ctf --add_noise "
        f"--white_noise 1 --angpix {PIXEL_SIZE_A}",
        f"relion_preprocess --operate_on Sim/proj{state}.mrcs --operate_out Sim/images{state}.mrcs --norm "
        "--bg_radius 13",
    ):
        project.run(*command.split())
    return [[f"{i:06d}@Sim/images{state}.mrcs", *row] for i, row in enumerate(rows, 1)]


if sys.platform != "linux":
    raise RuntimeError("these tests watch processes through /proc")
