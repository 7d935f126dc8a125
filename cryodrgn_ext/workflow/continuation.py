"""Whether a run may go on in a directory where an earlier one began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.results.record import read_record
from cryodrgn_ext.settings import Settings, describe, in_words

#: Settings that decide how images are preprocessed.
IMAGE_SETTINGS = ("box", "mask_diameter_A", "contrast")


@dataclass(frozen=True)
class Continuation:
    """Inputs and settings that an interrupted work depends on, and that therefore may not change.

    The particles (the input ``in_parts``) may never change.

    Attributes
    ----------
    work : str
        For the user, as "training".
    begun : bool
        Whether the work has begun: before that, everything else may change.
    inputs : tuple of str
        Names of input files, as in ``inputs`` of job.yaml.
    settings : tuple of str
    """

    work: str
    begun: bool
    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


def check_continuation(
    directory: Path, settings: Settings, inputs: Mapping[str, Any], continuation: Continuation
) -> None:
    """Compare a run with the record of the one before it in the directory, if there was one.

    Parameters
    ----------
    directory : Path
    settings : Settings
        Of this run.
    inputs : mapping
        Of this run, as job.yaml keeps them.
    continuation : Continuation

    Raises
    ------
    ResumeError
        When the particles are others, or an input or setting that the work depends on has changed.
    """
    earlier = read_record(directory)
    if earlier is None:
        return
    before = earlier["inputs"].get("in_parts", {})
    if before.get("sha256") not in (None, inputs["in_parts"]["sha256"]):
        raise ResumeError(_other_particles(directory, before, inputs["in_parts"]))
    refuse_other_images(directory, inputs, earlier["inputs"])
    if not continuation.begun:
        return
    for name in continuation.inputs:
        if earlier["inputs"].get(name, {}).get("sha256") != inputs.get(name, {}).get("sha256"):
            raise ResumeError(
                f"--{name} is another than when {directory} was begun: the {continuation.work} cannot be continued "
                "with it; restore it, or start a new job."
            )
    now, then = settings.to_mapping(), earlier["settings"]
    fields = {field.name: field for field in describe(type(settings))}
    # The default of a setting that an earlier version did not have stands for what that version did.
    defaults = {name: field.default for name, field in fields.items() if not field.required}
    for name in continuation.settings:
        before = in_words(fields[name], then.get(name, defaults.get(name, now[name])))
        if before != now[name]:
            raise ResumeError(
                f"--{name} was {before} when {directory} was begun and is {now[name]} now: the "
                f"{continuation.work} cannot be continued with another value; restore it, or start a new job."
            )


def _other_particles(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what of the files of particles is another than when a job was begun: one of several may have come or gone."""
    then_read, now_read = ({one["sha256"]: one["path"] for one in each.get("files", [each])} for each in (before, now))
    come = [path for digest, path in now_read.items() if digest not in then_read]
    gone = [path for digest, path in then_read.items() if digest not in now_read]
    if (come and gone) or not (set(then_read) & set(now_read)):
        return (
            f"{directory} was begun with {before.get('path')}, which has changed or is another file than "
            f"{now['path']}: start a new job for other particles."
        )
    if come:
        return (
            f"{directory} was begun without {', '.join(come)}, which is now read with {now['path']} and may tell which "
            "particles belong together: move it away to continue, or start a new job."
        )
    return (
        f"{directory} was begun with {', '.join(gone)}, which is not read with {now['path']} any more: put it back to "
        "continue, or start a new job."
    )


def refuse_other_images(directory: Path, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """Raise ResumeError when a job that continues finds other images than it began with.

    Parameters
    ----------
    directory : Path
        The result directory.
    now, then : mapping
        Inputs as job.yaml records them, of this run and of the earlier one.
    """
    before, found = then.get("images", {}), now.get("images", {})
    if before.get("sha256") not in (None, found.get("sha256")):
        raise ResumeError(
            f"{directory} was begun with other images than those in {found.get('directory')}: they were in "
            f"{before.get('directory')}; give that directory with --project, or start a new job."
        )
