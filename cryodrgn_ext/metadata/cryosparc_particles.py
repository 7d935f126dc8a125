"""Particles of CryoSPARC (.cs, .csg, job directory) as a ParticleSet.

Fields and conventions: alignments3D/pose is a rotation vector (:func:`rotation_from_pose`); alignments3D/shift counts
pixels of alignments3D/psize_A, and times that it is RELION's origin, minus our shift; ctf/tilt_A is Cs times the sine
of the beam tilt; ctf/anisomag is RELION's magnification matrix minus the identity; blob/sign -1 marks dark particles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryosparc_alignments import half_sets, read_alignments, shift_pixel_A
from cryodrgn_ext.metadata.cryosparc_files import with_missing_slots
from cryodrgn_ext.metadata.cryosparc_optics import box_sizes, exposure_groups
from cryodrgn_ext.metadata.cryosparc_source import CryosparcSource
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.header_pixels import header_notes
from cryodrgn_ext.metadata.image_files import find_project_directory
from cryodrgn_ext.metadata.image_names import ImageReferences, image_hashes, stack_file
from cryodrgn_ext.metadata.particle_ctf import Float64Array, ParticleCtf
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.plausible_poses import pose_notes
from cryodrgn_ext.metadata.plausible_units import unit_notes
from cryodrgn_ext.metadata.poses import euler_from_rotation, rotation_from_pose

# Aberrations of CryoSPARC whose conversion to RELION's Zernike coefficients nobody has published or verified.
UNCONVERTED_ABERRATIONS = ("ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A")


def read_cryosparc_particles(
    path: str | Path,
    project_dir: str | Path | None = None,
    require_poses: bool = True,
    passthroughs: Sequence[str | Path] = (),
) -> ParticleSet:
    """Read particles of CryoSPARC; see :func:`cryodrgn_ext.metadata.particles.read_particles`."""
    return particles_from_cs(with_missing_slots(Path(path), passthroughs), project_dir, require_poses)


def particles_from_cs(table: CsTable, project_dir: str | Path | None = None, require_poses: bool = True) -> ParticleSet:
    """Return the ParticleSet of a dataset; parameters and errors as :func:`read_cryosparc_particles`."""
    if table.n_rows == 0:
        raise InputError(f"{table.path}: is empty, but at least one particle is expected")
    names, stack_id = table.coded_text("blob/path")
    if any(not stack_file(name) for name in names):
        row = int(np.argmax(stack_id == [bool(stack_file(name)) for name in names].index(False)))
        raise InputError(f"{table.describe_row(row)}: blob/path is empty, so the image of this particle is unknown")
    references = ImageReferences(names, stack_id.astype(np.int32), table.integers("blob/idx"))
    project = find_project_directory(table.path, [stack_file(name) for name in names], project_dir)
    stack_paths = tuple(project.path / stack_file(name) for name in names)
    optics, optics_index = exposure_groups(table, box_sizes(table, stack_paths, references.stack_id))
    table = replace(table, notes=(*table.notes, *project.notes, *_aberration_notes(table), *_sign_notes(table)))
    table, pose, shift_px = read_alignments(table, require_poses)
    n = table.n_rows
    euler_deg, shift_A = np.full((n, 3), np.nan), np.zeros((n, 2))
    if pose is not None and shift_px is not None:
        euler_deg = euler_from_rotation(rotation_from_pose(pose))
        shift_A = 0.0 - shift_px * shift_pixel_A(table)[:, None]
    image_hash = image_hashes(references)
    half_set = half_sets(table)
    ctf = _ctf(table)
    box_A = np.array([(group.box_size or 0) * group.pixel_size_A for group in optics])[optics_index]
    found = (*unit_notes(table.path, ctf, optics), *pose_notes(table.path, euler_deg, shift_A, box_A, image_hash))
    found += _pose_notes(table.path, pose)
    found += header_notes(table.path, optics, optics_index, stack_paths, references.stack_id)
    table = replace(table, notes=(*table.notes, *found))
    return ParticleSet(
        source=CryosparcSource(table),
        project_dir=project.path,
        stack_names=names,
        stack_paths=stack_paths,
        stack_id=references.stack_id,
        stack_index=references.stack_index,
        euler_deg=euler_deg,
        shift_A=shift_A,
        ctf=ctf,
        optics=optics,
        optics_index=optics_index,
        half_set=half_set,
        row_id=np.arange(n),
        image_hash=image_hash,
        uid=table.uid,
        has_poses=pose is not None,
    )


def _pose_notes(path: Path, pose: Float64Array | None) -> tuple[str, ...]:
    """Say when rotation vectors are longer than any that CryoSPARC writes, which may exceed half a turn."""
    if pose is None or not len(pose):
        return ()
    length = float(np.median(np.linalg.norm(pose, axis=1)))
    if length <= 2 * np.pi:
        return ()
    return (
        f"{path}: most rotation vectors of alignments3D/pose are longer than a turn (median {length:.3g} rad): they "
        "may be in degrees, or Euler angles",
    )


def _ctf(table: CsTable) -> ParticleCtf:
    def column(field: str, default: float | None = None) -> Float64Array:
        if field not in table and default is not None:
            return np.full(table.n_rows, default)
        return table.floats(field)

    return ParticleCtf(
        defocus_u_A=column("ctf/df1_A"),
        defocus_v_A=column("ctf/df2_A"),
        defocus_angle_rad=column("ctf/df_angle_rad"),
        phase_shift_rad=column("ctf/phase_shift_rad", 0.0),
        b_factor_A2=column("ctf/bfactor", 0.0),
        scale=column("ctf/scale", 1.0),
    )


def _aberration_notes(table: CsTable) -> list[str]:
    used = [field for field in UNCONVERTED_ABERRATIONS if field in table and np.any(table.floats(field) != 0)]
    notes = []
    if used:
        notes.append(
            f"{table.path}: {', '.join(used)} is not 0 and has no verified counterpart: it is not applied to the CTF"
        )
    if "ctf/tilt_A" in table and np.any(table.floats("ctf/tilt_A") != 0):
        notes.append(
            f"{table.path}: ctf/tilt_A is taken for RELION's beam tilt times Cs, as other converters do; that the "
            "signs agree has not been shown on data of both programs"
        )
    return notes


def _sign_notes(table: CsTable) -> list[str]:
    if "blob/sign" not in table:
        return []
    dark = int(np.count_nonzero(table.floats("blob/sign") < 0))
    return [f"{table.path}: blob/sign is -1 in {dark} rows: their particles are dark on light"] if dark else []
