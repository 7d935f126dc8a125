"""Templates: text that every RELION takes, and that the real pipeliner turns into the expected command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import starfile

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.settings import from_mapping
from cryodrgn_ext.simulate import empty_pipeline
from relion_wrappers.arguments import given_words
from relion_wrappers.templates import Queue, job_star, write_template
from tests.patience import HANGS_S


def options(text: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "t.star").write_text(text)
    table = starfile.read(tmp_path / "t.star")["joboptions_values"]
    return {str(k): str(v) for k, v in zip(table["rlnJobOptionVariable"], table["rlnJobOptionValue"], strict=True)}


def test_a_template_is_filled_with_defaults(tmp_path: Path) -> None:
    rows = options(job_star(JOBS["train"], {"in_parts": "p.star"}, executable="/bin/x"), tmp_path)
    assert rows["fn_exe"] == "/bin/x"
    assert rows["in_part"] == "p.star"
    labels = [rows[f"param{i}_label"] for i in range(1, 11)]
    assert {"engine", "zdim", "epochs", "states", "box", "seed"} <= set(labels)
    values = {rows[f"param{i}_label"]: rows.get(f"param{i}_value", "") for i in range(1, 11)}
    defaults = TrainSettings(in_parts=Path("p"), o=Path("o"))
    assert values["zdim"] == str(defaults.zdim)
    assert values["box"] == ""
    assert rows["do_queue"] == "No"


@pytest.mark.parametrize(("given", "threads"), [({}, os.cpu_count()), ({"j": "0"}, os.cpu_count()), ({"j": "3"}, 3)])
def test_threads_left_open_are_all_cores(given: dict[str, str], threads: int, tmp_path: Path) -> None:
    assert options(job_star(JOBS["train"], given, executable="/bin/x"), tmp_path)["nr_threads"] == str(threads)


def test_what_has_no_field_goes_into_the_other_arguments(tmp_path: Path) -> None:
    text = job_star(JOBS["train"], {"in_parts": "p.star", "device": "cpu", "zdim": "2"}, executable="/bin/x")
    rows = options(text, tmp_path)
    assert rows["other_args"] == "--device cpu"
    assert "2" in [rows.get(f"param{i}_value") for i in range(1, 11) if rows[f"param{i}_label"] == "zdim"]


def test_the_queue_tab(tmp_path: Path) -> None:
    rows = options(job_star(JOBS["train"], {}, Queue("q.sh", command="bash"), executable="/bin/x"), tmp_path)
    assert (rows["do_queue"], rows["qsub"], rows["qsubscript"]) == ("Yes", "bash", "q.sh")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"zdmi": "2"}, "did you mean --zdim?"),
        ({"zdim": "x"}, "--zdim must be a whole number"),
        ({"zdim": "-2"}, "--zdim must be at least 0"),
        ({"in_parts": "my particles.star"}, "must not contain ' '"),
        ({"in_parts": "Extract/job*/p.star"}, "must not contain '*'"),
        ({"in_parts": "a>b.star"}, "must not contain '>'"),
    ],
)
def test_wrong_templates_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        job_star(JOBS["train"], given, executable="/bin/x")
    assert says in str(caught.value)


def test_jobs_without_a_wrapper_have_no_template() -> None:
    with pytest.raises(InputError, match="no RELION wrapper"):
        job_star(JOBS["fsc"], {})


def test_the_project_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_template(tmp_path / "nowhere" / "job.star", "x")


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.relion_program])
def test_every_job_has_its_fields(name: str, tmp_path: Path) -> None:
    job = JOBS[name]
    found = options(job_star(job, {}, executable="/x"), tmp_path)
    labels = [found[f"param{number}_label"] for number in range(1, 11) if f"param{number}_label" in found]
    assert labels
    assert len(set(labels)) == len(labels)
    assert set(job.shown) <= set(labels)


@pytest.mark.relion
@pytest.mark.parametrize(("name", "given"), [("train", {"zdim": "3", "beta": "0.5"}), ("select", {"state": "1,2"})])
def test_the_real_pipeliner_builds_a_command_that_the_wrapper_understands(
    tmp_path: Path, name: str, given: dict[str, str]
) -> None:
    (tmp_path / "default_pipeline.star").write_text(empty_pipeline())
    (tmp_path / "p.star").write_text("data_\n")
    program = tmp_path / "echo_arguments"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments.txt\ntouch "$2/RELION_JOB_EXIT_SUCCESS"\n')
    program.chmod(0o755)
    write_template(tmp_path / "t.star", job_star(JOBS[name], {"in_parts": "p.star", **given}, executable=str(program)))
    for command in (["--addJobFromStar", "t.star"], ["--sec_wait_after", "1", "--RunJobs", "External/job001/"]):
        subprocess.run(["relion_pipeliner", *command], cwd=tmp_path, timeout=HANGS_S, check=True, capture_output=True)
    words = (tmp_path / "arguments.txt").read_text().split("\n")[:-1]
    settings = from_mapping(JOBS[name].settings_class, given_words(JOBS[name].settings_class, words))
    assert settings.to_mapping()["o"] == "External/job001"
    if isinstance(settings, TrainSettings):
        assert (settings.zdim, settings.beta, settings.box, settings.j) == (3, 0.5, None, os.cpu_count())
    else:
        assert isinstance(settings, SelectSettings)
        assert (settings.state, settings.clusters, settings.invert) == ((1, 2), None, False)
