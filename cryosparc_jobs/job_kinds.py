"""Our jobs as External jobs: what each takes from the project is read off its settings, so that no job is listed here.

A job is one of them when RELION runs it too (see :mod:`cryodrgn_ext.jobs.registry`) and its ``in_parts`` says what a
suite connects to it: particles with or without alignments, or the result of an earlier job of ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS, Job
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import check_values, describe
from cryodrgn_ext.workflow.recorded_settings import CompletedSettings, completed_settings
from cryosparc_jobs.particles import NEEDED, UNALIGNED

INPUT_FILE = "input_particles.cs"
# Settings that name a map of another job, and what the argument and the input are called that connect it.
MAPS = {"in_mask": "mask", "in_3dref": "volume"}
# What the project decides: why it cannot be given, and its value.
FORMATS = {"particles_format": "cs", "star_columns": "auto"}
_PARTICLES = {
    "aligned particles": (NEEDED, "Job and output with the particles of a 3D refinement, as: J42 particles."),
    "aligned particles with latents": (
        NEEDED,
        "Job and output with the particles of a 3D variability or 3D flexible refinement job, as: J42 particles; or of "
        "a refinement, with --latents.",
    ),
    "particles": (UNALIGNED, "Job and output with particles that have CTF, as: J42 particles."),
}
_RETURNS = {
    "train": "Particles, a volume with half-maps and a mask of each state, and ``particles_all``, which have their "
    "latents as ``components_mode_0``, ...",
    "abinit": "``particles``: the parent's own with ``alignments3D`` of ours, and with ``zdim`` latents as "
    "``components_mode_0``, ...; ``volume`` with half-maps, and ``mask``.",
    "import": "As of train: particles, a volume with half-maps and a mask of each state, and ``particles_all``.",
    "consensus": "``volume_consensus`` with half-maps, and its mask.",
    "select": "``particles_state_00``, ``particles_cluster_03`` or ``particles_selected``, and ``particles_rest``.",
    "atomic": "Particles of each state; ensembles, residues and the script for ChimeraX among the job's files.",
    "validate": "Particles, a volume with half-maps and a mask of each state.",
    "landscape": "Particles and the average volume of each cluster, ``mask_compared``, and ``particles_all``, which "
    "have their volume components as ``components_mode_0``, ...",
}


@dataclass(frozen=True)
class JobKind:
    """One of our jobs as an External job.

    Attributes
    ----------
    job : Job
    """

    job: Job

    @property
    def name(self) -> str:
        """Of the job, of the function and of the sub-command."""
        return self.job.name

    @property
    def title(self) -> str:
        """Title of the job's card, unless the user gives another."""
        return f"cryodrgn-ext: {self.name}"

    @cached_property
    def fields(self) -> dict[str, SettingField]:
        """All settings by name."""
        return {field.name: field for field in describe(self.job.settings_class)}

    @property
    def takes_result(self) -> bool:
        """Whether the job goes on from the result of an earlier one, and not from particles alone."""
        return self.fields["in_parts"].connects == "result"

    @property
    def takes_latents(self) -> bool:
        """Whether the job makes use of latents that the particles have."""
        return self.fields["in_parts"].connects == "aligned particles with latents"

    @property
    def needed_slots(self) -> tuple[str, ...]:
        """Slots that connected particles must have."""
        return NEEDED if self.takes_result else _PARTICLES[self.fields["in_parts"].connects][0]

    @cached_property
    def maps(self) -> dict[str, str]:
        """Arguments that connect maps of other jobs, and the settings that take their files."""
        return {what: name for name, what in MAPS.items() if name in self.fields}

    @cached_property
    def connections(self) -> dict[str, tuple[bool, int, str, str]]:
        """Arguments that name things of the project: whether required, number of words, metavar and help."""
        found: dict[str, tuple[bool, int, str, str]] = {}
        if self.takes_result:
            text = "Job of ours that learned, as J43, or its result directory."
            found["result"] = (True, 1, "J#|DIR", text)
            text = "Job and output with the particles [default: those of that job]."
            found["particles"] = (False, 2, "J# OUTPUT", text)
        else:
            found["particles"] = (True, 2, "J# OUTPUT", _PARTICLES[self.fields["in_parts"].connects][1])
        for what, name in self.maps.items():
            text = f"Job and output with a {what}, as: J12 {what}; --{name} takes a file. {self.fields[name].help}."
            found[what] = (False, 2, "J# OUTPUT", text)
        return found

    def decided(self, connected: Iterable[str] = ()) -> dict[str, str]:
        """Settings that cannot be given, with the reason; ``connected`` are the maps that come from other jobs."""
        what = "what was learned comes from result= (--result)"
        if not self.takes_result:
            what = "the particles come from the parent job (particles=, --particles)"
        reasons = {"in_parts": what, "o": "the result directory is directory= (--directory)"}
        if "project" in self.fields:
            reasons["project"] = "images are found in the directory of the CryoSPARC project"
        reasons |= {name: "CryoSPARC takes a .cs" for name in FORMATS if name in self.fields}
        return reasons | {self.maps[one]: f"the file comes from {one}= (--{one})" for one in connected}

    def check(self, given: Mapping[str, Any], connected: Iterable[str] = ()) -> None:
        """Check settings by name, type and bounds, before anything else is known.

        Raises
        ------
        InputError
            For an unknown name, with a suggestion, a wrong value, or a setting that cannot be given.
        """
        for name, reason in self.decided(connected).items():
            if name in given:
                raise InputError(f"{name} cannot be given: {reason}.")
        check_values(self.job.settings_class, given)

    def complete(self, given: Mapping[str, Any], where: Path, learned: Path | None) -> CompletedSettings:
        """Settings of a run in the result directory ``where``, of what was ``learned`` or of connected particles.

        Raises
        ------
        InputError
            When one that is required is missing, or an earlier run in the directory has left no readable record.
        """
        formats = {name: value for name, value in FORMATS.items() if name in self.fields}
        ours: dict[str, Any] = {"project": None} if "project" in self.fields else {}
        ours |= {"in_parts": where / INPUT_FILE if learned is None else learned, "o": where, **formats}
        return completed_settings(self.job.settings_class, self.name, {**given, **ours})

    def signature(self) -> inspect.Signature:
        """Signature of the job's function: the client, what is connected, and any settings."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("cs", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Any)]
        parameters += [inspect.Parameter(name, keyword, annotation=str) for name in ("project", "workspace")]
        for name, (required, *_) in self.connections.items():
            default = inspect.Parameter.empty if required else None
            parameters.append(inspect.Parameter(name, keyword, default=default, annotation=Any))
        parameters += [
            inspect.Parameter("directory", keyword, default=None, annotation=str | Path | None),
            inspect.Parameter("title", keyword, default=self.title, annotation=str),
            inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD, annotation=Any),
        ]
        return inspect.Signature(parameters)

    def documentation(self) -> str:
        """Docstring of the job's function."""
        lines = []
        for name, (required, words, _, text) in self.connections.items():
            kind = "str, job, or pair" if words == 2 else "str, path, or job"
            lines.append(f"{name} : {kind}{'' if required else ', optional'}\n    {text}\n")
            if words == 2:
                lines.append(f'    Here as ``("J42", "{name}")``; the job may be what ``cs.find_job`` returned.\n')
        return _PAGE.format(
            summary=self.job.summary, connections="".join(lines), settings=self.job.settings_class.__qualname__,
            module=self.job.settings_class.__module__, decided=", ".join(self.decided()),
            returns=_RETURNS.get(self.name, "One output for everything that the job returns."),
        )  # fmt: skip


def job_kinds() -> dict[str, JobKind]:
    """All jobs that run as External jobs, by name."""
    kinds = [JobKind(job) for job in JOBS.values() if job.relion_program]
    return {kind.name: kind for kind in kinds if "in_parts" in kind.fields and kind.fields["in_parts"].connects}


_PAGE = """{summary}

Parameters
----------
cs : cryosparc.tools.CryoSPARC
    A client that is logged in; see :func:`cryosparc_jobs.connect`.
project, workspace : str
    Uids, as ``P1`` and ``W1``.
{connections}directory : path-like, optional
    Result directory on this machine; ``<project>_<job>`` in the working directory when omitted. That of an interrupted
    run of the same particles and settings continues it.
title : str
    Of the job's card.
**settings
    Fields of :class:`{module}.{settings}`, except for {decided}.

Returns
-------
FinishedJob
    Its outputs: {returns}

Raises
------
InputError
    When a setting, the parent or its particles cannot be used; before a job is created where it can be known.
JobAborted
    When the job was killed in the web page, or otherwise no longer runs.
MasterError
    When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
"""
