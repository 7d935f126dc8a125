"""Particles of RELION 3.0 as a file of RELION 3.1: an optics table, and lengths in Å (as relion_convert_star does)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.star import StarFile, TableEdit, new_star, new_table, parse_star, star_text
from cryodrgn_ext.metadata.star_table import StarTable, Values, format_values

# Columns that become those of optics groups.
_OPTICS = (
    "rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
    "rlnBeamTiltX", "rlnBeamTiltY", "rlnCtfDataAreCtfPremultiplied",
)  # fmt: skip
# Lengths in pixels of the image, which RELION 3.1 wants in Å.
_LENGTHS = {
    **{f"rlnOrigin{axis}": f"rlnOrigin{axis}Angst" for axis in "XYZ"},
    **{f"rlnOrigin{axis}Prior": f"rlnOrigin{axis}PriorAngst" for axis in "XYZ"},
    "rlnHelicalTrackLength": "rlnHelicalTrackLengthAngst",
}


def as_relion31(particles: ParticleSet) -> StarFile:
    """Return the file of a set of RELION 3.0's particles in the form of RELION 3.1, rows as the set has them.

    Every combination of the columns of optics becomes a group; all other columns keep their text.

    Parameters
    ----------
    particles : ParticleSet
        From a STAR file without an optics table.

    Raises
    ------
    InputError
        When the image size is unknown, because the stacks are not there.
    """
    table, rows = particles.table, particles.row_id
    columns = {
        "rlnOpticsGroup": format_values(np.array([one.number for one in particles.optics])[particles.optics_index])
    }
    pixel_A = particles.pixel_size_A
    replaced = []
    for label, in_A in _LENGTHS.items():
        if label in table:
            replaced.append(label)
            columns[in_A] = format_values(table.floats(label)[rows] * pixel_A, "%.6f", in_A)
    dropped = tuple(label for label in (*_OPTICS, *replaced) if label in table)
    text = b"".join(
        star_text(StarFile(table.path, b"", {table.name: table}), {table.name: TableEdit(rows, columns, dropped)})
    )
    head, _, rest = text.partition(b"\n")
    if not head.startswith(b"data_"):
        raise ValueError(f"a table begins with {head!r}")
    block = parse_star(b"data_particles\n" + rest, Path(table.path)).blocks["particles"]
    return new_star([optics_table(particles), block])


def optics_table(particles: ParticleSet) -> StarTable:
    """Return the optics table of the groups that the particles of a set are in."""
    used = sorted(set(particles.optics_index.tolist()))
    groups = [particles.optics[index] for index in used]
    unknown = [group.name for group in groups if group.box_size is None]
    if unknown:
        raise InputError(
            f"{particles.path}: the image size of {unknown[0]} is unknown (the metadata do not tell it, and its stack "
            f"is not found from {particles.project_dir}): give the project directory"
        )
    columns: dict[str, Values] = {
        "rlnOpticsGroupName": [group.name for group in groups],
        "rlnOpticsGroup": [group.number for group in groups],
        "rlnVoltage": np.array([group.voltage_kV for group in groups], float),
        "rlnSphericalAberration": np.array([group.cs_mm for group in groups], float),
        "rlnAmplitudeContrast": np.array([group.amplitude_contrast for group in groups], float),
        "rlnImagePixelSize": np.array([group.pixel_size_A for group in groups], float),
        "rlnImageSize": [group.box_size for group in groups],
        "rlnImageDimensionality": [2] * len(groups),
    }
    return new_table("optics", columns | _aberrations(groups))


def _aberrations(groups: list[OpticsGroup]) -> dict[str, Values]:
    columns: dict[str, Values] = {}
    if any(group.beam_tilt_mrad != (0.0, 0.0) for group in groups):
        for i, axis in enumerate("XY"):
            columns[f"rlnBeamTilt{axis}"] = np.array([one.beam_tilt_mrad[i] for one in groups])
    if any(group.mag_matrix != ((1.0, 0.0), (0.0, 1.0)) for group in groups):
        for i in (0, 1):
            for j in (0, 1):
                columns[f"rlnMagMat{i}{j}"] = np.array([one.mag_matrix[i][j] for one in groups])
    if any(group.ctf_premultiplied for group in groups):
        columns["rlnCtfDataAreCtfPremultiplied"] = [int(group.ctf_premultiplied) for group in groups]
    return columns
