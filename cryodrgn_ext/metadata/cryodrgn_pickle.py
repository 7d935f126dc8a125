"""Pickles of the public cryodrgn format, read without ever running what is in them.

A pickle is a program. The unpickler here resolves no name to the real thing: the handful of names with which numpy
describes an array (of numpy 1, ``numpy.core``, and numpy 2, ``numpy._core``) lead to plain records of this module that
note shape, type and bytes, from which arrays are made afterwards; every other name is refused. So neither code nor
numpy's own unpickling, which trusts its input, runs.

Forms (cryodrgn 0.2 to 4):

- poses: ``(rotations (N, 3, 3), translations (N, 2))`` or rotations alone. Rotations are this package's R; translations
  are fractions of the box that move the image back to the centre, so shift = -translation * box.
- ctf: ``(N, 9)``: image size (px), pixel size (Å), defocus U, V (Å), defocus angle (deg), voltage (kV), Cs (mm),
  amplitude contrast, phase shift (deg).
- indices: a one-dimensional array of integers.
- z: the latent means (N, q), then, as a second pickle in the same file, the logarithms of the variances.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.poses import rotation_faults

Float64Array: TypeAlias = npt.NDArray[np.float64]

_PROTOCOL = 4  # what Python 3.8 and later read: the Pythons of all cryodrgn versions
_ARRAY_TYPE = re.compile(r"(b1|[iu][1248]|f[248]|c(8|16)|S\d+|U\d+)")
_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class _Refused(Exception):
    """A pickle asks for something that is no array."""


class _DtypeRecord:
    """Type of an array as a pickle describes it."""

    def __init__(self, code: object = None, _align: object = False, _copy: object = False) -> None:
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if isinstance(code, str) and code.startswith("O"):
            raise _Refused("arrays of Python objects")
        if not isinstance(code, str) or not _ARRAY_TYPE.fullmatch(code):
            raise _Refused(f"arrays of the type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, others = state[1], state[2:5]
        if isinstance(order, bytes):
            order = order.decode("latin1")
        if order not in ("<", ">", "|", "=") or any(other is not None for other in others):
            raise _Refused("arrays of structured types")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype


class _ArrayRecord:
    """Array as a pickle describes it."""

    def __init__(self) -> None:
        self.array: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, data = state
        self.array = _array_from_bytes(data, dtype, shape, "F" if fortran else "C")


class _Name:
    """Function behind a name in a pickle: it can be called, and a pickle can do nothing else to it."""

    __slots__ = ("_function",)
    _function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused("a malformed array")

    def __setstate__(self, state: object) -> None:
        raise _Refused("a malformed array")


def _array_class(*_arguments: object) -> object:
    """Stand for the class numpy.ndarray, which is named in the arguments of ``_reconstruct`` and never called."""
    raise _Refused("a malformed array")


def _reconstruct(_subtype: object, _shape: object, _type: object) -> _ArrayRecord:
    return _ArrayRecord()


def _frombuffer(data: object, dtype: object, shape: object, order: object = "C") -> _ArrayRecord:
    record = _ArrayRecord()
    record.array = _array_from_bytes(data, dtype, shape, str(order))
    return record


def _scalar(dtype: object, data: object) -> _ArrayRecord:
    record = _ArrayRecord()
    record.array = _array_from_bytes(data, dtype, (), "C")
    return record


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("text in an unusual encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _array_from_bytes(data: object, dtype: object, shape: object, order: str) -> npt.NDArray[Any]:
    if not isinstance(dtype, _DtypeRecord) or not isinstance(shape, tuple):
        raise _Refused("a malformed array")
    if isinstance(data, str):  # written by Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise _Refused("arrays of Python objects")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or order not in ("C", "F"):
        raise _Refused("a malformed array")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.dtype.itemsize != len(data):
        raise _Refused("a malformed array")
    # A copy in the byte order of the machine, that may be written to.
    flat = np.frombuffer(data, dtype.dtype, count).astype(dtype.dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if order == "F" else "C")


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _array_class,
    ("numpy", "dtype"): _DtypeRecord,
    ("_codecs", "encode"): _encode,  # how old protocols write bytes
    ("__builtin__", "bytes"): _no_bytes,  # and these are no bytes at all
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Name(_ALLOWED[module, name])
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _Refused("references to objects outside the file")


def read_pickled_arrays(path: str | Path) -> list[Any]:
    """Read all pickles of a file, which may hold arrays, numbers, strings, lists, tuples and dicts.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list
        One object for every pickle that the file holds one after the other.

    Raises
    ------
    InputError
        When the file cannot be read, is no pickle, is cut short, or holds anything else, code above all: nothing of
        it is run.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    stream = BytesIO(content)
    found: list[Any] = []
    while stream.tell() < len(content) or not found:
        try:
            # Pickles of Python 2 hold the bytes of arrays as text.
            found.append(_finished(_ArraysOnly(stream, encoding="latin1").load()))
        except _Refused as refusal:
            raise InputError(
                f"{path}: this pickle holds {refusal}, but only arrays, numbers, text, lists and dicts are read from "
                "pickles; nothing of it was run"
            ) from None
        except _MALFORMED:
            raise InputError(f"{path}: is no pickle, or is damaged or cut short") from None
    return found


