"""The sub-command ``cryodrgn-ext cryosparc``: jobs as External jobs of a CryoSPARC project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.jobs.failure import explain
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.settings import describe, from_mapping
from cryosparc_jobs.client import connect
from cryosparc_jobs.training import OURS, train


@click.group()
def cryosparc() -> None:
    """Run jobs as External jobs of a CryoSPARC project.

    Log in once with: python -m cryosparc.tools login
    """


def _train(
    url: str | None, email: str | None, project: str, workspace: str, particles: tuple[str, str],
    directory: Path | None, **settings: str | None,
) -> None:  # fmt: skip
    context = click.get_current_context()
    try:
        words = {name: word for name, word in settings.items() if word is not None}
        checked = from_mapping(TrainSettings, {**words, "in_parts": "particles.cs", "o": "result"})
        given: dict[str, Any] = {name: getattr(checked, name) for name in words}
        cs = connect(url, email)
        finished = train(cs, project=project, workspace=workspace, particles=particles, directory=directory, **given)
    except (CryodrgnExtError, OSError, MemoryError, KeyboardInterrupt) as error:
        failure = explain(error)
        click.echo(f"ERROR: {failure.sentence}", err=True)
        context.exit(failure.exit_code)
    click.echo(f"{finished.project}-{finished.uid} is completed; its files are in {finished.result.directory}")


def _train_command() -> click.Command:
    """Make the command, with one option for every setting of the job."""
    own: list[click.Parameter] = [
        click.Option(["--url"], help="Address of the CryoSPARC web page [default: CRYOSPARC_BASE_URL]."),
        click.Option(["--email"], help="Which of several saved logins to use."),
        click.Option(["--project"], required=True, metavar="P#", help="Project."),
        click.Option(["--workspace"], required=True, metavar="W#", help="Workspace for the new job."),
        click.Option(
            ["--particles"], nargs=2, required=True, metavar="J# OUTPUT",
            help="Job and output with the particles of a 3D refinement, as: J42 particles.",
        ),
        click.Option(
            ["--directory"], type=click.Path(path_type=Path),
            help="Result directory on this machine [default: P#_J#]; that of an interrupted run continues it.",
        ),
    ]  # fmt: skip
    own += [
        # Names keep their case (mask_diameter_A), and - may stand for _.
        click.Option(
            [field.name, *dict.fromkeys((field.option, field.option.replace("_", "-")))],
            metavar=field.kind.upper(), help=field.describe(),
        )
        for field in describe(TrainSettings) if field.name not in OURS
    ]  # fmt: skip
    return click.Command(
        "train", params=own, callback=_train,
        help="Learn the heterogeneity of a finished refinement; states return to the project.",
    )  # fmt: skip


cryosparc.add_command(_train_command())
