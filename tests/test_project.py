"""The promises of the project's own files: what the README tells people to type exists and is what CI runs."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from cryodrgn_ext.cli import main
from relion_wrappers.console_scripts import console_scripts
from tests.conftest import stage

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
#: What people read, by the file's place in the project.
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
MOST_BYTES_OF_README = 12_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OUR_PROGRAMS = tuple(console_scripts())


def shell_lines(text: str) -> list[str]:
    """Commands in the bash blocks of a Markdown text, continued lines joined, comments dropped."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def shown_commands() -> list[list[str]]:
    """Commands of ours that the README and the pages show, as words."""
    found = []
    for line in (line for text in PAGES.values() for line in shell_lines(text)):
        for part in re.split(r"&&|\|", line):
            words = shlex.split(part)
            if words and words[0] in OUR_PROGRAMS and words not in found:
                found.append(words)
    return found


def test_scripts_of_the_registry_are_installed() -> None:
    """The build made them; one that is missing means: install again (bootstrap.py does it by itself)."""
    found = importlib.metadata.distribution("cryodrgn-ext").entry_points
    assert {one.name: one.value for one in found.select(group="console_scripts")} == console_scripts()
    for name, target in console_scripts().items():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        compile(f"from {module} import {function}", name, "exec")  # as the script does


def test_packages_exist_and_are_typed() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "__init__.py").is_file()
        assert (ROOT / package / "py.typed").is_file()


def test_version_is_stated_once() -> None:
    from cryodrgn_ext import __version__

    assert "version" in PROJECT["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(line for line in shell_lines(README) if line.endswith("bootstrap.py test"))
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert f"exec {command}\n" in script


def test_licence_is_the_declared_one() -> None:
    assert PROJECT["project"]["license"] == "BSD-3-Clause"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("BSD 3-Clause License")


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_pages_that_a_page_shows_exist(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page])
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_readme_leads_to_every_page() -> None:
    assert [page for page in PAGES if page != "README.md" and page not in README] == []


def test_readme_is_short() -> None:
    assert len(README.encode("utf-8")) < MOST_BYTES_OF_README


def test_commands_of_benchmarks_exist() -> None:
    named = {
        name for text in PAGES.values() for name in re.findall(r"(?:python|sh) (benchmarks/[\w/]+\.(?:py|sh))", text)
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_shown_command_is_understood(words: list[str]) -> None:
    """The sub-command exists, and so does every option."""
    program, *arguments = words
    if program != "cryodrgn-ext":
        pytest.fail(f"a page calls {program} by hand: RELION does that")
    command: click.Command = main
    context = click.Context(main)
    path: list[str] = []
    while isinstance(command, click.Group):
        path.append(next(word for word in arguments[len(path) :]))
        found = command.get_command(context, path[-1])
        assert found is not None, f"{path[-1]} is no sub-command"
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    if path == ["relion", "template"]:  # takes any option of the job that it is for
        job = main.get_command(context, arguments[len(path)])
        assert job is not None
        known |= {option for parameter in job.params for option in parameter.opts}
    given = {word.split("=")[0] for word in arguments if re.match(r"--[a-z]", word)}
    assert given <= known | {"--help"}


def test_every_sub_command_is_shown_with_an_example() -> None:
    shown = {words[1] for words in shown_commands() if len(words) > 1}
    assert [name for name in main.list_commands(click.Context(main)) if name not in shown] == []


def test_page_of_options_is_up_to_date() -> None:
    program = runpy.run_path(str(ROOT / "docs/make_options_page.py"))
    assert (ROOT / "docs/options.md").read_text("utf-8") == program["page"](), "run: python docs/make_options_page.py"


def test_fast_tests_run_first(tmp_path: Path) -> None:
    (tmp_path / "test_order.py").write_text(
        "import pytest\n"
        "@pytest.mark.slow\n@pytest.mark.relion\ndef test_a(): pass\n"
        "@pytest.mark.relion\ndef test_b(): pass\n"
        "def test_c(): pass\n"
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text("utf-8"))
    options = ["-q", "--collect-only", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    listing = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.findall(r"::(test_\w)", listing.stdout) == ["test_c", "test_b", "test_a"], listing.stdout


def test_marks_decide_the_stage() -> None:
    assert stage(set()) < stage({"relion"}) < stage({"slow"}) == stage({"slow", "relion"})
