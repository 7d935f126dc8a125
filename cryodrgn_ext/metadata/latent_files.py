"""Latents of particles from the files of any program, and the particles that they belong to.

Read are .npz, .npy, text, z.N.pkl of the public cryodrgn (never unpickled in earnest) and a .cs with CryoSPARC's
components (``components_mode_0/value``, ... of 3D variability and 3D flexible refinement). Where a file names its
particles, by uid or image name, they are matched by that, whatever their order and however many the file leaves out;
elsewhere by their order, and only when the numbers agree.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_pickle import read_latents as read_cryodrgn_latents
from cryodrgn_ext.metadata.cs import CsTable, read_cs
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.star_table import StarTable
from cryodrgn_ext.plain_files import readable

ARRAY_NAMES = ("z", "zs", "z_mu", "latents", "latent", "embedding", "latent_coords")
LATENT_COLUMN = re.compile(r"cdxLatent(\d+)")
COMPONENT = re.compile(r"components_mode_(\d+)/value")
TEXTS = (".txt", ".csv", ".tsv", ".dat", "")
FORMS = ".npz, .npy, .txt or .csv, cryodrgn's z.N.pkl, or a .cs with components_mode_*/value"
#: Numbers beyond this are those of a uid, which float32 cannot tell apart either.
_IDENTIFIERS = 1e12
EXPECTED = f"a table of numbers is expected, one row for each latent, as {FORMS}"


@dataclass(frozen=True, eq=False)
class LatentFile:
    """Latents as a file has them.

    Attributes
    ----------
    path : Path
    z : (M, q) float32
    z_cov : (M, q, q) float32 or None
    uid : (M,) uint64 or None
        Identifiers of the particles.
    image_name : (M,) str or None
        Their images, ``000001@stack.mrcs``; not looked at when there are identifiers.
    """

    path: Path
    z: npt.NDArray[np.float32]
    z_cov: npt.NDArray[np.float32] | None = None
    uid: npt.NDArray[np.uint64] | None = None
    image_name: npt.NDArray[np.str_] | None = None


@dataclass(frozen=True, eq=False)
class MatchedLatents:
    """Latents and their particles.

    Attributes
    ----------
    rows : (n,) int64
        Particles with latents, increasing.
    z : (n, q) float32
    z_cov : (n, q, q) float32 or None
    joined_by : str
        "uid", "image name" or "order".
    """

    rows: npt.NDArray[np.int64]
    z: npt.NDArray[np.float32]
    z_cov: npt.NDArray[np.float32] | None
    joined_by: str


def read_latent_file(path: Path) -> LatentFile:
    """Read latents.

    Parameters
    ----------
    path : Path
        By its suffix: ``.npz`` with an array ``z`` (or one of a few other usual names, or one array only) and
        optionally ``uid``, ``image_name`` and ``z_cov``; ``.npy``; text with one row per particle; ``.pkl``; ``.cs``.

    Raises
    ------
    InputError
        When the file cannot be read, has no latents, or values that are not finite.
    """
    suffix = path.suffix.lower()
    if suffix == ".cs":
        return _checked(_read_components(path))
    if suffix == ".pkl":
        found = read_cryodrgn_latents(path)
        variance = None if found.log_variance is None else np.exp(found.log_variance)
        covariance = None if variance is None else variance[:, :, None] * np.eye(variance.shape[1], dtype=np.float32)
        return _checked(LatentFile(path, found.mean, covariance))
    if suffix == ".npz":
        return _checked(_read_npz(path))
    return _checked(LatentFile(path, _without_row_numbers(path, _numbers(path, _table(path)))))


def latents_of_particles(particles: ParticleSet) -> LatentFile:
    """Latents that the file of particles carries: ``components_mode_*/value`` of a .cs, or our columns of a STAR file.

    Raises
    ------
    InputError
        When it has none.
    """
    if particles.source.format == "cs":
        table: CsTable | StarTable = particles.cs
        names, pattern = tuple(particles.cs.columns), COMPONENT
    else:
        table = particles.table
        names, pattern = particles.table.columns, LATENT_COLUMN
    found = {int(match[1]): name for name in names if (match := pattern.fullmatch(name))}
    if not found:
        raise InputError(
            f"{particles.path} carries no latents (components_mode_*/value of a 3D variability or 3D flexible "
            "refinement job, or cdxLatent1, ... of ours): give them by --latents."
        )
    z = np.stack([table.floats(found[number]) for number in sorted(found)], axis=1)[particles.row_id]
    return _checked(LatentFile(particles.path, z.astype(np.float32), uid=particles.uid))


def read_positions(path: Path, zdim: int) -> npt.NDArray[np.float32]:
    """Read positions in a latent space (P, zdim), one row each, from the same files as latents.

    A single row, or a single column for a space of one dimension, may be a plain list of numbers.

    Raises
    ------
    InputError
        When the file cannot be read, has another number of columns, or values that are not finite.
    """
    if path.suffix.lower() in (".npz", ".pkl", ".cs"):
        z = read_latent_file(path).z
    else:
        values = _table(path)
        if values.ndim == 1 and zdim > 1:
            values = values[None]
        z = _checked(LatentFile(path, _numbers(path, values))).z
    if z.shape[1] != zdim:
        raise InputError(f"{path} has the shape {z.shape}, but one row of {zdim} latents per volume is needed.")
    return z


def match_latents(latents: LatentFile, particles: ParticleSet) -> MatchedLatents:
    """Find the particle of every row of a file of latents.

    Raises
    ------
    InputError
        When a row names a particle that is not there, or two rows the same; without names, when the numbers differ.
    """
    if latents.uid is not None:
        if len(np.unique(latents.uid)) < len(latents.uid):
            raise InputError(f"{latents.path}: two rows have the same uid, so that they cannot be told apart.")
        _refuse_copies(latents, particles)
        return _in_order(latents, _rows_of(latents, latents.uid, particles.uid, particles, "uid"), "uid")
    if latents.image_name is not None:
        names = particles.image_name
        for where, some in ((latents.path, latents.image_name), (particles.path, names)):
            if len(np.unique(some)) < len(some):
                raise InputError(f"{where}: an image occurs twice, so that particles cannot be told apart by images.")
        return _in_order(latents, _rows_of(latents, latents.image_name, names, particles, "image"), "image name")
    if len(latents.z) != particles.n:
        raise InputError(
            f"{latents.path} has {len(latents.z)} latents without names, but {particles.path} has {particles.n} "
            "particles: give the particles that were trained on, in that order (or --ind, which of them were), or a "
            ".npz with an array uid or image_name beside z."
        )
    return MatchedLatents(np.arange(particles.n), latents.z, latents.z_cov, "order")


def _refuse_copies(latents: LatentFile, particles: ParticleSet) -> None:
    """Raise InputError for copies of one image: identifiers made from image names count them, and tell no copy."""
    if particles.source.cryosparc_uids() or len(np.unique(particles.image_hash)) == particles.n:
        return
    if latents.uid is None or not np.array_equal(latents.uid, particles.uid):
        raise InputError(
            f"{particles.path}: has several rows of one image, and the identifiers in {latents.path}, made from image "
            "names, do not tell which row a latent is of: give the very file of particles that was trained on."
        )


def _rows_of(
    latents: LatentFile, wanted: npt.NDArray[Any], known: npt.NDArray[Any], particles: ParticleSet, what: str
) -> npt.NDArray[np.int64]:
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    missing = np.flatnonzero(known[found] != wanted)
    if len(missing):
        raise InputError(
            f"{latents.path}: {len(missing)} of {len(wanted)} latents are of particles that {particles.path} does not "
            f"have, the first being {what} {wanted[missing[0]]} (row {missing[0] + 1}): give the particles that were "
            "trained on."
        )
    return found.astype(np.int64)


def _in_order(latents: LatentFile, rows: npt.NDArray[np.int64], joined_by: str) -> MatchedLatents:
    order = np.argsort(rows)
    covariance = None if latents.z_cov is None else latents.z_cov[order]
    return MatchedLatents(rows[order], latents.z[order], covariance, joined_by)


def _checked(latents: LatentFile) -> LatentFile:
    z = latents.z
    if z.ndim != 2 or 0 in z.shape:
        raise InputError(
            f"{latents.path}: the latents have the shape {z.shape}; a table with a row for each latent and a column "
            "for each dimension is expected, and neither may be empty."
        )
    wrong = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(wrong):
        raise InputError(f"{latents.path}: the latent of row {wrong[0] + 1} is not finite ({len(wrong)} such rows).")
    large = np.flatnonzero(np.abs(z).max(axis=0) > _IDENTIFIERS)
    if len(large):
        raise InputError(
            f"{latents.path}: column {large[0] + 1} has values up to {np.abs(z[:, large[0]]).max():.3g}, as "
            "identifiers have and no latents: leave it out, or give a .npz with latents as z and identifiers as uid."
        )
    for name, array in (("uid", latents.uid), ("image_name", latents.image_name)):
        if array is not None and array.shape != (len(z),):
            raise InputError(f"{latents.path}: {name} has the shape {array.shape}, but there are {len(z)} latents.")
    if latents.z_cov is not None and latents.z_cov.shape != (len(z), z.shape[1], z.shape[1]):
        raise InputError(
            f"{latents.path}: z_cov has the shape {latents.z_cov.shape}; (particles, dimensions, dimensions) is "
            "expected."
        )
    return latents


def _read_components(path: Path) -> LatentFile:
    table = read_cs(path)
    found = {int(match[1]): field for field in table.columns if (match := COMPONENT.fullmatch(field))}
    if not found:
        raise InputError(
            f"{path} has no fields components_mode_*/value: give the particles of a 3D variability or 3D flexible "
            "refinement job."
        )
    columns = [table.floats(found[number]) for number in sorted(found)]
    if any(column.ndim != 1 for column in columns):
        raise InputError(f"{path}: components_mode_*/value must be one number for each particle.")
    return LatentFile(path, np.stack(columns, axis=1).astype(np.float32), uid=table.uid)


def _read_npz(path: Path) -> LatentFile:
    with _opened(path) as arrays:
        name = next((name for name in ARRAY_NAMES if name in arrays), None)
        if name is None and len(arrays) == 1:
            name = next(iter(arrays))
        if name is None:
            raise InputError(f"{path} has no array 'z', only {', '.join(arrays)}: save the latents under that name.")
        covariance = arrays["z_cov"].astype(np.float32) if "z_cov" in arrays else None
        uid = arrays.get("uid")
        names = arrays.get("image_name")
        if uid is not None and uid.dtype.kind not in "iu":
            raise InputError(f"{path}: uid holds {uid.dtype} instead of whole numbers.")
        return LatentFile(
            path,
            _numbers(path, arrays[name]),
            covariance,
            None if uid is None else uid.astype(np.uint64),
            None if names is None else names.astype(np.str_),
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Arrays of a .npz by name, read when they are asked for."""
    with readable(path, EXPECTED), open(path, "rb") as handle:
        arrays = np.load(handle, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz file")
        with arrays:
            yield arrays


def _table(path: Path) -> npt.NDArray[Any]:
    """Numbers of a .npy or a text as they stand."""
    suffix = path.suffix.lower()
    with readable(path, EXPECTED):
        if suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if suffix not in TEXTS:
            raise InputError(f"{path}: latents are read from {FORMS}, not from '{suffix}'.")
        text = path.read_text(encoding="utf-8").replace(",", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not lines:
            raise ValueError("it holds no numbers")
        return np.loadtxt(lines, ndmin=2)


def _without_row_numbers(path: Path, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Refuse a first column that counts the rows, as tables are written with their index: it is no latent."""
    if path.suffix.lower() != ".npy" and z.ndim == 2 and z.shape[1] > 1 and len(z) > 2:
        counted = z[:, 0] - np.arange(len(z), dtype=np.float32)
        if np.all(counted == counted[0]) and counted[0] in (0, 1):
            raise InputError(
                f"{path}: the first column counts the rows ({z[0, 0]:g} to {z[-1, 0]:g}) and would be taken for a "
                "latent: leave it out."
            )
    return z


def _numbers(path: Path, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {values.dtype} instead of numbers.")
    return np.ascontiguousarray(values[:, None] if values.ndim == 1 else values, np.float32)
