"""The sub-command ``cryodrgn-ext cryosparc``: jobs as External jobs of a CryoSPARC project."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.jobs.options.landscape import LandscapeSettings
from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.options.validate import ValidateSettings
from cryodrgn_ext.settings import SettingField, Settings, canonical_name, describe, from_mapping, text_of
from cryodrgn_ext.workflow.failure import explain
from cryosparc_jobs import abinitio, fetching, landscaping, selecting, training, validating
from cryosparc_jobs.client import connect
from cryosparc_jobs.lifecycle import RUN_AGAIN
from cryosparc_jobs.running import FinishedJob

LOGIN: list[click.Parameter] = [
    click.Option(["--url"], help="Address of the CryoSPARC web page [default: CRYOSPARC_BASE_URL]."),
    click.Option(["--email"], help="Which of several saved logins to use."),
    click.Option(["--project"], required=True, metavar="P#", help="Project."),
]
# Options that name things of the project, with the number of words that each takes.
THINGS: dict[str, tuple[int, str, str]] = {
    "particles": (2, "J# OUTPUT", "Job and output with the particles of a 3D refinement, as: J42 particles."),
    "mask": (2, "J# OUTPUT", "Job and output with a solvent mask, as: J12 mask; --in_mask takes a file."),
    "volume": (2, "J# OUTPUT", "Job and output with the map of the refinement, to compare with our consensus."),
    "result": (1, "J#|DIR", "Train, abinit or landscape job, as J43, or its result directory."),
}


@dataclass(frozen=True)
class ExternalCommand:
    """One job as a sub-command.

    Attributes
    ----------
    name : str
    run : callable
        The function of this package; looked up when the command runs.
    settings : Settings class
    ours : collection of str
        Settings that are not the user's.
    things : mapping of str to bool
        Which of :data:`THINGS` it takes, and whether it needs them.
    summary : str
    """

    name: str
    run: Callable[..., FinishedJob]
    settings: type[Settings]
    ours: Collection[str]
    things: Mapping[str, bool]
    summary: str
    texts: Mapping[str, str] = field(default_factory=dict)


COMMANDS = (
    ExternalCommand("train", lambda *a, **k: training.train(*a, **k), TrainSettings, training.OURS,
                    {"particles": True, "mask": False, "volume": False},
                    "Learn the heterogeneity of a finished refinement; states return to the project."),
    ExternalCommand("abinit", lambda *a, **k: abinitio.abinit(*a, **k), AbinitSettings, abinitio.OURS,
                    {"particles": True, "volume": False},
                    "Find poses and a map of particles without orientations; both return to the project.",
                    {"particles": "Job and output with particles that have CTF, as: J42 particles.",
                     "volume": "Job and output with a map that the result is brought onto; --in_3dref takes a file."}),
    ExternalCommand("select", lambda *a, **k: selecting.select(*a, **k), SelectSettings, selecting.OURS,
                    {"result": True, "particles": False},
                    "Return particles by state, cluster, latent range or index, one output per state or cluster."),
    ExternalCommand("validate", lambda *a, **k: validating.validate(*a, **k), ValidateSettings, validating.OURS,
                    {"result": True, "particles": False, "mask": False},
                    "Reconstruct the states of a train or landscape job at full size and test each against chance."),
    ExternalCommand("landscape", lambda *a, **k: landscaping.landscape(*a, **k), LandscapeSettings, landscaping.OURS,
                    {"result": True, "particles": False, "mask": False},
                    "Cluster the volumes of a trained model into states, and map particles onto their components."),
)  # fmt: skip


class ManyWords(click.Command):
    """A command whose settings take lists of words, ``--state 0 2``, as those of the plain jobs do."""

    def __init__(self, many: Collection[str], **attributes: Any) -> None:
        self.many = many
        super().__init__(**attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the words that follow such an option with commas."""
        joined: list[str] = []
        taking = False
        for word in args:
            if word.startswith("--"):
                name, equals, _ = word.partition("=")
                taking = canonical_name(name) in self.many and not equals
                joined.append(word)
            elif taking and not joined[-1].startswith("--"):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


@click.group()
def cryosparc() -> None:
    """Run jobs as External jobs of a CryoSPARC project.

    Log in once with: python -m cryosparc.tools login
    """


def _command(one: ExternalCommand) -> click.Command:
    """Make a sub-command, with one option for every setting of the job."""
    fields = [field for field in describe(one.settings) if field.name not in one.ours]

    def work(
        url: str | None, email: str | None, project: str, workspace: str, directory: Path | None, **words: Any
    ) -> None:
        given = {name: words.pop(name) for name in one.things}
        given = {name: value for name, value in given.items() if value}
        texts = {name: word for name, word in words.items() if word is not None}
        placeholders = {field.name: "placeholder" for field in describe(one.settings) if field.required}
        checked = from_mapping(one.settings, {**texts, **placeholders})
        settings = {name: getattr(checked, name) for name in texts}
        finished = one.run(
            connect(url, email), project=project, workspace=workspace, directory=directory, **given, **settings
        )
        click.echo(f"{finished.project}-{finished.uid} is completed; its files are in {finished.result.directory}")

    own = [
        *LOGIN,
        click.Option(["--workspace"], required=True, metavar="W#", help="Workspace for the new job."),
        *(_thing(name, required, one.texts.get(name)) for name, required in one.things.items()),
        click.Option(
            ["--directory"], type=click.Path(path_type=Path),
            help="Result directory on this machine [default: P#_J#]; that of an interrupted run continues it.",
        ),
    ]  # fmt: skip
    own += [_setting(field) for field in fields]
    return ManyWords(
        [field.name for field in fields if field.many], name=one.name, params=own, callback=_one_sentence(work),
        help=one.summary,
    )  # fmt: skip


def _thing(name: str, required: bool, instead: str | None = None) -> click.Option:
    count, metavar, text = THINGS[name]
    if instead is not None:
        text = instead
    elif name == "particles" and not required:
        text = "Job and output with the particles [default: those of that job]."
    return click.Option([f"--{name}"], nargs=count, required=required, metavar=metavar, help=text)


def _setting(field: SettingField) -> click.Option:
    # Names keep their case (mask_diameter_A), and - may stand for _.
    names = [field.name, *dict.fromkeys((field.option, field.option.replace("_", "-")))]
    text = field.describe() + (f" [default: {text_of(field)}]" if text_of(field) else "")
    metavar = field.kind.upper() + (" ..." if field.many else "")
    if field.kind == "bool":
        return click.Option(names, metavar="[yes|no]", help=text, is_flag=False, flag_value="yes")
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


for command in COMMANDS:
    cryosparc.add_command(_command(command))
cryosparc.add_command(
    click.Command(
        "fetch",
        callback=_one_sentence(_fetch),
        params=[
            *LOGIN,
            _thing("particles", True),
            click.Option(["--o"], required=True, type=click.Path(path_type=Path), help="New .cs file."),
        ],
        help="Write the particles of a live job as a .cs file, which convert and train take.",
    )
)
