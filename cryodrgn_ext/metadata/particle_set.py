"""ParticleSet: N particles as arrays, bound to the untouched table that they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.image_names import ImageReferences
from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_ctf import Float64Array, ParticleCtf
from cryodrgn_ext.metadata.particle_source import ParticleSource
from cryodrgn_ext.metadata.poses import euler_from_rotation, rotation_faults, rotation_from_euler
from cryodrgn_ext.metadata.star import StarFile
from cryodrgn_ext.metadata.star_table import StarTable


@dataclass(frozen=True, eq=False, repr=False)
class ParticleSet:
    """N particles of a refinement.

    Attributes
    ----------
    source : ParticleSource
        The file as it was read, shared by all subsets.
    project_dir : Path
        What relative image references are relative to.
    stack_names : tuple of str
        Stacks as written in the image references.
    stack_paths : tuple of Path
        The same, resolved against ``project_dir``.
    stack_id : (N,) int32
        Index into ``stack_paths``.
    stack_index : (N,) int64
        0-based index of the image in its stack.
    euler_deg : (N, 3) float64
        rot, tilt, psi in RELION's convention; NaN when ``has_poses`` is False.
    shift_A : (N, 2) float64
        Displacement of the particle from the box centre (x, y): minus RELION's origin.
    ctf : ParticleCtf
    optics : tuple of OpticsGroup
    optics_index : (N,) int32
        Index into ``optics`` (not RELION's group number).
    half_set : (N,) int8
        1 or 2 as in rlnRandomSubset, 0 when unknown.
    row_id : (N,) int64
        0-based row in the original table: unique and stable, also where a symmetry-expanded set repeats an image.
    image_hash : (N,) uint64
        Equal for rows of one image, different for different images; made from the image name.
    uid : (N,) uint64
        CryoSPARC's identifier where the file has one, else made from the image name and its occurrence: the same in
        every file that has the particle.
    has_poses : bool
    poses_changed : bool
        True after :meth:`with_poses`.
    optics_changed : bool
        True after :meth:`with_optics`.
    """

    source: ParticleSource
    project_dir: Path
    stack_names: tuple[str, ...]
    stack_paths: tuple[Path, ...]
    stack_id: npt.NDArray[np.int32]
    stack_index: npt.NDArray[np.int64]
    euler_deg: Float64Array
    shift_A: Float64Array
    ctf: ParticleCtf
    optics: tuple[OpticsGroup, ...]
    optics_index: npt.NDArray[np.int32]
    half_set: npt.NDArray[np.int8]
    row_id: npt.NDArray[np.int64]
    image_hash: npt.NDArray[np.uint64]
    uid: npt.NDArray[np.uint64]
    has_poses: bool = True
    poses_changed: bool = False
    optics_changed: bool = False

    @property
    def n(self) -> int:
        """Number N of particles."""
        return len(self.row_id)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"ParticleSet({self.n} particles of {self.path})"

    @property
    def path(self) -> Path:
        """The file that the particles were read from."""
        return self.source.path

    @property
    def table(self) -> StarTable:
        """The original table of a STAR file, all rows of it; InputError for a .cs."""
        return self.source.table

    @property
    def star(self) -> StarFile:
        """The STAR file; InputError for a .cs."""
        return self.source.star

    @property
    def cs(self) -> CsTable:
        """The original table of a .cs, all rows of it; InputError for a STAR file."""
        return self.source.cs

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the particles were read from: the STAR file, or the .cs and those joined to it."""
        return self.source.files

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file was understood, one sentence each."""
        return self.source.notes

    @property
    def version(self) -> str:
        """Which RELION's conventions the file follows: "3.0", "3.1" (3.1 and 4, and what is made of a .cs) or "5.0".

        RELION 3.0 stops at columns that it does not know: give files of version "3.0" no ``extra_columns`` when they
        go back to that version.
        """
        return self.source.version

    @property
    def references(self) -> ImageReferences:
        """Where the images are."""
        return ImageReferences(self.stack_names, self.stack_id, self.stack_index)

    @cached_property
    def rotation(self) -> Float64Array:
        """(N, 3, 3) float64: rotations R from model to image coordinates (computed on first use)."""
        if not self.has_poses:
            raise InputError(
                f"{self.path}: has no orientations (_rlnAngleRot, _rlnAngleTilt, _rlnAnglePsi, or alignments3D/pose)"
            )
        return rotation_from_euler(self.euler_deg)

    @cached_property
    def image_name(self) -> npt.NDArray[np.str_]:
        """(N,) strings: rlnImageName as written (read on first use; four bytes a letter, so large for large N)."""
        return self.source.image_names(self.row_id, self.references)

    @property
    def pixel_size_A(self) -> Float64Array:
        """(N,) float64: size of an image pixel."""
        return np.array([group.pixel_size_A for group in self.optics])[self.optics_index]

    def subset(self, indices: npt.ArrayLike) -> ParticleSet:
        """Return some particles, in the given order.

        Parameters
        ----------
        indices : (n,) int or (N,) bool array
            Positions in this set, none twice.

        Raises
        ------
        InputError
            For indices outside 0..N-1, repeated, or not whole numbers.
        """
        index = _checked_indices(indices, self.n)
        return replace(
            self,
            stack_id=self.stack_id[index],
            stack_index=self.stack_index[index],
            euler_deg=self.euler_deg[index],
            shift_A=self.shift_A[index],
            ctf=self.ctf.subset(index),
            optics_index=self.optics_index[index],
            half_set=self.half_set[index],
            row_id=self.row_id[index],
            image_hash=self.image_hash[index],
            uid=self.uid[index],
        )

    def with_poses(self, rotation: npt.NDArray[Any], shift_A: npt.NDArray[Any]) -> ParticleSet:
        """Return the same particles with other poses; the writers then write these.

        Parameters
        ----------
        rotation : (N, 3, 3) array
        shift_A : (N, 2) array
            Displacement from the box centre (x, y) in Å.

        Raises
        ------
        InputError
            For wrong shapes, values that are not finite, or matrices that are no rotations.
        """
        rotation, shift_A = np.asarray(rotation, np.float64), np.array(shift_A, np.float64)
        if rotation.shape != (self.n, 3, 3) or shift_A.shape != (self.n, 2):
            raise InputError(
                f"poses of {self.n} particles must have the shapes ({self.n}, 3, 3) and ({self.n}, 2), got "
                f"{rotation.shape} and {shift_A.shape}"
            )
        faults = rotation_faults(rotation)
        if len(faults):
            raise InputError(f"the rotation of particle {faults[0] + 1} is no rotation matrix ({len(faults)} in all)")
        wrong = np.flatnonzero(~np.isfinite(shift_A).all(axis=1))
        if len(wrong):
            raise InputError(f"the shift of particle {wrong[0] + 1} is not finite ({len(wrong)} in all)")
        euler_deg = euler_from_rotation(rotation)
        return replace(self, euler_deg=euler_deg, shift_A=shift_A, has_poses=True, poses_changed=True)

    def with_optics(self, optics: tuple[OpticsGroup, ...], optics_index: npt.NDArray[np.int32]) -> ParticleSet:
        """Return the same particles in other optics groups; the writers then write these.

        Parameters
        ----------
        optics : tuple of OpticsGroup
            ``made_of`` of a group is the number of the file's group that its further columns are taken from.
        optics_index : (N,) int32
        """
        return replace(self, optics=optics, optics_index=optics_index, optics_changed=True)

    def describe_row(self, index: int) -> str:
        """Name particle ``index`` for a message: file, 1-based row of the original table, line or uid, image."""
        image = f"{self.stack_index[index] + 1}@{self.stack_names[self.stack_id[index]]}"
        return self.source.describe_row(int(self.row_id[index]), image)


def _checked_indices(indices: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    array = np.asarray(indices)
    if array.dtype == np.bool_ and array.shape == (n,):
        return np.flatnonzero(array)
    if array.size == 0 and array.ndim <= 1:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"indices must be a list of whole numbers, got {array.dtype} of the shape {array.shape}")
    wrong = np.flatnonzero((array < 0) | (array >= n))
    if len(wrong):
        raise InputError(f"index {array[wrong[0]]} is outside 0..{n - 1}, the particles that there are")
    seen = np.bincount(array.astype(np.int64), minlength=n)
    if seen.max(initial=0) > 1:
        raise InputError(f"index {int(np.argmax(seen > 1))} is given {int(seen.max())} times")
    return array.astype(np.int64)
