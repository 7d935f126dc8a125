"""Particles of the public cryodrgn, a stack with pickles of poses and CTF, as a STAR file of RELION 3.1; and back.

The pickles know neither the images nor any order but that of the stack, so they are matched with the stack by number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_pickle import CryodrgnPoses, box_sizes, read_ctf, read_poses
from cryodrgn_ext.metadata.mrc import read_mrc_header
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.poses import euler_from_rotation
from cryodrgn_ext.metadata.relion_particles import particles_from_star
from cryodrgn_ext.metadata.star import StarFile, new_star, new_table
from cryodrgn_ext.metadata.star_table import Values

STACKS = (".mrcs", ".mrc", ".txt")
_IMAGE_SIZE, _PIXEL_SIZE, _VOLTAGE, _CS, _AMPLITUDE_CONTRAST = 0, 1, 5, 6, 7  # columns of the CTF


@dataclass(frozen=True)
class _Stacks:
    """Stacks one after the other: ``paths``, the image counts ``counts`` (S,), and the box of all."""

    paths: tuple[Path, ...]
    counts: npt.NDArray[np.int64]
    box: int


def read_stack(stack: Path, poses: Path, ctf: Path, datadir: Path | None = None) -> ParticleSet:
    """Read the particles of a stack of images, as from the STAR file that :func:`star_of_stack` makes.

    Raises
    ------
    InputError
        When a file cannot be read, or their numbers of entries differ.
    """
    star = replace(star_of_stack(stack, poses, ctf, datadir), path=stack)
    return particles_from_star(star, Path("/"))


def star_of_stack(stack: Path, poses: Path, ctf: Path, datadir: Path | None = None) -> StarFile:
    """Describe a stack of images by a STAR file.

    Parameters
    ----------
    stack : Path
        .mrcs, or a .txt with one .mrcs a line (relative to ``datadir``, or to the list).
    poses, ctf : Path
        Pickles with one entry for each image of the stack, in its order. The image size of the CTF may be that of
        the images before they were downsampled: its extent in Å holds.
    datadir : Path, optional

    Returns
    -------
    StarFile
        Image names are absolute paths, as a run may lie anywhere.

    Raises
    ------
    InputError
        When a file cannot be read, or their numbers of entries differ.
    """
    stacks = _read_stacks(stack, datadir)
    n = int(stacks.counts.sum())
    given, columns = read_poses(poses), read_ctf(ctf)
    for path, count in ((poses, len(given.rotation)), (ctf, len(columns))):
        if count != n:
            raise InputError(
                f"{path} has {count} entries, but {stack} has {n} images: poses and CTF are matched with the stack in "
                "order, so give those of this very stack."
            )
    pixel_size_A = columns[:, _IMAGE_SIZE] * columns[:, _PIXEL_SIZE] / stacks.box
    if not (pixel_size_A > 0).all():
        raise InputError(f"{ctf}: entry {int(np.argmin(pixel_size_A)) + 1} has no pixel size.")
    optics, group = _optics(columns, pixel_size_A, stacks.box)
    euler = euler_from_rotation(given.rotation)
    origin_A = 0.0 - shifts_A(given, pixel_size_A * stacks.box)
    table: dict[str, Values] = {
        "rlnImageName": _image_names(stacks),
        "rlnDefocusU": columns[:, 2],
        "rlnDefocusV": columns[:, 3],
        "rlnDefocusAngle": columns[:, 4],
        "rlnPhaseShift": columns[:, 8],
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), euler.T, strict=True)),
        "rlnOriginXAngst": origin_A[:, 0],
        "rlnOriginYAngst": origin_A[:, 1],
        "rlnOpticsGroup": group + 1,
    }
    return new_star([new_table("optics", optics), new_table("particles", table)])


def with_pickled_poses(particles: ParticleSet, path: Path) -> ParticleSet:
    """Return particles with the poses of a pickle, matched in order.

    Raises
    ------
    InputError
        When the numbers differ, or the box of a group is unknown.
    """
    given = read_poses(path)
    if len(given.rotation) != particles.n:
        raise InputError(
            f"{path} has {len(given.rotation)} poses, but {particles.path} has {particles.n} particles: they are "
            "matched in order, so give those of this very file."
        )
    return particles.with_poses(given.rotation, shifts_A(given, box_sizes(particles) * particles.pixel_size_A))


def lost_by_cryodrgn(particles: ParticleSet) -> tuple[str, ...]:
    """Properties that the pickles have no place for, or that the public program reads otherwise than they are meant."""
    optics, ctf = particles.optics, particles.ctf
    lost = {
        "beam tilt": any(any(group.beam_tilt_mrad) for group in optics),
        "Zernike terms": any(any(group.odd_zernike) or any(group.even_zernike) for group in optics),
        "anisotropic magnification": any(group.mag_matrix != ((1.0, 0.0), (0.0, 1.0)) for group in optics),
        "CTF B-factors": bool(ctf.b_factor_A2.any()),
        "CTF scale factors": bool((ctf.scale != 1).any()),
        "half-sets": bool(particles.half_set.any()),
        "pixel sizes other than that of the first particle": len({group.pixel_size_A for group in optics}) > 1,
    }
    return tuple(name for name, there in lost.items() if there)


def shifts_A(poses: CryodrgnPoses, box_A: Float64Array) -> Float64Array:
    """(N, 2) displacements in Å from fractions of boxes that are ``box_A`` (N,) wide; 0 where none are given."""
    if poses.shift_fraction is None:
        return np.zeros((len(poses.rotation), 2))
    return poses.shift_fraction * box_A[:, None]


def _read_stacks(stack: Path, datadir: Path | None) -> _Stacks:
    paths: tuple[Path, ...] = (stack,)
    if stack.suffix.lower() == ".txt":
        try:
            lines = [line.strip() for line in stack.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{stack} cannot be read as a list of stacks ({str(error).splitlines()[0]}).") from None
        base = stack.parent if datadir is None else datadir
        paths = tuple(base / line for line in lines if line)
        if not paths:
            raise InputError(f"{stack} lists no stacks: one .mrcs a line is expected.")
    headers = [read_mrc_header(path) for path in paths]
    boxes = [header.nx for header in headers]
    if len(set(boxes)) > 1 or any(header.ny != header.nx for header in headers):
        raise InputError(f"{stack}: its images are not square or not all of one size ({sorted(set(boxes))} px).")
    return _Stacks(paths, np.array([header.nz for header in headers], np.int64), boxes[0])


def _image_names(stacks: _Stacks) -> list[str]:
    names = [str(path.resolve()) for path in stacks.paths]
    names = [name if name.endswith(".mrcs") else f"{name}:mrcs" for name in names]
    return [
        f"{number:06d}@{name}"
        for name, count in zip(names, stacks.counts.tolist(), strict=True)
        for number in range(1, count + 1)
    ]


def _optics(
    columns: Float64Array, pixel_size_A: Float64Array, box: int
) -> tuple[dict[str, Values], npt.NDArray[np.int64]]:
    """Return the optics table, one group for each combination of what RELION keeps there, and (N,) group from 0."""
    kept = np.column_stack([columns[:, [_VOLTAGE, _CS, _AMPLITUDE_CONTRAST]], pixel_size_A]).round(6)
    groups, index = np.unique(kept, axis=0, return_inverse=True)
    n = len(groups)
    table: dict[str, Values] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in range(1, n + 1)],
        "rlnOpticsGroup": np.arange(1, n + 1),
        "rlnVoltage": groups[:, 0],
        "rlnSphericalAberration": groups[:, 1],
        "rlnAmplitudeContrast": groups[:, 2],
        "rlnImagePixelSize": groups[:, 3],
        "rlnImageSize": [box] * n,
        "rlnImageDimensionality": [2] * n,
    }
    return table, index.reshape(-1).astype(np.int64)
