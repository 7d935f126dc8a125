"""Particles as they go back to the user: the original rows, with latents and states in columns of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.column_table import columns_of_changed_poses
from cryodrgn_ext.metadata.csg import write_csg
from cryodrgn_ext.metadata.ctf_applied import refuse_premultiplied
from cryodrgn_ext.metadata.half_sets import own_half_set_warnings
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout

STATE_COLUMN = "cdxState"
AGREEMENT_COLUMN = "cdxAgreement"
LATENT_COLUMN = "cdxLatent"
VOLUME_COLUMN = "cdxVolumePc"
OUR_COLUMN = re.compile(rf"{STATE_COLUMN}|{AGREEMENT_COLUMN}|({LATENT_COLUMN}|{VOLUME_COLUMN})[0-9]+")


#: Every name that returned particles may have; the last is for CryoSPARC's Import Result Group.
RETURNED_NAMES = ("particles.star", "particles.cs", "particles.csg")


def columns_of_ours(particles: ParticleSet) -> list[str]:
    """Return the columns of a STAR file that an earlier job of ours wrote; none of a .cs."""
    if particles.source.format == "cs":
        return []
    return [label for label in particles.table.columns if OUR_COLUMN.fullmatch(label)]


def say_changed_poses(particles: ParticleSet, monitor: Monitor) -> None:
    """Say which columns of particles belong to their old poses, and what becomes of them beside new ones."""
    if particles.source.format == "cs":
        return
    changed = columns_of_changed_poses(particles.table.columns)
    priors = [label for label in changed.renewed if label.endswith("Prior")]
    left_out = [*changed.dropped, *columns_of_ours(particles)]
    if left_out:
        monitor.message(f"Note: left out, as they speak of other poses or of an earlier job: {', '.join(left_out)}")
    if priors:
        monitor.message(f"Note: the priors of filaments are the new poses: {', '.join(priors)}")
    if changed.named:
        monitor.message(f"Note: kept, although measured with the old poses: {', '.join(changed.named)}")


def wants_columns(particles: ParticleSet, choice: str) -> bool:
    """Whether returned files carry our columns: RELION 3.0 stops at columns that it does not know."""
    if choice == "auto":
        return particles.version != "3.0"
    return choice == "yes"


def latent_star_columns(
    z: NDArray[np.floating] | None, label: NDArray[np.integer] | None
) -> dict[str, NDArray[np.generic]]:
    """Columns cdxLatent1.. from latents (N, q) and cdxState from labels (N,)."""
    columns: dict[str, NDArray[np.generic]] = {}
    if z is not None:
        columns |= {f"{LATENT_COLUMN}{i + 1}": z[:, i] for i in range(z.shape[1])}
    if label is not None:
        columns[STATE_COLUMN] = label
    return columns


def returned_name(particles: ParticleSet, choice: str = "auto") -> str:
    """Name of returned particles: particles.cs or particles.star, as ``choice`` says; for "auto" as they came.

    Refused before anything is computed when the format cannot say what the images are.
    """
    if choice == "auto":
        choice = particles.source.format
    if choice == "cs":
        refuse_premultiplied(particles, "CryoSPARC")
    return f"particles.{choice}"


def returned_names(name: str) -> tuple[str, ...]:
    """Names of all files that belong to returned particles: a .cs has a .csg beside it."""
    return (name, "particles.csg") if name.endswith(".cs") else (name,)


def remove_other_formats(folder: Path, name: str) -> None:
    """Remove returned particles that an earlier run left in another format."""
    for other in set(RETURNED_NAMES) - set(returned_names(name)):
        (folder / other).unlink(missing_ok=True)


def say_conversion(particles: ParticleSet, path: Path, monitor: Monitor) -> None:
    """Say what the file ``path`` cannot carry of the particles, when it is in another format than theirs."""
    if path.suffix.lower() == f".{particles.source.format}":
        return
    if particles.source.format == "star":
        conversion = cs_from_star(particles)
        list_lost(conversion.lost, "a .cs file", monitor)
        for note in conversion.notes:
            monitor.message(f"Note: {note}.")
        return
    say_dark(particles, monitor)


def list_lost(fields: Sequence[str], target: str, monitor: Monitor) -> None:
    """Name columns or fields that a conversion cannot carry."""
    if fields:
        monitor.message(
            f"Not converted ({target} has no place for them; convert --reference restores them on the way back): "
            f"{', '.join(fields)}"
        )


def say_dark(particles: ParticleSet, monitor: Monitor) -> None:
    """Say when particles that become a STAR file are dark on light."""
    dark = particles.source.dark_on_light(particles.row_id)
    if dark:
        monitor.message(
            f"Note: {dark} particles are dark on light (blob/sign -1), which a STAR file cannot say and RELION does "
            "not expect: invert the images (relion_image_handler --multiply_constant -1) before RELION refines them."
        )


def write_particles(
    path: Path,
    particles: ParticleSet,
    indices: NDArray[np.integer] | None,
    columns: Mapping[str, NDArray[np.generic]],
) -> None:
    """Write all particles, or those of ``indices`` in increasing order, with extra ``columns`` (N,).

    Latents and states of an earlier job in the input's columns are left out: mixed with ours they would mislead. A
    ``.cs`` gets no extra columns, which CryoSPARC would not take, but a .csg beside it.
    """
    if path.suffix.lower() == ".cs":
        chosen = np.arange(particles.n) if indices is None else np.sort(indices)
        fields = write_particles_cs(particles.subset(chosen), path)
        write_csg(path.with_suffix(".csg"), path, fields, len(chosen))
        return
    stale = columns_of_ours(particles)
    if indices is None:
        write_particles_star(particles, path, extra_columns=columns, dropped_columns=stale)
        return
    chosen = np.sort(indices)
    some = {name: values[chosen] for name, values in columns.items()}
    write_particles_star(particles.subset(chosen), path, extra_columns=some, dropped_columns=stale)


def write_groups(
    layout: Layout,
    name: str,
    particles: ParticleSet,
    groups: Mapping[int, NDArray[np.integer]],
    columns: Mapping[str, NDArray[np.generic]],
) -> None:
    """Write the particles of each state, by number, into its folder under ``name``; see :func:`write_particles`."""
    for number, indices in groups.items():
        remove_other_formats(layout.state(number), name)
        write_particles(layout.state(number) / name, particles, indices, columns)


def warn_of_halves(particles: ParticleSet, indices: NDArray[np.integer], monitor: Monitor) -> None:
    """Say when a subset has half-sets with which a refinement cannot work, or that are not independent."""
    for warning in own_half_set_warnings(particles.subset(indices)):
        monitor.message(warning)


def require_particles(indices: NDArray[np.integer], what: str) -> None:
    """Raise InputError when a selection is empty."""
    if len(indices) == 0:
        raise InputError(f"{what} selects no particles: nothing was written.")
