"""The command line reaches the same job, with a saved login, and fails with one sentence."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import cryosparc_jobs
from cryodrgn_ext.cli.main import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs import commands
from cryosparc_jobs.commands import cryosparc
from cryosparc_jobs.job_kinds import JobKind, job_kinds
from cryosparc_jobs.running import FinishedJob

WORDS = ["cryosparc", "train", "--project", "P1", "--workspace", "W2", "--particles", "J42", "particles"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []

    def run(kind: JobKind, cs: Any, connected: dict[str, Any], *, title: str, settings: dict[str, Any], **given: Any
            ) -> FinishedJob:  # fmt: skip
        named = {name: value for name, value in connected.items() if value is not None}
        made.append({"job": kind.name, "cs": cs, **given, **named, **settings})
        return FinishedJob("P1", "J43", JobResult(tmp_path, ()))

    monkeypatch.setattr(commands, "connect", lambda url, email: (url, email))
    monkeypatch.setattr(commands, "run_external", run)
    return made


@pytest.mark.parametrize("kind", job_kinds().values(), ids=lambda kind: kind.name)
def test_every_setting_of_the_job_is_an_option(kind: JobKind) -> None:
    shown = CliRunner().invoke(main, ["cryosparc", kind.name, "--help"])
    assert shown.exit_code == 0
    for name, field in kind.fields.items():
        if name != "project":  # --project is CryoSPARC's here
            assert bool(re.search(rf"{field.option}\b", shown.output)) == (name not in kind.decided()), name
    assert "password" not in shown.output


@pytest.mark.parametrize("kind", job_kinds().values(), ids=lambda kind: kind.name)
def test_every_job_is_a_function_with_its_page(kind: JobKind) -> None:
    names: dict[str, Any] = {}
    exec(f"from cryosparc_jobs import {kind.job.identifier} as function", names)  # its name is none of Python's own
    function = names["function"]
    assert function is getattr(cryosparc_jobs, kind.job.identifier)
    assert function.__name__ == kind.job.identifier
    parameters = inspect.signature(function).parameters
    assert {"cs", "project", "workspace", "directory", "title", "settings"} <= set(parameters)
    for name in (*parameters, kind.job.settings_class.__name__):
        assert name in function.__doc__
    with pytest.raises(TypeError, match="missing a required"):
        function(None, project="P1", workspace="W1")


def test_lists_of_words_and_bare_flags(calls: list[dict[str, Any]]) -> None:
    project = ["--project", "P1", "--workspace", "W2", "--result", "J43"]
    shown = CliRunner().invoke(main, ["cryosparc", "select", *project, "--state", "0", "2", "--z-range", "z1:-0.5:2",
                                      "pc1::0", "--invert", "--directory", "here"])  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert calls[0] == {"job": "select", "cs": (None, None), "workspace": "W2", "project": "P1",
                        "result": "J43", "state": (0, 2),
                        "z_range": ("z1:-0.5:2", "pc1::0"), "invert": True, "directory": Path("here")}  # fmt: skip
    shown = CliRunner().invoke(main, ["cryosparc", "validate", *project, "--mask", "J12", "mask", "--state=1,3"])
    assert shown.exit_code == 0, shown.output
    assert calls[1]["mask"] == ("J12", "mask")
    assert calls[1]["state"] == (1, 3)
    shown = CliRunner().invoke(main, ["cryosparc", "landscape", *project, "--mask", "J12", "mask", "--clusters", "6"])
    assert shown.exit_code == 0, shown.output
    assert (calls[2]["result"], calls[2]["mask"], calls[2]["clusters"]) == ("J43", ("J12", "mask"), 6)


def test_words_become_typed_settings(calls: list[dict[str, Any]]) -> None:
    words = [*WORDS, "--url", "http://host:39000", "--zdim", "4", "--mask-diameter-A", "150"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "P1-J43 is completed" in shown.output
    assert calls == [{"job": "train", "cs": ("http://host:39000", None), "project": "P1", "workspace": "W2",
                      "particles": ("J42", "particles"), "directory": None, "zdim": 4,
                      "mask_diameter_A": 150.0}]  # fmt: skip


def test_wrong_value_and_failed_login_are_one_sentence(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(main, [*WORDS, "--zdim", "many"])
    assert shown.exit_code == 2
    assert shown.output.startswith("ERROR: ")
    assert "zdim" in shown.output

    def refuse(url: str | None, email: str | None) -> None:
        raise InputError("CryoSPARC cannot be asked: no login.")

    monkeypatch.setattr(commands, "connect", refuse)
    shown = CliRunner().invoke(main, WORDS)
    assert shown.output == "ERROR: CryoSPARC cannot be asked: no login.\n"
    assert calls == []


@pytest.mark.parametrize("name", [*job_kinds(), "fetch"])
def test_what_is_required_and_missing_is_one_sentence(calls: list[dict[str, Any]], name: str) -> None:
    command = cryosparc.get_command(click.Context(cryosparc), name)
    assert command is not None
    required = {param.opts[0]: param.nargs for param in command.params if param.required}
    assert "--project" in required
    for missing in required:
        words = [word for option, n in required.items() if option != missing for word in (option, *["x"] * n)]
        for bare in ([], [missing]):
            shown = CliRunner().invoke(main, ["cryosparc", name, *words, *bare])
            assert (shown.exit_code, calls, shown.stdout) == (2, [], "")
            assert shown.stderr.startswith("ERROR: ")
            assert missing in shown.stderr
            assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--zdmi", "4"], "did you mean --zdim?"),
        (["--in_parts", "x.star"], "unknown option --in_parts"),
        (["--zdim", "4", "--zdim", "5"], "--zdim is given twice"),
        (["--box", "1"], "--box must be at least"),
    ],
)
def test_wrong_options_are_one_sentence(calls: list[dict[str, Any]], words: list[str], says: str) -> None:
    shown = CliRunner().invoke(main, [*WORDS, *words])
    assert (shown.exit_code, calls) == (2, [])
    assert shown.output.startswith("ERROR: ")
    assert says in shown.output
    assert len(shown.output.splitlines()) == 1
