"""A click command made from a job's declared settings, and the path from there to the job and back."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from cryodrgn_ext.durable_files import make_output_directory
from cryodrgn_ext.errors import CryodrgnExtError, InputError, JobAborted
from cryodrgn_ext.jobs.registry import Job
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import describe, text_of
from cryodrgn_ext.tokens import in_one_form
from cryodrgn_ext.workflow.directory_lock import directory_lock
from cryodrgn_ext.workflow.failure import EXIT_INPUT_ERROR, check_working_directory, explain, heeded_signals
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.recorded_settings import CompletedSettings, settings_from_words
from cryodrgn_ext.workflow.run_log import logged_run


class JobCommand(click.Command):
    """A command whose options may be spelled with - or _, take lists of words, and may stay bare."""

    def __init__(self, job: Job, **attributes: Any) -> None:
        self.job = job
        super().__init__(job.name, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring the arguments into click's form; wrong ones end in one sentence and exit status 2."""
        try:
            return super().parse_args(ctx, in_one_form(self.job.settings_class, args))
        except InputError as error:
            leave(ctx, str(error), EXIT_INPUT_ERROR)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the job; whatever happens becomes one sentence on standard error and an exit status."""
        with _termination_raises():
            try:
                check_working_directory()
                return run(self.job, _settings(self.job, ctx.params))
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - the outermost call
                failure = explain(error)
                if not isinstance(error, (CryodrgnExtError, OSError, MemoryError, KeyboardInterrupt, SystemExit)):
                    traceback.print_exc()
                leave(ctx, failure.sentence, failure.exit_code)


def leave(ctx: click.Context, sentence: str, exit_code: int) -> NoReturn:
    """Print one sentence, no usage text, and end with an exit status."""
    click.echo(f"ERROR: {sentence}", err=True)
    ctx.exit(exit_code)


def leave_misused(ctx: click.Context, error: click.UsageError) -> NoReturn:
    """Say in one sentence what click found wrong with a command line, and end; its help for no words at all stays."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Option):
        sentence = f"{error.param.opts[0]} is required: {error.param.help}"
    else:
        sentence = error.format_message().rstrip(".")
        sentence += f"; {error.ctx.command_path} --help says what there is." if error.ctx else "."
    leave(ctx, sentence, EXIT_INPUT_ERROR)


def job_command(job: Job) -> click.Command:
    """Make the click command of a job.

    Parameters
    ----------
    job : Job
        From the registry; only its settings are imported here.
    """
    fields = {field.name: field for field in describe(job.settings_class)}
    parameters: list[click.Parameter] = [
        click.Argument(
            [f"positional_{name}"],
            required=False,
            nargs=-1 if fields[name].many else 1,
            metavar=f"[{name.upper()}]" + (" ..." if fields[name].many else ""),
        )
        for name in job.positional
    ]
    parameters += [_option(field, field.name in job.positional) for field in fields.values()]
    return JobCommand(
        job, params=parameters, help=job.summary, context_settings={"help_option_names": ["-h", "--help"]}
    )


def _option(field: SettingField, positional: bool) -> click.Option:
    names = [field.name, field.option]  # the name itself: click would make it of the option, in lower case
    if "_" in field.name:
        names.append("--" + field.name.replace("_", "-"))
    text = field.describe()
    if field.required:
        text += " [required]" if not positional else " [required, may be given without the option]"
    elif text_of(field):
        text += f" [default: {text_of(field)}]"
    metavar = {"int": "N", "float": "X", "path": "FILE", "bool": "[yes|no]", "str": "TEXT"}[field.kind]
    return click.Option(names, type=str, help=text, metavar=metavar + (" ..." if field.many else ""))


def _settings(job: Job, params: dict[str, Any]) -> CompletedSettings:
    given = {name: text for name, text in params.items() if text is not None and not name.startswith("positional_")}
    for name in job.positional:
        text = params.get(f"positional_{name}")
        if text:  # "" and () say nothing either
            if name in given:
                shown = text if isinstance(text, str) else " ".join(text)
                raise InputError(f"--{name} is given twice, as '{given[name]}' and as '{shown}': keep one of them.")
            given[name] = text
    return settings_from_words(job.settings_class, job.name, given)


def run(job: Job, completed: CompletedSettings) -> JobResult:
    """Run a job from the command line, with a lock and a run.log where it has a result directory."""
    settings = completed.settings
    if "WORLD_SIZE" in os.environ:  # torchrun's: only then is the heavy import worth it
        from cryodrgn_ext.workflow.launcher import help_with, is_helper

        if is_helper():
            help_with(job.load_worker()(settings))
            return JobResult(Path(), ())
    run_job = job.load()
    if not isinstance(settings, ResultSettings):
        return run_job(settings, Monitor())
    directory = settings.o
    make_output_directory(directory)
    with directory_lock(directory), logged_run(directory, f"cryodrgn-ext {job.name}") as monitor:
        for sentence in completed.sentences:
            monitor.message(sentence)
        return run_job(settings, monitor)


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    """Let what ends a job end it as Ctrl-C does, so that unfinished files are removed."""

    def on_signal(_number: int, _frame: object) -> None:
        raise JobAborted("the job was terminated")

    numbers = [number for number in heeded_signals() if number != signal.SIGINT]
    previous = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
