"""The job that converts particles between RELION and CryoSPARC."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.durable_files import keep_existing
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import AnyArray, write_cs
from cryodrgn_ext.metadata.csg import write_csg
from cryodrgn_ext.metadata.half_sets import own_half_set_warnings
from cryodrgn_ext.metadata.image_checks import check_present_images
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import Restored, restore
from cryodrgn_ext.metadata.relion31 import as_relion31
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.tilt_series import tilt_series_warnings
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.returned_particles import list_lost, say_changed_poses, say_dark
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput

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
    images = check_present_images(particles)
    for note in (*particles.notes, *images, *tilt_series_warnings(particles), *own_half_set_warnings(particles)):
        monitor.message(note if note.startswith("Warning") else f"Note: {note}")
    restored = None if settings.reference is None else _restored(settings, particles, monitor)
    if restored is not None:
        particles = restored.particles
    for sentence in keep_existing(outputs, settings.overwrite):
        monitor.message(f"Note: {sentence}")
    if suffix == ".star":
        _write_star(settings, particles, restored, monitor)
    else:
        _write_group(outputs, particles, {} if restored is None else restored.columns, settings, monitor)
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


def _restored(settings: ConvertSettings, particles: ParticleSet, monitor: Monitor) -> Restored:
    reference = read_particles(settings.reference or "", settings.project, require_poses=False)
    wants_star = settings.o.suffix.lower() == ".star"
    if (reference.source.format == "star") != wants_star:
        kind = "STAR file" if wants_star else ".cs or .csg file"
        raise InputError(f"--reference is {settings.reference}, but must be a {kind} as the output is.")
    restored = restore(particles, reference)
    monitor.message(f"Matched {particles.n} particles with {reference.path} by {restored.joined_by}.")
    for note in restored.notes:
        monitor.message(f"Warning: {note}.")
    if restored.particles.poses_changed:
        say_changed_poses(restored.particles, monitor)
    for sentence in restored.sentences(particles.path):
        monitor.message(sentence)
    return restored


def _write_star(settings: ConvertSettings, particles: ParticleSet, restored: Restored | None, monitor: Monitor) -> None:
    if restored is not None:
        write_particles_star(particles, settings.o, restored.columns, dropped_columns=restored.dropped)
        return
    if particles.source.format == "star":
        if particles.version == "3.0":
            monitor.message(f"{particles.path} is of RELION 3.0 and becomes a file of RELION 3.1.")
            write_star(settings.o, as_relion31(particles))
            return
        write_particles_star(particles, settings.o)
        return
    conversion = star_from_cs(particles, embed=settings.carry, flip_y=settings.flip_y)
    for what, fields in (
        ("RELION has no columns for these fields", conversion.foreign),
        ("RELION has columns for these fields, but they are not converted", conversion.unconverted),
    ):
        along = [field for field in fields if field not in conversion.lost]
        if along:
            monitor.message(
                f"{what}; they go along in columns cdxCs..., which the way back to a .cs reads: {', '.join(along)}"
            )
    list_lost(conversion.lost, "a STAR file", monitor)
    for note in conversion.notes:
        monitor.message(f"Note: {note}.")
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
        conversion = cs_from_star(particles, dark=settings.contrast == "black", flip_y=settings.flip_y)
        list_lost(conversion.lost, "a .cs file", monitor)
        for note in conversion.notes:
            monitor.message(f"Note: {note}.")
        fields = write_cs(path, conversion.table, None, columns)
    write_csg(group_path, path, fields, particles.n, description="Particles written by cryodrgn-ext")
