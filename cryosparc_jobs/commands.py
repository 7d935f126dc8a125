"""The sub-command ``cryodrgn-ext cryosparc``: jobs as External jobs of a CryoSPARC project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import parse_values, text_of
from cryodrgn_ext.tokens import in_one_form
from cryodrgn_ext.workflow.failure import EXIT_INPUT_ERROR, explain
from cryosparc_jobs import fetching
from cryosparc_jobs.client import connect
from cryosparc_jobs.job_functions import run_external
from cryosparc_jobs.job_kinds import JobKind, job_kinds
from cryosparc_jobs.lifecycle import RUN_AGAIN

LOGIN: list[click.Parameter] = [
    click.Option(["--url"], help="Address of the CryoSPARC web page [default: CRYOSPARC_BASE_URL, or that of the "
                                 "saved login if there is only one]."),
    click.Option(["--email"], help="Which of several saved logins to use."),
    click.Option(["--project"], required=True, metavar="P#", help="Project, as P3."),
]  # fmt: skip
WHERE: list[click.Parameter] = [
    click.Option(["--workspace"], required=True, metavar="W#", help="Workspace for the new job, as W1."),
    click.Option(["--directory"], type=click.Path(path_type=Path),
                 help="Result directory on this machine [default: P#_J#]; that of an interrupted run continues it."),
]  # fmt: skip


class ExternalJobCommand(click.Command):
    """A job as a sub-command, with an option for every setting; options are spelled as those of the plain jobs."""

    def __init__(self, kind: JobKind) -> None:
        self.kind = kind
        self.fields = {name: field for name, field in kind.fields.items() if name not in kind.decided()}
        connections = [
            click.Option([f"--{name}"], nargs=words, required=required, metavar=metavar, help=text)
            for name, (required, words, metavar, text) in kind.connections.items()
        ]
        params = [*LOGIN, *connections, *WHERE, *map(_setting, self.fields.values())]
        super().__init__(kind.name, params=params, callback=_one_sentence(self._work), help=kind.job.summary)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring the arguments into click's form; wrong ones end in one sentence."""
        words = {name: count for name, (_, count, *_) in self.kind.connections.items()}
        words |= dict.fromkeys(("url", "email", "project", "workspace", "directory"), 1)
        try:
            args = in_one_form(self.kind.job.settings_class, args, words, without=self.kind.decided())
        except InputError as error:
            click.echo(f"ERROR: {error}", err=True)
            ctx.exit(EXIT_INPUT_ERROR)
        return super().parse_args(ctx, args)

    def _work(self, url: str | None, email: str | None, project: str, workspace: str, directory: Path | None,
              **given: Any) -> None:  # fmt: skip
        connected = {name: given.pop(name) or None for name in self.kind.connections}
        texts = {name: word for name, word in given.items() if word is not None}
        settings = parse_values(self.kind.job.settings_class, texts)
        self.kind.check(settings)
        finished = run_external(
            self.kind, connect(url, email), connected, project=project, workspace=workspace, directory=directory,
            title=self.kind.title, settings=settings,
        )  # fmt: skip
        click.echo(f"{finished.project}-{finished.uid} is completed; its files are in {finished.result.directory}")


class ExternalJobs(click.Group):
    """All jobs of the registry that run as External jobs, and the commands that are given."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all sub-commands."""
        return [*job_kinds(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of a job."""
        kind = job_kinds().get(cmd_name)
        return super().get_command(ctx, cmd_name) if kind is None else ExternalJobCommand(kind)


@click.group(cls=ExternalJobs)
def cryosparc() -> None:
    """Run jobs as External jobs of a CryoSPARC project.

    Log in once with: python -m cryosparc.tools login --url ADDRESS
    """


def _setting(field: SettingField) -> click.Option:
    # Names keep their case (mask_diameter_A), and - may stand for _.
    names = [field.name, *dict.fromkeys((field.option, field.option.replace("_", "-")))]
    text = field.describe() + (f" [default: {text_of(field)}]" if text_of(field) else "")
    metavar = "[yes|no]" if field.kind == "bool" else field.kind.upper() + (" ..." if field.many else "")
    return click.Option(names, metavar=metavar, help=text)


def _one_sentence(work: Callable[..., None]) -> Callable[..., None]:
    """Turn what goes wrong into one sentence on standard error and an exit status."""

    def run(**words: Any) -> None:
        context = click.get_current_context()
        try:
            work(**words)
        except (CryodrgnExtError, OSError, MemoryError, KeyboardInterrupt) as error:
            failure = explain(error, RUN_AGAIN)
            click.echo(f"ERROR: {failure.sentence}", err=True)
            context.exit(failure.exit_code)

    return run


def _fetch(url: str | None, email: str | None, project: str, particles: tuple[str, str], o: Path) -> None:
    fetched = fetching.fetch(connect(url, email), project=project, particles=particles, path=o)
    click.echo(f"{fetched.n} particles: {o}")


cryosparc.add_command(
    click.Command(
        "fetch",
        callback=_one_sentence(_fetch),
        params=[
            *LOGIN,
            click.Option(["--particles"], nargs=2, required=True, metavar="J# OUTPUT",
                         help="Job and output with the particles of a 3D refinement, as: J42 particles."),
            click.Option(["--o"], required=True, type=click.Path(path_type=Path), help="New .cs file."),
        ],
        help="Write the particles of a live job as a .cs file, which convert and train take.",
    )
)  # fmt: skip
