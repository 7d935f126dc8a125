"""Optics groups: what all particles of one microscope setting share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.star_table import StarTable

Pair = tuple[float, float]
Matrix2 = tuple[Pair, Pair]

_IDENTITY: Matrix2 = ((1.0, 0.0), (0.0, 1.0))
# In the order in which RELION itself looks for the size of a particle's pixel.
PIXEL_SIZE_COLUMNS = ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")


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
    mtf_path : Path or None
        rlnMtfFileName as written.
    original_pixel_size_A : float or None
        Pixel size of the micrographs before binning, the scale of the MTF.
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
    mtf_path: Path | None = None
    original_pixel_size_A: float | None = None
    ctf_premultiplied: bool = False
    made_of: int | None = None


def check_optics(group: OpticsGroup, where: str) -> OpticsGroup:
    """Return ``group`` unless one of its numbers is impossible (InputError, opened by ``where``)."""
    positive = {"pixel size (Å)": group.pixel_size_A, "voltage (kV)": group.voltage_kV}
    for quantity, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: the {quantity} is {value:g}, but must be a finite number above 0")
    if not (math.isfinite(group.cs_mm) and group.cs_mm >= 0):
        raise InputError(f"{where}: the spherical aberration is {group.cs_mm:g} mm, but must be finite and at least 0")
    if not 0 <= group.amplitude_contrast <= 1:
        raise InputError(f"{where}: the amplitude contrast is {group.amplitude_contrast:g}, but must lie in 0..1")
    (a, b), (c, d) = group.mag_matrix
    others = (*group.beam_tilt_mrad, *group.odd_zernike, *group.even_zernike, a, b, c, d)
    if not all(math.isfinite(value) for value in others):
        raise InputError(f"{where}: a beam tilt, Zernike coefficient or magnification matrix is not finite")
    if abs(a * d - b * c) < 1e-6:
        raise InputError(f"{where}: the magnification matrix [[{a:g}, {b:g}], [{c:g}, {d:g}]] cannot be inverted")
    if group.box_size is not None and group.box_size < 2:
        raise InputError(f"{where}: the image size is {group.box_size}, but must be at least 2 pixels")
    return group


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
    return tuple(_read_group(table, row, pixel_size_column) for row in range(table.n_rows))


def _require_for_ctf(table: StarTable, column: str) -> None:
    if column not in table:
        raise InputError(
            f"{table.path}: data_{table.name} has no column _{column}, which the CTF needs; add it, for example "
            f"with relion_star_handler --add_column {column} --add_column_value ..."
        )


def _read_group(table: StarTable, row: int, pixel_size_column: str) -> OpticsGroup:
    where = table.describe_row(row)

    def number(column: str, default: float = 0.0) -> float:
        if column not in table:
            return default
        text = table.value(column, row)
        try:
            return float(text)
        except ValueError:
            raise InputError(f"{where}: _{column} is '{text}', but a number is expected") from None

    def whole(column: str) -> int:
        value = number(column)
        if not math.isfinite(value) or value != round(value):
            raise InputError(f"{where}: _{column} is {value:g}, but a whole number is expected")
        return int(value)

    group_number = whole("rlnOpticsGroup")
    if any(other == group_number for other in table.integers("rlnOpticsGroup")[:row]):
        raise InputError(f"{where}: the optics group {group_number} is defined twice")
    if number("rlnImageDimensionality", 2) == 3:
        raise InputError(
            f"{where}: the images are three-dimensional (subtomograms), which are not supported; give 2D particles"
        )
    mtf = table.value("rlnMtfFileName", row) if "rlnMtfFileName" in table else ""
    original = number("rlnMicrographOriginalPixelSize")
    group = OpticsGroup(
        name=table.value("rlnOpticsGroupName", row) if "rlnOpticsGroupName" in table else f"opticsGroup{group_number}",
        number=group_number,
        pixel_size_A=number(pixel_size_column),
        box_size=whole("rlnImageSize") if "rlnImageSize" in table else None,
        voltage_kV=number("rlnVoltage"),
        cs_mm=number("rlnSphericalAberration"),
        amplitude_contrast=number("rlnAmplitudeContrast"),
        beam_tilt_mrad=(number("rlnBeamTiltX"), number("rlnBeamTiltY")),
        odd_zernike=_vector(table, "rlnOddZernike", row),
        even_zernike=_vector(table, "rlnEvenZernike", row),
        mag_matrix=(
            (number("rlnMagMat00", 1.0), number("rlnMagMat01")),
            (number("rlnMagMat10"), number("rlnMagMat11", 1.0)),
        ),
        mtf_path=None if mtf in ("", "None") else Path(mtf),
        original_pixel_size_A=original if original > 0 else None,
        ctf_premultiplied=number("rlnCtfDataAreCtfPremultiplied") != 0,
    )
    return check_optics(group, where)


def _vector(table: StarTable, column: str, row: int) -> tuple[float, ...]:
    """Parse RELION's vectors: [a,b,c]."""
    if column not in table:
        return ()
    text = table.value(column, row)
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    if inner in ("", "None"):
        return ()
    try:
        return tuple(float(part) for part in inner.split(","))
    except ValueError:
        raise InputError(
            f"{table.describe_row(row)}: _{column} is '{text}', but numbers in the form [a,b,c] are expected"
        ) from None


def optics_from_particles(table: StarTable) -> tuple[tuple[OpticsGroup, ...], npt.NDArray[np.int32]]:
    """Return optics groups of a table without optics (RELION 3.0), and for every row which one it has.

    RELION 3.0 writes detector pixel size, magnification, voltage, Cs, amplitude contrast and beam tilt with every
    particle; every combination becomes a group, numbered from 1 in order of appearance.

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
    columns += ["rlnAmplitudeContrast", "rlnBeamTiltX", "rlnBeamTiltY"]
    values = [table.floats(column) if column in table else np.zeros(table.n_rows) for column in columns]
    for column, one in zip(columns, values, strict=True):
        wrong = np.flatnonzero(~np.isfinite(one))
        if len(wrong):
            raise InputError(
                f"{table.describe_row(int(wrong[0]))}: _{column} is {one[wrong[0]]}, but a finite number is expected"
            )
    code = np.zeros(table.n_rows, np.int64)
    for one in values:
        if np.any(one != one[0]):  # most columns are constant, and np.unique sorts
            distinct, inverse = np.unique(one, return_inverse=True)
            _, code = np.unique(code * len(distinct) + inverse, return_inverse=True)
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    groups = []
    for group_number, row in enumerate(np.sort(first).tolist(), 1):
        detector_um, magnification, voltage, cs, contrast, tilt_x, tilt_y = (float(one[row]) for one in values)
        group = OpticsGroup(
            name=f"opticsGroup{group_number}",
            number=group_number,
            pixel_size_A=1e4 * detector_um / magnification if magnification else math.nan,
            box_size=None,
            voltage_kV=voltage,
            cs_mm=cs,
            amplitude_contrast=contrast,
            beam_tilt_mrad=(tilt_x, tilt_y),
        )
        groups.append(check_optics(group, table.describe_row(row)))
    return tuple(groups), rank[inverse].astype(np.int32)
