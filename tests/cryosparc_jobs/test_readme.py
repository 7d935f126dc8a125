"""The lines of the README on CryoSPARC run as they stand, but for the numbers of the jobs."""

from __future__ import annotations

import hashlib
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryosparc import auth

import cryosparc_jobs
from cryodrgn_ext.cli import main
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs import client, commands
from cryosparc_jobs.running import FinishedJob
from tests.cryosparc_jobs.imitated_project import Lab, N, QuickJob, saved_outputs
from tests.cryosparc_master import EMAIL, PASSWORD

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = r"## In CryoSPARC\n.*?```{}\n(.*?)```"


def test_notebook_lines_run(
    real: Lab, quick: QuickJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(SECTION.format("python"), README.read_text("utf-8"), re.DOTALL)
    monkeypatch.setattr(cryosparc_jobs, "connect", lambda url: real.cs)
    names: dict[str, Any] = {}
    exec(block.replace("J42", real.parent), names)  # the README's own text
    assert [names[name].uid for name in ("trained", "kept", "checked")] == ["J2", "J3", "J4"]
    assert len(saved_outputs(real, "J4")) == 9
    said = capsys.readouterr().out
    assert "J2 ('particles_state_00', 'volume_state_00', 'mask_state_00'" in said
    assert f"({N}, 2)" in said


@pytest.fixture
def logged_in(real: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line has been run: the client's own store has a token, and nothing else names the address."""
    for name in client.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(auth, "get_default_auth_config_path", lambda: tmp_path / "auth.json")
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    token = real.cs.api.login(grant_type="password", username=EMAIL, password=hashed)
    sessions = auth.InstanceAuthSessions({})
    sessions.insert(real.master.url, EMAIL, token, datetime.now(UTC) + timedelta(days=1))
    sessions.save()


def test_lines_of_the_shell_run_after_the_login(
    real: Lab, logged_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the job itself, which needs the parents that it names."""
    ran: list[str] = []

    def run(kind: Any, cs: Any, connected: dict[str, Any], *, project: str, **_: Any) -> FinishedJob:
        assert cs.base_url == real.master.url
        assert cs.find_project(project).uid == real.project
        cs.api._client.close()
        ran.append(kind.name)
        return FinishedJob(project, "J43", JobResult(tmp_path))

    monkeypatch.setattr(commands, "run_external", run)
    (block,) = re.findall(SECTION.format("bash"), README.read_text("utf-8"), re.DOTALL)
    login, *lines = [shlex.split(line, comments=True) for line in block.strip().splitlines()]
    assert login[:4] == ["python", "-m", "cryosparc.tools", "login"]
    assert "--url" in login
    for program, *words in lines:
        assert program == "cryodrgn-ext"
        shown = CliRunner().invoke(main, [word.replace("J42", real.parent) for word in words])
        assert shown.exit_code == 0, shown.output
    assert {"train", "abinit", "select", "validate", "landscape"} <= set(ran)
