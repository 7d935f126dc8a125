"""The sub-command ``cryodrgn-ext relion``: job.star templates for RELION's External jobs."""

from __future__ import annotations

from pathlib import Path

import click

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.workflow.failure import explain
from relion_wrappers.arguments import template_values
from relion_wrappers.templates import Queue, job_star, write_template


@click.group()
def relion() -> None:
    """Templates for RELION's External jobs."""


@relion.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("job", metavar="JOB")
@click.option("--project", type=click.Path(path_type=Path), default=Path(), help="RELION project directory.")
@click.option("--name", default=None, help="File name of the template [default: cdx_JOB_job.star].")
@click.option("--queue_script", default=None, help="Submission script of your cluster; the job runs at once without.")
@click.option("--queue_command", default="sbatch", help="Submission command [default: sbatch].")
@click.option("--queue_name", default="openmpi", help="Queue name [default: openmpi].")
@click.pass_context
def template(
    ctx: click.Context,
    job: str,
    project: Path,
    name: str | None,
    queue_script: str | None,
    queue_command: str,
    queue_name: str,
) -> None:
    """Write a job.star for JOB into the project, filled with defaults.

    Any option of the job may follow, as --in_parts Import/job001/particles.star --zdim 4. Add it to the project
    with relion_pipeliner --addJobFromStar FILE, or load it in RELION's window.
    """
    try:
        if job not in JOBS or not JOBS[job].relion_program:
            known = ", ".join(one.name for one in JOBS.values() if one.relion_program)
            raise InputError(f"there is no job '{job}' in RELION: the jobs are {known}.")
        queue = None if queue_script is None else Queue(queue_script, queue_command, queue_name)
        text = job_star(JOBS[job], template_values(ctx.args), queue)
        path = project / (name or f"cdx_{job}_job.star")
        write_template(path, text)
    except (InputError, OSError) as error:
        failure = explain(error)
        click.echo(f"ERROR: {failure.sentence}", err=True)
        ctx.exit(failure.exit_code)
    click.echo(str(path))
    click.echo(f"Add it with: cd {project} && relion_pipeliner --addJobFromStar {path.name}", err=True)
