"""What this program starts of itself is this installation, and never a script that lies in the user's directory."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

from cryodrgn_ext.workflow.own_program import own_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cryodrgn_ext", "relion_wrappers", "cryosparc_jobs")


def test_scripts_of_the_user_do_not_stand_for_modules(tmp_path: Path) -> None:
    """Project directories hold scripts, some of which are called as modules are."""
    for name in ("random", "types", "cryodrgn_ext", "numpy", "click"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a script of the user ran')")
    done = subprocess.run(own_command(["cryodrgn-ext", "--version"]), cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cryodrgn-ext" in done.stdout
    assert "ran" not in done.stdout + done.stderr


def test_programs_of_others_are_started_as_they_are() -> None:
    assert own_command(("relion_pipeliner", "--RunJobs", "job001/")) == ["relion_pipeliner", "--RunJobs", "job001/"]


def test_there_is_one_way_to_start_python() -> None:
    """Wherever else sys.executable is the first word of a command, the working directory would be looked in."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.List | ast.Tuple)
        if [ast.unparse(one) for one in node.elts[:1]] == ["sys.executable"]
    ]
    assert [one.partition(":")[0] for one in found] == ["cryodrgn_ext/workflow/own_program.py"]
