"""The same jobs through the unmodified cryosparc-tools 4.7, in a process of its own, against an imitated master.

The client is installed into a folder for the test (one wheel of 1.4 MB) and put before 5 on the module path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cryosparc_jobs.imitated_project import N, fill_project
from tests.cryosparc_master import Fault
from tests.cryosparc_master.server_v4 import EMAIL_V4, LICENSE_V4, PASSWORD_V4, MasterV4
from tests.patience import HANGS_S

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tools_of_47(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cryosparc_tools_47")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder),
             "cryosparc-tools~=4.7.0"]  # fmt: skip
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"cryosparc-tools 4.7 could not be installed: {done.stderr}"
    return folder


@dataclass
class Session:
    """An imitated master of 4.7 with a refinement, and a process that works with it."""

    master: MasterV4
    project: str
    parent: str
    uids: np.ndarray
    tools: Path
    folder: Path

    def run(self, what: str) -> tuple[int, dict[str, Any], str]:
        """Run the session; returns its exit status, what it said, and everything that it wrote."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.tools), str(ROOT)]), "OMP_NUM_THREADS": "1",
            "CRYOSPARC_LICENSE_ID": LICENSE_V4, "CRYOSPARC_EMAIL": EMAIL_V4, "CRYOSPARC_PASSWORD": PASSWORD_V4,
            "CRYOSPARC_COMMAND_RETRY_SECONDS": "0",
        }  # fmt: skip
        words = [str(ROOT / "tests/cryosparc_jobs/session_of_47.py"), str(self.master.base_port), self.project,
                 self.parent, what]  # fmt: skip
        done = subprocess.run([sys.executable, "-W", "ignore", *words], cwd=self.folder, env=environment,
                              capture_output=True, text=True, check=False, timeout=HANGS_S)  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        said = json.loads(lines[-1]) if lines else {}
        return done.returncode, said, done.stdout + done.stderr


@pytest.fixture
def session(tools_of_47: Path, refinement: Path, tmp_path: Path) -> Iterator[Session]:
    with MasterV4(tmp_path / "projects") as master:
        project, parent, particles = fill_project(master.instance, refinement)
        (tmp_path / "work").mkdir()
        yield Session(master, project, parent, np.asarray(particles["uid"]), tools_of_47, tmp_path / "work")
    assert master.unexpected == []


def test_train_select_validate_and_fetch_in_spite_of_passing_faults(session: Session) -> None:
    for fault in (Fault("upload", "truncate", skip=2), Fault("save_output", "empty", skip=1),
                  Fault("upload_asset", "empty"), Fault("job_send_streamlog", "error", times=2)):  # fmt: skip
        session.master.faults.add(fault)
    status, said, everything = session.run("whole")
    assert status == 0, everything
    assert said["tools"].startswith("4.7.")
    assert not said["has_api"], "the client of 5 was used"
    assert said["trained"] == [f"{kind}_state_0{n}" for n in (0, 1) for kind in ("particles", "volume", "mask")] + [
        "particles_all"
    ]
    assert said["z"] == [N, 2]
    assert said["kept"] == ["particles_state_01", "particles_rest"]
    assert said["checked"] == said["trained"][:-1]
    assert said["fetched"] == N
    instance = session.master.instance
    for uid in ("J2", "J3", "J4"):
        assert instance.job(session.project, uid).history == ["building", "running", "completed"]
    trained = instance.job(session.project, "J2")
    seen: list[int] = []
    for number in (0, 1):
        rows = instance.load_output(trained, f"particles_state_{number:02d}", "all")
        assert {"blob", "ctf", "alignments3D"} <= set(rows.prefixes())
        seen += rows["uid"].tolist()
    assert sorted(seen) == sorted(session.uids.tolist())
    assert "components_mode_1/value" in instance.load_output(trained, "particles_all", "all").fields()
    assert "Central slices of the states" in trained.log_text()
    assert (session.folder / "fetched.csg").exists()
    for secret in (LICENSE_V4, PASSWORD_V4):
        assert secret not in everything
        assert not any(secret in path.read_text("utf-8", "replace") for path in session.folder.rglob("*.log"))


def test_faults_end_as_failed_with_a_sentence_and_the_last_run_saves_all(session: Session) -> None:
    faults = {
        "J2": (Fault("load_job_input", "error"), "could not load its input particles"),
        "J3": (Fault("upload", "empty", times=3, skip=5), "did not arrive whole"),
        "J4": (Fault("save_output", "error", times=3, skip=3), "Complete are particles_state_00, volume_state_00"),
    }
    for fault, _ in faults.values():
        session.master.faults.add(fault)
    status, said, everything = session.run("stubborn")
    assert status == 0, everything
    for (uid, (_, sentence)), error in zip(faults.items(), said["errors"], strict=True):
        job = session.master.job(session.project, uid)
        assert job.history == ["building", "running", "failed"]
        assert sentence in error
        assert sentence in job.log_text()
    assert session.master.job(session.project, "J5").history == ["building", "running", "completed"]
    assert everything.count("Training ...") == 1, "nothing was computed again"
