"""Where particles came from: one interface, which the file of each suite implements.

What depends on the suite is asked of the source; nothing outside asks which class it is. The tables themselves are
reached by ``star``, ``table`` and ``cs``, of which the source of the other suite raises an InputError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import AnyArray, CsTable
from cryodrgn_ext.metadata.image_names import ImageReferences, UInt64Array, content_hashes, mixed
from cryodrgn_ext.metadata.micrograph_positions import Positions
from cryodrgn_ext.metadata.particle_ctf import Float64Array, ParticleCtf
from cryodrgn_ext.metadata.star import StarFile
from cryodrgn_ext.metadata.star_table import StarTable

Rows: TypeAlias = npt.NDArray[np.int64]
FileFormat: TypeAlias = Literal["star", "cs"]
# Fields of CryoSPARC's symmetry expansion: the uid that a row is a copy of, and which copy it is.
EXPANSION = ("sym_expand/src_uid", "sym_expand/idx")


@dataclass(frozen=True)
class Identity:
    """A column that says which of n rows belong together.

    Attributes
    ----------
    relation : str
        ``particle`` (copies of one particle) or ``filament`` (boxes along one).
    number : (n,) int64
        Equal for rows that belong together; -1 for rows of which the column says nothing.
    """

    relation: Literal["particle", "filament"]
    number: Rows


class ParticleSource(ABC):
    """The file that particles were read from, with everything in it.

    Rows are those of the file, counted from 0.
    """

    @property
    @abstractmethod
    def format(self) -> FileFormat:
        """Suffix of the files that this source is written as."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """The file."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of rows of the file."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that were read: the file, and those joined to it."""
        return (self.path,)

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file was understood, one sentence each."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Which RELION's conventions the file follows, or what is made of it does: "3.0", "3.1" or "5.0"."""

    @property
    def star(self) -> StarFile:
        """The STAR file; InputError for another format."""
        raise InputError(f"{self.path}: is no STAR file; convert it first")

    @property
    def table(self) -> StarTable:
        """The table of particles of a STAR file; InputError for another format."""
        raise InputError(f"{self.path}: is no STAR file; convert it first")

    @property
    def cs(self) -> CsTable:
        """The table of a .cs file; InputError for another format."""
        raise InputError(f"{self.path}: is no .cs file; convert it first")

    @abstractmethod
    def describe_row(self, row: int, image: str) -> str:
        """Name a row for a message: file, 1-based row, line or uid, image (``image`` unless the file spells it)."""

    @abstractmethod
    def image_names(self, rows: Rows, references: ImageReferences) -> npt.NDArray[np.str_]:
        """Return (n,) image names as RELION writes them; ``references`` are those of the n rows."""

    @abstractmethod
    def cryosparc_uids(self) -> bool:
        """Whether the identifiers are CryoSPARC's own rather than made from image names."""

    @abstractmethod
    def classes(self) -> Rows | None:
        """Return (N,) the class of every row, from 0; None when the file has no classes."""

    @abstractmethod
    def dark_on_light(self, rows: Rows) -> int:
        """Count the rows whose particles are said to be dark on light."""

    @abstractmethod
    def known_dark(self) -> ParticleSource:
        """Return the same source, of which its images say that particles are dark on light; a .cs says so itself."""

    @abstractmethod
    def numeric_columns(self, rows: Rows) -> Iterator[tuple[str, Float64Array]]:
        """Yield (name, (n,) values) of every column of numbers, named as in the file, NaN included."""

    @abstractmethod
    def numeric_column(self, name: str, rows: Rows) -> Float64Array:
        """Return (n,) values of one of :meth:`numeric_columns`; InputError where the column has text in it."""

    @abstractmethod
    def origins(self, shift_A: Float64Array, rows: Rows, has_poses: bool) -> tuple[str, Float64Array]:
        """Return the columns that say where particles lie in their images, and the shifts (n, 2) in Å.

        ``shift_A`` are those of the particles' poses, which a source returns unless it has others.
        """

    @abstractmethod
    def identities(self, rows: Rows) -> Iterator[Identity]:
        """Yield the columns that say which rows are copies of one particle, or boxes of one filament."""

    @abstractmethod
    def micrograph_pixel_A(self, rows: Rows) -> Float64Array:
        """Return (n,) sizes of the pixels in which :meth:`positions` are, as far as the file tells."""

    @abstractmethod
    def tilt_columns(self, rows: Rows) -> dict[str, Float64Array]:
        """Return the columns (n,) that differ between the tilt images of a particle, such as B-factors of doses."""

    @abstractmethod
    def particle_keys(self, rows: Rows) -> Iterator[tuple[str, Rows]]:
        """Yield columns that would name a particle if rows were tilt images: names, and (n,) numbers, -1 for nothing.

        In files of single particles they name other things, such as micrographs.
        """

    @abstractmethod
    def tomography_columns(self) -> tuple[str, ...]:
        """Return the columns that only files of tomography have."""

    @abstractmethod
    def half_set_columns(self, half_set: npt.NDArray[np.int8]) -> dict[str, AnyArray]:
        """Return the columns that hold half-sets (n,) of 1 and 2."""

    @abstractmethod
    def class_columns(self, classes: Rows) -> dict[str, AnyArray]:
        """Return the columns that hold classes (n,) from 0."""

    @abstractmethod
    def ctf_columns(self, ctf: ParticleCtf, rows: Rows, changed: npt.NDArray[np.bool_]) -> dict[str, AnyArray]:
        """Return the columns of ``rows`` with defocus and phase shift of ``ctf`` (n,) where ``changed`` (n,).

        Other rows keep the characters or values that they have.
        """

    @abstractmethod
    def column_names(self) -> tuple[str, ...]:
        """Return the names of all columns of the particles."""

    @abstractmethod
    def column(self, name: str, rows: Rows) -> AnyArray:
        """Return (n, ...) values of a column: text as bytes, fields of a .cs with their types."""

    def fingerprints(self, names: Sequence[str], rows: Rows) -> UInt64Array:
        """Return (n,) numbers that are equal for rows with equal text or values in these columns."""
        total = np.zeros(len(rows), np.uint64)
        for name in names:
            total = mixed(total ^ content_hashes(self.column(name, rows)))
        return total

    @abstractmethod
    def expansion(self) -> tuple[UInt64Array, UInt64Array] | None:
        """Return (N,) the identifier that a row was copied from by symmetry expansion, and the number of the copy."""

    def original_images(self) -> ImageReferences | None:
        """Return the images that those of the rows (N,) were copied or subtracted from; None when it is not said."""
        return None

    @abstractmethod
    def micrographs(self) -> tuple[tuple[str, ...], Rows] | None:
        """Return names of micrographs, and for every row (N,) which of them; None when the file names none."""

    @property
    @abstractmethod
    def names_micrographs(self) -> bool:
        """Whether :meth:`micrographs` finds any: told without reading them."""

    @abstractmethod
    def positions(self) -> Positions | None:
        """Return where all rows lie on their micrographs; None when the file does not tell."""
