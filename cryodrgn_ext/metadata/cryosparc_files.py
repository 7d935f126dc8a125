"""Which files of a CryoSPARC job hold its particles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable, joined, read_cs
from cryodrgn_ext.metadata.csg import CsGroup, read_csg, read_group_table

NEEDED = ("blob/path", "ctf/df1_A")
#: Slots that say which rows show one particle or one filament, and where on micrographs they lie.
KINSHIP = ("location", "filament", "sym_expand")
# cryosparc_P12_J24_005_particles.cs, J24_particles.cs, J24_005_particles.cs
_PARTICLES = re.compile(r"(?:cryosparc_P\d+_)?J\d+_(?:(\d+)_)?particles\.cs")


def with_missing_slots(path: Path, passthroughs: Sequence[str | Path] = ()) -> CsTable:
    """Read a .cs, a .csg or a job directory, with passthrough files joined.

    A .cs without images or CTF is joined with the passthrough file beside it when there is exactly one that has them,
    and with any that tells filaments, symmetry copies or positions; a note says so.

    Raises
    ------
    InputError
        When files are missing or ambiguous, or no file has what is needed.
    """
    if path.is_dir():
        return _of_directory(path, passthroughs)
    if path.suffix.lower() == ".csg":
        return _of_group(read_csg(path), passthroughs)
    table = read_cs(path, passthroughs)
    if all(field in table for field in NEEDED):
        return _with_kinship(table)
    missing = ", ".join(field for field in NEEDED if field not in table)
    beside = [one for one in sorted(path.parent.glob("*passthrough*particles*.cs")) if one not in table.joined]
    if len(beside) != 1:
        found = "none" if not beside else f"{len(beside)} of them"
        raise InputError(
            f"{path}: has no field {missing}; the passthrough file of its job is needed, but beside it there is {found}"
            ": give it by name, or give the .csg file"
        )
    table = joined(table, read_cs(beside[0]))
    return replace(table, notes=(*table.notes, f"{path}: has no {missing}; joined with {beside[0].name} by uid"))


def _with_kinship(table: CsTable) -> CsTable:
    """Return a table with the slots that tell which rows belong together, from the passthrough file beside it.

    Jobs write into their own file what they changed; filaments, symmetry copies and positions pass through.
    """
    lacking = [slot for slot in KINSHIP if not any(field.startswith(f"{slot}/") for field in table.columns)]
    incomplete: dict[str, str] = {}
    for beside in sorted(table.path.parent.glob("*passthrough*particles*.cs")):
        if not lacking or beside in table.joined or beside == table.path:
            continue
        other = read_cs(beside)
        slots = [slot for slot in lacking if any(field.startswith(f"{slot}/") for field in other.columns)]
        if not slots or not np.isin(table.uid, other.uid).any():
            continue
        absent = int(np.count_nonzero(~np.isin(table.uid, other.uid)))
        if absent:
            note = f"{beside}: not joined for {', '.join(slots)}, as it lacks {absent} of {table.n_rows} particles"
            incomplete |= dict.fromkeys(slots, note)
            continue
        files = (*table.joined, beside)
        for slot in slots:
            table = joined(table, other, slot)
        note = f"{table.path}: joined with {beside.name} by uid for {', '.join(slots)}"
        table = replace(table, joined=files, notes=(*table.notes, note))
        lacking = [slot for slot in lacking if slot not in slots]
    left = dict.fromkeys(note for slot, note in incomplete.items() if slot in lacking)
    return replace(table, notes=(*table.notes, *left)) if left else table


def _of_group(group: CsGroup, passthroughs: Sequence[str | Path]) -> CsTable:
    if group.type and group.type != "particle":
        raise InputError(f"{group.path}: describes a result of the type {group.type}, but particles are expected")
    table = read_group_table(group)
    for other in passthroughs:
        table = joined(table, read_cs(other))
    return table


def _of_directory(directory: Path, passthroughs: Sequence[str | Path]) -> CsTable:
    groups = [read_csg(path) for path in sorted(directory.glob("*.csg"))]
    particles = [group for group in groups if group.type == "particle"]
    if len(particles) > 1:  # refinements write one group, classifications one per class and one of all
        named = [group for group in particles if group.name == "particles"]
        particles = named or [group for group in particles if group.name in ("particles_all", "particles_all_classes")]
        if len(particles) != 1:
            names = ", ".join(group.path.name for group in groups if group.type == "particle")
            raise InputError(f"{directory}: has several particle outputs ({names}); give one of these files")
    if particles:
        return _of_group(particles[0], passthroughs)
    candidates = [
        (int(match[1]) if match[1] else 1 << 31, path)
        for path in directory.glob("*.cs")
        if (match := _PARTICLES.fullmatch(path.name))
    ]
    if not candidates:
        others = [one.name for kind in ("*data.star", "*particles*.star", "*particles*.cs") for one in
                  sorted(directory.glob(kind))]  # fmt: skip
        if others:
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            raise InputError(
                f"{directory}: is no job directory of CryoSPARC with one output of particles, but has "
                f"{', '.join(others[:4])}{more}: give one of these files"
            )
        raise InputError(
            f"{directory}: has neither a .csg of particles nor a file like J24_005_particles.cs: it is no CryoSPARC "
            "job directory with particles"
        )
    return with_missing_slots(max(candidates)[1], passthroughs)
