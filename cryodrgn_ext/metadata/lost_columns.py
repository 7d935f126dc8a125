"""Columns of a STAR file that say something which a .cs made from it does not hold."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.metadata.column_table import relion_column
from cryodrgn_ext.metadata.cs import AnyArray
from cryodrgn_ext.metadata.embedded_fields import PREFIX
from cryodrgn_ext.metadata.filaments import FILAMENT, TUBES
from cryodrgn_ext.metadata.optics import PIXEL_SIZE_COLUMNS
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.relion_source import UID_COLUMN
from cryodrgn_ext.metadata.star_table import StarTable


def lost_columns(particles: ParticleSet, columns: dict[str, AnyArray], changed: frozenset[str]) -> tuple[str, ...]:
    """Return the columns of the STAR file whose content is in none of the fields ``columns``, or ``changed`` there."""
    lost = []
    tables = {name: table for name, table in particles.star.blocks.items() if name in ("optics", particles.table.name)}
    for name, table in tables.items():
        pixel_size = next((label for label in PIXEL_SIZE_COLUMNS if label in table), None)
        for label in table.columns:
            if label.startswith(PREFIX) or label in (UID_COLUMN, pixel_size):
                continue
            if label in TUBES and f"{FILAMENT}/filament_uid" in columns:
                lost += [label] if label in changed else []
                continue
            targets = {field.strip() for field in relion_column(label).field.split(",")}
            if targets & columns.keys() and not (name != "optics" and _overruled(label, particles)):
                continue
            if not _is_default(label, table):
                lost.append(label)
    return tuple(dict.fromkeys(lost))


def _overruled(label: str, particles: ParticleSet) -> bool:
    """Whether a column of the particles stands beside one of the optics table that goes before it, as in RELION."""
    optics = particles.star.blocks.get("optics")
    return label.startswith(("rlnBeamTilt", "rlnMagMat")) and optics is not None and label in optics


def _is_default(label: str, table: StarTable) -> bool:
    """Whether a column says no more than a file without it."""
    if label == "rlnOpticsGroupName":
        numbers = table.integers("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in table else []
        return [f"opticsGroup{number}" for number in numbers] == list(table.text(label))
    if label in ("rlnOddZernike", "rlnEvenZernike"):
        return all(not text.strip(b"[]0.,e+-") for text in np.unique(table.raw(label)).tolist())
    if label == "rlnCtfDataAreCtfPremultiplied":
        return bool(np.all(table.floats(label) == 0))
    return False
