"""Optics groups: what all particles of one microscope setting share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.star_table import StarTable

Pair = tuple[float, float]
Matrix2 = tuple[Pair, Pair]

_IDENTITY: Matrix2 = ((1.0, 0.0), (0.0, 1.0))
# In the order in which RELION itself looks for the size of a particle's pixel.
PIXEL_SIZE_COLUMNS = ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_NUMBERS = (
    "rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImageSize",
    "rlnImageDimensionality", "rlnBeamTiltX", "rlnBeamTiltY", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10",
    "rlnMagMat11", "rlnCtfDataAreCtfPremultiplied", *PIXEL_SIZE_COLUMNS,
)  # fmt: skip
_TEXTS = ("rlnOpticsGroupName", "rlnMtfFileName", "rlnOddZernike", "rlnEvenZernike")
_OF_PARTICLES = {
    "rlnVoltage": "voltage_kV",
    "rlnSphericalAberration": "cs_mm",
    "rlnAmplitudeContrast": "amplitude_contrast",
    "rlnCtfDataAreCtfPremultiplied": "ctf_premultiplied",
}
# Columns of the optics table only, and the value that says nothing.
_OF_THE_TABLE = {
    "rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0,
    "rlnOddZernike": 0.0, "rlnEvenZernike": 0.0,
}  # fmt: skip
_FLIPPED = "rlnIsFlip"
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
_TILTS = ("rlnBeamTiltX", "rlnBeamTiltY")
# What any electron microscope has; beyond it a number is of another unit.
_VOLTAGES_KV = (1.0, 5000.0)
_LARGEST_CS_MM = 100.0
_LARGEST_ANISOTROPY = 0.5


@dataclass(frozen=True)
class OpticsGroup:
    """One row of RELION's optics table, or one combination of the per-particle columns of RELION 3.0.

    Attributes
    ----------
    name : str
    number : int
        rlnOpticsGroup as in the file (1, 2, ... for RELION 3.0, in order of appearance).
    pixel_size_A : float
        Size of an image pixel.
    box_size : int or None
        Image size in pixels; None when neither the metadata nor the stack tell it.
    voltage_kV, cs_mm, amplitude_contrast : float
    beam_tilt_mrad : (float, float)
        x, y.
    odd_zernike, even_zernike : tuple of float
        RELION's coefficients in rad, in RELION's order; empty when not given.
    mag_matrix : 2 x 2 nested tuple
        rlnMagMat00, 01; 10, 11: anisotropic magnification, the identity when not given.
    ctf_premultiplied : bool
        Whether the images were multiplied by their CTF.
    made_of : int or None
        Number of the group in the file that this one was made of, where groups were changed after reading.
    """

    name: str
    number: int
    pixel_size_A: float
    box_size: int | None
    voltage_kV: float
    cs_mm: float
    amplitude_contrast: float
    beam_tilt_mrad: Pair = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    mag_matrix: Matrix2 = _IDENTITY
    ctf_premultiplied: bool = False
    made_of: int | None = None


def check_optics(group: OpticsGroup, describe: Callable[[], str]) -> OpticsGroup:
    """Return ``group`` unless one of its numbers is impossible (InputError, opened by what ``describe`` returns)."""
    complaint = _fault(group)
    if complaint is not None:
        raise InputError(f"{describe()}: {complaint}")
    return group


def _fault(group: OpticsGroup) -> str | None:
    positive = {"pixel size (Å)": group.pixel_size_A, "voltage (kV)": group.voltage_kV}
    for quantity, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            return f"the {quantity} is {value:g}, but must be a finite number above 0"
    if not _VOLTAGES_KV[0] <= group.voltage_kV <= _VOLTAGES_KV[1]:
        return f"the voltage is {group.voltage_kV:g} kV, which no microscope has: give it in kV (300), not in V or MV"
    if group.cs_mm > _LARGEST_CS_MM:
        return f"the spherical aberration is {group.cs_mm:g} mm, which no lens has: give it in mm (2.7), not in µm"
    if not (math.isfinite(group.cs_mm) and group.cs_mm >= 0):
        return f"the spherical aberration is {group.cs_mm:g} mm, but must be finite and at least 0"
    if not 0 <= group.amplitude_contrast <= 1:
        return f"the amplitude contrast is {group.amplitude_contrast:g}, but must lie in 0..1"
    (a, b), (c, d) = group.mag_matrix
    others = (*group.beam_tilt_mrad, *group.odd_zernike, *group.even_zernike, a, b, c, d)
    if not all(math.isfinite(value) for value in others):
        return "a beam tilt, Zernike coefficient or magnification matrix is not finite"
    if max(abs(a - 1), abs(b), abs(c), abs(d - 1)) > _LARGEST_ANISOTROPY and abs(a * d - b * c) >= 1e-6:
        return (
            f"the magnification matrix [[{a:g}, {b:g}], [{c:g}, {d:g}]] is far from the identity, as no microscope's "
            "is: RELION's rlnMagMat is 1 0 0 1 for none, CryoSPARC's ctf/anisomag 0 0 0 0"
        )
    if abs(a * d - b * c) < 1e-6:
        return f"the magnification matrix [[{a:g}, {b:g}], [{c:g}, {d:g}]] cannot be inverted"
    if group.box_size is not None and group.box_size < 2:
        return f"the image size is {group.box_size}, but must be at least 2 pixels"
    return None


def read_optics_table(table: StarTable) -> tuple[OpticsGroup, ...]:
    """Return the groups of a ``data_optics`` table (RELION 3.1 and later), in its order.

    Raises
    ------
    InputError
        For missing columns, a number given twice, or impossible values; the message names the row.
    """
    if table.n_rows == 0:
        raise InputError(f"{table.path}: data_optics is empty, but must describe at least one optics group")
    for column in ("rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        _require_for_ctf(table, column)
    pixel_size_column = next((column for column in PIXEL_SIZE_COLUMNS if column in table), None)
    if pixel_size_column is None:
        raise InputError(f"{table.path}: data_optics has no pixel size (none of _{', _'.join(PIXEL_SIZE_COLUMNS)})")
    numbers = table.integers("rlnOpticsGroup")
    _, first = np.unique(numbers, return_index=True)
    if len(first) < len(numbers):
        row = int(np.setdiff1d(np.arange(len(numbers)), first)[0])
        raise InputError(f"{table.describe_row(row)}: the optics group {numbers[row]} is defined twice")
    columns = {label: table.floats(label).tolist() for label in _NUMBERS if label in table}
    text = {label: table.text(label).tolist() for label in _TEXTS if label in table}
    return tuple(_read_group(table, row, pixel_size_column, columns, text) for row in range(table.n_rows))


def _require_for_ctf(table: StarTable, column: str) -> None:
    if column not in table:
        raise InputError(
            f"{table.path}: data_{table.name} has no column _{column}, which the CTF needs; add it, for example "
            f"with relion_star_handler --add_column {column} --add_column_value ..."
        )


def _read_group(
    table: StarTable,
    row: int,
    pixel_size_column: str,
    numbers: dict[str, list[float]],
    text: dict[str, list[str]],
) -> OpticsGroup:
    def number(column: str, default: float = 0.0) -> float:
        return numbers[column][row] if column in numbers else default

    def whole(column: str) -> int:
        value = number(column)
        if not math.isfinite(value) or value != round(value):
            raise InputError(f"{table.describe_row(row)}: _{column} is {value:g}, but a whole number is expected")
        return int(value)

    def vector(column: str) -> tuple[float, ...]:
        return _vector(text[column][row], column, lambda: table.describe_row(row)) if column in text else ()

    group_number = whole("rlnOpticsGroup")
    if number("rlnImageDimensionality", 2) == 3:
        raise InputError(
            f"{table.describe_row(row)}: the images are three-dimensional (subtomograms), which are not supported; "
            "give 2D particles"
        )
    group = OpticsGroup(
        name=text["rlnOpticsGroupName"][row] if "rlnOpticsGroupName" in text else f"opticsGroup{group_number}",
        number=group_number,
        pixel_size_A=number(pixel_size_column),
        box_size=whole("rlnImageSize") if "rlnImageSize" in numbers else None,
        voltage_kV=number("rlnVoltage"),
        cs_mm=number("rlnSphericalAberration"),
        amplitude_contrast=number("rlnAmplitudeContrast"),
        beam_tilt_mrad=(number("rlnBeamTiltX"), number("rlnBeamTiltY")),
        odd_zernike=vector("rlnOddZernike"),
        even_zernike=vector("rlnEvenZernike"),
        mag_matrix=(
            (number("rlnMagMat00", 1.0), number("rlnMagMat01")),
            (number("rlnMagMat10"), number("rlnMagMat11", 1.0)),
        ),
        ctf_premultiplied=number("rlnCtfDataAreCtfPremultiplied") != 0,
    )
    return check_optics(group, lambda: table.describe_row(row))


def _vector(text: str, column: str, describe: Callable[[], str]) -> tuple[float, ...]:
    """Parse RELION's vectors: [a,b,c]."""
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    if inner in ("", "None"):
        return ()
    try:
        return tuple(float(part) for part in inner.split(","))
    except ValueError:
        raise InputError(f"{describe()}: _{column} is '{text}', but numbers in the form [a,b,c] are expected") from None


