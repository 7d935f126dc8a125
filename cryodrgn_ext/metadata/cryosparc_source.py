"""A dataset of CryoSPARC as the source of particles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from cryodrgn_ext.metadata.cryosparc_alignments import ALIGNMENTS, ALIGNMENTS_2D, class_index, shifts_2d_A
from cryodrgn_ext.metadata.cs import AnyArray, CsTable
from cryodrgn_ext.metadata.image_names import ImageReferences, UInt64Array
from cryodrgn_ext.metadata.micrograph_positions import Positions
from cryodrgn_ext.metadata.particle_ctf import Float64Array, ParticleCtf
from cryodrgn_ext.metadata.particle_source import EXPANSION, FileFormat, Identity, ParticleSource, Rows

#: Fields that are equal in copies of one particle, or in boxes of one filament.
COPIES: dict[str, Literal["particle", "filament"]] = {
    "sym_expand/src_uid": "particle",
    "filament/filament_uid": "filament",
}
#: Fields that differ between the tilt images of a particle.
TILTS = ("ctf/bfactor", "ctf/scale")
_MOST_PARTS = 3  # of a field with several values a row; longer ones are not for plots


@dataclass(frozen=True, eq=False, repr=False)
class CryosparcSource(ParticleSource):
    """The columns of a .cs file, or of several that were joined.

    Attributes
    ----------
    cs_table : CsTable
    """

    cs_table: CsTable

    @property
    @override
    def format(self) -> FileFormat:
        return "cs"

    @property
    @override
    def path(self) -> Path:
        return self.cs_table.path

    @property
    @override
    def n_rows(self) -> int:
        return self.cs_table.n_rows

    @property
    @override
    def files(self) -> tuple[Path, ...]:
        return (self.path, *self.cs_table.joined)

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        return self.cs_table.notes

    @property
    @override
    def version(self) -> str:
        return "3.1"

    @property
    @override
    def cs(self) -> CsTable:
        return self.cs_table

    @override
    def describe_row(self, row: int, image: str) -> str:
        return f"{self.cs_table.describe_row(row)}, image {image}"

    @override
    def image_names(self, rows: Rows, references: ImageReferences) -> npt.NDArray[np.str_]:
        number = np.char.mod("%06d@", references.stack_index + 1)
        return np.char.add(number, np.array(references.stack_names)[references.stack_id])

    @override
    def cryosparc_uids(self) -> bool:
        return True

    @override
    def classes(self) -> Rows | None:
        return class_index(self.cs_table)

    @override
    def dark_on_light(self, rows: Rows) -> int:
        if "blob/sign" not in self.cs_table:
            return 0
        return int(np.count_nonzero(self.cs_table.columns["blob/sign"][rows] < 0))

    @override
    def known_dark(self) -> CryosparcSource:
        return self

    @override
    def numeric_columns(self, rows: Rows) -> Iterator[tuple[str, Float64Array]]:
        for name, values in self.cs_table.columns.items():
            if values.dtype.kind not in "fiu" or name == "uid" or values.ndim > 2:
                continue
            if values.ndim == 1:
                yield name, values[rows].astype(np.float64)
            elif values.shape[1] <= _MOST_PARTS:
                for part in range(values.shape[1]):
                    yield f"{name} {part + 1}", values[rows, part].astype(np.float64)

    @override
    def numeric_column(self, name: str, rows: Rows) -> Float64Array:
        field, _, part = name.partition(" ")  # names of fields have no blanks
        values = self.cs_table.column(field)
        return np.asarray(values[rows, int(part) - 1] if part else values[rows], np.float64)

    @override
    def origins(self, shift_A: Float64Array, rows: Rows, has_poses: bool) -> tuple[str, Float64Array]:
        if not has_poses and f"{ALIGNMENTS_2D}/shift" in self.cs_table:
            return f"{ALIGNMENTS_2D}/shift", shifts_2d_A(self.cs_table)[rows]
        return f"{ALIGNMENTS}/shift", shift_A

    @override
    def identities(self, rows: Rows) -> Iterator[Identity]:
        for field, relation in COPIES.items():
            if field in self.cs_table and self.cs_table.column(field).ndim == 1:
                distinct, number = np.unique(self.cs_table.columns[field][rows], return_inverse=True)
                yield Identity(relation, np.where(distinct[number] == 0, -1, number).astype(np.int64))

    @override
    def micrograph_pixel_A(self, rows: Rows) -> Float64Array:
        sizes = ("location/micrograph_psize_A", "blob/psize_A")
        field = next((one for one in sizes if one in self.cs_table), None)
        return np.ones(len(rows)) if field is None else self.cs_table.floats(field)[rows]

    @override
    def tilt_columns(self, rows: Rows) -> dict[str, Float64Array]:
        return {field: self.cs_table.floats(field)[rows] for field in TILTS if field in self.cs_table}

    @override
    def particle_keys(self, rows: Rows) -> Iterator[tuple[str, Rows]]:
        fields = ("location/micrograph_path", "location/center_x_frac", "location/center_y_frac")
        if all(field in self.cs_table for field in fields):
            number = np.unique(self.fingerprints(fields, rows), return_inverse=True)[1]
            yield ", ".join(fields), number.astype(np.int64)

    @override
    def tomography_columns(self) -> tuple[str, ...]:
        return ()

    @override
    def half_set_columns(self, half_set: npt.NDArray[np.int8]) -> dict[str, AnyArray]:
        return {f"{ALIGNMENTS}/split": (half_set.astype(np.int64) - 1).astype(np.uint32)}

    @override
    def class_columns(self, classes: Rows) -> dict[str, AnyArray]:
        in_2d = f"{ALIGNMENTS_2D}/class" in self.cs_table and f"{ALIGNMENTS}/class" not in self.cs_table
        return {f"{ALIGNMENTS_2D if in_2d else ALIGNMENTS}/class": classes.astype(np.uint32)}

    @override
    def ctf_columns(self, ctf: ParticleCtf, rows: Rows, changed: npt.NDArray[np.bool_]) -> dict[str, AnyArray]:
        fields = {
            "ctf/df1_A": ctf.defocus_u_A,
            "ctf/df2_A": ctf.defocus_v_A,
            "ctf/df_angle_rad": ctf.defocus_angle_rad,
            "ctf/phase_shift_rad": ctf.phase_shift_rad,
        }
        old = self.cs_table.columns
        return {
            field: np.where(changed, new.astype(np.float32), old[field][rows] if field in old else np.float32(0))
            for field, new in fields.items()
        }

    @override
    def column_names(self) -> tuple[str, ...]:
        return tuple(self.cs_table.columns)

    @override
    def column(self, name: str, rows: Rows) -> AnyArray:
        return self.cs_table.column(name)[rows]

    @override
    def expansion(self) -> tuple[UInt64Array, UInt64Array] | None:
        if any(
            field not in self.cs_table or self.cs_table.columns[field].dtype.kind not in "iu" for field in EXPANSION
        ):
            return None
        source, copy = (self.cs_table.columns[field].astype(np.uint64) for field in EXPANSION)
        return source, copy

    @override
    def micrographs(self) -> tuple[tuple[str, ...], Rows] | None:
        if "location/micrograph_path" not in self.cs_table:
            return None
        names, code = self.cs_table.coded_text("location/micrograph_path")
        return names, code.astype(np.int64)

    @property
    @override
    def names_micrographs(self) -> bool:
        return "location/micrograph_path" in self.cs_table

    @override
    def positions(self) -> Positions | None:
        micrographs = self.micrographs()
        fields = ("micrograph_shape", "center_x_frac", "center_y_frac")
        if micrographs is None or any(f"location/{field}" not in self.cs_table for field in fields):
            return None
        shape = self.cs_table.integers("location/micrograph_shape")
        if np.any(shape == 0):
            return None
        x = self.cs_table.floats("location/center_x_frac") * shape[:, 1]
        y = (1.0 - self.cs_table.floats("location/center_y_frac")) * shape[:, 0]
        return Positions(*micrographs, np.stack([x, y], axis=1))
