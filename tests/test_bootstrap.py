"""The set-up script: what it chooses, what it refuses, and that it says so in one sentence."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import bootstrap

SCRIPT = Path(bootstrap.__file__)


def test_uses_the_standard_library_only() -> None:
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8")))
        for alias in getattr(node, "names", ())
        if isinstance(node, ast.Import)
    } | {
        str(node.module).split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names


def test_machine_without_gpu_never_asks_for_cuda_packages_first() -> None:
    candidates = bootstrap.torch_candidates(gpu=False, platform="linux")
    assert candidates[0].arguments == (f"torch=={bootstrap.TORCH_CPU_VERSION}",)
    assert bootstrap.TORCH_CPU_VERSION.endswith("+cpu")
    assert "--index-url" in candidates[1].arguments
    assert bootstrap.TORCH_CPU_INDEX in candidates[1].arguments
    assert "CUDA" in candidates[-1].message, "the last resort must say what it brings"


@pytest.mark.parametrize(("gpu", "platform"), [(True, "linux"), (False, "darwin")])
def test_ordinary_build_where_it_is_right(gpu: bool, platform: str) -> None:
    (candidate,) = bootstrap.torch_candidates(gpu=gpu, platform=platform)
    assert "--index-url" not in candidate.arguments
    assert "+cpu" not in candidate.arguments[0]


def test_torch_falls_back_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[tuple[str, ...]] = []

    def pip_fails_until_the_last(arguments: Sequence[str]) -> bool:
        tried.append(tuple(arguments))
        return len(tried) == 3

    monkeypatch.setattr(bootstrap, "run", lambda command, environment=None: 1)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(bootstrap, "pip_install", pip_fails_until_the_last)
    bootstrap.install_torch()
    assert tried == [candidate.arguments for candidate in bootstrap.torch_candidates(gpu=False)]
    assert "several GB of CUDA" in capsys.readouterr().out


def test_stamp_covers_fewer_extras_only(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp.json"
    assert bootstrap.installed_extras(stamp, "a") is None
    stamp.write_text("not json")
    assert bootstrap.installed_extras(stamp, "a") is None
    stamp.write_text(json.dumps({"fingerprint": "a", "extras": ["test"]}))
    assert bootstrap.installed_extras(stamp, "a") == frozenset({"test"})
    assert bootstrap.installed_extras(stamp, "b") is None, "a changed pyproject.toml must install again"


def test_missing_programs_without_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(bootstrap.BootstrapError, match=r"relion_refine.*no apt-get.*apt-get install relion"):
        bootstrap.install_test_programs()


def test_apt_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/apt-get" if program == "apt-get" else None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.BootstrapError, match=r"neither root nor is sudo installed.*apt-get install relion"):
        bootstrap.apt_install(["relion"], "The tests need relion_refine")


@pytest.mark.parametrize("user", [0, 1000])
def test_apt_uses_sudo_only_when_not_root(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    commands: list[list[str]] = []

    def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        commands.append(list(command))
        return 0

    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(bootstrap, "run", run)
    bootstrap.apt_install(["relion"], "The tests need relion_refine")
    assert [command[0] == "sudo" for command in commands] == [user != 0] * 2
    assert commands[-1][-1] == "relion"


def test_what_runs_beside_is_reported_in_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    with bootstrap.aside([sys.executable, "-c", "import sys; print('beside'); sys.exit(3)"]) as finish:
        bootstrap.say("before")
        assert finish() == 3
    assert capfd.readouterr().out.split() == ["[bootstrap]", "before", "beside"]


def test_what_runs_beside_has_ended_also_after_a_fault(tmp_path: Path) -> None:
    late = [sys.executable, "-c", f"import time; time.sleep(0.3); open({str(tmp_path / 'ended')!r}, 'w')"]
    with pytest.raises(bootstrap.BootstrapError), bootstrap.aside(late):
        raise bootstrap.BootstrapError
    assert (tmp_path / "ended").exists()


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [bootstrap.test_environment(processes)["OMP_NUM_THREADS"] for processes in (1, 4, 9)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert bootstrap.test_environment(1)["OMP_NUM_THREADS"] == "3", "what the user says counts"


@pytest.mark.parametrize(("installed", "faults"), [(1, False), (0, True)])
def test_nothing_is_tested_without_programs_or_with_faults(
    monkeypatch: pytest.MonkeyPatch, installed: int, faults: bool
) -> None:
    @contextmanager
    def aside(command: Sequence[str], environment: object = None) -> Iterator[Callable[[], int]]:
        yield lambda: installed

    def run(*_: object) -> int:
        pytest.fail("something was run")

    for name, stand_in in {"aside": aside, "run": run, "make_venv": lambda: None, "faults_found": lambda: faults,
                           "install_project": lambda *_: None}.items():  # fmt: skip
        monkeypatch.setattr(bootstrap, name, stand_in)
    assert bootstrap.test([]) == 1


def test_missing_ensurepip_is_installed_with_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages: list[str] = []
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bootstrap, "apt_install", lambda names, why: packages.extend(names))
    monkeypatch.setattr(bootstrap, "run", lambda command, environment=None: 1)
    with pytest.raises(bootstrap.BootstrapError, match="could not make a virtual environment"):
        bootstrap.make_venv()
    assert packages == [f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"]


@pytest.mark.parametrize("arguments", [[], ["tset"], ["install", "something"], ["docs", "here", "there"]])
def test_bad_command_line_ends_without_a_traceback(arguments: list[str]) -> None:
    outcome = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert outcome.returncode != 0
    assert "bootstrap.py" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_demo_takes_the_folder_with_or_without_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bootstrap.demo_arguments(["here", "--epochs", "2"]) == ["--o", str(tmp_path / "here"), "--epochs", "2"]
    assert bootstrap.demo_arguments(["--o", "there"]) == ["--o", "there"]
    assert bootstrap.demo_arguments([]) == []


def test_a_new_job_installs_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in bootstrap.METADATA_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((bootstrap.ROOT / name).read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    before = bootstrap.fingerprint()
    assert bootstrap.fingerprint() == before
    with open(tmp_path / "cryodrgn_ext/jobs/registry.py", "a") as registry:
        registry.write("# one more line\n")
    assert bootstrap.fingerprint() != before
