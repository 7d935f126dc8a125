"""A STAR file of RELION as the source of particles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import AnyArray
from cryodrgn_ext.metadata.image_names import ImageReferences, UInt64Array, parse_image_names
from cryodrgn_ext.metadata.micrograph_positions import Positions
from cryodrgn_ext.metadata.particle_ctf import Float64Array, ParticleCtf
from cryodrgn_ext.metadata.particle_source import EXPANSION, FileFormat, Identity, ParticleSource, Rows
from cryodrgn_ext.metadata.star import StarFile
from cryodrgn_ext.metadata.star_rows import BytesArray, RowText
from cryodrgn_ext.metadata.star_table import StarTable, format_values

#: Columns that are equal in copies of one particle, those of a converted .cs included.
ORIGINAL_IMAGES = ("rlnImageOriginalName", "rlnOriginalParticleName")
COPIES = (*ORIGINAL_IMAGES, "cdxUid", "cdxCs.sym_expand.src_uid.u8")
FILAMENTS = ("rlnHelicalTubeID", "cdxCs.filament.filament_uid.u8")
#: Columns that differ between the tilt images of a particle.
TILTS = (
    "rlnCtfBfactor", "rlnCtfScalefactor", "rlnMicrographPreExposure", "rlnTiltIndex", "rlnTomoNominalStageTiltAngle",
)  # fmt: skip
MICROGRAPH_PIXELS = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize")
_UNKNOWN = (b"", b"0", b"-1", b"None", b"none", b"?")
#: The column in which particles of a .cs carry blob/sign.
CARRIED_SIGN = "cdxCs.blob.sign.f4"
# The column in which particles of a .cs carry their uid through RELION.
UID_COLUMN = "cdxUid"


@dataclass(frozen=True, eq=False, repr=False)
class RelionSource(ParticleSource):
    """A STAR file, of which one block holds the particles.

    Attributes
    ----------
    star_file : StarFile
    table_name : str
        The block of the particles.
    own_uids : bool
        Whether the identifiers are made from image names.
    reading_notes : tuple of str
        What a user should know about how the file was understood.
    dark : bool
        Whether the images themselves say that particles are dark on light, which a STAR file cannot.
    """

    star_file: StarFile
    table_name: str
    own_uids: bool = True
    reading_notes: tuple[str, ...] = ()
    dark: bool = False

    @property
    @override
    def format(self) -> FileFormat:
        return "star"

    @property
    @override
    def path(self) -> Path:
        return self.star_file.path

    @property
    @override
    def n_rows(self) -> int:
        return self.table.n_rows

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        return self.reading_notes

    @property
    @override
    def version(self) -> str:
        return self.star_file.version

    @property
    @override
    def star(self) -> StarFile:
        return self.star_file

    @property
    @override
    def table(self) -> StarTable:
        return self.star_file.blocks[self.table_name]

    @override
    def describe_row(self, row: int, image: str) -> str:
        return f"{self.table.describe_row(row)}, image {self.table.value('rlnImageName', row)}"

    @override
    def image_names(self, rows: Rows, references: ImageReferences) -> npt.NDArray[np.str_]:
        return self.table.text("rlnImageName")[rows]

    @override
    def cryosparc_uids(self) -> bool:
        return not self.own_uids

    @override
    def classes(self) -> Rows | None:
        if "rlnClassNumber" not in self.table:
            return None
        return np.maximum(self.table.integers("rlnClassNumber") - 1, 0)

    @override
    def dark_on_light(self, rows: Rows) -> int:
        if self.dark:
            return len(rows)
        if CARRIED_SIGN not in self.table:
            return 0
        return int(np.count_nonzero(self.table.floats(CARRIED_SIGN)[rows] < 0))

    @override
    def known_dark(self) -> RelionSource:
        return replace(self, dark=True)

    @override
    def numeric_columns(self, rows: Rows) -> Iterator[tuple[str, Float64Array]]:
        text = self.table.rows
        some = replace(
            self.table,
            rows=RowText(
                text.text,
                text.start[rows],
                text.stop[rows],
                text.token_start[rows],
                text.token_length[rows],
                text.quoted,
            ),
        )
        for name in self.table.columns:
            try:
                yield name, some.floats(name)
            except InputError:
                continue  # text

    @override
    def numeric_column(self, name: str, rows: Rows) -> Float64Array:
        return self.table.floats(name)[rows]

    @override
    def origins(self, shift_A: Float64Array, rows: Rows, has_poses: bool) -> tuple[str, Float64Array]:
        with_optics = "optics" in self.star_file.blocks and "rlnOriginXAngst" in self.table
        in_pixels = "rlnOriginX" in self.table and not with_optics
        return "rlnOriginX, rlnOriginY" if in_pixels else "rlnOriginXAngst, rlnOriginYAngst", shift_A

    @override
    def identities(self, rows: Rows) -> Iterator[Identity]:
        for label in COPIES:
            if label in self.table:
                text = self.table.raw(label)[rows]
                number = _codes(text)
                if label in ORIGINAL_IMAGES:
                    number = np.where(np.char.find(text, b"@") > 0, number, -1)
                yield Identity("particle", number)
        for label in FILAMENTS:
            if label in self.table:
                tube = _codes(self.table.raw(label)[rows])
                micrograph = self._micrograph(rows)
                known = tube >= 0
                number = np.where(known, micrograph * (int(tube.max(initial=0)) + 1) + tube, -1)
                yield Identity("filament", number)

    @override
    def tilt_columns(self, rows: Rows) -> dict[str, Float64Array]:
        columns: dict[str, Float64Array] = {}
        for label in TILTS:
            if label in self.table:
                with suppress(InputError):  # text says nothing
                    columns[label] = self.table.floats(label)[rows]
        return columns

    @override
    def particle_keys(self, rows: Rows) -> Iterator[tuple[str, Rows]]:
        names = ("rlnTomoParticleName", "rlnGroupName", "rlnGroupNumber", "rlnParticleName", "rlnParticleId")
        for label in names:
            # A number of a group is that of a micrograph, unless tilts are numbered too.
            if label in self.table and (label != "rlnGroupNumber" or "rlnTiltIndex" in self.table):
                yield label, _codes(self.table.raw(label)[rows])
        where = [label for label in ("rlnTomoName", "rlnMicrographName") if label in self.table][:1]
        if where and all(f"rlnCoordinate{axis}" in self.table for axis in "XY"):
            labels = (*where, *(one for one in (f"rlnCoordinate{axis}" for axis in "XYZ") if one in self.table))
            yield ", ".join(labels), np.unique(self.fingerprints(labels, rows), return_inverse=True)[1].astype(np.int64)

    @override
    def tomography_columns(self) -> tuple[str, ...]:
        return tuple(label for label in self.table.columns if label.startswith("rlnTomo") or label == "rlnCoordinateZ")

    def _micrograph(self, rows: Rows) -> Rows:
        """Return (n,) numbers of the micrographs, of the stacks for rows that do not name one."""
        if "rlnMicrographName" in self.table:
            number = _codes(self.table.raw("rlnMicrographName")[rows])
            if number.min(initial=0) >= 0:
                return number
        else:
            number = np.full(len(rows), -1)
        stack = parse_image_names(self.table).stack_id[rows].astype(np.int64)
        return np.where(number >= 0, number, int(number.max(initial=-1)) + 1 + stack)

    @override
    def micrograph_pixel_A(self, rows: Rows) -> Float64Array:
        optics = self.star_file.blocks.get("optics")
        if optics is None:
            if "rlnMicrographPixelSize" in self.table:
                return self.table.floats("rlnMicrographPixelSize")[rows]
            if not {"rlnDetectorPixelSize", "rlnMagnification"} <= set(self.table.columns):
                return np.ones(len(rows))
            size = 1e4 * self.table.floats("rlnDetectorPixelSize") / self.table.floats("rlnMagnification")
            return np.asarray(size[rows], np.float64)
        label = next((one for one in MICROGRAPH_PIXELS if one in optics), None)
        if label is None or "rlnOpticsGroup" not in self.table:
            return np.ones(len(rows))
        group, size = optics.integers("rlnOpticsGroup"), optics.floats(label)
        order = np.argsort(group)
        place = np.searchsorted(group[order], self.table.integers("rlnOpticsGroup")[rows])
        return np.asarray(size[order][np.minimum(place, len(order) - 1)], np.float64)

    @override
    def half_set_columns(self, half_set: npt.NDArray[np.int8]) -> dict[str, AnyArray]:
        return {"rlnRandomSubset": half_set.astype(np.int64)}

    @override
    def class_columns(self, classes: Rows) -> dict[str, AnyArray]:
        return {"rlnClassNumber": classes + 1}

    @override
    def ctf_columns(self, ctf: ParticleCtf, rows: Rows, changed: npt.NDArray[np.bool_]) -> dict[str, AnyArray]:
        labels = {
            "rlnDefocusU": ctf.defocus_u_A,
            "rlnDefocusV": ctf.defocus_v_A,
            "rlnDefocusAngle": np.degrees(ctf.defocus_angle_rad),
        }
        if ctf.phase_shift_rad.any() or "rlnPhaseShift" in self.table:
            labels["rlnPhaseShift"] = np.degrees(ctf.phase_shift_rad)
        columns: dict[str, AnyArray] = {}
        for label, new in labels.items():
            written = np.array(format_values(new, "%.6f", label))
            # A column that is not there may stand in the optics table, before which a new one would go.
            before = self.table.raw(label)[rows] if label in self.table else written
            columns[label] = np.where(changed, written, before)
        return columns

    @override
    def column_names(self) -> tuple[str, ...]:
        return self.table.columns

    @override
    def column(self, name: str, rows: Rows) -> AnyArray:
        return self.table.raw(name)[rows]

    @override
    def expansion(self) -> tuple[UInt64Array, UInt64Array] | None:
        labels = [label for field in EXPANSION for label in self.table.columns if _is_embedded(label, field)]
        if len(labels) != len(EXPANSION):
            return None
        source, copy = (np.array([int(text) for text in self.table.raw(label).tolist()], np.uint64) for label in labels)
        return source, copy

    @override
    def original_images(self) -> ImageReferences | None:
        label = ORIGINAL_IMAGES[0]
        with suppress(InputError):  # names of other things than images
            return parse_image_names(self.table, label) if label in self.table else None
        return None

    @override
    def micrographs(self) -> tuple[tuple[str, ...], Rows] | None:
        if "rlnMicrographName" not in self.table:
            return None
        names, code = np.unique(self.table.text("rlnMicrographName"), return_inverse=True)
        return tuple(names.tolist()), code.astype(np.int64)

    @property
    @override
    def names_micrographs(self) -> bool:
        return "rlnMicrographName" in self.table

    @override
    def positions(self) -> Positions | None:
        micrographs = self.micrographs()
        if micrographs is None or any(f"rlnCoordinate{axis}" not in self.table for axis in "XY"):
            return None
        xy_px = np.stack([self.table.floats(f"rlnCoordinate{axis}") for axis in "XY"], axis=1)
        return Positions(*micrographs, xy_px)


def _is_embedded(label: str, field: str) -> bool:
    return label.startswith(f"cdxCs.{field.replace('/', '.')}.u")


def _codes(values: BytesArray) -> Rows:
    """Return (n,) numbers of distinct texts; -1 for those that mean nothing."""
    distinct, number = np.unique(values, return_inverse=True)
    unknown = np.isin(distinct, np.array(_UNKNOWN))
    return np.where(unknown[number], -1, number).astype(np.int64)
