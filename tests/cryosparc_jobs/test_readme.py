"""The notebook lines of the README run as they stand, but for the numbers of the jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cryosparc_jobs
from tests.cryosparc_jobs.imitated_project import Lab, N, QuickJob, saved_outputs

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
README = Path(__file__).resolve().parents[2] / "README.md"


def test_notebook_lines_run(
    real: Lab, quick: QuickJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"## In CryoSPARC\n.*?```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    monkeypatch.setattr(cryosparc_jobs, "connect", lambda url: real.cs)
    names: dict[str, Any] = {}
    exec(block.replace("J42", real.parent), names)  # the README's own text
    assert [names[name].uid for name in ("trained", "kept", "checked")] == ["J2", "J3", "J4"]
    assert len(saved_outputs(real, "J4")) == 9
    said = capsys.readouterr().out
    assert "J2 ('particles_state_00', 'volume_state_00', 'mask_state_00'" in said
    assert f"({N}, 2)" in said
