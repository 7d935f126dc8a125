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
# Slots with orientations: of a refinement, and of several classes (alignments_class_0, ... up to CryoSPARC 4.4).
_ORIENTED = re.compile(r"(alignments3D(?:_multi)?|alignments_class_\d+)/")
# cryosparc_P12_J24_005_particles.cs, J24_particles.cs, J24_005_particles.cs
_PARTICLES = re.compile(r"(?:cryosparc_P\d+_)?J\d+_(?:(\d+)_)?particles\.cs")


def with_missing_slots(path: Path, passthroughs: Sequence[str | Path] = ()) -> CsTable:
    """Read a .cs, a .csg or a job directory, with passthrough files joined.

    A .cs without images or CTF is joined with the passthrough file beside it that has them and all of its particles,
    and with any that tells orientations which it lacks, filaments, symmetry copies or positions; a note says so.

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
    missing = [field for field in NEEDED if field not in table]
    if missing:
        other = _output_beside(table, missing)
        table = joined(table, other)
        note = f"{path}: has no {', '.join(missing)}; joined with {other.path.name} by uid"
        table = replace(table, notes=(*table.notes, note))
    return _with_slots_beside(table)


def _passthroughs_beside(table: CsTable) -> list[Path]:
    files = sorted(table.path.parent.glob("*passthrough*particles*.cs"))
    return [one for one in files if one not in table.joined and one != table.path]


def _output_beside(table: CsTable, missing: list[str]) -> CsTable:
    """Return the passthrough file of the same output: it has the missing fields and all particles.

    A job of several outputs (selected and excluded, one for each class) has a passthrough file for each, and maybe one
    for all of them together, which says the same.
    """
    beside = [read_cs(path) for path in _passthroughs_beside(table)]
    whole = [one for one in beside if np.isin(table.uid, one.uid).all() and all(field in one for field in missing)]
    if whole:
        return min(whole, key=lambda one: one.n_rows)
    if len(beside) == 1 and any(field in beside[0] for field in missing):
        return beside[0]  # joining says which particle it lacks
    slots = dict.fromkeys(field.split("/")[0] for field in table.columns if "/" in field)
    found = f"of the {len(beside)} beside it none has them for all particles" if beside else "beside it there is none"
    raise InputError(
        f"{table.path}: has no field {', '.join(missing)} (but {', '.join(slots) or 'no slots'}); if these are "
        f"particles, the passthrough file of their job is needed, but {found}: give the .csg file or the job directory"
    )


def _with_slots_beside(table: CsTable) -> CsTable:
    """Return a table with slots that it lacks from passthrough files beside it: orientations, and what tells kinship.

    Jobs write into their own file what they changed; the rest passes through.
    """
    lacking = [slot for slot in KINSHIP if not any(field.startswith(f"{slot}/") for field in table.columns)]
    unaligned = not any(_ORIENTED.match(field) for field in table.columns)
    incomplete: dict[str, str] = {}
    for beside in _passthroughs_beside(table):
        if not lacking and not unaligned:
            break
        other = read_cs(beside)
        slots = [slot for slot in lacking if any(field.startswith(f"{slot}/") for field in other.columns)]
        if unaligned:
            slots += dict.fromkeys(match[1] for field in other.columns if (match := _ORIENTED.match(field)))
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
        unaligned = unaligned and not any(_ORIENTED.match(field) for field in table.columns)
    left = dict.fromkeys(
        note for slot, note in incomplete.items() if slot in lacking or (unaligned and slot not in KINSHIP)
    )
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
