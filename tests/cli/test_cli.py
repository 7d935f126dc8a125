"""The command line: options generated from settings, every error one sentence, help without heavy imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import starfile
from click.testing import CliRunner

from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs import registry
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings, describe
from cryodrgn_ext.workflow.failure import STOP_SIGNALS
from cryodrgn_ext.workflow.job_result import JobResult
from tests.metadata.cs_data import particles_record, save

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Recorder:
    """Stands for every job: remembers the settings, and raises what it is told to."""

    settings: Settings | None = None
    error: BaseException | None = None
    work: Callable[[], None] = lambda: None

    def __call__(self, settings: Settings, monitor: Monitor) -> JobResult:
        self.settings = settings
        monitor.message("working")
        self.work()
        if self.error is not None:
            raise self.error
        return JobResult(Path(), ())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(registry.Job, "load", lambda self: made)
    return made


def test_select_takes_the_directory_first_and_lists_of_words(recorder: Recorder, tmp_path: Path) -> None:
    words = ["select", "DIR", "--o", "x.star", "--state", "1", "2", "--state", "5", "--z-range", "z1:-1:2", "--invert"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert recorder.settings == SelectSettings(in_parts=Path("DIR"), o=Path("x.star"), state=(1, 2, 5),
                                               z_range=("z1:-1:2",), invert=True)  # fmt: skip


def test_train_writes_its_log_into_the_result_directory(recorder: Recorder, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", "--in_parts", "p.star", "--o", str(tmp_path / "out"), "--box"])
    assert result.exit_code == 0, result.output
    assert "working" in (tmp_path / "out/run.log").read_text()
    assert recorder.settings is not None
    assert recorder.settings.to_mapping()["box"] is None


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("row 3 is wrong."), 2, "ERROR: row 3 is wrong."),
        (MemoryError(), 1, "ERROR: out of memory"),
        (KeyboardInterrupt(), 130, "aborted"),
        (OSError(28, "No space", "x.mrc"), 1, "ERROR: x.mrc: the disk is full"),
        (SystemExit(0), 1, "ended early"),
    ],
)
def test_errors_are_one_sentence(recorder: Recorder, tmp_path: Path, error: Exception, code: int, says: str) -> None:
    recorder.error = error
    result = CliRunner().invoke(main, ["simulate", "--o", str(tmp_path / "p")])
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train"], "--in_parts is required"),
        (["train", "--in_parts", "p.star"], "--o is required"),
        (["train", "--in_parts", "p.star", "--o", "x", "--zdmi", "3"], "did you mean --zdim?"),
        (["train", "--in_parts", "p.star", "--o", "x", "--zdim", "many"], "--zdim must be a whole number"),
        (["train", "--in_parts", "p.star", "--o", "x", "--zdim", "1", "--zdim", "2"], "--zdim is given twice"),
        (["train", "--in_parts", "p.star", "--o", "x", "-z", "1"], "unknown option --z"),
        (["fsc", "a.mrc"], "--map2 is required"),
        (["fsc", "a.mrc", "b.mrc", "--map1", "c.mrc"], "--map1 is given twice"),
        (["simulate", "--o", "x", "--snr", "0"], "--snr must be at least"),
        (["relion", "template", "train", "--zdmi", "3"], "did you mean --zdim?"),
        (["relion", "template", "train", "--project", "nowhere"], "does not exist"),
        (["nosuch"], "No such command 'nosuch'"),
        (["--nosuch"], "No such option"),
        (["relion", "nosuch"], "relion --help"),
        (["relion", "template"], "Missing argument 'JOB'"),
        (["cryosparc", "nosuch"], "No such command 'nosuch'"),
        (["relion", "template", "train", "stray"], "'stray' is not understood"),
    ],
)
def test_wrong_command_lines_are_one_sentence_and_make_nothing(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert not list(tmp_path.iterdir())
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", list(JOBS))
def test_every_option_of_every_job_is_in_its_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    for field in describe(JOBS[name].settings_class):
        assert field.option in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cryodrgn_ext.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'pandas', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_template_prints_the_path_of_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/cdx-relion-train"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    result = CliRunner().invoke(main, ["relion", "template", "train", "--project", str(tmp_path), "--zdim=3"])
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.strip())
    assert path.parent == tmp_path
    options = starfile.read(path)["joboptions_values"].set_index("rlnJobOptionVariable")["rlnJobOptionValue"]
    assert options["fn_exe"] == str(program)


SAMPLES = {"int": "64", "float": "100", "bool": "yes", "str": "z1:0:1", "path": "some.file"}


@pytest.mark.parametrize("name", list(JOBS))
def test_every_option_reaches_the_settings(name: str, recorder: Recorder, tmp_path: Path) -> None:
    fields = describe(JOBS[name].settings_class)
    required = {field.name: "x.mrc" for field in fields if field.required}
    given = required | ({"o": str(tmp_path / "out")} if any(field.name == "o" for field in fields) else {})
    for field in fields:
        if field.name not in given:
            given[field.name] = field.choices[-1] if field.choices else SAMPLES[field.kind]
        if field.high is not None and field.kind in ("int", "float"):
            given[field.name] = f"{max(field.low or 0, min(float(given[field.name]), field.high)):g}"
    words = [word for option, text in given.items() for word in (f"--{option}", text)]
    result = CliRunner().invoke(main, [name, *words])
    assert result.exit_code == 0, result.output
    assert recorder.settings is not None
    expected = {field.name: field.parse([given[field.name]]) for field in fields}
    assert {option: getattr(recorder.settings, option) for option in expected} == expected


def convert(folder: Path, output: str, encoding: str = "utf-8", redirection: str = "") -> tuple[int, bytes]:
    """Convert 40 particles in a process of its own; exit status and all that it said."""
    save(folder / "particles.cs", particles_record())
    command = f"exec {sys.executable} -m cryodrgn_ext convert particles.cs {output} {redirection}"
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_messages_are_written_whatever_the_locale_has_letters_for(tmp_path: Path, encoding: str) -> None:
    status, said = convert(tmp_path, "\N{GREEK SMALL LETTER ALPHA}.star", encoding)
    assert status == 0, said
    assert b"Wrote 40 particles: \\u03b1.star" in said
    assert (tmp_path / "\N{GREEK SMALL LETTER ALPHA}.star").is_file()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_a_scheduler_closed_take_no_file(tmp_path: Path, closed: str) -> None:
    """What is printed must not go into the file that was opened next, which gets the number of the closed stream."""
    status, said = convert(tmp_path, "a.star", redirection=closed)
    assert status == 0, said
    assert len(starfile.read(tmp_path / "a.star")["particles"]) == 40


@pytest.mark.parametrize("number", [one for one in STOP_SIGNALS if one != signal.SIGINT])
def test_what_queues_send_ends_a_job_in_one_sentence(recorder: Recorder, number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in STOP_SIGNALS]
    recorder.work = lambda: os.kill(os.getpid(), number)
    result = CliRunner().invoke(main, ["fsc", "a.mrc", "b.mrc"])
    assert result.exit_code == 130
    assert result.stderr == "ERROR: the job was aborted; the same command resumes from its last checkpoint.\n"
    assert [signal.getsignal(one) for one in STOP_SIGNALS] == before


def test_what_nohup_ignores_does_not_end_a_job(recorder: Recorder) -> None:
    recorder.work = lambda: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = CliRunner().invoke(main, ["fsc", "a.mrc", "b.mrc"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 0, result.output