def _finished(value: object) -> Any:
    """Replace the records in containers by their arrays."""
    if isinstance(value, _ArrayRecord):
        if value.array is None:
            raise _Refused("a malformed array")
        return value.array[()]  # a scalar for shape ()
    if isinstance(value, (list, tuple)):
        return type(value)(_finished(item) for item in value)
    if isinstance(value, dict):
        return {_finished(key): _finished(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, bytearray)):
        return value
    if isinstance(value, (_Name, _DtypeRecord)):
        raise _Refused("the type of an array without an array")
    raise _Refused(f"an object of the type {type(value).__name__}")


@dataclass(frozen=True, eq=False)
class CryodrgnPoses:
    """Poses of a cryodrgn pickle.

    Attributes
    ----------
    rotation : (N, 3, 3) float64
        R, from model to image coordinates.
    shift_fraction : (N, 2) float64 or None
        Displacement of the particle from the box centre (x, y) in fractions of the box; None when not given.
    """

    rotation: Float64Array
    shift_fraction: Float64Array | None


@dataclass(frozen=True, eq=False)
class CryodrgnLatents:
    """Latents of one epoch: means (N, q) and logarithms of variances (N, q), or None when not given; float32."""

    mean: npt.NDArray[np.float32]
    log_variance: npt.NDArray[np.float32] | None


def read_poses(path: str | Path) -> CryodrgnPoses:
    """Read a poses pickle.

    Raises
    ------
    InputError
        Also for wrong shapes, matrices that are no rotations, or translations that are no fractions of the box.
    """
    value = _only(path)
    rotation, translation = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    rotation = _matrix(path, rotation, "rotations", (None, 3, 3))
    faults = rotation_faults(rotation)
    if len(faults):
        raise InputError(f"{path}: entry {faults[0] + 1} is no rotation matrix ({len(faults)} in all)")
    if translation is None:
        return CryodrgnPoses(rotation, None)
    translation = _matrix(path, translation, "translations", (len(rotation), 2))
    if np.abs(translation).max(initial=0.0) > 1:
        raise InputError(
            f"{path}: the translations reach {np.abs(translation).max():g}, but fractions of the box (at most 1) are "
            "expected; the file comes from a cryodrgn older than 0.2 that wrote pixels"
        )
    return CryodrgnPoses(rotation, 0.0 - translation)


def write_poses(path: str | Path, particles: ParticleSet) -> None:
    """Write the poses of particles; every optics group must know its box size."""
    box_A = box_sizes(particles) * particles.pixel_size_A
    translation = (0.0 - particles.shift_A) / box_A[:, None]
    _write(path, [(particles.rotation.astype(np.float32), translation.astype(np.float32))])


def read_ctf(path: str | Path) -> Float64Array:
    """Read a CTF pickle: (N, 9) float64, columns as in the module's description."""
    return _matrix(path, _only(path), "CTF parameters", (None, 9))


