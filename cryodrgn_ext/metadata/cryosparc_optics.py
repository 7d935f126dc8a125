"""CryoSPARC's exposure groups and the optics in its ctf fields as optics groups."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.image_files import is_missing
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.optics import Matrix2, OpticsGroup, Pair, check_optics, combinations

A_PER_MM = 1e7


def beam_tilt_from_cs(tilt_A: Pair, cs_mm: float) -> Pair:
    """Return the beam tilt (x, y) in mrad of ctf/tilt_A: 1e3 asin(tilt_A / Cs)."""
    x, y = (1e3 * math.asin(one / (cs_mm * A_PER_MM)) if one else 0.0 for one in tilt_A)
    return x, y


def beam_tilt_to_cs(tilt_mrad: Pair, cs_mm: float) -> Pair:
    """Return ctf/tilt_A of a beam tilt (x, y) in mrad."""
    x, y = (cs_mm * A_PER_MM * math.sin(1e-3 * one) for one in tilt_mrad)
    return x, y


def exposure_group_ids(table: CsTable) -> npt.NDArray[np.int64]:
    """Return (N,) ctf/exp_group_id, else location/exp_group_id, else 0."""
    for field in ("ctf/exp_group_id", "location/exp_group_id"):
        if field in table:
            return table.integers(field)
    return np.zeros(table.n_rows, np.int64)


def box_sizes(table: CsTable, stack_paths: tuple[Path, ...], stack_id: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return (N,) sizes of the images in pixels: blob/shape, else from the stacks that exist; 0 where unknown."""
    if "blob/shape" in table:
        shape = table.integers("blob/shape")
        if shape.ndim != 2 or shape.shape[1] != 2:
            raise InputError(f"{table.path}: blob/shape has the shape {shape.shape}, but (N, 2) is expected")
        wrong = np.flatnonzero(shape[:, 0] != shape[:, 1])
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{table.describe_row(row)}: blob/shape is {shape[row].tolist()} ({len(wrong)} such rows), but images "
                "must be square"
            )
        return shape[:, 0]
    return np.array([0 if is_missing(path) else read_stack_header(path).nx for path in stack_paths])[stack_id]


def exposure_groups(
    table: CsTable, box: npt.NDArray[np.int64]
) -> tuple[tuple[OpticsGroup, ...], npt.NDArray[np.int32]]:
    """Return one optics group per combination of exposure group and optics, and for every row which one it has.

    The number of a group is exp_group_id + 1; where an exposure group holds several optics (its beam tilt varies, its
    images differ in size), all groups are numbered anew from 1.

    Parameters
    ----------
    table : CsTable
    box : (N,) int array
        Image size in pixels, 0 where unknown.

    Raises
    ------
    InputError
        For missing fields or impossible values; the message names the first row that has them.
    """
    exposure = exposure_group_ids(table)
    fields: list[npt.NDArray[Any]] = [
        exposure, box, table.floats("blob/psize_A"), table.floats("ctf/accel_kv"), table.floats("ctf/cs_mm"),
        table.floats("ctf/amp_contrast"), *_parts(table, "ctf/tilt_A", 2), *_parts(table, "ctf/anisomag", 4),
    ]  # fmt: skip
    inverse, first = combinations(fields)
    rank = np.lexsort((first, exposure[first]))
    ids = exposure[first[rank]].tolist()
    numbers = [one + 1 for one in ids] if len(set(ids)) == len(ids) else list(range(1, len(ids) + 1))
    groups = tuple(
        _group(table, number, row, [_decimal(one[row]) for one in fields])
        for number, row in zip(numbers, first[rank].tolist(), strict=True)
    )
    return groups, np.argsort(rank)[inverse].astype(np.int32)


def _group(table: CsTable, number: int, row: int, values: list[float]) -> OpticsGroup:
    _, box, pixel_size_A, voltage, cs_mm, contrast, tilt_x, tilt_y, a, b, c, d = values
    if (tilt_x or tilt_y) and not max(abs(tilt_x), abs(tilt_y)) < cs_mm * A_PER_MM:
        raise InputError(
            f"{table.describe_row(row)}: ctf/tilt_A is ({tilt_x:g}, {tilt_y:g}), which is no beam tilt at a spherical "
            f"aberration of {cs_mm:g} mm"
        )
    matrix: Matrix2 = ((1.0 + a, b), (c, 1.0 + d))
    group = OpticsGroup(
        name=f"opticsGroup{number}",
        number=number,
        pixel_size_A=pixel_size_A,
        box_size=int(box) or None,
        voltage_kV=voltage,
        cs_mm=cs_mm,
        amplitude_contrast=contrast,
        beam_tilt_mrad=beam_tilt_from_cs((tilt_x, tilt_y), cs_mm),
        mag_matrix=matrix,
    )
    return check_optics(group, lambda: table.describe_row(row))


def _parts(table: CsTable, field: str, width: int) -> list[npt.NDArray[np.float64]]:
    if field not in table:
        return [np.zeros(table.n_rows)] * width
    values = table.floats(field)
    if values.shape != (table.n_rows, width):
        raise InputError(f"{table.path}: {field} has the shape {values.shape}, but (N, {width}) is expected")
    return list(values.T)


def _decimal(value: float) -> float:
    """Return 2.7 for the float32 nearest to 2.7, which a .cs holds: the number that somebody typed."""
    return float(str(np.float32(value)))
