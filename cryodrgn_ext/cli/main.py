"""The ``cryodrgn-ext`` command: one sub-command per registered job, loaded when it is used."""

from __future__ import annotations

import importlib
from typing import Any, cast

import click

from cryodrgn_ext import __version__
from cryodrgn_ext.cli.job_command import job_command, leave_misused
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import open_standard_streams

# The suites' sub-commands are named here and imported when they are used, so that this room knows none of them.
SUITE_COMMANDS = {
    "relion": ("relion_wrappers.commands", "relion", "Templates for RELION's External jobs."),
    "cryosparc": ("cryosparc_jobs.commands", "cryosparc", "Jobs as External jobs of a CryoSPARC project."),
}


class LazyGroup(click.Group):
    """A group that imports a sub-command only when it runs or shows its own help.

    A wrong command line of any sub-command ends in one sentence.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        open_standard_streams()
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the options before the sub-command."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            leave_misused(ctx, error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the sub-command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            leave_misused(ctx, error)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all sub-commands, in the order of the registry."""
        return [*JOBS, *SUITE_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of a job, or import that of a suite."""
        if cmd_name in JOBS:
            return job_command(JOBS[cmd_name])
        if cmd_name in SUITE_COMMANDS:
            module, name, _ = SUITE_COMMANDS[cmd_name]
            return cast("click.Command", getattr(importlib.import_module(module), name))
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sub-commands without importing them."""
        rows = [(job.name, job.summary) for job in JOBS.values()]
        rows += [(name, summary) for name, (_, _, summary) in SUITE_COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cryodrgn-ext")
def main() -> None:
    """Neural heterogeneous reconstruction from particles of RELION and cryoSPARC."""