def write_ctf(path: str | Path, particles: ParticleSet) -> None:
    """Write the CTF parameters that the format has room for (no beam tilt, Zernike terms, B-factor or scale)."""
    ctf = particles.ctf
    optics = np.array([(g.voltage_kV, g.cs_mm, g.amplitude_contrast) for g in particles.optics])
    columns = np.column_stack(
        [
            box_sizes(particles),
            particles.pixel_size_A,
            ctf.defocus_u_A,
            ctf.defocus_v_A,
            np.degrees(ctf.defocus_angle_rad),
            optics[particles.optics_index],
            np.degrees(ctf.phase_shift_rad),
        ]
    )
    _write(path, [columns.astype(np.float32)])


def read_indices(path: str | Path, n: int | None = None) -> npt.NDArray[np.int64]:
    """Read an indices pickle: (n_selected,) int64.

    Parameters
    ----------
    path : path-like
    n : int, optional
        Number of particles that the indices refer to; larger indices are then refused.
    """
    array = np.asarray(_only(path))
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError(f"{path}: holds {_shown(array)}, but a one-dimensional array of indices is expected")
    wrong = np.flatnonzero((array < 0) | (array >= (np.inf if n is None else n)))
    if len(wrong):
        raise InputError(f"{path}: the index {array[wrong[0]]} is outside 0..{'' if n is None else n - 1}")
    return array.astype(np.int64)


def write_indices(path: str | Path, indices: npt.ArrayLike) -> None:
    """Write indices."""
    _write(path, [np.asarray(indices, np.int64)])


def read_latents(path: str | Path) -> CryodrgnLatents:
    """Read the latents of one epoch (``z.N.pkl``): means, and logarithms of variances where the file has them."""
    found = read_pickled_arrays(path)
    mean = _matrix(path, found[0], "latent means", (None, None))
    if len(found) == 1:
        return CryodrgnLatents(mean.astype(np.float32), None)
    log_variance = _matrix(path, found[1], "latent variances", mean.shape)
    return CryodrgnLatents(mean.astype(np.float32), log_variance.astype(np.float32))


def write_latents(path: str | Path, mean: npt.ArrayLike, log_variance: npt.ArrayLike | None = None) -> None:
    """Write latents of one epoch as cryodrgn does: two pickles in one file."""
    values = [mean] if log_variance is None else [mean, log_variance]
    _write(path, [np.asarray(value, np.float32) for value in values])


def _only(path: str | Path) -> Any:
    return read_pickled_arrays(path)[0]


def box_sizes(particles: ParticleSet) -> Float64Array:
    """(N,) image size of each particle in pixels; InputError when that of a group is unknown."""
    unknown = [group.name for group in particles.optics if group.box_size is None]
    if unknown:
        raise InputError(f"{particles.path}: the image size of the optics group {unknown[0]} is unknown")
    return np.array([group.box_size for group in particles.optics], np.float64)[particles.optics_index]


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of the shape {value.shape}"
    return f"a {type(value).__name__}"


def _matrix(path: str | Path, value: object, what: str, shape: tuple[int | None, ...]) -> Float64Array:
    """Return ``value`` as finite float64 if it has ``shape`` (None: any size)."""
    expected = "(" + ", ".join("N" if size is None else str(size) for size in shape) + ")"
    if (
        not isinstance(value, np.ndarray)
        or value.dtype.kind not in "fiu"
        or value.ndim != len(shape)
        or any(size is not None and size != found for size, found in zip(shape, value.shape, strict=True))
    ):
        raise InputError(f"{path}: holds {_shown(value)}, but {what} of the shape {expected} are expected")
    finite = np.isfinite(value).reshape(len(value), -1).all(axis=1) if value.size else np.ones(0, bool)
    wrong = np.flatnonzero(~finite)
    if len(wrong):
        raise InputError(f"{path}: entry {wrong[0] + 1} of the {what} is not finite ({len(wrong)} in all)")
    return value.astype(np.float64)


def _write(path: str | Path, values: list[Any]) -> None:
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            for value in values:
                pickle.dump(value, handle, protocol=_PROTOCOL)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
