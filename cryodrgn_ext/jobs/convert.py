"""The job that converts particles between RELION and CryoSPARC."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.options.convert import ConvertSettings
from cryodrgn_ext.metadata.cs import AnyArray, write_cs
from cryodrgn_ext.metadata.csg import write_csg
from cryodrgn_ext.metadata.half_sets import own_half_set_warnings
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.returned_particles import list_lost, say_dark
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput

_SHOWN_NAMES = 40
FORMATS = (".star", ".cs", ".csg")


def convert(settings: ConvertSettings, monitor: Monitor) -> JobResult:
    """Write particles in the format that the suffix of the output names; say what it cannot carry.

    Parameters
    ----------
    settings : ConvertSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The STAR file, or the .cs file.

    Raises
    ------
    InputError
        When a file is wrong, an output would overwrite an input, or a particle is not in the reference.
    """
    suffix = settings.o.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--o is {settings.o}, but must end in .star, .cs or .csg: the suffix names the format.")
    if not settings.o.parent.is_dir():
        raise InputError(f"--o is {settings.o}, but the directory {settings.o.parent} does not exist.")
    outputs = (settings.o,) if suffix == ".star" else (settings.o.with_suffix(".cs"), settings.o.with_suffix(".csg"))
    particles = read_particles(settings.in_parts, settings.project, require_poses=False,
                               passthroughs=settings.passthrough)  # fmt: skip
    _protect_inputs(outputs, settings, particles)
    for note in (*particles.notes, *own_half_set_warnings(particles)):
        monitor.message(f"Note: {note}")
    columns: dict[str, AnyArray] = {}
    if settings.reference is not None:
        particles, columns = _restored(settings, particles, monitor)
    if suffix == ".star":
        _write_star(settings, particles, columns, monitor)
    else:
        _write_group(outputs, particles, columns, settings, monitor)
    monitor.message(f"Wrote {particles.n} particles: {outputs[0]}")
    return JobResult(settings.o.parent, (ParticleOutput(path=outputs[0], uid=particles.uid),))


def _protect_inputs(outputs: tuple[Path, ...], settings: ConvertSettings, particles: ParticleSet) -> None:
    inputs = [settings.in_parts, *particles.files, *map(Path, settings.passthrough)]
    if settings.reference is not None:
        inputs.append(settings.reference)
    taken = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in taken:
            raise InputError(f"{output} would be overwritten, but is an input: inputs are never overwritten.")


def _restored(
    settings: ConvertSettings, particles: ParticleSet, monitor: Monitor
) -> tuple[ParticleSet, dict[str, AnyArray]]:
    reference = read_particles(settings.reference or "", settings.project, require_poses=False)
    wants_star = settings.o.suffix.lower() == ".star"
    if (reference.source.format == "star") != wants_star:
        kind = "STAR file" if wants_star else ".cs or .csg file"
        raise InputError(f"--reference is {settings.reference}, but must be a {kind} as the output is.")
    restored = restore(particles, reference)
    monitor.message(f"Matched {particles.n} particles with {reference.path} by {restored.joined_by}.")
    for note in restored.notes:
        monitor.message(f"Warning: {note}.")
    taken = f"but for {', '.join(restored.updated)}, which differ" if restored.updated else "nothing has changed"
    if restored.kept or restored.not_taken:
        taken = taken if restored.updated else "nothing else is taken over"
    monitor.message(f"All columns are those of the reference ({taken}).")
    if restored.kept:
        monitor.message(f"These differ in {particles.path} and stay as the reference has them: {_few(restored.kept)}")
    if restored.not_taken:
        monitor.message(f"Only {particles.path} has these, and they are not taken over: {_few(restored.not_taken)}")
    return restored.particles, restored.columns


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN_NAMES]) + (
        f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    )


def _write_star(
    settings: ConvertSettings, particles: ParticleSet, columns: dict[str, AnyArray], monitor: Monitor
) -> None:
    if particles.source.format == "star":
        write_particles_star(particles, settings.o, columns)
        return
    conversion = star_from_cs(particles, columns, carry=settings.carry)
    along = [field for field in conversion.foreign if field not in conversion.not_carried]
    if along:
        monitor.message(
            f"RELION has no columns for these fields; they go along in columns cdxCs..., which the way back to a .cs "
            f"reads: {', '.join(along)}"
        )
    list_lost(conversion.not_carried, "a STAR file", monitor)
    say_dark(particles, monitor)
    write_star(settings.o, conversion.star)


def _write_group(
    outputs: tuple[Path, ...],
    particles: ParticleSet,
    columns: dict[str, AnyArray],
    settings: ConvertSettings,
    monitor: Monitor,
) -> None:
    path, group_path = outputs
    if particles.source.format == "cs":
        fields = write_particles_cs(particles, path, columns)
    else:
        conversion = cs_from_star(particles, dark=settings.contrast == "black")
        list_lost(conversion.not_carried, "a .cs file", monitor)
        for note in conversion.notes:
            monitor.message(f"Note: {note}.")
        fields = write_cs(path, conversion.table, None, columns)
    write_csg(group_path, path, fields, particles.n, description="Particles written by cryodrgn-ext")