def with_particle_optics(
    table: StarTable, optics: tuple[OpticsGroup, ...], optics_index: npt.NDArray[np.int32]
) -> tuple[tuple[OpticsGroup, ...], npt.NDArray[np.int32], tuple[str, ...]]:
    """Return groups that hold what particles have of their own beside an optics table, and notes.

    RELION takes rlnVoltage, rlnSphericalAberration and rlnAmplitudeContrast from the particle where it has them, and
    beam tilts from the optics table only; those of particles are taken where the table has none. Groups whose particles
    differ are split, and keep their number.
    """
    own = [label for label in _OF_PARTICLES if label in table]
    notes = []
    if PREMULTIPLIED in own:
        if any(group.ctf_premultiplied for group in optics):
            own.remove(PREMULTIPLIED)
            if np.any(finite_column(table, PREMULTIPLIED) == 0):
                notes.append(
                    f"{table.path}: _{PREMULTIPLIED} of particles is not that of the optics table, which counts"
                )
        elif np.any(finite_column(table, PREMULTIPLIED) != 0):
            notes.append(
                f"{table.path}: _{PREMULTIPLIED} of the particles is used, as the optics table has none (RELION 3.1 "
                "and later ignore it there)"
            )
    tilts = [label for label in _TILTS if label in table]
    if tilts:
        if any(group.beam_tilt_mrad != (0.0, 0.0) for group in optics):
            notes.append(
                f"{table.path}: particles have beam tilts of their own beside those of the optics table, which count"
            )
        else:
            own += tilts
            notes.append(
                f"{table.path}: the beam tilts of the particles are used, as the optics table has none (RELION 3.1 and "
                "later ignore them there)"
            )
    if not own:
        return optics, optics_index, tuple(notes)
    values = [finite_column(table, label) for label in own]
    code, first = _combinations([optics_index.astype(np.float64), *values])
    groups = []
    for row in first.tolist():
        given = {label: float(one[row]) for label, one in zip(own, values, strict=True)}
        group = optics[optics_index[row]]
        tilt = (given.pop("rlnBeamTiltX", group.beam_tilt_mrad[0]), given.pop("rlnBeamTiltY", group.beam_tilt_mrad[1]))
        changed = {_OF_PARTICLES[label]: value for label, value in given.items()}
        if "ctf_premultiplied" in changed:
            changed["ctf_premultiplied"] = changed["ctf_premultiplied"] != 0
        group = replace(group, beam_tilt_mrad=tilt, **changed)
        groups.append(check_optics(group, partial(table.describe_row, row)))
    used = set(np.unique(optics_index).tolist())
    unused = [group for index, group in enumerate(optics) if index not in used]
    return (*groups, *unused), code, tuple(notes)


