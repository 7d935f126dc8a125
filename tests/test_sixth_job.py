"""A sixth job, one module and one line of the registry, is everywhere: shell, RELION, CryoSPARC, documentation."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import starfile
from click.testing import CliRunner

import cryosparc_jobs
from cryodrgn_ext.cli import main
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.simulate import empty_pipeline
from cryosparc_jobs import commands
from relion_wrappers.console_scripts import console_scripts
from tests.cryosparc_jobs.imitated_project import project_with, saved_outputs, simulate_refinement
from tests.patience import HANGS_S
from tests.sixth_job import MODULE, load_module, registry_line

ROOT = Path(__file__).resolve().parent.parent
N, BOX = 21, 20
TO_RELION = ["--o", "External/job002/", "--in_parts", "particles.star", "--every", "4", "--j", "1"]


@pytest.fixture
def sixth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setitem(sys.modules, MODULE, load_module())
    monkeypatch.setitem(JOBS, "thin", registry_line())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    simulate_refinement(folder, N, box_size=BOX, pixel_size_A=12.0, snr=1.0)
    (folder / "default_pipeline.star").write_text(empty_pipeline())
    return folder


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The console script that an installation would have made, beside a Python that is said to run."""
    path = tmp_path / "bin/cdx-relion-thin"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.sixth_job "$@"\n')
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path.with_name("python")))
    return path


def test_it_is_listed_everywhere(sixth: None) -> None:
    runner = CliRunner()
    assert "Keep one particle of every few." in runner.invoke(main, ["--help"]).output
    for words in (["thin", "--help"], ["cryosparc", "thin", "--help"]):
        shown = runner.invoke(main, words)
        assert shown.exit_code == 0
        assert "--every" in shown.output
    assert "thin" in runner.invoke(main, ["cryosparc", "--help"]).output
    assert "thin" in dir(cryosparc_jobs)
    assert "ThinSettings" in str(cryosparc_jobs.thin.__doc__)
    module, function = console_scripts()["cdx-relion-thin"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    page = runpy.run_path(str(ROOT / "docs/make_options_page.py"))["page"]()
    assert "## cryodrgn-ext thin\n\nKeep one particle of every few. In RELION: `cdx-relion-thin`." in page
    assert "| `--every` | `2` | Keep one particle of so many (1 to 1000). |" in page


def test_it_runs_on_the_command_line(sixth: None, project: Path, tmp_path: Path) -> None:
    words = ["thin", str(project / "particles.star"), "--o", str(tmp_path / "out"), "--every", "4"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    kept = read_particles(tmp_path / "out/particles.star", project_dir=project)
    assert kept.image_name.tolist() == read_particles(project / "particles.star").image_name[::4].tolist()
    assert "Kept 6 of 21 particles" in (tmp_path / "out/run.log").read_text()
    shown = CliRunner().invoke(main, ["thin", str(project / "particles.star"), "--o", str(tmp_path), "--every", "30"])
    assert shown.exit_code == 2
    assert "--every is 30, but" in shown.stderr


def test_relion_template_has_its_options(sixth: None, program: Path, tmp_path: Path) -> None:
    words = ["relion", "template", "thin", "--project", str(tmp_path), "--in_parts", "particles.star", "--every", "4"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    table = starfile.read(tmp_path / "cdx_thin_job.star")["joboptions_values"]
    options = dict(zip(table["rlnJobOptionVariable"], table["rlnJobOptionValue"].astype(str), strict=True))
    assert (options["fn_exe"], options["in_part"]) == (str(program), "particles.star")
    assert (options["param1_label"], options["param1_value"]) == ("every", "4")


@pytest.mark.parametrize(
    ("words", "marker", "code"),
    [(TO_RELION, "SUCCESS", 0), ([*TO_RELION[:-3], "30"], "FAILURE", 2), ([*TO_RELION, "--evry", "2"], "FAILURE", 2)],
)
def test_it_lives_and_dies_as_relion_expects(
    project: Path, program: Path, words: list[str], marker: str, code: int
) -> None:
    done = subprocess.run([program, *words], cwd=project, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == code, done.stderr
    job = project / "External/job002"
    assert [path.name for path in job.glob("RELION_JOB_*")] == [f"RELION_JOB_EXIT_{marker}"]
    if code == 0:
        nodes = starfile.read(job / "RELION_OUTPUT_NODES.star")
        assert nodes["rlnPipeLineNodeName"].tolist() == ["External/job002/particles.star"]
        assert len(starfile.read(job / "particles.star")["particles"]) == 6
    else:
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.relion
def test_the_real_pipeline_runs_it(sixth: None, project: Path, program: Path) -> None:
    words = ["relion", "template", "thin", "--project", str(project), "--in_parts", "particles.star", "--every", "4"]
    assert CliRunner().invoke(main, words).exit_code == 0
    for command in (["--addJobFromStar", "cdx_thin_job.star"],
                    ["--sec_wait_after", "1", "--RunJobs", "External/job001/"]):  # fmt: skip
        subprocess.run(["relion_pipeliner", *command], cwd=project, timeout=HANGS_S, check=True, capture_output=True)
    pipeline = starfile.read(project / "default_pipeline.star", always_dict=True)
    assert pipeline["pipeline_processes"]["rlnPipeLineProcessStatus"].tolist() == [2]
    assert "External/job001/particles.star" in pipeline["pipeline_nodes"]["rlnPipeLineNodeName"].tolist()


@pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
def test_it_runs_as_an_external_job_of_cryosparc(
    sixth: None, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with project_with(project, tmp_path / "projects") as lab:
        here = {"project": lab.project, "workspace": "W1", "particles": (lab.parent, "particles")}
        finished = cryosparc_jobs.thin(lab.cs, **here, every=4)
        assert finished.outputs == ("particles_kept",)
        rows = lab.cs.find_job(lab.project, finished.uid).load_output("particles_kept")
        assert rows["uid"].tolist() == lab.particles["uid"][::4].tolist()
        assert rows["components_mode_0/value"].tolist() == [0, 4, 8, 12, 16, 20]
        state = lab.state(finished.uid)
        assert state.history == ["building", "running", "completed"]
        assert state.model.ui_tile_images
        monkeypatch.setattr(commands, "connect", lambda url, email: lab.cs)
        words = ["--project", lab.project, "--workspace", "W1", "--particles", lab.parent, "particles", "--every", "3"]
        shown = CliRunner().invoke(main, ["cryosparc", "thin", *words])
        assert shown.exit_code == 0, shown.output
        assert saved_outputs(lab, "J3") == ["particles_kept"]