def unused_optics_notes(table: StarTable) -> tuple[str, ...]:
    """Say which columns of particles are not used, as RELION reads them from the optics table only."""
    unused = [
        label
        for label, neutral in _OF_THE_TABLE.items()
        if label in table and any(_says_more(text, neutral) for text in np.unique(table.raw(label)).tolist())
    ]
    notes = []
    if _FLIPPED in table and (flipped := sum(_says_more(text, 0.0) for text in table.raw(_FLIPPED).tolist())):
        notes.append(
            f"{table.path}: {flipped} of {table.n_rows} images are to be mirrored (_{_FLIPPED}), which RELION does not "
            "do either: their poses are used for the images as they are"
        )
    if not unused:
        return tuple(notes)
    return (
        *notes,
        f"{table.path}: {', '.join(unused)} of data_{table.name} are not used, as RELION takes them from the optics "
        "table only: put them there",
    )


def _says_more(text: bytes, neutral: float) -> bool:
    try:
        return any(float(part) != neutral for part in text.strip(b"[]").split(b",") if part.strip())
    except ValueError:
        return True


def finite_column(table: StarTable, label: str) -> npt.NDArray[np.float64]:
    """Return a column (N,) of finite numbers; InputError names the first row that has none."""
    values = table.floats(label)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"{table.describe_row(int(wrong[0]))}: _{label} is {values[wrong[0]]}, but a finite number is expected"
        )
    return values


def combinations(columns: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return which combination of values every row (N,) has, in any order, and the first row (K,) of each."""
    code = np.zeros(len(columns[0]), np.int64)
    for one in columns:
        if np.any(one != one[0]):  # most columns are constant, and np.unique sorts
            distinct, inverse = np.unique(one, return_inverse=True)
            _, code = np.unique(code * len(distinct) + inverse, return_inverse=True)
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return inverse, first


def _combinations(columns: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """Return which combination of values every row has, in order of appearance, and the first row of each."""
    inverse, first = combinations(columns)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32), np.sort(first)


def optics_from_particles(table: StarTable) -> tuple[tuple[OpticsGroup, ...], npt.NDArray[np.int32]]:
    """Return optics groups of a table without optics (RELION 3.0), and for every row which one it has.

    RELION 3.0 writes detector pixel size, magnification, voltage, Cs, amplitude contrast and beam tilt with every
    particle; every combination becomes a group, numbered from 1 in order of appearance. Where there are numbers of
    groups although their table is gone, they part groups too, and stay where each has one combination.

    Raises
    ------
    InputError
        For missing columns or impossible values; the message names the first row that has them.
    """
    for column in ("rlnDetectorPixelSize", "rlnMagnification"):
        if column not in table:
            raise InputError(
                f"{table.path}: there is neither a data_optics table nor a column _{column}: the pixel size "
                "(10000 * rlnDetectorPixelSize / rlnMagnification) is unknown"
            )
    for column in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        _require_for_ctf(table, column)
    columns = ["rlnDetectorPixelSize", "rlnMagnification", "rlnVoltage", "rlnSphericalAberration"]
    columns += ["rlnAmplitudeContrast", "rlnBeamTiltX", "rlnBeamTiltY", "rlnCtfDataAreCtfPremultiplied"]
    values = [finite_column(table, column) if column in table else np.zeros(table.n_rows) for column in columns]
    known = table.integers("rlnOpticsGroup") if "rlnOpticsGroup" in table else np.zeros(table.n_rows, np.int64)
    code, first = _combinations([*values, known.astype(np.float64)])
    numbers_of = known[first].tolist()
    if "rlnOpticsGroup" not in table or len(set(numbers_of)) < len(numbers_of):
        numbers_of = list(range(1, len(first) + 1))
    groups = []
    for group_number, row in zip(numbers_of, first.tolist(), strict=True):
        numbers = [float(one[row]) for one in values]
        detector_um, magnification, voltage, cs, contrast, tilt_x, tilt_y, premultiplied = numbers
        group = OpticsGroup(
            name=f"opticsGroup{group_number}",
            number=group_number,
            pixel_size_A=1e4 * detector_um / magnification if magnification else math.nan,
            box_size=None,
            voltage_kV=voltage,
            cs_mm=cs,
            amplitude_contrast=contrast,
            beam_tilt_mrad=(tilt_x, tilt_y),
            ctf_premultiplied=premultiplied != 0,
        )
        groups.append(check_optics(group, partial(table.describe_row, row)))
    return tuple(groups), code
